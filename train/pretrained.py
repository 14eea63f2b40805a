"""A checkpoint of Stable Diffusion in diffusers' layout, taken from its folder: networks, parameters, schedule, tokenizer."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from train.common import clip_tokenizer, diffusers_folder
from train.common.errors import UserError, in_words
from train.common.tokenizer import Tokenizer
from train.denoising import Grid

NAMES = {"text": "text_encoder", "unet": "unet", "autoencoder": "vae"}
"""The folders of what has parameters."""

PARTS = {"unet", "vae", "text_encoder", "tokenizer", "scheduler"}


class Chain(NamedTuple):
    """The noise that a checkpoint was trained with, and at which of its timesteps its authors look."""

    schedule: Any
    predicts: Literal["eps", "x0", "v"]
    grid: Grid
    offset: int
    """Of a leading grid."""


class Checkpoint(NamedTuple):
    """What a folder holds, but for the parameters of its modules."""

    text: Any
    """`TextEncoder`."""
    unet: Any
    """`UNet`."""
    autoencoder: Any
    """`Autoencoder`, in float32: half precision is seen in what it decodes."""
    chain: Chain
    tokenizer: Tokenizer
    side: int
    """Pixels along the sides of the images it was trained with."""
    low_resolution: Any = None
    """The schedule of the noise on a small image that is to be enlarged, where the checkpoint enlarges."""
    max_noise_level: int = 0
    """The most of it."""


def read(folder: Path, dtype: Any) -> Checkpoint:
    """The checkpoint in this folder, its text encoder and U-Net to compute in ``dtype``. Its parameters are read by `read_params`.

    Raises:
        UserError: if the folder is not one of Stable Diffusion 1.x or 2.x in diffusers' layout, or damaged.
    """
    from jaxgen.models.stable_diffusion import autoencoder, text, unet

    index = diffusers_folder.read_index(folder)
    made_for = index.get("_class_name", "a pipeline without a name")
    if not index.keys() >= PARTS or "text_encoder_2" in index:
        raise UserError(f"{folder} is for {made_for}; only checkpoints of Stable Diffusion 1.x and 2.x can be read")
    options = {part: diffusers_folder.read_config(folder / part) for part in ("unet", "vae", "text_encoder")}
    if "low_res_scheduler" in index:
        options["vae"].setdefault("scaling_factor", 0.08333)  # the upscaler's first files leave it out
    with in_words():
        unet_config = unet.unet_config(options["unet"])
        text_config = text.text_config(options["text_encoder"])
        autoencoder_config = autoencoder.autoencoder_config(options["vae"])
    chain = read_chain(folder / "scheduler")
    low_resolution = None
    if "low_res_scheduler" in index:
        low_resolution = read_chain(folder / "low_res_scheduler").schedule
    tokenizer = clip_tokenizer.read(folder / "tokenizer")
    return Checkpoint(
        text.TextEncoder(text_config, dtype),
        unet.UNet(unet_config, dtype),
        autoencoder.Autoencoder(autoencoder_config),
        chain,
        tokenizer,
        options["unet"].get("sample_size", 64) * autoencoder_config.factor,
        low_resolution,
        index.get("max_noise_level", 350) if low_resolution is not None else 0,
    )


def read_params(folder: Path, checkpoint: Checkpoint, part: Literal["text", "unet", "autoencoder"]) -> Any:
    """The parameters of a part of the checkpoint in this folder, as NumPy.

    Raises:
        UserError: if the weights are missing, pickled, damaged or of another model.
    """
    from jaxgen.models.stable_diffusion import autoencoder, text, unet

    shapes = {"text": text.text_shapes, "unet": unet.unet_shapes, "autoencoder": autoencoder.autoencoder_shapes}[part]
    module = {"text": checkpoint.text, "unet": checkpoint.unet, "autoencoder": checkpoint.autoencoder}[part]
    return _params(folder / NAMES[part], shapes(module.config), module.dtype)


def digest(folder: Path, parts: Iterable[str] = NAMES) -> str:
    """The sha256 of the files of these parts of the checkpoint in this folder.

    Raises:
        UserError: if the weights are missing or pickled.
    """
    return diffusers_folder.digest(folder, [NAMES[part] for part in parts])


def check_unchanged(folder: Path | None, sha256: str | None, parts: Iterable[str] = NAMES) -> None:
    """Nothing, if the folder holds the checkpoint whose `digest` this is; or if one of the two is not known any more.

    Raises:
        UserError: if it holds another.
    """
    if folder is not None and folder.is_dir() and sha256 is not None and digest(folder, parts) != sha256:
        raise UserError(
            f"{folder} is not the checkpoint that this run began on, of which it keeps a copy: leave it out or give that one, or begin "
            "another run with --run"
        )


def read_changes(file: Path, checkpoint: Checkpoint) -> dict[str, Any]:
    """The low-rank changes in this file, of the checkpoint's "text" and "unet": each what `lora.merged` takes.

    Raises:
        UserError: if the file is missing, pickled or damaged, has no such changes, or those of other checkpoints.
    """
    from jaxgen.models.stable_diffusion import lora, text, unet

    tensors, about = diffusers_folder.read_file(file)
    said = json.loads(about.get("lora_adapter_metadata", "{}"))
    alphas = {part: said[f"{part}.lora_alpha"] for part in lora.PREFIXES if f"{part}.lora_alpha" in said}
    odd = ("alpha_pattern", "rank_pattern", "use_rslora", "use_dora")
    if unknown := [name for name, value in said.items() if value and name.split(".")[-1] in odd]:
        raise UserError(f"{file} has the option {unknown[0]}, which is not supported")
    shapes = {"text": text.text_shapes(checkpoint.text.config), "unet": unet.unet_shapes(checkpoint.unet.config)}
    names = {"text": "text_encoder", "unet": "unet"}
    try:
        changes = {part: lora.from_tensors(tensors, shapes[part], name, alphas) for part, name in names.items()}
    except ValueError as error:
        raise UserError(f"{file}: {error}") from error
    if not any(changes.values()):
        raise UserError(f"{file} has no low-rank changes of a U-Net or a text encoder")
    return changes


def read_control(folder: Path, like: Checkpoint) -> Any:
    """The ControlNet in this folder, to compute beside the checkpoint's U-Net. Its parameters are read by `read_control_params`.

    Raises:
        UserError: if there is none, or it is for other checkpoints.
    """
    from jaxgen.models.stable_diffusion import controlnet

    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}")
    options = diffusers_folder.read_config(folder)
    name = options.get("_class_name", "a model without a name")
    if name != "ControlNetModel":
        raise UserError(f"{folder} holds {name}, not a ControlNet")
    with in_words():
        config = controlnet.controlnet_config(options)
    ours, base = config.trunk, like.unet.config.trunk
    if (ours.context_dim, ours.channels) != (base.context_dim, base.channels):
        raise UserError(
            f"the ControlNet in {folder} is for U-Nets with a context of {ours.context_dim} channels and levels of "
            f"{ours.channels}; this checkpoint has {base.context_dim} and {base.channels}"
        )
    for what, own, other in (
        ("channels of latent images", ours.in_channels, base.in_channels),
        ("blocks of each level", ours.residual_blocks, base.residual_blocks),
        ("classes", ours.classes, base.classes),
        ("pixels along a latent one", 2 ** (len(config.hint_channels) - 1), like.autoencoder.config.factor),
    ):
        if own != other:
            raise UserError(
                f"the ControlNet in {folder} is for other checkpoints: its {what} are {own}, and this one's {other}"
            )
    return controlnet.ControlNet(config, like.unet.dtype)


def read_control_params(folder: Path, control: Any) -> Any:
    """The parameters of the ControlNet in this folder, as NumPy.

    Raises:
        UserError: as `read_params`.
    """
    from jaxgen.models.stable_diffusion import controlnet

    return _params(folder, controlnet.controlnet_shapes(control.config), control.dtype)


def read_chain(folder: Path) -> Chain:
    """What a checkpoint's `scheduler/scheduler_config.json` says of noise and timesteps; how to solve is the caller's choice.

    Three things in it are not followed. Where "set_alpha_to_one" is false, diffusers' DDIM leaves in the image the noise of timestep 0;
    all samplers here land on the image. "clip_sample" is for pixels, a latent image has no bounds. And "skip_prk_steps" belongs to a
    sampler, not to the model.

    Raises:
        UserError: no such file, or noise of a kind that is not known.
    """
    from jaxgen import schedules

    file = folder / "scheduler_config.json"
    if not file.is_file():
        raise UserError(f"{folder} has no scheduler_config.json")
    options = diffusers_folder.read_json(file)
    T, ends = options.get("num_train_timesteps", 1000), (options.get("beta_start", 1e-4), options.get("beta_end", 0.02))
    shape, betas = options.get("beta_schedule", "linear"), options.get("trained_betas")
    known = {
        "linear": lambda: schedules.linear(T, *ends),
        "scaled_linear": lambda: schedules.scaled_linear(T, *ends),
        "squaredcos_cap_v2": lambda: schedules.cosine(T),
    }
    predicted = {"epsilon": "eps", "sample": "x0", "v_prediction": "v"}
    prediction = options.get("prediction_type", "epsilon")
    spacing = options.get("timestep_spacing", "leading")
    for name, value, meanings in (
        ("beta_schedule", shape, known),
        ("prediction_type", prediction, predicted),
        ("timestep_spacing", spacing, ("leading", "trailing", "linspace")),
    ):
        if value not in meanings:
            raise UserError(f"{file}: {name} is {value!r}; only {', '.join(meanings)} are known")
    with in_words():
        schedule = known[shape]() if betas is None else schedules.from_betas(np.asarray(betas))
        if options.get("rescale_betas_zero_snr"):
            schedule = schedules.zero_terminal_snr(schedule)
    return Chain(schedule, predicted[prediction], spacing, options.get("steps_offset", 0))


def timesteps(chain: Chain, grid: Grid | None, steps: int, strength: float = 1.0) -> np.ndarray:
    """So many timesteps, decreasing, that go a share ``strength`` of the way from noise to the image: the last ones of a grid of
    steps / strength. So another strength is other timesteps, not another number of them. A leading grid, whose spacing is a whole number
    and leaves a rest of the chain at its beginning, is spread evenly over the share instead.

    Raises:
        UserError: if the chain has not so many.
    """
    from jaxgen import grids

    n, T = round(steps / strength), chain.schedule.num_steps
    if n > T:
        raise UserError(
            f"--steps {steps} are too many: the chain has {T} timesteps"
            + (f", a share of {strength:g} of them {int(strength * T)}" if strength < 1 else "")
        )
    grid = grid or chain.grid
    with in_words():
        if grid == "leading" and strength < 1:
            moments = np.arange(steps, dtype=np.int32)[::-1] * round(strength * T) // steps + chain.offset
        elif grid == "leading":
            moments = grids.leading(T, steps, chain.offset)
        elif grid in ("trailing", "linspace"):
            moments = {"trailing": grids.trailing, "linspace": grids.linspace}[grid](T, n)
        else:
            moments = {"karras": grids.karras, "even_log_snr": grids.even_log_snr}[grid](chain.schedule, n)
    return moments[-steps:]


def _params(folder, shapes, dtype):
    """What `weights.from_tensors` makes of the tensors in the folder; kernels and embeddings, which are rounded to ``dtype`` whenever they
    are used, are so once and for all."""
    import jax

    from jaxgen.models.stable_diffusion import weights

    def rounded(path, leaf):
        used = dtype if path[-1].key in ("kernel", "embedding") else leaf.dtype
        return jax.ShapeDtypeStruct(leaf.shape, used)

    tensors = diffusers_folder.read_tensors(folder)
    with in_words():
        return weights.from_tensors(tensors, jax.tree_util.tree_map_with_path(rounded, shapes))
