import jax
import jax.numpy as jnp
import numpy as np
import pytest

from train.common import optimizer
from train.common.errors import UserError


def loss(params, rows):
    return (rows["x"] @ params - rows["y"]) ** 2


@pytest.mark.parametrize("pieces", [1, 2, 4])
def test_gradients_taken_in_pieces_add_up_to_the_whole(pieces):
    rng = np.random.default_rng(0)
    params, rows = jnp.ones(3), {"x": rng.normal(size=(8, 3)), "y": rng.normal(size=8)}
    value, grad = loss(params, rows), jax.grad(lambda params: loss(params, rows).mean())(params)
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


@pytest.mark.parametrize("warmup_steps", [0, 10])
def test_with_a_decay_the_rate_falls_along_half_a_cosine_to_a_hundredth_and_stays(warmup_steps):
    end = 50
    adam = optimizer.adam(0.1, warmup_steps, clip_norm=1.0, decay_steps=end)
    state, rates = adam.init(jnp.zeros(())), []
    update = jax.jit(adam.update)
    for _ in range(end + 10):
        updates, state = update(jnp.ones(()), state)
        rates.append(-float(updates))
    since = np.arange(end + 1 - warmup_steps)
    falling = 0.001 + 0.099 * (1 + np.cos(np.pi * since / since[-1])) / 2
    expected = [*np.linspace(0, 0.1, warmup_steps + 1)[:-1], *falling, *[0.001] * 9]
    np.testing.assert_allclose(rates, expected, rtol=1e-3, atol=1e-7)


def test_the_norm_of_all_leaves_together_is_euclids():
    tree = {"a": jnp.array([[3.0], [-4.0]]), "b": [jnp.array(12.0)]}
    assert optimizer.global_norm(tree) == 13  # 9 + 16 + 144 = 169


def test_no_gradient_is_no_step():
    adam = optimizer.adam(0.1, 0, clip_norm=1.0)
    updates, _ = adam.update(jnp.zeros(2), adam.init(jnp.zeros(2)))
    np.testing.assert_array_equal(updates, [0, 0])


def test_a_state_starts_at_step_0_with_an_average_of_its_own():
    """Of its own, since the state is donated: one buffer cannot be given away twice."""
    adam, params = optimizer.adam(0.1, 0, 1.0), {"w": jnp.ones(3)}
    state = optimizer.start(params, adam, jax.random.key(4))
    assert state.step == 0
    assert state.step.dtype == jnp.int32
    np.testing.assert_array_equal(state.ema["w"], params["w"])
    assert state.ema["w"].unsafe_buffer_pointer() != state.params["w"].unsafe_buffer_pointer()


def test_a_descent_moves_parameters_by_adam_and_then_their_average_and_keeps_the_key():
    """Adam's first step is as long as its rate, against the sign of the gradient; the first decay is 1/10."""
    adam = optimizer.adam(0.5, 0, clip_norm=100.0)
    before = optimizer.start({"w": jnp.array([1.0, 2.0])}, adam, jax.random.key(4))
    after = optimizer.descend(before, {"w": jnp.array([3.0, -1e-3])}, adam, ema_decay=0.999)
    assert after.step == 1
    np.testing.assert_allclose(after.params["w"], [0.5, 2.5], rtol=1e-4)
    np.testing.assert_allclose(after.ema["w"], [1 - 0.9 * 0.5, 2 + 0.9 * 0.5], rtol=1e-4)
    assert jax.random.key_data(after.key).tolist() == jax.random.key_data(before.key).tolist()
