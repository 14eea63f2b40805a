"""Diffusion of whatever a recipe calls x_0: `build` lies beside Algorithm 1 (training, ``step``) and Algorithm 2 (sampling,
``run_chain_backwards``) of Ho et al. 2020, arXiv:2006.11239. A recipe says what x_0 is, and what the network is told of it.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from train import denoising
from train.common.errors import UserError, check_ranges


@dataclass(frozen=True)
class Network:
    """The U-Net."""

    width: int = 128
    """Channels at full resolution."""
    multipliers: tuple[int, ...] = (1, 2, 2, 2)
    """Channels at each resolution, as multiples of the width; each level has half the resolution of the one before."""
    blocks: int = 2
    """Residual blocks per level."""
    patch: int = 1
    """Side of the squares of pixels that the network takes as one pixel of more channels; 2 makes it four times cheaper."""
    attention: tuple[int, ...] = (16,)
    """Heights, in squares, at which there is self-attention."""
    head_dim: int | None = None
    """Channels per attention head (default: one head)."""
    groups: int = 32
    """Groups of the group normalisation."""
    dropout: float = 0.1
    """Probability of dropping an activation, in residual blocks."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Precision of convolutions and products; parameters are float32 always."""


@dataclass(frozen=True)
class Chain:
    """The noise, and what is learnt of it."""

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


class Model(NamedTuple):
    """What a recipe diffuses, and with which network."""

    shape: tuple[int, ...]
    """Of one x_0."""
    init: Callable[[Any], Any]
    """key -> parameters"""
    apply: Callable[[Any, Any, Any, Any, Any], Any]
    """parameters, xt (b, ...), t (b,), told, keys (b,) for dropout or None -> the prediction; twice the channels if variance is learned."""
    x0: Callable[[dict, Any], Any]
    """batch, keys (b,) or None -> x_0 (b, ...), changed at random if there are keys."""
    told: Callable[[dict, Any], Any]
    """batch, keys (b,) or None -> what the network is told of each row; hidden at random if there are keys."""
    untold: Callable[[Any], Any] | None
    """told -> what it is told where nothing is known, for guidance; None if it is never told anything."""


def build(config: Any, model: Model) -> Any:
    """The recipe. The configuration has a chain, a `denoising.Drawing`, an `ae.Optimizer` and pieces.

    Raises:
        UserError: if the configuration cannot work, or not for this x_0.
    """
    import jax
    import jax.numpy as jnp
    import numpy as np

    from jaxgen import diffusion, diffusion_bound, importance
    from train.common import optimizer
    from train.common.errors import in_words
    from train.common.recipe import Recipe, example_keys

    chain, drawing = config.chain, config.drawing
    _check(config, model)
    T, learned, by_importance = chain.num_timesteps, chain.learn_variance, chain.timesteps == "importance"
    predicts = {"predicts": chain.predicts}
    schedule = denoising.schedule(chain.schedule, T, zero_terminal_snr=chain.zero_terminal_snr)
    grid = denoising.timesteps(drawing, schedule)
    ema_decay, rate = config.optimizer.ema_decay, config.optimizer
    adam = optimizer.adam(rate.learning_rate, rate.warmup_steps, rate.clip_norm, rate.decay_steps)

    def init(key):
        params_key, run_key = jax.random.split(key)
        state = optimizer.start(model.init(params_key), adam, run_key)
        return state._replace(opt=(state.opt, importance.empty(T))) if by_importance else state

    def theta(params, told, dropout_key=None):
        """xt, t -> what the network predicts, and with a learned variance its v in (0, 1)."""

        def predict(xt, t):
            said = model.apply(params, xt, t, told, dropout_key)
            if not learned:
                return said
            prediction, v = jnp.split(said, 2, axis=-1)
            return prediction, (v + 1) / 2

        return predict

    def losses(params, rows):
        predict = theta(params, rows["told"], rows["dropout_key"])
        loss = diffusion_bound.hybrid_loss if learned else diffusion.simple_loss
        value = loss(schedule, predict, rows["x0"], rows["t"], rows["eps"], **predicts)
        if chain.min_snr is not None:
            value *= diffusion.min_snr_weight(schedule, rows["t"], chain.min_snr, chain.predicts)
        return rows["weight"] * value

    def draw_timesteps(state, keys):
        """t, and the weight of its loss, (b,) each."""
        if by_importance:
            return jax.vmap(importance.draw, (0, None))(keys, importance.probabilities(state.opt[1]))
        return jax.vmap(lambda k: jax.random.randint(k, (), 0, T))(keys), jnp.ones(len(keys))

    def step(state, batch, key):
        """Algorithm 1: x0 ~ q(x0), t ~ Uniform, eps ~ N(0, I), a gradient step on |eps - eps_theta(xt, t)|^2."""
        keys = example_keys(key, len(batch["image"]))
        t_key, eps_key, dropout_key, x0_key, told_key = jax.vmap(lambda k: jax.random.split(k, 5), out_axes=1)(keys)
        t, weight = draw_timesteps(state, t_key)
        rows = {
            "x0": model.x0(batch, x0_key),
            "t": t,
            "eps": jax.vmap(lambda k: jax.random.normal(k, model.shape))(eps_key),
            "told": model.told(batch, told_key),
            "weight": weight,
            "dropout_key": dropout_key,
        }
        values, grads = optimizer.value_and_grad_in_pieces(losses, config.pieces)(state.params, rows)
        value, grads = jax.lax.pmean((values.mean(), grads), "data")
        if by_importance:
            opt, history = state.opt
            seen = jax.lax.all_gather((t, values / weight), "data", tiled=True)
            state = optimizer.descend(state._replace(opt=opt), grads, adam, ema_decay)
            state = state._replace(opt=(state.opt, importance.remember(history, *seen)))
        else:
            state = optimizer.descend(state, grads, adam, ema_decay)
        return state, {"loss": value, "grad_norm": optimizer.global_norm(grads)}

    def denoiser(state, batch):
        """With the averaged parameters, guided towards what it is told."""
        told = model.told(batch, None)
        conditional = theta(state.ema, told)
        if model.untold is None:
            return conditional
        return denoising.guided(drawing, conditional, theta(state.ema, model.untold(told)), learned=learned)

    def noise(keys):
        """For each row, what it begins from, and the key of what is added on the way."""
        x_key, chain_key = jax.vmap(jax.random.split, out_axes=1)(keys)
        return jax.vmap(lambda k: jax.random.normal(k, model.shape))(x_key), chain_key

    def run_chain_backwards(state, batch, key, trajectory=False):
        """Algorithm 2, or one of its relatives."""
        x_T, chain_key = noise(example_keys(key, len(batch["image"])))
        draw = {"learned": learned, "trajectory": trajectory, **predicts}
        return denoising.draw(drawing, chain_key, denoiser(state, batch), schedule, x_T, grid, **draw)

    def edit(state, batch, key, strength, resamplings):
        x_T, chain_key = noise(example_keys(key, len(batch["image"])))
        known = denoising.Known(model.x0(batch, None), batch.get("mask"), strength, resamplings)
        how = {"learned": learned, **predicts}
        return denoising.edit(drawing, chain_key, denoiser(state, batch), schedule, x_T, grid, known, **how)

    def bound(state, batch, key, samples):
        keys, predict = example_keys(key, len(batch["image"])), theta(state.ema, model.told(batch, None))
        how = {"variance": "learned" if learned else drawing.variance, "clip_x0": True, **predicts}
        return denoising.bound(keys, predict, schedule, model.x0(batch, None), samples, **how)

    def moments(state, batch, key):
        states = run_chain_backwards(state, batch, key, trajectory=True)[1]
        # Thirty-odd moments, denser towards the end, where the picture appears.
        chosen = (len(states) - 1) * (1 - np.linspace(1, 0, 36) ** 2)
        return states[np.unique(chosen.round().astype(int))].swapaxes(0, 1)

    with in_words():  # the network says itself which x_0 it takes
        jax.eval_shape(init, jax.random.key(0))
    pictures = {"denoising": moments}
    return Recipe(init, step, run_chain_backwards, pictures, evaluate=bound, evaluate_samples=T, edit=edit)


def unet(network: Network, chain: Chain, channels: int, num_classes: int = 0) -> Any:
    """The network for x_0 of so many channels, told labels of so many classes."""
    import jax.numpy as jnp

    from jaxgen.models.unet import UNet

    return UNet(
        out_channels=2 * channels if chain.learn_variance else channels,
        width=network.width,
        multipliers=network.multipliers,
        blocks=network.blocks,
        patch=network.patch,
        attention=network.attention,
        head_dim=network.head_dim,
        dropout=network.dropout,
        groups=network.groups,
        num_classes=num_classes,
        dtype=jnp.dtype(network.dtype),
    )


def _check(config, model):
    network, chain, optimizer = config.network, config.chain, config.optimizer
    check_ranges(
        ("num-timesteps", chain.num_timesteps, 2, math.inf),
        ("width", network.width, 1, math.inf),
        ("blocks", network.blocks, 1, math.inf),
        ("patch", network.patch, 1, math.inf),
        ("pieces", config.pieces, 1, math.inf),
        ("warmup-steps", optimizer.warmup_steps, 0, math.inf),
        ("decay-steps", optimizer.decay_steps, 0, math.inf),
        ("learning-rate", optimizer.learning_rate, 1e-12, math.inf),
        ("clip-norm", optimizer.clip_norm, 1e-12, math.inf),
        ("ema-decay", optimizer.ema_decay, 0.0, 1.0),
        ("dropout", network.dropout, 0.0, 0.99),
        ("min-snr", 1.0 if chain.min_snr is None else chain.min_snr, 1e-12, math.inf),
    )
    guidable = model.untold is not None
    denoising.check(config.drawing, chain.num_timesteps, labels=guidable, zero_terminal_snr=chain.zero_terminal_snr)
    if chain.zero_terminal_snr and chain.predicts == "eps":
        raise UserError(
            "--zero-terminal-snr leaves pure noise at the end of the chain, of which eps says nothing; take --predicts v"
        )
