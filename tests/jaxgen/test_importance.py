import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen import importance


def history(losses):
    losses = jnp.asarray(losses)
    return importance.History(losses, jnp.full(len(losses), losses.shape[1]))


def test_timesteps_are_drawn_in_proportion_to_the_root_mean_square_of_their_losses():
    """Nichol & Dhariwal 2021, eq. 18."""
    p = importance.probabilities(history([[3.0, 4.0], [1.0, 1.0], [0.0, 0.0]]), uniform=0.0)
    np.testing.assert_allclose(p, np.array([np.sqrt(12.5), 1, 0]) / (np.sqrt(12.5) + 1), rtol=1e-6)


def test_a_share_of_evenness_forgets_no_timestep():
    p = importance.probabilities(history([[1.0], [0.0]]), uniform=0.1)
    np.testing.assert_allclose(p, [0.95, 0.05], rtol=1e-6)


def test_until_every_timestep_was_seen_often_enough_all_are_as_likely():
    seen = importance.empty(3, kept=2)
    for t in (0, 0, 1, 1, 2):
        seen = importance.remember(seen, jnp.array([t]), jnp.array([5.0 + t]))
        np.testing.assert_allclose(importance.probabilities(seen), 1 / 3, rtol=1e-6)
    seen = importance.remember(seen, jnp.array([2]), jnp.array([2.0]))
    assert len(np.unique(importance.probabilities(seen))) == 3


def test_only_the_last_losses_are_kept():
    seen = importance.remember(importance.empty(2, kept=3), jnp.array([1, 1, 0, 1, 1]), jnp.arange(1.0, 6.0))
    assert sorted(np.asarray(seen.losses[1]).tolist()) == [2.0, 4.0, 5.0]
    assert seen.counts.tolist() == [1, 4]


def test_losses_of_all_zero_leave_the_draw_possible():
    p = importance.probabilities(history(np.zeros((4, 2))))
    assert np.all(p > 0)
    assert np.all(np.isfinite(p))


@pytest.mark.usefixtures("x64")
def test_the_weighted_loss_has_the_expectation_of_the_even_one_and_less_variance():
    loss = jnp.array([8.0, 1.0, 0.5, 0.1])
    p = importance.probabilities(history(loss[:, None]))
    t, weight = jax.vmap(importance.draw, (0, None))(jax.random.split(jax.random.key(0), 20_000), p)
    drawn = loss[t] * weight
    assert abs(drawn.mean() - loss.mean()) < 4 * drawn.std() / np.sqrt(len(drawn))
    np.testing.assert_allclose((p * (loss / (4 * p))).sum(), loss.mean(), rtol=1e-12)
    assert drawn.std() < 0.1 * loss.std()
