"""What a run has made of a checkpoint of Stable Diffusion, for diffusers to load: python -m train.export RUN --out FOLDER

Of a run of ``train.latent_diffusion --weights``: with ``--lora-rank`` the file FOLDER/pytorch_lora_weights.safetensors, which
``pipeline.load_lora_weights(FOLDER)`` takes; else the whole checkpoint, its U-Net the trained one.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from train import pretrained, trained
from train.common import command
from train.common import config as configuration
from train.common.errors import UserError


@dataclass(frozen=True)
class Options:
    """Which run, and where to."""

    run: Annotated[Path, tyro.conf.Positional]
    """The run folder."""
    out: Path
    """The folder to write."""


def export(options: Options) -> Path:
    """Write the moving average of what was trained; returns where it is.

    Raises:
        UserError: if the run did not go on with a checkpoint, has none of its own yet, or the checkpoint it began on is gone.
    """
    from jaxgen.models import pytorch
    from jaxgen.models.stable_diffusion import lora
    from train.common import devices, diffusers_folder

    devices.select("cpu", 1)  # nothing is computed, and an accelerator may be another process's
    description = configuration.read(options.run)
    basis = description.get("basis", {})
    if "unet_options" not in basis:
        raise UserError(
            f"{options.run} is a run of train.{description['recipe']}; only what went on with a checkpoint, train.latent_diffusion "
            "--weights, is written in diffusers' layout"
        )
    averaged = trained.newest(options.run, description, trained.recipe(options.run, description)).state.ema
    if "lora" in averaged:
        options.out.mkdir(parents=True, exist_ok=True)
        file = options.out / "pytorch_lora_weights.safetensors"
        diffusers_folder.write_file(file, lora.to_tensors(averaged["lora"], "unet"))
        return file
    origin = Path(description["config"]["checkpoint"]["weights"])
    if not origin.is_dir():
        raise UserError(
            f"{origin}, which the run began on, is gone, and the other parts are copied from there; put it back"
        )
    pretrained.check_unchanged(origin, basis.get("sha256"))
    diffusers_folder.copy_rest(origin, options.out, ("unet",))
    diffusers_folder.write_part(options.out / "unet", basis["unet_options"], pytorch.to_tensors(averaged["unet"]))
    return options.out


def main(options: Options) -> int:
    """Export, and say where it is."""
    print(export(options))
    return 0


if __name__ == "__main__":
    options = command.options(Options, __doc__)
    sys.exit(command.reporting_errors(lambda: main(options)))
