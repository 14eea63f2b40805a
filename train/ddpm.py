"""Denoising diffusion probabilistic models (Ho et al. 2020, arXiv:2006.11239): python -m train.ddpm

Of images, or with ``--conditional`` of images given their labels. Algorithms 1 and 2 of the paper are in `train.diffusing`.
"""

import sys
from dataclasses import dataclass, field, replace

from train import diffusing
from train.ae import Optimizer
from train.common.config import Job
from train.common.errors import check_classes, check_ranges
from train.denoising import Drawing
from train.diffusing import Chain, Network

ADAM = Optimizer(2e-4, warmup_steps=5000, clip_norm=1.0, ema_decay=0.9999)
"""The paper's."""


@dataclass(frozen=True)
class Config:
    """A DDPM and how to train it."""

    job: Job = field(default_factory=Job)
    network: Network = field(default_factory=Network)
    chain: Chain = field(default_factory=Chain)
    optimizer: Optimizer = ADAM
    pieces: int = 1
    """Pieces in which a device takes its rows one after the other, adding up gradients, to save memory."""
    flip: bool = False
    """Mirror images at random."""
    conditional: bool = False
    """Learn images given their labels."""
    label_dropout: float = 0.1
    """Probability of hiding a label in training, so that the model also knows images without one, as guidance needs."""
    drawing: Drawing = field(default_factory=Drawing)


CIFAR10 = Config(
    job=Job(dataset="cifar10", steps=800_000, batch_size=128, checkpoint_every=5000, sample_every=10_000),
    flip=True,
    drawing=Drawing(sample_steps=1000),
)
"""The paper's (appendix B): 35.7 million parameters, 800 thousand steps."""

SMALL = Config(
    job=Job(steps=50_000, batch_size=128, checkpoint_every=1000, sample_every=2500),
    network=Network(width=64, multipliers=(1, 2, 2), attention=(14, 16), dropout=0.0),
    optimizer=replace(ADAM, warmup_steps=500, ema_decay=0.999),
    drawing=Drawing("ddim", sample_steps=50),
)
"""For data sets without a preset of their own."""

MNIST = replace(
    SMALL,
    job=replace(SMALL.job, dataset="mnist", steps=6000, batch_size=64, checkpoint_every=500, sample_every=1500),
    network=Network(width=32, multipliers=(1, 2), blocks=1, patch=2, attention=(), groups=8, dropout=0.0),
    optimizer=replace(SMALL.optimizer, learning_rate=1e-3, warmup_steps=200, decay_steps=6000),
)
"""Half an hour on two CPU cores."""

DIGITS = replace(
    SMALL,
    job=Job(dataset="digits", steps=1200, batch_size=64, checkpoint_every=200, sample_every=400),
    network=Network(width=32, multipliers=(1, 2), blocks=1, attention=(), groups=8, dropout=0.0),
    optimizer=replace(SMALL.optimizer, learning_rate=2e-3, warmup_steps=100, ema_decay=0.995),
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


def recipe(config: Config, image_shape: tuple[int, int, int], num_classes: int = 0):
    """A DDPM of images (h, w, c), or of images given one of so many labels. JAX is imported here, once the command line has been read.

    Raises:
        UserError: if the configuration cannot work, or not for images of this shape.
    """
    return diffusing.build(config, model(config, image_shape, num_classes))


def model(config: Config, image_shape: tuple[int, int, int], num_classes: int = 0) -> diffusing.Model:
    """What `recipe` diffuses.

    Raises:
        UserError: if it is to know labels and there are none, or the probability of hiding them is none.
    """
    import jax
    import jax.numpy as jnp

    from train.common import images

    check_ranges(("label-dropout", config.label_dropout, 0.0, 1.0))
    if config.conditional:
        check_classes("--conditional", num_classes, config.job.dataset, "leave it out")
    net = diffusing.unet(config.network, config.chain, image_shape[-1], num_classes if config.conditional else 0)

    def init(key):
        t = label = jnp.zeros(1, jnp.int32)
        return net.init(key, jnp.zeros((1, *image_shape)), t, labels=label)["params"], {}

    def apply(weights, xt, t, label, dropout_key, residuals=None):
        return net.apply({"params": weights}, xt, t, dropout_key, label, residuals)

    def x0(_, batch, keys):
        pixels = images.to_unit_range(batch["image"])
        return images.random_flip(keys, pixels) if config.flip and keys is not None else pixels

    def label(batch, keys):
        if keys is None:
            return batch["label"]
        hidden = jax.vmap(lambda k: jax.random.bernoulli(k, config.label_dropout))(keys)
        return jnp.where(hidden, num_classes, batch["label"])

    def no_label(label):
        return jnp.full_like(label, num_classes)

    untold = no_label if config.conditional and config.label_dropout else None
    return diffusing.Model(image_shape, init, apply, x0, label, untold, network=net)


if __name__ == "__main__":
    from train.common import command

    sys.exit(command.main("ddpm", command.parse(Config, PRESETS, __doc__), recipe))
