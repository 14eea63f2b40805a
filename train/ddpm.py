"""Denoising diffusion probabilistic models (Ho et al. 2020, arXiv:2006.11239): python -m train.ddpm

`recipe` lies beside Algorithm 1 (training, ``step``) and Algorithm 2 (sampling, ``sample``) of the paper.
"""

import math
import sys
from dataclasses import dataclass, field, replace
from typing import Literal

from train.common.config import Job, free
from train.common.errors import check_ranges


@dataclass(frozen=True)
class Config:
    """A DDPM and how to train it."""

    job: Job = field(default_factory=Job)
    width: int = 128
    """Channels of the U-Net at full resolution."""
    multipliers: tuple[int, ...] = (1, 2, 2, 2)
    """Channels at each resolution, as multiples of the width; each level has half the resolution of the one before."""
    blocks: int = 2
    """Residual blocks per level."""
    attention: tuple[int, ...] = (16,)
    """Image heights at which there is self-attention."""
    head_dim: int | None = None
    """Channels per attention head (default: one head)."""
    groups: int = 32
    """Groups of the group normalisation."""
    dropout: float = 0.1
    """Probability of dropping an activation, in residual blocks."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Precision of convolutions and products; parameters are float32 always."""
    num_timesteps: int = 1000
    """T, the length of the chain."""
    schedule: Literal["linear", "scaled_linear", "cosine"] = "linear"
    """How the variances beta_t grow."""
    learning_rate: float = 2e-4
    """Adam's, after warm-up."""
    warmup_steps: int = 5000
    """Steps over which the learning rate rises from 0."""
    clip_norm: float = 1.0
    """Largest global norm of a gradient; longer ones are shortened to it."""
    ema_decay: float = 0.9999
    """Of the moving average of the parameters, which samples are drawn with."""
    pieces: int = 1
    """Pieces in which a device takes its rows one after the other, adding up gradients, to save memory."""
    flip: bool = False
    """Mirror images at random."""
    sampler: Literal["ancestral", "ddim"] = free("ancestral")
    """How samples are drawn."""
    sample_steps: int = free(250)
    """Steps of the sampler, at most T."""
    variance: Literal["beta", "beta_tilde"] = free("beta")
    """Of an ancestral step."""


CIFAR10 = Config(
    job=Job(dataset="cifar10", steps=800_000, batch_size=128, checkpoint_every=5000, sample_every=10_000),
    flip=True,
    sample_steps=1000,
)
"""The paper's (appendix B): 35.7 million parameters, 800 thousand steps."""

SMALL = Config(
    job=Job(steps=50_000, batch_size=128, checkpoint_every=1000, sample_every=2500),
    width=64,
    multipliers=(1, 2, 2),
    attention=(14, 16),
    dropout=0.0,
    warmup_steps=500,
    ema_decay=0.999,
    sampler="ddim",
    sample_steps=50,
)
"""For data sets without a preset of their own."""

MNIST = replace(SMALL, job=replace(SMALL.job, dataset="mnist", steps=20_000))

DIGITS = Config(
    job=Job(dataset="digits", steps=1200, batch_size=64, checkpoint_every=200, sample_every=400),
    width=32,
    multipliers=(1, 2),
    blocks=1,
    attention=(),
    groups=8,
    dropout=0.0,
    learning_rate=2e-3,
    warmup_steps=100,
    ema_decay=0.995,
    sampler="ddim",
    sample_steps=50,
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
    """A DDPM of images (h, w, c); it does not look at labels. JAX is imported here, once the command line has been read.

    Raises:
        UserError: if the configuration cannot work, or not for images of this shape.
    """
    import jax
    import jax.numpy as jnp
    import numpy as np

    from jaxgen import diffusion, grids, samplers, schedules
    from jaxgen.models.unet import UNet
    from train.common import images, optimizer
    from train.common.errors import in_words
    from train.common.recipe import Recipe, example_keys

    _check(config)
    T = config.num_timesteps
    short = 1000 / T  # the published variances are for 1,000 steps; fewer steps must add the same noise in all
    schedule = {
        "linear": lambda: schedules.linear(T, 1e-4 * short, min(0.02 * short, 0.999)),
        "scaled_linear": lambda: schedules.scaled_linear(T, 0.00085 * short, min(0.012 * short, 0.999)),
        "cosine": lambda: schedules.cosine(T),
    }[config.schedule]()
    grid = grids.trailing(T, config.sample_steps)
    adam = optimizer.adam(config.learning_rate, config.warmup_steps, config.clip_norm)
    net = UNet(
        out_channels=image_shape[-1],
        width=config.width,
        multipliers=config.multipliers,
        blocks=config.blocks,
        attention=config.attention,
        head_dim=config.head_dim,
        groups=config.groups,
        dropout=config.dropout,
        dtype=jnp.dtype(config.dtype),
    )

    def init(key):
        params_key, run_key = jax.random.split(key)
        params = net.init(params_key, jnp.zeros((1, *image_shape)), jnp.zeros(1, jnp.int32))["params"]
        return optimizer.start(params, adam, run_key)

    def loss(params, rows):
        def eps_theta(xt, t):
            return net.apply({"params": params}, xt, t, rows["dropout_key"])

        return diffusion.simple_loss(schedule, eps_theta, rows["x0"], rows["t"], rows["eps"]).mean()

    def step(state, batch, key):
        """Algorithm 1: x0 ~ q(x0), t ~ Uniform, eps ~ N(0, I), a gradient step on |eps - eps_theta(xt, t)|^2."""
        keys = example_keys(key, len(batch["image"]))
        t_key, eps_key, dropout_key, flip_key = jax.vmap(lambda k: jax.random.split(k, 4), out_axes=1)(keys)
        x0 = images.to_unit_range(batch["image"])
        rows = {
            "x0": images.random_flip(flip_key, x0) if config.flip else x0,
            "t": jax.vmap(lambda k: jax.random.randint(k, (), 0, T))(t_key),
            "eps": jax.vmap(lambda k: jax.random.normal(k, image_shape))(eps_key),
            "dropout_key": dropout_key,
        }
        value, grads = optimizer.value_and_grad_in_pieces(loss, config.pieces)(state.params, rows)
        value, grads = jax.lax.pmean((value, grads), "data")
        state = optimizer.descend(state, grads, adam, config.ema_decay)
        return state, {"loss": value, "grad_norm": optimizer.global_norm(grads)}

    def run_chain_backwards(state, batch, key, trajectory):
        """Algorithm 2, or its implicit relative, with the averaged parameters."""
        keys = example_keys(key, len(batch["image"]))
        shape = (len(keys), *image_shape)

        def eps_theta(xt, t):
            return net.apply({"params": state.ema}, xt, t)

        if config.sampler == "ancestral":
            return samplers.ancestral(
                keys, eps_theta, schedule, shape, grid, variance=config.variance, clip_x0=True, trajectory=trajectory
            )
        x_T = jax.vmap(lambda k: jax.random.normal(k, image_shape))(keys)
        return samplers.ddim(eps_theta, schedule, x_T, grid, clip_x0=True, trajectory=trajectory)

    def sample(state, batch, key):
        return run_chain_backwards(state, batch, key, trajectory=False)

    def denoising(state, batch, key):
        states = run_chain_backwards(state, batch, key, trajectory=True)[1]
        # Thirty-odd moments, denser towards the end, where the picture appears.
        moments = (len(states) - 1) * (1 - np.linspace(1, 0, 36) ** 2)
        return states[np.unique(moments.round().astype(int))].swapaxes(0, 1)

    with in_words():  # the network says itself which images it takes
        jax.eval_shape(init, jax.random.key(0))
    return Recipe(init, step, sample, {"denoising": denoising})


def _check(config):
    check_ranges(
        ("num-timesteps", config.num_timesteps, 2, math.inf),
        ("sample-steps", config.sample_steps, 1, config.num_timesteps),
        ("width", config.width, 1, math.inf),
        ("blocks", config.blocks, 1, math.inf),
        ("pieces", config.pieces, 1, math.inf),
        ("warmup-steps", config.warmup_steps, 0, math.inf),
        ("learning-rate", config.learning_rate, 1e-12, math.inf),
        ("clip-norm", config.clip_norm, 1e-12, math.inf),
        ("ema-decay", config.ema_decay, 0.0, 1.0),
        ("dropout", config.dropout, 0.0, 0.99),
    )


if __name__ == "__main__":
    from train.common import command

    sys.exit(command.main("ddpm", command.parse(Config, PRESETS, __doc__), recipe))
