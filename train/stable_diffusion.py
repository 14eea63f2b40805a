"""Draw, change and enlarge pictures with a checkpoint of Stable Diffusion 1.x or 2.x, from a folder in diffusers' layout:
python -m train.stable_diffusion text-to-image --weights DIR --prompt "a lighthouse at dawn" --num 4
"""

import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from train import edits, pretrained, prompted
from train.common import command
from train.common.errors import UserError, check_counts, check_ranges, check_seed
from train.prompted import Options, Task


@dataclass(frozen=True)
class TextToImage:
    """Images of a prompt."""

    options: Options
    height: int | None = None
    """Pixels. Default: as the checkpoint was trained."""
    width: int | None = None
    """Pixels. Default: as the checkpoint was trained."""


@dataclass(frozen=True)
class ImageToImage:
    """Images like a picture."""

    options: Options
    image: Path
    """The picture to begin from."""
    strength: float = 0.8
    """How much of the way to go from it, more than 0 to 1, which keeps nothing but the layout. The steps are spread over that."""
    height: int | None = None
    """Pixels. Default: the picture's."""
    width: int | None = None
    """Pixels. Default: the picture's."""


@dataclass(frozen=True)
class Inpaint:
    """A picture with a part made up, by a checkpoint for it (of 9 channels) or any other."""

    options: Options
    image: Path
    """The picture."""
    mask: Path
    """A picture of the same size: what is white is made up, what is black stays."""
    strength: float = 1.0
    """How much of the way to go from what the picture has there, more than 0 to 1, which keeps nothing of it."""
    height: int | None = None
    """Pixels. Default: the picture's."""
    width: int | None = None
    """Pixels. Default: the picture's."""


@dataclass(frozen=True)
class Control:
    """Images of a prompt with the layout of a picture, such as edges, by one ControlNet or several."""

    options: Options
    image: tuple[Path, ...]
    """What the ControlNets look at: edges, poses, depth ..., a picture for each."""
    controlnet: tuple[Path, ...] = ()
    """Their folders. Default: the checkpoint's own."""
    control_scale: tuple[float, ...] = (1.0,)
    """How much they have to say; one number for all, or for each."""
    height: int | None = None
    """Pixels. Default: the first picture's."""
    width: int | None = None
    """Pixels. Default: the first picture's."""


@dataclass(frozen=True)
class Upscale:
    """A picture four times as large, by a checkpoint for it."""

    options: Options
    image: Path
    """The picture."""
    noise_level: int = 20
    """Noise added to it first: the more, the more is made up."""


Subcommand = TextToImage | ImageToImage | Inpaint | Control | Upscale

KINDS = {4: "text-to-image, image-to-image, inpaint and control", 9: "inpaint", 7: "upscale"}
"""What checkpoints are for whose U-Net takes so many channels."""


def draw(wanted: Subcommand) -> list[Path]:
    """Draw the images and write them, each a PNG with these settings in it; returns what was written.

    Raises:
        UserError: if the folder is no checkpoint, or not of the kind for this, or the settings or the pictures do not fit it.
    """
    options = wanted.options
    _check(wanted)
    from train.common import devices

    on = devices.select(options.accelerator, options.devices)
    devices.use_compilation_cache()

    checkpoint = pretrained.read(options.weights, prompted.precision(options.dtype))
    channels = checkpoint.unet.config.trunk.in_channels
    if channels not in {Inpaint: (4, 9), Upscale: (7,)}.get(type(wanted), (4,)):
        use = f"for {KINDS[channels]}" if channels in KINDS else "not supported"
        raise UserError(f"the U-Net in {options.weights} takes {channels} channels: such checkpoints are {use}")
    task = _task(wanted, checkpoint)
    settings = asdict(wanted)
    return prompted.draw(options, checkpoint, task, on, settings.pop("options") | settings)


def _task(wanted: Subcommand, checkpoint: pretrained.Checkpoint) -> Task:
    """What the subcommand comes to: which pipeline, of what data, at what size."""
    import numpy as np

    from train import pipelines

    def in_unit_range(picture):
        return np.asarray(picture, np.float32)[None] / 127.5 - 1

    match wanted:
        case TextToImage():
            size = _size(wanted, (checkpoint.side, checkpoint.side), "the checkpoint", checkpoint)
            return Task(lambda given, keys, data: pipelines.text_to_image(*given), size)
        case ImageToImage():
            size = _size_of(wanted, wanted.image, checkpoint)
            picture, _ = edits.read(edits.Edit(wanted.image), (*size, 3))
            return Task(
                lambda given, keys, data: pipelines.image_to_image(*given, data),
                size,
                in_unit_range(picture),
                wanted.strength,
            )
        case Inpaint():
            size = _size_of(wanted, wanted.image, checkpoint)
            picture, known = edits.read(edits.Edit(wanted.image, mask=wanted.mask), (*size, 3))
            return Task(
                lambda given, keys, data: pipelines.inpaint(*given, *data),
                size,
                (in_unit_range(picture), known[None], np.asarray(wanted.strength == 1)),
                wanted.strength,
            )
        case Control():
            size = _size_of(wanted, wanted.image[0], checkpoint)
            return prompted.controlled(
                wanted.options, checkpoint, size, wanted.image, wanted.controlnet, wanted.control_scale
            )
        case Upscale():
            check_ranges(("noise-level", wanted.noise_level, 0, checkpoint.max_noise_level))
            picture = edits.open_picture(wanted.image)
            small, factor = (picture.size[1], picture.size[0]), checkpoint.autoencoder.config.factor
            data = in_unit_range(edits.fitted(picture, (*small, 3))), np.int32(wanted.noise_level)
            return Task(prompted.enlarge, (factor * small[0], factor * small[1]), data)


def _size_of(wanted, image, checkpoint):
    w, h = edits.open_picture(image).size
    return _size(wanted, (h, w), str(image), checkpoint)


def _size(wanted, default, whose, checkpoint):
    """Height and width in pixels.

    Raises:
        UserError: if the autoencoder cannot halve them as often as it does.
    """
    size, factor = (wanted.height or default[0], wanted.width or default[1]), checkpoint.autoencoder.config.factor
    for name, given, pixels in zip(("height", "width"), (wanted.height, wanted.width), size, strict=True):
        if pixels < factor or pixels % factor:
            fitting = max(1, round(pixels / factor)) * factor
            source = "" if given else f", that of {whose},"
            raise UserError(f"--{name} must be a multiple of {factor}; {pixels}{source} is not: try --{name} {fitting}")
    return size


def _check(wanted):
    options = wanted.options
    check_counts(options, "num", "batch_size", "steps")
    check_seed(options.seed)
    check_ranges(
        ("guidance", options.guidance, 0.0, float("inf")),
        ("rescale", options.rescale, 0.0, 1.0),
        ("eta", options.eta, 0.0, 1.0),
        ("order", options.order or 2, 1, 2 if options.sampler == "heun" else 3),
    )
    prompted.check_scales("lora-scale", options.lora_scale, len(options.lora))
    if options.guidance == 1 and options.negative_prompt:
        raise UserError("--guidance 1 follows the prompt alone: leave out --negative-prompt, or take more guidance")
    if isinstance(wanted, ImageToImage | Inpaint) and not 0 < wanted.strength <= 1:
        raise UserError(f"--strength must be more than 0 and at most 1; got {wanted.strength}")
    if isinstance(wanted, Control) and not wanted.image:
        raise UserError("a ControlNet needs a picture to look at: give it with --image")


def main(wanted: Subcommand) -> int:
    """Draw, and say where the images are."""
    written = draw(wanted)
    print(written[0] if len(written) == 1 else f"{len(written)} images: {written[0]} ... {written[-1].name}")
    return 0


if __name__ == "__main__":
    wanted = command.options(Subcommand, __doc__)
    sys.exit(command.reporting_errors(lambda: main(wanted)))
