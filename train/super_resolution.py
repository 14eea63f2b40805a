"""Super-resolution by diffusion (Saharia et al. 2021, "SR3", arXiv:2104.07636): python -m train.super_resolution --dataset mnist

Images given their low resolution, the means over squares of --factor pixels a side: what is diffused is their difference from it as
bicubic interpolation enlarges it (Li et al. 2021, "SRDiff", arXiv:2104.14951), at variance 1 as chains expect, and the network sees that
beside x_t. In training what it sees is noisy by a level that is told (Ho et al. 2021, "Cascaded diffusion models", arXiv:2106.15282,
section 4), so that it may be less than perfect later. What is drawn has the low resolution that was given: `resampling.project`.
"""

import sys
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from train import ddpm, diffusing
from train.ae import Optimizer
from train.common.config import Job, free
from train.common.errors import UserError, check_ranges
from train.denoising import Drawing
from train.diffusing import Chain, Network


@dataclass(frozen=True)
class Config:
    """A model of images given their low resolution and how to train it."""

    job: Job = field(default_factory=Job)
    factor: Literal[2, 4] = 4
    """Pixels along a side that become one in low resolution."""
    network: Network = field(default_factory=Network)
    chain: Chain = field(default_factory=lambda: Chain(schedule="cosine", predicts="v"))
    optimizer: Optimizer = ddpm.ADAM
    pieces: int = 1
    """Pieces in which a device takes its rows one after the other, adding up gradients, to save memory."""
    noise_levels: int = 100
    """In training the low resolution has gone 0 to this many steps, less one, of a linear chain; 1: it is always clean."""
    noise_level: int = free(0)
    """Noising steps of the low resolution before it is enlarged; more leave more to the model."""
    consistent: bool = free(True)
    """Keep what is drawn to the given low resolution."""
    drawing: Drawing = field(default_factory=Drawing)


SMALL = Config(
    job=ddpm.SMALL.job,
    network=ddpm.SMALL.network,
    optimizer=ddpm.SMALL.optimizer,
    drawing=Drawing("dpm_solver_sde", sample_steps=20, grid="even_log_snr"),
)
"""For data sets without a preset of their own."""

CIFAR10 = replace(
    SMALL,
    job=Job(dataset="cifar10", steps=200_000, batch_size=128, checkpoint_every=5000, sample_every=10_000),
    network=Network(width=96),
)
"""For a GPU or TPU."""

MNIST = replace(
    SMALL,
    job=replace(ddpm.MNIST.job, steps=3000, sample_every=1000),
    network=ddpm.MNIST.network,
    optimizer=replace(ddpm.MNIST.optimizer, decay_steps=3000),
    noise_levels=10,
)
"""Ten minutes on two CPU cores: too few steps to learn all levels of noise."""

DIGITS = replace(
    SMALL,
    job=ddpm.DIGITS.job,
    factor=2,
    network=ddpm.DIGITS.network,
    optimizer=ddpm.DIGITS.optimizer,
    noise_levels=10,
)
"""A few minutes on two CPU cores."""

PRESETS = {
    "digits": DIGITS,
    "mnist": MNIST,
    "fashion_mnist": replace(MNIST, job=replace(MNIST.job, dataset="fashion_mnist")),
    "kmnist": replace(MNIST, job=replace(MNIST.job, dataset="kmnist")),
    "cifar10": CIFAR10,
    "*": SMALL,
}


MEASURED = 1000
"""Images whose differences' spread is measured."""


def prepare(config: Config, source: Any, begun: dict | None) -> tuple[Any, Any]:
    """The data set as it is; and the `Basis`: the standard "deviation" of its images from their enlarged low resolution, the unit in which
    the difference is diffused.

    Raises:
        UserError: if the images have no such low resolution.
    """
    import numpy as np

    from train.common.recipe import Basis

    _check_factor(source.shape, config.factor)
    if begun is not None:
        return source, Basis(begun)
    lacking = difference(source.rows(np.arange(min(MEASURED, len(source)))), config.factor)
    return source, Basis({"deviation": max(1e-3, round(float(lacking.std()), 3))})


def recipe(config: Config, image_shape: tuple[int, int, int], num_classes: int, basis: dict):
    """A super-resolution model whose images (h, w, c) are drawn of a batch's; or, of "low", uint8 (b, H, W, c) of any size from
    (h, w) / factor, factor times as large. JAX is imported here, once the command line has been read.

    Raises:
        UserError: if the configuration cannot work, or not for images of this shape.
    """
    import jax
    import jax.numpy as jnp

    from jaxgen import resampling
    from train.common import images
    from train.common.recipe import example_keys

    built = diffusing.build(config, model(config, image_shape, basis))
    factor = config.factor

    def sample(state, batch, key):
        if not config.noise_level:
            return built.sample(state, batch, key)
        b, *shape = low_resolution(batch, factor).shape
        # Number 2 of an example's key: what draws the image splits it into numbers 0 and 1.
        noise = jax.vmap(lambda k: jax.random.normal(jax.random.fold_in(k, 2), shape))(example_keys(key, b))
        return built.sample(state, {**batch, "noise": noise}, key)

    def enlarged(state, batch, key):
        low = low_resolution(batch, factor)
        columns = [resampling.repeat(low, factor), bicubic(low, factor), sample(state, batch, key)]
        return jnp.concatenate([*columns, images.to_unit_range(batch["image"])], axis=2)

    def evaluate(state, batch, key, samples):
        """`measures`, their means over so many samples, and those of bicubic interpolation."""
        drawn = [measures(sample(state, batch, jax.random.fold_in(key, i)), batch, factor) for i in range(samples)]
        of_bicubic = measures(bicubic(low_resolution(batch, factor), factor), batch, factor)
        ours = jax.tree.map(lambda *values: sum(values) / samples, *drawn)
        return ours | {f"bicubic_{name}": value for name, value in of_bicubic.items()}

    return built._replace(
        sample=sample,
        pictures={"enlarged": enlarged, **built.pictures},
        evaluate=evaluate,
        evaluate_samples=1,
        edit=None,
        draws_of_data=True,
    )


def low_resolution(batch, factor: int):
    """Of a batch's images; or that which it gives, in "low": (b, h / factor, w / factor, c) in [-1, 1]."""
    from jaxgen import resampling
    from train.common import images

    if "low" in batch:
        return images.to_unit_range(batch["low"])
    return resampling.downsample(images.to_unit_range(batch["image"]), factor)


def difference(batch, factor: int):
    """Of a batch's images from their enlarged low resolution, (b, h, w, c)."""
    from jaxgen import resampling
    from train.common import images

    return images.to_unit_range(batch["image"]) - resampling.upsample(low_resolution(batch, factor), factor)


def bicubic(low, factor: int):
    """Enlarged by interpolation, and kept in [-1, 1]."""
    from jaxgen import resampling

    return resampling.upsample(low, factor).clip(-1, 1)


def measures(x, batch, factor: int) -> dict:
    """How good enlarged images x, (b, h, w, c), are, one number each, (b,): "psnr" in dB and "ssim" beside the batch's, and
    "consistency_error", the root mean square of what their low resolution is off the one given, black to white being 1. As bytes, which
    is how images are kept. Images of fewer than 11 pixels a side have their SSIM in the largest odd window that fits.
    """
    import jax.numpy as jnp

    from jaxgen import resampling, similarity
    from train.common import images

    x, original = jnp.round(127.5 * (x + 1)) / 127.5 - 1, images.to_unit_range(batch["image"])
    error = (resampling.downsample(x, factor) - low_resolution(batch, factor)) / 2
    window = min(similarity.WINDOW, (min(x.shape[1:3]) - 1) // 2 * 2 + 1)
    return {
        "psnr": similarity.psnr(x, original),
        "ssim": similarity.ssim(x, original, window=window),
        "consistency_error": jnp.sqrt((error**2).mean(axis=(1, 2, 3))),
    }


def model(config: Config, image_shape: tuple[int, int, int], basis: dict) -> diffusing.Model:
    """What `recipe` diffuses.

    Raises:
        UserError: if the factor does not divide the images' sides, or a number of noising steps is out of range.
    """
    import jax
    import jax.numpy as jnp

    from jaxgen import diffusion, guidance, resampling, tiling
    from train import denoising

    (height, width, channels), factor, chain, deviation = image_shape, config.factor, config.chain, basis["deviation"]
    check_ranges(
        ("noise-levels", config.noise_levels, 1, chain.num_timesteps),
        ("noise-level", config.noise_level, 0, config.noise_levels - 1),
    )
    _check_factor(image_shape, factor)
    tile, small = (height, width), (height // factor, width // factor)
    low_chain = denoising.schedule("linear", chain.num_timesteps)
    net = diffusing.unet(config.network, chain, channels)

    def init(key):
        t = jnp.zeros(1, jnp.int32)
        return net.init(key, jnp.zeros((1, height, width, 2 * channels)), t, level=t)["params"], {}

    def told(batch, keys):
        """The low resolution; the same with noise; of so many noising steps."""
        low = low_resolution(batch, factor)
        if keys is None:
            level = jnp.full(len(low), config.noise_level if "noise" in batch else 0)
            noise = batch.get("noise", jnp.zeros_like(low))
        else:
            level_key, noise_key = jax.vmap(jax.random.split, out_axes=1)(keys)
            level = jax.vmap(lambda k: jax.random.randint(k, (), 0, config.noise_levels))(level_key)
            noise = jax.vmap(lambda k: jax.random.normal(k, low.shape[1:]))(noise_key)
        return low, diffusion.q_sample(low_chain, low, level - 1, noise), level

    def known(_, told):
        _, noisy, level = told
        return resampling.upsample(noisy, factor), level

    def apply(weights, xt, t, known, dropout_key):
        wide, level = known

        def predict(xt, t, wide):
            return net.apply({"params": weights}, jnp.concatenate([xt, wide], axis=-1), t, dropout_key, level=level)

        if xt.shape[1:3] == tile:
            return predict(xt, t, wide)

        def of_a_tile(part, t, corner):
            here = jax.lax.dynamic_slice(wide, (0, *corner, 0), part.shape)
            return predict(part, t, here)

        # Tiles begin where squares do, as images of training did.
        large = tuple(side // factor for side in wide.shape[1:3])
        corners = factor * tiling.corners(large, small, min(small) // 2)
        return tiling.tiled(of_a_tile, corners, tile)(xt, t)

    def size(batch):
        _, h, w, c = low_resolution(batch, factor).shape
        return h * factor, w * factor, c

    def x0(_, batch, keys):
        return difference(batch, factor) / deviation

    def image(_, x0, told):
        return (resampling.upsample(told[0], factor) + deviation * x0).clip(-1, 1)

    def certain(predict, schedule, told):
        low, *_ = told
        wide = resampling.upsample(low, factor)

        def nearest(x0):
            """Of all images, or of those with the given low resolution."""
            x = wide + deviation * x0
            x = resampling.project(x, low, factor, (-1, 1)) if config.consistent else x.clip(-1, 1)
            return (x - wide) / deviation

        return guidance.revised(predict, schedule, nearest, predicts=chain.predicts)

    return diffusing.Model(
        image_shape, init, apply, x0, told, None, known, image, size=size, certain=certain, of_pixels=False
    )


def _check_factor(image_shape, factor):
    height, width, _ = image_shape
    if height % factor or width % factor:
        raise UserError(
            f"images of {height}x{width} pixels have no low resolution of --factor {factor}, which must divide both sides; give another "
            "--factor, or --image-size"
        )


if __name__ == "__main__":
    from train.common import command

    sys.exit(command.main("super_resolution", command.parse(Config, PRESETS, __doc__), recipe, prepare=prepare))
