import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen import diffusion, editing, grids, samplers, schedules, solvers

SCHEDULE = schedules.linear()
COVARIANCE = np.array([[0.5, 0.4], [0.4, 0.5]])
"""Of two pixels, mean 0: what one of them is known to be says what the other is like."""


def predict_eps(x, t):
    """E[eps | x_t] = sigma (a^2 C + sigma^2 I)^-1 x_t for x_0 ~ N(0, C)."""
    a, sigma = diffusion.signal_and_sigma(SCHEDULE, t, x[:, 0])
    matrix = a[:, None, None] ** 2 * COVARIANCE[None] + sigma[:, None, None] ** 2 * jnp.eye(2)[None]
    return sigma[:, None] * jnp.linalg.solve(matrix, x[..., None])[..., 0]


def noise(n, seed=0):
    return jax.random.normal(jax.random.key(seed), (n, 2))


MASK = jnp.array([[1.0, 0.0]])
SAMPLERS = {
    "ddim": samplers.ddim,
    "dpm_solver": solvers.dpm_solver,
    "unipc": solvers.unipc,
    "heun": solvers.heun,
    "pndm": solvers.pndm,
    "stochastic": functools.partial(solvers.dpm_solver, key=jax.random.key(1)),
}


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("predicts", ["eps", "v"])
def test_with_every_sampler_the_known_part_ends_as_it_is_known(name, predicts):
    known = jnp.array([[0.7, 0.0], [-0.2, 0.0]])

    def predict(x, t):
        eps = predict_eps(x, t)
        return diffusion.target(SCHEDULE, diffusion.predict_x0(SCHEDULE, x, t, eps), t, eps, predicts)

    denoise = editing.replace_known(predict, SCHEDULE, known, MASK, predicts=predicts)
    grid = grids.trailing(1000, 20)
    x0 = jax.jit(lambda x: SAMPLERS[name](denoise, SCHEDULE, x, grid, predicts=predicts))(noise(2))
    np.testing.assert_allclose(x0[:, 0], known[:, 0], atol=1e-4)
    assert np.all(jnp.abs(x0[:, 1]) < 3)


def test_replaced_at_every_ancestral_step_the_known_part_has_the_law_of_the_noised_image():
    known, n = jnp.full((4000, 2), 0.7), 4000
    denoise = editing.replace_known(predict_eps, SCHEDULE, known, MASK)
    grid = grids.trailing(1000, 10)
    _, states = jax.jit(
        lambda key: samplers.ancestral(key, denoise, SCHEDULE, (n, 2), grid, variance="beta_tilde", trajectory=True)
    )(jax.random.key(0))
    for state, s in zip(states[:-1, :, 0], grid[1:], strict=True):
        a = SCHEDULE.alpha_bars[s]
        np.testing.assert_allclose(state.mean(), np.sqrt(a) * 0.7, atol=4 * np.sqrt((1 - a) / n) + 2e-3)
        np.testing.assert_allclose(state.var(), 1 - a, rtol=4 * np.sqrt(2 / n) + 2e-3)


def unknown_given_known(value):
    """Mean and variance of the other pixel."""
    slope = COVARIANCE[0, 1] / COVARIANCE[0, 0]
    return slope * value, COVARIANCE[1, 1] - slope * COVARIANCE[0, 1]


def test_resampling_makes_the_unknown_part_fit_the_known():
    """The more often a stretch is gone down, the nearer the law of the unknown pixel to its true conditional law."""
    known = jnp.full((3000, 2), 1.2)
    mean, variance = unknown_given_known(1.2)

    @functools.partial(jax.jit, static_argnums=0)
    def draw(resamplings):
        grid = grids.trailing(1000, 40)
        return editing.repaint(
            jax.random.key(0), predict_eps, SCHEDULE, known, MASK, grid, jump=4, resamplings=resamplings
        )

    errors = []
    for resamplings in (1, 8):
        x0 = draw(resamplings)
        np.testing.assert_allclose(x0[:, 0], 1.2, rtol=1e-5)
        errors.append(abs(float(x0[:, 1].mean()) - mean))
    assert errors[1] < 0.5 * errors[0]
    assert errors[1] < 0.2
    np.testing.assert_allclose(x0[:, 1].var(), variance, rtol=0.3)


def test_a_path_that_never_goes_up_is_the_grid():
    np.testing.assert_array_equal(editing.repaint_path(5, 2, 1), np.arange(6))


@pytest.mark.parametrize(("num_steps", "jump", "resamplings"), [(10, 3, 4), (250, 10, 10), (4, 10, 2), (1, 1, 5)])
def test_a_path_goes_down_every_stretch_as_often_as_asked(num_steps, jump, resamplings):
    path = editing.repaint_path(num_steps, jump, resamplings)
    assert (path[0], path[-1]) == (0, num_steps)
    assert set(np.diff(path)) <= {-1, 1}
    down = np.bincount(path[:-1][np.diff(path) == 1], minlength=num_steps)
    stretches = num_steps - 1 - (num_steps - 1) % jump  # the steps before the last that fill whole stretches
    first = num_steps - 1 - stretches
    np.testing.assert_array_equal(down[first : num_steps - 1], resamplings)
    np.testing.assert_array_equal(np.delete(down, range(first, num_steps - 1)), 1)


def test_with_a_key_per_example_an_edit_does_not_depend_on_its_companions():
    keys, known, grid = jax.random.split(jax.random.key(0), 3), noise(3), grids.trailing(1000, 6)

    def draw(rows):
        return editing.repaint(keys[rows], predict_eps, SCHEDULE, known[rows], MASK, grid, jump=2, resamplings=2)

    np.testing.assert_allclose(draw(slice(0, 3))[1:2], draw(slice(1, 2)), rtol=1e-5)


def test_little_strength_keeps_the_image_and_full_strength_forgets_it():
    """SDEdit: begin from the image, noised to the first of the remaining timesteps."""
    image, grid = jnp.array([[1.0, -1.0]]) * jnp.ones((200, 1)), grids.trailing(1000, 50)
    kept = []
    for strength in (0.1, 0.5, 1.0):
        rest = editing.remaining(grid, strength)
        assert len(rest) == round(50 * strength)
        xt = diffusion.q_sample(SCHEDULE, image, jnp.full(200, rest[0]), noise(200))
        kept.append(float((samplers.ddim(predict_eps, SCHEDULE, xt, rest) @ jnp.array([0.5, -0.5])).mean()))
    assert 0.5 < kept[0] <= 1.02
    assert kept[2] < kept[1] < kept[0]
    assert abs(kept[2]) < 0.1


def test_bad_arguments_are_refused():
    x, grid, key = noise(2), grids.trailing(1000, 5), jax.random.key(0)
    for call, said in [
        (lambda: editing.remaining(grid, 0.0), r"at most 1; got 0\.0"),
        (lambda: editing.remaining(grid, 1.5), r"at most 1; got 1\.5"),
        (
            lambda: editing.replace_known(predict_eps, SCHEDULE, x, jnp.ones((2, 3))),
            "mask of shape .2, 3. does not fit",
        ),
        (
            lambda: editing.repaint(key, predict_eps, SCHEDULE, x, jnp.ones((2, 3)), grid),
            "does not fit images of shape",
        ),
        (lambda: editing.repaint(key, predict_eps, SCHEDULE, x, MASK, grid, jump=0), "at least 1; got 0 and 10"),
        (lambda: editing.repaint(key, predict_eps, SCHEDULE, x, MASK, grid[::-1]), "decrease and are not negative"),
    ]:
        with pytest.raises(ValueError, match=said):
            call()
