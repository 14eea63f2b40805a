import jax
import jax.numpy as jnp
import numpy as np
import pytest

from train.common import optimizer
from train.common.errors import UserError


def loss(params, rows):
    return ((rows["x"] @ params - rows["y"]) ** 2).mean()


@pytest.mark.parametrize("pieces", [1, 2, 4])
def test_gradients_taken_in_pieces_add_up_to_the_whole(pieces):
    rng = np.random.default_rng(0)
    params, rows = jnp.ones(3), {"x": rng.normal(size=(8, 3)), "y": rng.normal(size=8)}
    value, grad = jax.value_and_grad(loss)(params, rows)
    ours = optimizer.value_and_grad_in_pieces(loss, pieces)(params, jax.tree.map(jnp.asarray, rows))
    np.testing.assert_allclose(ours[0], value, rtol=1e-6)
    np.testing.assert_allclose(ours[1], grad, rtol=1e-5)


def test_rows_that_do_not_divide_into_pieces_are_refused():
    rows = {"x": jnp.ones((8, 3)), "y": jnp.ones(8)}
    with pytest.raises(UserError, match="the 8 rows of a device do not divide into 3 pieces"):
        optimizer.value_and_grad_in_pieces(loss, 3)(jnp.ones(3), rows)


def test_the_moving_average_forgets_its_start_before_it_reaches_its_decay():
    average = jnp.array(100.0)
    for step in range(1000):
        average = optimizer.moving_average(0.99, jnp.array(step), average, jnp.array(1.0))
    assert abs(average - 1) < 1e-3


def test_after_the_start_the_moving_average_has_its_decay():
    average = optimizer.moving_average(0.9, jnp.array(10_000), jnp.array(2.0), jnp.array(1.0))
    np.testing.assert_allclose(average, 0.9 * 2 + 0.1 * 1, rtol=1e-6)


def test_the_learning_rate_rises_from_zero_and_a_step_of_adam_is_that_long():
    adam = optimizer.adam(0.1, warmup_steps=10, clip_norm=1.0)
    params = jnp.zeros(2)
    state, lengths = adam.init(params), []
    for _ in range(20):
        updates, state = adam.update(jnp.array([3.0, -0.5]), state, params)
        lengths.append(float(jnp.abs(updates).max()))
    np.testing.assert_allclose(lengths[:11], 0.01 * np.arange(11), rtol=1e-4, atol=1e-8)
    np.testing.assert_allclose(lengths[11:], 0.1, rtol=1e-4)


def test_a_long_gradient_is_shortened_and_a_short_one_is_not():
    """After one step Adam's first moment is 0.1 times the gradient it saw."""
    adam = optimizer.adam(0.1, 0, clip_norm=1.0)
    for gradient, seen in (([30.0, 40.0], [0.6, 0.8]), ([0.3, 0.4], [0.3, 0.4])):
        _, state = adam.update(jnp.array(gradient), adam.init(jnp.zeros(2)))
        np.testing.assert_allclose(jax.tree.leaves(state)[1], 0.1 * np.array(seen), rtol=1e-5)
