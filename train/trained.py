"""A trained run, taken from its folder and usable again: for the commands that draw from it or measure it."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from train.common import config as configuration
from train.common.errors import UserError


def recipe(run: Path, description: dict, change: Callable[[Any], Any] = lambda config: config) -> Any:
    """The recipe of the run that this is the `config.read` of, its configuration changed by the function.

    Raises:
        UserError: if no recipe of ours trained it.
    """
    match description["recipe"]:
        case "ae":
            from train import ae as module
        case "vae":
            from train import vae as module
        case "cvae":
            from train import cvae as module
        case "gan":
            from train import gan as module
        case "wgan_gp":
            from train import wgan_gp as module
        case "cvae_gan":
            from train import cvae_gan as module
        case "ddpm":
            from train import ddpm as module
        case other:
            raise UserError(f"{run} is a run of train.{other}, which this version does not know")
    config = change(configuration.dataclass_from(module.Config, description["config"]))
    return module.recipe(config, tuple(description["data"]["shape"]), description["data"]["num_classes"])


def images(description: dict, split: str, data_dir: str | None) -> Any:
    """The images, or points, of the run's data set in this split, at its size; from its own data directory if none is given.

    Raises:
        UserError: if there are none.
    """
    from train.common import data

    job = description["config"]["job"]
    directory = data_dir or job["data_dir"]
    return data.load(job["dataset"], data_dir=directory, image_size=job["image_size"], split=split)


def restore(run: Path, description: dict, recipe: Any, on: Sequence) -> tuple[Any, int]:
    """The state of the run's newest sound checkpoint, whole on every device, and its step.

    Raises:
        UserError: if there is none.
    """
    import jax

    from train.common import checkpoint, parallel

    restored = checkpoint.read(run / "checkpoints", jax.eval_shape(recipe.init, jax.random.key(0)))
    if restored is None:
        raise UserError(f"{run} has no checkpoint yet; train it further with python -m train.{description['recipe']}")
    return parallel.place(restored.state, on), restored.step
