"""From gradients to the next state: Adam with warm-up and clipping, gradients in pieces, the moving average of the parameters."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from train.common.errors import UserError
from train.common.recipe import State


def adam(
    learning_rate: float, warmup_steps: int, clip_norm: float, decay_steps: int = 0
) -> optax.GradientTransformation:
    """Adam after clipping the gradient's global norm, with the learning rate of `rate`."""
    return optax.chain(_clip(clip_norm), optax.adam(rate(learning_rate, warmup_steps, decay_steps)))


def rate(learning_rate: float, warmup_steps: int, decay_steps: int) -> optax.Schedule:
    """step -> learning rate: up linearly over warmup_steps; then it stays, or with decay_steps falls along half a cosine, to a
    hundredth by that step."""
    if decay_steps:
        return optax.warmup_cosine_decay_schedule(0.0, learning_rate, warmup_steps, decay_steps, learning_rate / 100)
    if warmup_steps:
        return optax.linear_schedule(0.0, learning_rate, warmup_steps)
    return optax.constant_schedule(learning_rate)


def start(params: Any, adam: optax.GradientTransformation, key: jax.Array, frozen: Any = ()) -> State:
    """The state before the first step, with the run's key."""
    return State(jnp.zeros((), jnp.int32), params, jax.tree.map(jnp.copy, params), adam.init(params), key, frozen)


def descend(state: State, grads: Any, adam: optax.GradientTransformation, ema_decay: float) -> State:
    """The state after a step along these gradients, and its moving average after it."""
    updates, opt = adam.update(grads, state.opt, state.params)
    params = optax.apply_updates(state.params, updates)
    ema = moving_average(ema_decay, state.step, state.ema, params)
    return state._replace(step=state.step + 1, params=params, ema=ema, opt=opt)


def global_norm(tree: Any) -> jax.Array:
    """Euclidean norm of all leaves together."""
    # An inner product is quicker than a sum of squares on a CPU, by a fifth of a small network's step.
    return jnp.sqrt(sum(jnp.vdot(leaf, leaf) for leaf in jax.tree.leaves(tree)))


def _clip(norm: float) -> optax.GradientTransformation:
    """Gradients longer than this, taken together, are shortened to it. The same norm as is logged, hence computed once."""

    def shorten(grads, _):
        scale = jnp.minimum(1.0, norm / global_norm(grads))
        return jax.tree.map(lambda g: g * scale, grads)

    return optax.stateless(shorten)


def moving_average(decay: float, step: jax.Array, average: Any, params: Any) -> Any:
    """decay * average + (1 - decay) * params, where early on decay is at most (1 + step) / (10 + step), so that the
    initial parameters are soon forgotten."""
    decay = jnp.minimum(decay, (1.0 + step) / (10.0 + step))
    return jax.tree.map(lambda a, p: a + (1.0 - decay) * (p - a), average, params)


def value_and_grad_in_pieces(loss: Callable, pieces: int) -> Callable:
    """For loss(params, rows) with one value per row, (b,): these values, and the gradient of their mean.

    The rows pass through in so many equal pieces; the memory for activations is that of one piece.

    Raises:
        UserError: when called with rows that so many pieces cannot share evenly.
    """

    def mean(params, rows):
        losses = loss(params, rows)
        return losses.mean(), losses

    def value_and_grad(params, rows):
        (_, losses), grads = jax.value_and_grad(mean, has_aux=True)(params, rows)
        return losses, grads

    if pieces == 1:
        return value_and_grad

    def accumulated(params, rows):
        num_rows = len(jax.tree.leaves(rows)[0])
        if num_rows % pieces:
            raise UserError(
                f"the {num_rows} rows of a device do not divide into {pieces} pieces; change --pieces or --batch-size"
            )
        stacked = jax.tree.map(lambda x: x.reshape(pieces, -1, *x.shape[1:]), rows)

        def add(total, piece):
            losses, grads = value_and_grad(params, piece)
            return jax.tree.map(jnp.add, total, grads), losses

        first = jax.tree.map(lambda x: x[0], stacked)
        _, shapes = jax.eval_shape(value_and_grad, params, first)
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
        # Convolution gradients inside a loop are slow on a CPU (they miss its fast kernels): unroll there.
        total, losses = jax.lax.scan(add, zeros, stacked, unroll=pieces if jax.default_backend() == "cpu" else 1)
        return losses.reshape(num_rows), jax.tree.map(lambda x: x / pieces, total)

    return accumulated
