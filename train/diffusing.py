"""Diffusion of whatever a recipe calls x_0: `build` lies beside Algorithm 1 (training, ``step``) and Algorithm 2 (sampling,
``run_chain_backwards``) of Ho et al. 2020, arXiv:2006.11239. A recipe says what x_0 is, and what the network is told of it.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple

from train import denoising
from train.ae import check_optimizer
from train.common.errors import UserError, check_levels, check_ranges


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
    """What a recipe diffuses, and with which networks. Its weights are the parameters of all of them, by name: trained, or frozen."""

    shape: tuple[int, ...]
    """Of one x_0."""
    init: Callable[..., tuple[dict, dict]]
    """key, and what is given of trained networks -> the parameters to train, and those to keep."""
    apply: Callable[..., Any]
    """weights, xt (b, ...), t (b,), what is known, keys (b,) for dropout or None -> the prediction; twice the channels if variance is
    learned. With a ``network``, also the ``residuals`` that a control branch adds to it, or None."""
    x0: Callable[[dict, dict, Any], Any]
    """weights, batch, keys (b,) or None -> x_0 (b, ...), changed at random if there are keys."""
    told: Callable[[dict, Any], Any] = lambda batch, keys: None
    """batch, keys (b,) or None -> what the networks are told of each row; changed or hidden at random if there are keys."""
    untold: Callable[[Any], Any] | None = None
    """told -> what they are told where it is hidden, for guidance; None if nothing ever is."""
    known: Callable[[dict, Any], Any] = lambda weights, told: told
    """weights, told -> what ``apply`` sees of it, the same at every timestep."""
    image: Callable[[dict, Any, Any], Any] = lambda weights, x0, told: x0
    """weights, x_0, told -> images (b, h, w, c) in [-1, 1]."""
    size: Callable[[dict], tuple[int, ...]] | None = None
    """batch -> the shape of one x_0 that is drawn for it, if it may be another than that of training."""
    certain: Callable[[Any, Any, Any], Any] | None = None
    """A denoiser, the schedule, told -> the denoiser whose estimates of x_0 are revised by what is certain of it, if anything is."""
    network: Any = None
    """The `UNet` that ``apply`` is, its parameters the weights and what is known its labels, if a control branch may be a copy of it."""
    of_pixels: bool = True
    """Whether x_0 is the image: it lies in [-1, 1], and a bound on its likelihood is one on the image's."""


def build(config: Any, model: Model) -> Any:
    """The recipe. The configuration has a chain, a `denoising.Drawing`, an `ae.Optimizer` and pieces.

    Raises:
        UserError: if the configuration cannot work, or not for this x_0.
    """
    import jax
    import jax.numpy as jnp
    import numpy as np

    from jaxgen import diffusion, diffusion_bound, importance
    from train.common import images, optimizer
    from train.common.errors import in_words
    from train.common.recipe import Recipe, example_keys

    chain, drawing = config.chain, config.drawing
    _check(config, model)
    T, learned, by_importance = chain.num_timesteps, chain.learn_variance, chain.timesteps == "importance"
    predicts = {"predicts": chain.predicts}
    how = {"learned": learned, "clip_x0": model.of_pixels, **predicts}
    schedule = denoising.schedule(chain.schedule, T, zero_terminal_snr=chain.zero_terminal_snr)
    grid = denoising.timesteps(drawing, schedule)
    ema_decay, rate = config.optimizer.ema_decay, config.optimizer
    adam = optimizer.adam(rate.learning_rate, rate.warmup_steps, rate.clip_norm, rate.decay_steps)

    def init(key, *given):
        params_key, run_key = jax.random.split(key)
        params, frozen = model.init(params_key, *given)
        state = optimizer.start(params, adam, run_key, frozen)
        return state._replace(opt=(state.opt, importance.empty(T))) if by_importance else state

    def theta(weights, told, dropout_key=None):
        """xt, t -> what the network predicts, and with a learned variance its v in (0, 1)."""
        known = model.known(weights, told)

        def predict(xt, t):
            said = model.apply(weights, xt, t, known, dropout_key)
            if not learned:
                return said
            prediction, v = jnp.split(said, 2, axis=-1)
            return prediction, (v + 1) / 2

        return predict

    def losses(frozen, params, rows):
        predict = theta({**params, **frozen}, rows["told"], rows["dropout_key"])
        hybrid = partial(diffusion_bound.hybrid_loss, levels=model.of_pixels)
        loss = hybrid if learned else diffusion.simple_loss
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
            "x0": model.x0({**state.params, **state.frozen}, batch, x0_key),
            "t": t,
            "eps": jax.vmap(lambda k: jax.random.normal(k, model.shape))(eps_key),
            "told": model.told(batch, told_key),
            "weight": weight,
            "dropout_key": dropout_key,
        }
        loss = partial(losses, state.frozen)
        values, grads = optimizer.value_and_grad_in_pieces(loss, config.pieces)(state.params, rows)
        value, grads = jax.lax.pmean((values.mean(), grads), "data")
        if by_importance:
            opt, history = state.opt
            seen = jax.lax.all_gather((t, values / weight), "data", tiled=True)
            state = optimizer.descend(state._replace(opt=opt), grads, adam, ema_decay)
            state = state._replace(opt=(state.opt, importance.remember(history, *seen)))
        else:
            state = optimizer.descend(state, grads, adam, ema_decay)
        return state, {"loss": value, "grad_norm": optimizer.global_norm(grads)}

    def averaged(state):
        """All weights to draw with."""
        return {**state.ema, **state.frozen}

    def denoiser(state, batch):
        """Guided towards what it is told."""
        told, weights = model.told(batch, None), averaged(state)
        predict = theta(weights, told)
        if model.untold is not None:
            predict = denoising.guided(drawing, predict, theta(weights, model.untold(told)), learned=learned)
        if model.certain is None:
            return predict
        if not learned:
            return model.certain(predict, schedule, told)
        mean = model.certain(denoising.mean_of(predict), schedule, told)
        return lambda xt, t: (mean(xt, t), predict(xt, t)[1])

    def noise(batch, key):
        """For each row, what it begins from, and the key of what is added on the way."""
        shape, keys = model.size(batch) if model.size else model.shape, example_keys(key, len(batch["image"]))
        x_key, chain_key = jax.vmap(jax.random.split, out_axes=1)(keys)
        return jax.vmap(lambda k: jax.random.normal(k, shape))(x_key), chain_key

    def run_chain_backwards(state, batch, key, trajectory=False):
        """Algorithm 2, or one of its relatives."""
        x_T, chain_key = noise(batch, key)
        draw = {"trajectory": trajectory, **how}
        return denoising.draw(drawing, chain_key, denoiser(state, batch), schedule, x_T, grid, **draw)

    def sample(state, batch, key):
        return model.image(averaged(state), run_chain_backwards(state, batch, key), model.told(batch, None))

    def edit(state, batch, key, strength, resamplings):
        x_T, chain_key = noise(batch, key)
        weights, mask = averaged(state), batch.get("mask")
        small = None if mask is None else denoising.where_all_is_known(mask, model.shape[:2])
        known = denoising.Known(model.x0(weights, batch, None), small, strength, resamplings)
        drawn = denoising.edit(drawing, chain_key, denoiser(state, batch), schedule, x_T, grid, known, **how)
        image = model.image(weights, drawn, model.told(batch, None))
        if mask is None or model.of_pixels:
            return image
        return jnp.where(mask == 1, images.to_unit_range(batch["image"]), image)

    def bound(state, batch, key, samples):
        weights, keys = averaged(state), example_keys(key, len(batch["image"]))
        x0, predict = model.x0(weights, batch, None), theta(weights, model.told(batch, None))
        options = {"variance": "learned" if learned else drawing.variance, "clip_x0": True, **predicts}
        return denoising.bound(keys, predict, schedule, x0, samples, **options)

    def moments(state, batch, key):
        states = run_chain_backwards(state, batch, key, trajectory=True)[1]
        # Thirty-odd moments, denser towards the end, where the picture appears.
        chosen = (len(states) - 1) * (1 - np.linspace(1, 0, 36) ** 2)
        states, told = states[np.unique(chosen.round().astype(int))], model.told(batch, None)
        return jax.vmap(lambda x0: model.image(averaged(state), x0, told), out_axes=1)(states)

    with in_words():  # the network says itself which x_0 it takes
        jax.eval_shape(init, jax.random.key(0))
    evaluate = bound if model.of_pixels else None
    return Recipe(init, step, sample, {"denoising": moments}, evaluate=evaluate, evaluate_samples=T, edit=edit)


def unet(network: Network, chain: Chain, channels: int, num_classes: int = 0) -> Any:
    """The network for x_0 of so many channels, told labels of so many classes.

    Raises:
        UserError: if a number is out of range.
    """
    check_levels(network)
    check_ranges(
        ("blocks", network.blocks, 1, math.inf),
        ("patch", network.patch, 1, math.inf),
        ("head-dim", 1 if network.head_dim is None else network.head_dim, 1, math.inf),
        ("groups", network.groups, 1, math.inf),
        ("dropout", network.dropout, 0.0, 0.99),
    )
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
    chain = config.chain
    check_optimizer(config.optimizer)
    check_ranges(
        ("num-timesteps", chain.num_timesteps, 2, math.inf),
        ("pieces", config.pieces, 1, math.inf),
        ("min-snr", 1.0 if chain.min_snr is None else chain.min_snr, 1e-12, math.inf),
    )
    guidable = model.untold is not None
    denoising.check(config.drawing, chain.num_timesteps, labels=guidable, zero_terminal_snr=chain.zero_terminal_snr)
    if chain.zero_terminal_snr and chain.predicts == "eps":
        raise UserError(
            "--zero-terminal-snr leaves pure noise at the end of the chain, of which eps says nothing; take --predicts v"
        )
