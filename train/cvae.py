"""Conditional variational autoencoders: python -m train.cvae

The smallest change that makes a VAE conditional: the prior of a code is N(mu_y, I), with a learned mean for each class y, in place of
N(0, I). Encoder and decoder do not see the label; to draw a nine, decode a code from N(mu_9, I). The common form, where both
see it and the prior does not (Sohn et al. 2015), is ``--labels inputs``.
"""

import math
import sys
from dataclasses import dataclass, replace
from typing import Literal

from train import ae, vae
from train.common.errors import check_classes


@dataclass(frozen=True)
class Config(vae.Config):
    """A conditional variational autoencoder and how to train it."""

    labels: Literal["prior", "inputs"] = "prior"
    """Where the label enters: as the mean of the prior, or as an input of encoder and decoder."""


DIGITS = Config(
    job=replace(vae.DIGITS.job, steps=6000),
    network=replace(vae.DIGITS.network, latent_dim=8),
)
MNIST = Config(
    job=replace(vae.MNIST.job, steps=20_000),
    network=replace(vae.MNIST.network, latent_dim=16),
    optimizer=replace(vae.MNIST.optimizer, decay_steps=20_000),
    beta=4.0,
)
"""Five minutes on two CPU cores. A shorter code than the bound asks for, so that N(mu_y, I) holds little that is not of class y."""

PRESETS = {
    "digits": DIGITS,
    "mnist": MNIST,
    "fashion_mnist": replace(MNIST, job=replace(MNIST.job, dataset="fashion_mnist")),
    "kmnist": replace(MNIST, job=replace(MNIST.job, dataset="kmnist")),
    "*": Config(job=vae.COLOUR.job, network=vae.COLOUR.network, likelihood=vae.COLOUR.likelihood),
}


def recipe(config: Config, image_shape: tuple[int, int, int], num_classes: int):
    """A conditional VAE of images (h, w, c) with so many classes. JAX is imported here, once the command line has been read.

    Raises:
        UserError: if there are no classes, or the configuration cannot work, or not for images of this shape.
    """
    import jax
    import jax.numpy as jnp

    from train.common import codes

    check_classes("train.cvae", num_classes, config.job.dataset, "use train.vae")
    ae.check_common(config.network, config.optimizer)
    dim = math.prod(ae.code_shape(config.network, image_shape))
    condition = {
        "prior": vae.Condition(
            {"class_mean": jnp.zeros((num_classes, dim))},
            lambda own, labels: own["class_mean"][labels],
            lambda labels: None,
        ),
        "inputs": vae.Condition(
            {}, lambda _, labels: jnp.zeros((len(labels), dim)), lambda labels: jax.nn.one_hot(labels, num_classes)
        ),
    }[config.labels]
    built = vae.build(config, image_shape, condition)

    pictures = {"classes": codes.classes(built.sample, num_classes), **built.pictures}
    pictures.pop("manifold", None)  # each class has another
    return built._replace(pictures=pictures)


if __name__ == "__main__":
    from train.common import command

    sys.exit(command.main("cvae", command.parse(Config, PRESETS, __doc__), recipe))
