"""Autoencoders: python -m train.ae

An encoder and a decoder that together reproduce an image through a short code, with nothing said of how codes are spread.
What decoding a code from N(0, I) gives then is the reason for the variational autoencoder.
"""

import math
import sys
from dataclasses import dataclass, field, replace
from typing import Literal

from train.common.config import Job
from train.common.errors import UserError, check_levels, check_ranges


@dataclass(frozen=True)
class Network:
    """An encoder and a decoder."""

    architecture: Literal["mlp", "conv", "map"] = "mlp"
    """Fully connected, convolutional, or convolutional with a code that is a small image, as latent diffusion needs it."""
    latent_dim: int = 50
    """Dimensions of the code; map: channels of the small image, whose size is that of the last level."""
    hidden: tuple[int, ...] = (200, 200)
    """mlp: sizes of the encoder's hidden layers; the decoder's are the same backwards."""
    activation: Literal["silu", "tanh"] = "silu"
    """mlp: the non-linearity."""
    width: int = 32
    """conv and map: channels at full resolution."""
    multipliers: tuple[int, ...] = (1, 2, 2)
    """conv and map: channels at each resolution, as multiples of the width; each level has half the resolution of the one before."""
    blocks: int = 1
    """conv and map: residual pairs of convolutions per level."""
    groups: int = 8
    """conv and map: groups of the group normalisation."""


@dataclass(frozen=True)
class Optimizer:
    """Adam, and the moving average of the parameters."""

    learning_rate: float = 1e-3
    """Adam's, after warm-up."""
    warmup_steps: int = 100
    """Steps over which the learning rate rises from 0."""
    decay_steps: int = 0
    """Step by which the learning rate has fallen to a hundredth, along half a cosine; 0: it stays."""
    clip_norm: float = 200.0
    """Largest global norm of a gradient; longer ones are shortened to it."""
    ema_decay: float = 0.999
    """Of the moving average of the parameters, which pictures are drawn with and likelihoods estimated."""


@dataclass(frozen=True)
class Config:
    """An autoencoder and how to train it."""

    job: Job = field(default_factory=Job)
    network: Network = field(default_factory=Network)
    optimizer: Optimizer = field(default_factory=Optimizer)


DIGITS = Config(
    job=Job(
        dataset="digits", steps=4000, batch_size=128, checkpoint_every=1000, sample_every=2000, beside="runs/vae-digits"
    ),
    network=Network(latent_dim=2),
)
"""Two latent dimensions, to look at; less than a minute on two CPU cores."""

MNIST = Config(
    job=Job(
        dataset="mnist", steps=20_000, batch_size=128, checkpoint_every=2000, sample_every=5000, beside="runs/vae-mnist"
    )
)

OTHER = Config(
    job=Job(steps=50_000, batch_size=128, checkpoint_every=1000, sample_every=5000),
    network=Network(architecture="conv", latent_dim=128, width=64),
)
"""For data sets without a preset of their own."""

PRESETS = {
    "digits": DIGITS,
    "mnist": MNIST,
    "fashion_mnist": replace(MNIST, job=replace(MNIST.job, dataset="fashion_mnist", beside="runs/vae-fashion_mnist")),
    "kmnist": replace(MNIST, job=replace(MNIST.job, dataset="kmnist", beside="runs/vae-kmnist")),
    "*": OTHER,
}


def recipe(config: Config, image_shape: tuple[int, int, int], num_classes: int = 0):
    """An autoencoder of images (h, w, c); it does not look at labels. JAX is imported here, once the command line has been read.

    Raises:
        UserError: if the configuration cannot work, or not for images of this shape.
    """
    import jax
    import jax.numpy as jnp

    from train.common import codes, images, optimizer
    from train.common.errors import in_words
    from train.common.recipe import Recipe, example_keys

    check_common(config.network, config.optimizer)
    latent_dim, settings = math.prod(code_shape(config.network, image_shape)), config.optimizer
    encoder, decoder = networks(config.network, image_shape, latent_dim, image_shape[-1])
    adam = optimizer.adam(settings.learning_rate, settings.warmup_steps, settings.clip_norm, settings.decay_steps)

    def init(key):
        encoder_key, decoder_key, run_key = jax.random.split(key, 3)
        params = {
            "encoder": encoder.init(encoder_key, jnp.zeros((1, *image_shape)))["params"],
            "decoder": decoder.init(decoder_key, jnp.zeros((1, latent_dim)))["params"],
        }
        return optimizer.start(params, adam, run_key)

    def encode(params, x):
        return encoder.apply({"params": params["encoder"]}, x)

    def decode(params, z):
        return decoder.apply({"params": params["decoder"]}, z)

    def loss(params, x):
        """Squared error, the mean over pixels."""
        return ((x - decode(params, encode(params, x))) ** 2).mean()

    def step(state, batch, key):
        value, grads = jax.value_and_grad(loss)(state.params, images.to_unit_range(batch["image"]))
        value, grads = jax.lax.pmean((value, grads), "data")
        state = optimizer.descend(state, grads, adam, settings.ema_decay)
        return state, {"loss": value, "grad_norm": optimizer.global_norm(grads)}

    def sample(state, batch, key):
        """What codes from N(0, I) mean, though nothing taught the decoder to expect them."""
        keys = example_keys(key, len(batch["image"]))
        return decode(state.ema, jax.vmap(lambda k: jax.random.normal(k, (latent_dim,)))(keys))

    def observe(batch, _):
        return images.to_unit_range(batch["image"])

    def code(state, x, _):
        return encode(state.ema, x)

    def image(state, z, _):
        return decode(state.ema, z)

    pictures = codes.pictures(observe, code, image, latent_dim)
    with in_words():  # the networks say themselves which images they take
        jax.eval_shape(init, jax.random.key(0))
    return Recipe(init, step, sample, pictures, convolutions=config.network.architecture != "mlp")


def code_shape(network: Network, image_shape: tuple[int, int, int]) -> tuple[int, ...]:
    """(d,) of a code, or (h', w', c') of one that is a small image.

    Raises:
        UserError: if the image cannot be halved so often.
    """
    if network.architecture != "map":
        return (network.latent_dim,)
    from jaxgen.models.layers import smallest_size
    from train.common.errors import in_words

    with in_words():
        return (*smallest_size(image_shape[:2], len(network.multipliers)), network.latent_dim)


def networks(network: Network, image_shape: tuple[int, int, int], code_dim: int, channels: int):
    """The encoder (b, h, w, c) -> (b, code_dim) and the decoder (b, d) -> (b, h, w, channels)."""
    import jax

    from jaxgen.models import autoencoder

    shape = (*image_shape[:2], channels)
    if network.architecture == "mlp":
        hidden, activation = network.hidden, {"silu": jax.nn.silu, "tanh": jax.numpy.tanh}[network.activation]
        encoder = autoencoder.MLPEncoder(code_dim, hidden, activation)
        return encoder, autoencoder.MLPDecoder(shape, hidden[::-1], activation)
    conv = (network.width, network.multipliers, network.blocks, network.groups)
    if network.architecture == "map":
        c = network.latent_dim
        return autoencoder.MapEncoder(code_dim, c, *conv), autoencoder.MapDecoder(shape, c, *conv)
    return autoencoder.ConvEncoder(code_dim, *conv), autoencoder.ConvDecoder(shape, *conv)


def check_common(network: Network, optimizer: Optimizer) -> None:
    """Nothing, if these can work.

    Raises:
        UserError: if they cannot.
    """
    check_levels(network)
    check_optimizer(optimizer)
    check_ranges(
        ("latent-dim", network.latent_dim, 1, math.inf),
        *(("hidden", size, 1, math.inf) for size in network.hidden),
        ("blocks", network.blocks, 0, math.inf),
        ("groups", network.groups, 1, math.inf),
    )


def check_optimizer(optimizer: Optimizer) -> None:
    """Nothing, if it can work.

    Raises:
        UserError: if it cannot.
    """
    if 0 < optimizer.decay_steps <= optimizer.warmup_steps:
        raise UserError(
            f"--decay-steps must be more than the {optimizer.warmup_steps} --warmup-steps; got {optimizer.decay_steps}"
        )
    check_ranges(
        ("learning-rate", optimizer.learning_rate, 1e-12, math.inf),
        ("warmup-steps", optimizer.warmup_steps, 0, math.inf),
        ("decay-steps", optimizer.decay_steps, 0, math.inf),
        ("clip-norm", optimizer.clip_norm, 1e-12, math.inf),
        ("ema-decay", optimizer.ema_decay, 0.0, 1.0),
    )


if __name__ == "__main__":
    from train.common import command

    sys.exit(command.main("ae", command.parse(Config, PRESETS, __doc__), recipe))
