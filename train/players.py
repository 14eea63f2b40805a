"""The two players of an adversarial game: what they are and how they descend, as settings that recipes share."""

import math
from dataclasses import dataclass
from typing import Literal

from train.common.errors import UserError, check_levels, check_ranges


@dataclass(frozen=True)
class Network:
    """A generator, and the trunk of a discriminator."""

    architecture: Literal["plain", "dcgan", "residual", "mlp"] = "dcgan"
    """plain: convolutions, unpooling and pooling, from noise that is a small picture; dcgan, residual: after Radford et al. 2016 and
    Gulrajani et al. 2017; mlp: fully connected, the one for points."""
    latent_dim: int = 64
    """Dimensions of the noise (plain: as many as its smallest level has pixels)."""
    width: int = 32
    """Channels at full resolution."""
    multipliers: tuple[int, ...] = (1, 2, 4)
    """Channels at each resolution, as multiples of the width; each level has half the resolution of the one before."""
    groups: int = 0
    """dcgan, residual: groups of the generator's group normalisation; 0: none."""
    hidden: tuple[int, ...] = (128, 128, 128)
    """mlp: sizes of the hidden layers."""
    discriminator_hidden: tuple[int, ...] | None = None
    """mlp: those of the discriminator. Default: the same."""
    frequencies: int = 0
    """mlp: waves of its input that the discriminator sees beside it, for points."""
    ema_decay: float = 0.999
    """Of the moving average of the generator's parameters, which samples are drawn with."""


@dataclass(frozen=True)
class Optimizer:
    """How both players descend, each with a state of its own."""

    algorithm: Literal["adam", "sgd"] = "adam"
    """sgd: with momentum, as in the paper."""
    learning_rate: float = 2e-4
    """The generator's."""
    discriminator_learning_rate: float | None = None
    """Default: the same."""
    momentum: float = 0.5
    """Adam's beta1, or that of sgd."""
    beta2: float = 0.999
    """Adam's."""
    decay_steps: int = 0
    """Step of the run by which both learning rates have fallen to a hundredth, along half a cosine; 0: they stay."""


def networks(network: Network, image_shape: tuple[int, ...], num_classes: int):
    """The generator, and the discriminator that faces it."""
    from jaxgen.models import gan

    conv = {"width": network.width, "multipliers": network.multipliers}
    common = {"shape": image_shape, "num_classes": num_classes}
    latent = {"latent_dim": network.latent_dim, "groups": network.groups}
    generator, trunk = {
        "plain": lambda: (gan.Generator(**common, **conv), gan.Trunk(**conv)),
        "dcgan": lambda: (gan.DCGANGenerator(**common, **conv, **latent), gan.DCGANTrunk(**conv)),
        "residual": lambda: (gan.ResidualGenerator(**common, **conv, **latent), gan.ResidualTrunk(**conv)),
        "mlp": lambda: (
            gan.MLPGenerator(**common, latent_dim=network.latent_dim, hidden=network.hidden),
            gan.MLPTrunk(network.discriminator_hidden or network.hidden, network.frequencies),
        ),
    }[network.architecture]()
    return generator, gan.Discriminator(trunk, num_classes)


def descents(settings: Optimizer, discriminator_steps: int = 1):
    """The optimisers of the generator and of the discriminator, which takes so many steps for each of the generator's."""
    import optax

    from train.common import optimizer

    def descent(learning_rate, each_step=1):
        rate = optimizer.rate(learning_rate, 0, settings.decay_steps * each_step)
        if settings.algorithm == "sgd":
            return optax.sgd(rate, settings.momentum)
        return optax.adam(rate, settings.momentum, settings.beta2)

    discriminator_rate = settings.discriminator_learning_rate or settings.learning_rate
    return descent(settings.learning_rate), descent(discriminator_rate, discriminator_steps)


def check(network: Network, optimizer: Optimizer, image_shape: tuple[int, ...]) -> None:
    """Nothing, if these settings can work for such examples.

    Raises:
        UserError: if they cannot.
    """
    if len(image_shape) == 1 and network.architecture != "mlp":
        raise UserError(f"--architecture {network.architecture} is for images; for points choose mlp")
    if not network.hidden:
        raise UserError("--hidden must name at least one layer, such as 128 128")
    check_levels(network)
    check_ranges(
        ("latent-dim", network.latent_dim, 1, math.inf),
        ("groups", network.groups, 0, math.inf),
        *(("hidden", size, 1, math.inf) for size in network.hidden),
        *(("discriminator-hidden", size, 1, math.inf) for size in network.discriminator_hidden or ()),
        ("frequencies", network.frequencies, 0, math.inf),
        ("ema-decay", network.ema_decay, 0.0, 1.0),
        ("learning-rate", optimizer.learning_rate, 1e-12, math.inf),
        ("momentum", optimizer.momentum, 0.0, 0.9999),
        ("beta2", optimizer.beta2, 0.0, 0.999999),
        ("decay-steps", optimizer.decay_steps, 0, math.inf),
    )
    if optimizer.discriminator_learning_rate is not None:
        check_ranges(("discriminator-learning-rate", optimizer.discriminator_learning_rate, 1e-12, math.inf))
