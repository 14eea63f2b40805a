"""What a conditional model is told, from the command line, besides labels."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from train import edits
from train.common.errors import UserError


@dataclass(frozen=True)
class Condition:
    """Conditional models: what to draw. Default: what the run's data say."""

    prompt: str | None = None
    """Runs of train.latent_diffusion: what the images should show."""
    low_res: Path | None = None
    """Runs of train.super_resolution: a picture to enlarge, of any size from the low resolution of the run's images."""
    noise_level: int | None = None
    """Runs of train.super_resolution: noising steps of what is enlarged; more leave more to the model."""
    control: Path | None = None
    """Runs of train.controlnet: a picture of the control, of the size of the model's images."""


def columns(condition: Condition, run: str, description: dict) -> dict[str, Any]:
    """What the model of this run is told, by the name of its column in a batch: a value for every row.

    Raises:
        UserError: if it cannot be told that.
    """
    told = {}
    if condition.prompt is not None:
        _only("--prompt", ("latent_diffusion",), run, description)
        from train import reading

        told["tokens"] = reading.prompt(description["basis"]["text"], condition.prompt)
    if condition.low_res is not None:
        _only("--low-res", ("super_resolution",), run, description)
        told["low"] = _low(condition.low_res, description["data"]["shape"], description["config"]["factor"])
    if condition.control is not None:
        _only("--control", ("controlnet",), run, description)
        from train import controlnet

        told["control"] = controlnet.control(description, condition.control)
    return told


def configured(condition: Condition, run: str, description: dict, config: Any) -> Any:
    """The run's configuration, with what of the condition is a part of it.

    Raises:
        UserError: if it has no such part.
    """
    if condition.noise_level is None:
        return config
    _only("--noise-level", ("super_resolution",), run, description)
    return replace(config, noise_level=condition.noise_level)


def _low(path, shape, factor):
    """The picture, uint8 (h, w, c)."""
    from train.common import sources

    height, width = shape[0] // factor, shape[1] // factor
    picture = edits.open_picture(path)
    if picture.width < width or picture.height < height:
        raise UserError(
            f"{path} has {picture.width}x{picture.height} pixels; the smallest picture that this run can enlarge has {width}x{height}"
        )
    return sources.pixels(picture, grey=shape[2] == 1, size=None)


def _only(flag, recipes, run, description):
    if description["recipe"] not in recipes:
        named = " and ".join(f"train.{name}" for name in recipes)
        raise UserError(f"{flag} is for runs of {named}; {run} is one of train.{description['recipe']}")
