"""A trained run, taken from its folder and usable again: for the commands that draw from it or measure it."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from train.common import config as configuration
from train.common.errors import NoSuchSplit, UserError

BATCH = 256
"""Images or points drawn at a time."""


def recipe(run: Path, description: dict, change: Callable[[Any], Any] = lambda config: config) -> Any:
    """The recipe of the run that this is the `config.read` of, its configuration changed by the function.

    Raises:
        UserError: if no recipe of ours trained it.
    """
    module = recipe_module(run, description)
    config = change(configuration.dataclass_from(module.Config, description["config"]))
    stands = [description["basis"]] if "basis" in description else []
    return module.recipe(config, tuple(description["data"]["shape"]), description["data"]["num_classes"], *stands)


def recipe_module(run: Path, description: dict) -> Any:
    """The module of the recipe of the run that this is the `config.read` of.

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
        case "super_resolution":
            from train import super_resolution as module
        case "latent_diffusion":
            from train import latent_diffusion as module
        case "controlnet":
            from train import controlnet as module
        case other:
            raise UserError(f"{run} is a run of train.{other}, which this version does not know")
    return module


def images(description: dict, split: str, data_dir: str | None) -> Any:
    """The images, or points, of the run's data set in this split, at its size, with all columns that its recipe needs; from its own data
    directory if none is given.

    Raises:
        UserError: if there are none.
    """
    from train.common import data

    job = description["config"]["job"]
    directory = data_dir or job["data_dir"]
    source = data.load(job["dataset"], data_dir=directory, image_size=job["image_size"], split=split)
    known = description["data"]
    if (list(source.shape), source.num_classes) != (list(known["shape"]), known["num_classes"]):
        raise UserError(
            f"{source.name} now has {split} examples {'x'.join(map(str, source.shape))} of {source.num_classes} classes; the run's were "
            f"{'x'.join(map(str, known['shape']))} of {known['num_classes']}. Put back what it was trained on"
        )
    module = recipe_module(Path(description["data"]["name"]), description)
    if not hasattr(module, "furnish"):
        return source
    return module.furnish(
        configuration.dataclass_from(module.Config, description["config"]), source, description["basis"]
    )


def test_images(description: dict, data_dir: str | None) -> Any | None:
    """The images of the test split, as by `images`; None if the data set has none.

    Raises:
        UserError: if it has, and they cannot be read.
    """
    try:
        return images(description, "test", data_dir)
    except NoSuchSplit:
        return None


def restore(run: Path, description: dict, recipe: Any, on: Sequence) -> tuple[Any, int]:
    """The state of the run's newest sound checkpoint, whole on every device, and its step.

    Raises:
        UserError: if there is none.
    """
    from train.common import parallel

    restored = newest(run, description, recipe)
    return parallel.place(restored.state, on), restored.step


def newest(run: Path, description: dict, recipe: Any) -> Any:
    """The run's newest sound checkpoint, on the host, as by `checkpoint.read`.

    Raises:
        UserError: if there is none.
    """
    import jax

    from train.common import checkpoint

    restored = checkpoint.read(run / "checkpoints", jax.eval_shape(recipe.init, jax.random.key(0)))
    if restored is None:
        raise UserError(f"{run} has no checkpoint yet; train it further with python -m train.{description['recipe']}")
    return restored


def read(run: Path, recipes: Sequence[str]) -> dict:
    """The `config.read` of a run of one of these recipes.

    Raises:
        UserError: if the folder is none.
    """
    description = configuration.read(run)
    if description["recipe"] not in recipes:
        needed = " or ".join(f"train.{name}" for name in recipes)
        raise UserError(f"{run} is a run of train.{description['recipe']}; this needs one of {needed}")
    return description


def basis(run: Path, recipes: Sequence[str], begun: dict | None) -> Any:
    """A finished run of one of these recipes as the `Basis` of another: its description, its step and the sha256 of the parameters that it
    draws with.

    Args:
        begun: the basis of the other run, if it has begun. It has its own copy of the parameters and goes on without this folder;
            but not beside other parameters in it.

    Raises:
        UserError: if the folder is no run of these recipes, has no sound checkpoint, or has trained on since the other began.
    """
    from train.common import checkpoint
    from train.common.recipe import Basis

    if begun is not None and not run.exists():

        def gone():
            raise UserError(f"{run} is gone, and this run has no checkpoint yet, so no copy of it; put it back")

        return Basis(begun, gone)
    description = read(run, recipes)
    restored = newest(run, description, recipe(run, description))
    parameters = {**restored.state.ema, **dict(restored.state.frozen)}
    about = {**description, "step": restored.step, "sha256": checkpoint.fingerprint(parameters, {})}
    if begun is not None and begun["sha256"] != about["sha256"]:
        raise UserError(
            f"{run} has changed: this run began on what that was at step {begun['step']}, and now it is another, at step {restored.step}. "
            f"Begin another run on it with --run, or move {run} away to go on with the copy that this run keeps"
        )
    return Basis(about, lambda: parameters)


def labels_in_turn(description: dict, num: int) -> Any:
    """0, 1, ... of the run's classes, again and again, int32 (num,); 0 if it has none."""
    import numpy as np

    return np.arange(num, dtype=np.int32) % max(1, description["data"]["num_classes"])


def rows(description: dict, recipe: Any, num: int, data_dir: str | None = None) -> dict[str, Any]:
    """So many rows for the recipe's ``sample`` to draw images of: the classes in turn; or rows of the data, where it looks at more.

    They are of the test images, else of the training images, in an order of seed 0 from its end: what is compared with the first of
    these is then not drawn of them.
    """
    import numpy as np

    from train.common import data

    if not recipe.draws_of_data:
        return rows_of_labels(description, labels_in_turn(description, num))
    source = test_images(description, data_dir) or images(description, "train", data_dir)
    return source.rows(np.resize(data.indices(0, 0, len(source), len(source))[::-1], num))


def rows_of_labels(description: dict, labels: Any) -> dict[str, Any]:
    """Rows with these labels, int32 (n,), and blank images, or points."""
    import numpy as np

    shape = description["data"]["shape"]
    name, blank = ("point", np.float32(0)) if len(shape) == 1 else ("image", np.uint8(0))
    return {name: np.broadcast_to(blank, (len(labels), *shape)), "label": labels}


def draw(
    sample: Callable,
    state: Any,
    on: Sequence,
    rows: Mapping[str, Any],
    *,
    seed: int,
    batch_size: int = BATCH,
) -> Any:
    """An image for each of the rows, columns of length n by name: float32 (n, h, w, c) in [-1, 1]; or a point, (n, 2). By a recipe's
    ``sample``, or another function of (state, batch, key).

    Number i depends on the seed, its row and the batch size.
    """
    import jax
    import numpy as np

    from train.common import gallery
    from train.common.recipe import root_key

    program, key = gallery.drawer(sample, on), root_key(seed, "sample")
    num = len(rows["label"])
    size, drawn = min(num, batch_size), []
    for i in tqdm(range(-(-num // size)), unit="batch", disable=None):
        these = np.resize(np.arange(i * size, min((i + 1) * size, num)), size)  # one shape for all batches
        batch = {name: column[these] for name, column in rows.items()}
        drawn.append(program(state, batch, jax.random.fold_in(key, i)))
    return np.concatenate(drawn)[:num]
