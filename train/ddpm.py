"""Denoising diffusion probabilistic models (Ho et al. 2020, arXiv:2006.11239): python -m train.ddpm

`recipe` lies beside Algorithm 1 (training, ``step``) and Algorithm 2 (sampling, ``sample``) of the paper.
"""

import math
import sys
from dataclasses import dataclass, field, replace
from typing import Literal

from train import denoising
from train.common.config import Job
from train.common.errors import UserError, check_ranges
from train.denoising import Drawing


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
    patch: int = 1
    """Side of the squares of pixels that the network takes as one pixel of more channels; 2 makes it four times cheaper."""
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
    zero_terminal_snr: bool = False
    """Stretch the schedule until nothing is left of the image at its end."""
    predicts: Literal["eps", "x0", "v"] = "eps"
    """What the network says of x_t: its noise, its image, or its velocity between them."""
    learn_variance: bool = False
    """Also learn the variance of p(x_{t-1} | x_t), by the hybrid loss."""
    min_snr: float | None = None
    """Weigh timesteps so that the error of x_0 counts min(SNR, this); 5 is the authors' choice. Default: the simple loss."""
    timesteps: Literal["uniform", "importance"] = "uniform"
    """How timesteps are drawn: evenly, or the oftener the larger their loss."""
    conditional: bool = False
    """Learn images given their labels."""
    label_dropout: float = 0.1
    """Probability of hiding a label in training, so that the model also knows images without one, as guidance needs."""
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
    drawing: Drawing = field(default_factory=Drawing)


CIFAR10 = Config(
    job=Job(dataset="cifar10", steps=800_000, batch_size=128, checkpoint_every=5000, sample_every=10_000),
    flip=True,
    drawing=Drawing(sample_steps=1000),
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
    drawing=Drawing("ddim", sample_steps=50),
)
"""For data sets without a preset of their own."""

MNIST = replace(
    SMALL,
    job=replace(SMALL.job, dataset="mnist", steps=9000, batch_size=64, checkpoint_every=500, sample_every=1500),
    width=32,
    multipliers=(1, 2),
    blocks=1,
    patch=2,
    attention=(),
    groups=8,
    learning_rate=1e-3,
    warmup_steps=200,
)
"""An hour of one CPU core."""

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
    drawing=Drawing("ddim", sample_steps=50),
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
    import jax
    import jax.numpy as jnp
    import numpy as np

    from jaxgen import diffusion, diffusion_bound, importance
    from jaxgen.models.unet import UNet
    from train.common import images, optimizer
    from train.common.errors import in_words
    from train.common.recipe import Recipe, example_keys

    _check(config, num_classes)
    T, c, learned = config.num_timesteps, image_shape[-1], config.learn_variance
    schedule = denoising.schedule(config.schedule, T, zero_terminal_snr=config.zero_terminal_snr)
    grid = denoising.timesteps(config.drawing, schedule)
    adam = optimizer.adam(config.learning_rate, config.warmup_steps, config.clip_norm)
    net = UNet(
        out_channels=2 * c if learned else c,
        width=config.width,
        multipliers=config.multipliers,
        blocks=config.blocks,
        patch=config.patch,
        attention=config.attention,
        head_dim=config.head_dim,
        dropout=config.dropout,
        groups=config.groups,
        num_classes=num_classes if config.conditional else 0,
        dtype=jnp.dtype(config.dtype),
    )
    predicts = {"predicts": config.predicts}

    def init(key):
        params_key, run_key = jax.random.split(key)
        t = label = jnp.zeros(1, jnp.int32)
        params = net.init(params_key, jnp.zeros((1, *image_shape)), t, labels=label)["params"]
        state = optimizer.start(params, adam, run_key)
        return state._replace(opt=(state.opt, importance.empty(T))) if config.timesteps == "importance" else state

    def theta(params, labels, dropout_key=None):
        """xt, t -> what the network predicts, and with a learned variance its v in (0, 1)."""

        def predict(xt, t):
            said = net.apply({"params": params}, xt, t, dropout_key, labels)
            return (said[..., :c], (said[..., c:] + 1) / 2) if learned else said

        return predict

    def losses(params, rows):
        predict = theta(params, rows["label"], rows["dropout_key"])
        loss = diffusion_bound.hybrid_loss if learned else diffusion.simple_loss
        value = loss(schedule, predict, rows["x0"], rows["t"], rows["eps"], **predicts)
        if config.min_snr is not None:
            value *= diffusion.min_snr_weight(schedule, rows["t"], config.min_snr, config.predicts)
        return rows["weight"] * value

    def draw_timesteps(state, keys):
        """t, and the weight of its loss, (b,) each."""
        if config.timesteps == "uniform":
            return jax.vmap(lambda k: jax.random.randint(k, (), 0, T))(keys), jnp.ones(len(keys))
        return jax.vmap(importance.draw, (0, None))(keys, importance.probabilities(state.opt[1]))

    def step(state, batch, key):
        """Algorithm 1: x0 ~ q(x0), t ~ Uniform, eps ~ N(0, I), a gradient step on |eps - eps_theta(xt, t)|^2."""
        keys = example_keys(key, len(batch["image"]))
        t_key, eps_key, dropout_key, flip_key, label_key = jax.vmap(lambda k: jax.random.split(k, 5), out_axes=1)(keys)
        x0 = images.to_unit_range(batch["image"])
        t, weight = draw_timesteps(state, t_key)
        hidden = jax.vmap(lambda k: jax.random.bernoulli(k, config.label_dropout))(label_key)
        rows = {
            "x0": images.random_flip(flip_key, x0) if config.flip else x0,
            "t": t,
            "eps": jax.vmap(lambda k: jax.random.normal(k, image_shape))(eps_key),
            "label": jnp.where(hidden, num_classes, batch["label"]),
            "weight": weight,
            "dropout_key": dropout_key,
        }
        values, grads = optimizer.value_and_grad_in_pieces(losses, config.pieces)(state.params, rows)
        value, grads = jax.lax.pmean((values.mean(), grads), "data")
        if config.timesteps == "importance":
            opt, history = state.opt
            seen = jax.lax.all_gather((t, values / weight), "data", tiled=True)
            state = optimizer.descend(state._replace(opt=opt), grads, adam, config.ema_decay)
            state = state._replace(opt=(state.opt, importance.remember(history, *seen)))
        else:
            state = optimizer.descend(state, grads, adam, config.ema_decay)
        return state, {"loss": value, "grad_norm": optimizer.global_norm(grads)}

    def denoiser(state, labels):
        """With the averaged parameters, guided towards the labels where it knows them."""
        free = theta(state.ema, jnp.full_like(labels, num_classes))
        return denoising.guided(config.drawing, theta(state.ema, labels), free, learned=learned)

    def noise(keys):
        """For each image, what it begins from, and the key of what is added on the way."""
        x_key, chain_key = jax.vmap(jax.random.split, out_axes=1)(keys)
        return jax.vmap(lambda k: jax.random.normal(k, image_shape))(x_key), chain_key

    def run_chain_backwards(state, batch, key, trajectory=False):
        """Algorithm 2, or one of its relatives."""
        x_T, chain_key = noise(example_keys(key, len(batch["image"])))
        predict = denoiser(state, batch["label"])
        draw = {"learned": learned, "trajectory": trajectory, **predicts}
        return denoising.draw(config.drawing, chain_key, predict, schedule, x_T, grid, **draw)

    def edit(state, batch, key, strength, resamplings):
        x_T, chain_key = noise(example_keys(key, len(batch["image"])))
        known = denoising.Known(images.to_unit_range(batch["image"]), batch.get("mask"), strength, resamplings)
        predict = denoiser(state, batch["label"])
        return denoising.edit(
            config.drawing, chain_key, predict, schedule, x_T, grid, known, learned=learned, **predicts
        )

    def bound(state, batch, key, samples):
        x0, keys = images.to_unit_range(batch["image"]), example_keys(key, len(batch["image"]))
        predict, variance = theta(state.ema, batch["label"]), "learned" if learned else config.drawing.variance
        return denoising.bound(keys, predict, schedule, x0, samples, variance=variance, clip_x0=True, **predicts)

    def denoising_moments(state, batch, key):
        states = run_chain_backwards(state, batch, key, trajectory=True)[1]
        # Thirty-odd moments, denser towards the end, where the picture appears.
        moments = (len(states) - 1) * (1 - np.linspace(1, 0, 36) ** 2)
        return states[np.unique(moments.round().astype(int))].swapaxes(0, 1)

    with in_words():  # the network says itself which images it takes
        jax.eval_shape(init, jax.random.key(0))
    return Recipe(
        init, step, run_chain_backwards, {"denoising": denoising_moments}, evaluate=bound, evaluate_samples=T, edit=edit
    )


def _check(config, num_classes):
    check_ranges(
        ("num-timesteps", config.num_timesteps, 2, math.inf),
        ("width", config.width, 1, math.inf),
        ("blocks", config.blocks, 1, math.inf),
        ("patch", config.patch, 1, math.inf),
        ("pieces", config.pieces, 1, math.inf),
        ("warmup-steps", config.warmup_steps, 0, math.inf),
        ("learning-rate", config.learning_rate, 1e-12, math.inf),
        ("clip-norm", config.clip_norm, 1e-12, math.inf),
        ("ema-decay", config.ema_decay, 0.0, 1.0),
        ("dropout", config.dropout, 0.0, 0.99),
        ("min-snr", 1.0 if config.min_snr is None else config.min_snr, 1e-12, math.inf),
        ("label-dropout", config.label_dropout, 0.0, 1.0),
    )
    denoising.check(
        config.drawing, config.num_timesteps, labels=config.conditional, zero_terminal_snr=config.zero_terminal_snr
    )
    if config.zero_terminal_snr and config.predicts == "eps":
        raise UserError(
            "--zero-terminal-snr leaves pure noise at the end of the chain, of which eps says nothing; take --predicts v"
        )
    if config.conditional and num_classes < 2:
        raise UserError(
            f"--conditional needs labels of at least 2 classes, and {config.job.dataset} has {num_classes}: sort a folder's "
            "pictures into one subfolder per class, or leave it out"
        )


if __name__ == "__main__":
    from train.common import command

    sys.exit(command.main("ddpm", command.parse(Config, PRESETS, __doc__), recipe))
