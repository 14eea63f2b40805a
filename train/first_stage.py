"""The first stage of latent diffusion (Rombach et al. 2022, arXiv 2112.10752, section 3.1): an autoencoder whose codes are small images.

It is a run of train.vae with --architecture map. What is made here is what latent diffusion needs of it: the run's configuration, what its
networks do, and the scale that gives codes the variance 1.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from train import ae, pixels, vae
from train.common.config import Job, free
from train.common.errors import UserError, check_ranges

MEASURED = 1000
"""Images whose codes' spread is measured."""


@dataclass(frozen=True)
class FirstStage:
    """The autoencoder between images and latent images."""

    autoencoder: Path | None = free(None)
    """A run of train.vae with --architecture map. Default: one in RUN/autoencoder, which is trained first."""
    autoencoder_steps: int = 4000
    """Its optimiser steps."""
    autoencoder_width: int = 16
    """Its channels at full resolution."""
    autoencoder_multipliers: tuple[int, ...] = (1, 2, 4)
    """Its channels at each resolution; each level has half the resolution of the one before, and the last that of latent images."""
    latent_channels: int = 4
    """Channels of latent images."""
    pixel_variance: float = 0.01
    """The variance that it gives a pixel: the less, the more a latent image says."""


class Coder(NamedTuple):
    """What the networks of the first stage do."""

    shape: tuple[int, int, int]
    """Of a latent image."""
    encode: Callable[[Any, Any], tuple[Any, Any]]
    """parameters, images (b, h, w, c) in [-1, 1] -> mean and logvar of q(z | x), (b, *shape)."""
    decode: Callable[[Any, Any], Any]
    """parameters, z (b, *shape) -> the mean of p(x | z), images."""


def config(first: FirstStage, job: Job, run: Path) -> vae.Config:
    """The run of train.vae that is the first stage of a job's run in this folder.

    Raises:
        UserError: if a number is out of range.
    """
    check_ranges(
        ("autoencoder-steps", first.autoencoder_steps, 1, math.inf),
        ("autoencoder-width", first.autoencoder_width, 1, math.inf),
        ("latent-channels", first.latent_channels, 1, math.inf),
        ("pixel-variance", first.pixel_variance, 1e-12, math.inf),
    )
    if not first.autoencoder_multipliers or min(first.autoencoder_multipliers) < 1:
        raise UserError("--autoencoder-multipliers must name at least one level, each of at least 1, such as 1 2 4")
    optimizer = ae.Optimizer(
        learning_rate=2e-3,
        warmup_steps=min(100, first.autoencoder_steps // 10),
        decay_steps=first.autoencoder_steps,
        clip_norm=1000.0,
    )
    every = max(1, first.autoencoder_steps // 4)
    return vae.Config(
        job=replace(
            job,
            run=str(run / "autoencoder"),
            steps=first.autoencoder_steps,
            checkpoint_every=every,
            sample_every=every,
            beside=None,
        ),
        network=ae.Network(
            architecture="map",
            latent_dim=first.latent_channels,
            width=first.autoencoder_width,
            multipliers=first.autoencoder_multipliers,
            groups=math.gcd(8, first.autoencoder_width),
        ),
        likelihood="gaussian",
        variance=first.pixel_variance,
        optimizer=optimizer,
    )


def coder(about: dict) -> Coder:
    """That of the run of train.vae with this description.

    Raises:
        UserError: if its codes are no small images.
    """
    import jax.numpy as jnp

    from train.common.config import dataclass_from

    made = dataclass_from(vae.Config, about["config"])
    if made.network.architecture != "map":
        raise UserError(
            f"latent diffusion needs a run of train.vae with --architecture map, and this has {made.network.architecture}"
        )
    image_shape = tuple(about["data"]["shape"])
    pixel = pixels.of(made.likelihood, made.variance, image_shape[-1])
    shape = ae.code_shape(made.network, image_shape)
    dim = shape[0] * shape[1] * shape[2]
    encoder, decoder = ae.networks(made.network, image_shape, 2 * dim, pixel.channels)

    def encode(params, x):
        moments = encoder.apply({"params": params["encoder"]}, x)
        return tuple(half.reshape(-1, *shape) for half in jnp.split(moments, 2, axis=-1))

    def decode(params, z):
        return pixel.mean(decoder.apply({"params": params["decoder"]}, z.reshape(len(z), -1)))

    return Coder(shape, encode, decode)


def scale(made: Coder, params: Any, source: Any) -> Any:
    """What to multiply codes of these data with so that they have the mean square 1 about their mean, float32 ()."""
    import jax
    import numpy as np

    from train.common import images

    rows = source.rows(np.arange(min(MEASURED, len(source))))["image"]
    mean, logvar = jax.jit(made.encode)(params, images.to_unit_range(rows))
    return np.float32(1 / np.sqrt(np.var(mean) + np.exp(logvar).mean()))
