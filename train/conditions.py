"""What a conditional model is told, from the command line, besides labels."""

from dataclasses import dataclass
from typing import Any

from train.common.errors import UserError


@dataclass(frozen=True)
class Condition:
    """Conditional models: what to draw. Default: what the run's data say."""

    prompt: str | None = None
    """Runs of train.latent_diffusion: what the images should show."""


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
    return told


def _only(flag, recipes, run, description):
    if description["recipe"] not in recipes:
        named = " and ".join(f"train.{name}" for name in recipes)
        raise UserError(f"{flag} is for runs of {named}; {run} is one of train.{description['recipe']}")
