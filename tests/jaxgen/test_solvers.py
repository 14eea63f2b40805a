"""On Gaussian data the probability-flow equation is solved in closed form, so every solver's error, and its order, can be measured."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

from jaxgen import diffusion, grids, guidance, samplers, schedules, solvers

SCHEDULE = schedules.linear()
MEAN = np.array([0.5, -0.3])
VARIANCES = np.array([0.2, 0.7])


def predict_eps(x, t):
    """E[eps | x_t] = sigma (x_t - a m) / (a^2 c + sigma^2) for x_0 ~ N(m, diag(c)), at any moment, fractions included."""
    a, sigma = diffusion.signal_and_sigma(SCHEDULE, t, x)
    return sigma * (x - a * MEAN[None]) / (a**2 * VARIANCES[None] + sigma**2)


def exact(x, t, s):
    """The solution at s that passes through x at t: (x_t - a m) / sqrt(a^2 c + sigma^2) stays the same."""
    (a, sigma), (b, rho) = (diffusion.signal_and_sigma(SCHEDULE, jnp.array([moment]), x) for moment in (t, s))
    scale = jnp.sqrt((b**2 * VARIANCES[None] + rho**2) / (a**2 * VARIANCES[None] + sigma**2))
    return b * MEAN[None] + scale * (x - a * MEAN[None])


SOLVERS = {
    "dpm 1": (functools.partial(solvers.dpm_solver, order=1), 1),
    "dpm 2": (solvers.dpm_solver, 2),
    "dpm 3": (functools.partial(solvers.dpm_solver, order=3), 3),
    "unipc 1": (functools.partial(solvers.unipc, order=1), 2),
    "unipc 2": (solvers.unipc, 3),
    "unipc 3": (functools.partial(solvers.unipc, order=3), 4),
    "euler": (functools.partial(solvers.heun, order=1), 1),
    "heun": (solvers.heun, 2),
    "pndm": (solvers.pndm, 2),
    "plms": (functools.partial(solvers.pndm, warm_up="heun"), 2),
}
"""And the order that the papers say; of PNDM, Liu et al. 2022, section 3.5."""

everyone = pytest.mark.parametrize("name", SOLVERS)


def noise(n=4, seed=0):
    return jax.random.normal(jax.random.key(seed), (n, 2))


def run(name, x_T, grid, predict_eps=predict_eps, schedule=SCHEDULE, **options):
    """By this solver, as one program."""
    solve = functools.partial(SOLVERS[name][0], predict_eps, schedule, **options)
    return jax.jit(solve)(x_T, jnp.asarray(grid, jnp.result_type(float)))


@pytest.mark.usefixtures("x64")
@everyone
def test_a_solver_has_the_order_of_its_paper(name):
    _, order = SOLVERS[name]
    x, errors = noise(), []
    for num_steps in (40, 80, 160):
        grid = np.linspace(999.0, 99.0, num_steps + 1)
        _, states = run(name, x, grid, trajectory=True)
        errors.append(jnp.abs(states[-2] - exact(x, 999.0, 99.0)).max())
    slopes = np.log2(errors[:-1]) - np.log2(errors[1:])
    assert slopes[-1] > order - 0.3
    assert errors[-1] < 0.2 / 10**order


@pytest.mark.usefixtures("x64")
@everyone
@pytest.mark.parametrize("num_steps", [1, 5])
def test_for_a_single_image_every_solver_finds_it(name, num_steps):
    image = jnp.array([[0.3, -0.8]])

    def knowing(x, t):
        return diffusion.predict_eps(SCHEDULE, x, t, jnp.broadcast_to(image, x.shape))

    x0 = run(name, noise(), grids.trailing(1000, num_steps), knowing)
    np.testing.assert_allclose(x0, jnp.broadcast_to(image, x0.shape), rtol=1e-6)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", ["dpm 1", "euler"])
def test_the_solvers_of_order_one_are_ddim(name):
    for grid in (grids.trailing(1000, 10), grids.karras(SCHEDULE, 7)):
        np.testing.assert_allclose(
            run(name, noise(), grid), samplers.ddim(predict_eps, SCHEDULE, noise(), grid), rtol=1e-9
        )


@pytest.mark.usefixtures("x64")
@everyone
@pytest.mark.parametrize("predicts", ["x0", "v"])
def test_it_is_the_same_to_predict_eps_x0_or_v(name, predicts):
    def other(x, t):
        eps = predict_eps(x, t)
        return diffusion.target(SCHEDULE, diffusion.predict_x0(SCHEDULE, x, t, eps), t, eps, predicts)

    grid = grids.trailing(1000, 5)
    np.testing.assert_allclose(run(name, noise(), grid, other, predicts=predicts), run(name, noise(), grid), rtol=1e-7)


def law(monkeypatch, solve, num_steps):
    """Mean and covariance of the images, exactly: an affine map of its normal draws, fed every unit vector in their place."""
    units = jnp.eye((num_steps + 1) * 2).reshape(-1, num_steps + 1, 2)
    units = jnp.concatenate([jnp.zeros_like(units[:1]), units])
    with monkeypatch.context() as patch:
        for module in (solvers, solvers.runge_kutta):
            patch.setattr(module, "normal", lambda draw, shape: units[:, draw])
        patch.setattr(samplers, "fold_in", lambda key, i: i)
        patch.setattr(solvers.runge_kutta, "fold_in", lambda key, i: (i + 1) // 2)
        x0 = jax.jit(lambda x: solve(x, key=jax.random.key(0)))(units[:, 0])
    matrix = (x0[1:] - x0[:1]).T
    return x0[0], matrix @ matrix.T


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(("order", "slope"), [(1, 1), (2, 2), (3, 2)])
def test_the_law_of_the_stochastic_solver_tends_to_the_datas(monkeypatch, order, slope):
    errors = []
    for num_steps in (25, 50, 100):
        grid = grids.even_log_snr(SCHEDULE, num_steps)
        mean, covariance = law(
            monkeypatch,
            lambda x, g=grid, **o: solvers.dpm_solver(predict_eps, SCHEDULE, x, g, order=order, **o),
            num_steps,
        )
        errors.append(np.abs(covariance - np.diag(VARIANCES)).max() + np.abs(mean - MEAN).max())
    assert np.log2(errors[-2] / errors[-1]) > 0.8 * slope or errors[-1] < 2e-3
    assert errors[-1] < 0.1


@pytest.mark.usefixtures("x64")
def test_with_churn_too_the_law_of_the_images_tends_to_the_datas(monkeypatch):
    errors = []
    for num_steps in (50, 100):
        grid = grids.karras(SCHEDULE, num_steps)
        share = 0.2 * num_steps  # every step brings sigma to 1.2 sigma
        mean, covariance = law(
            monkeypatch,
            lambda x, g=grid, c=share, **o: solvers.heun(predict_eps, SCHEDULE, x, g, churn=c, **o),
            num_steps,
        )
        errors.append(np.abs(covariance - np.diag(VARIANCES)).max() + np.abs(mean - MEAN).max())
    assert errors[1] < 0.02
    assert errors[1] < 0.7 * errors[0]


def test_without_any_signal_at_the_end_of_the_chain_a_v_prediction_is_enough():
    schedule = schedules.zero_terminal_snr(SCHEDULE)
    image = jnp.array([[0.3, -0.8]])

    def knowing(x, t):
        x0 = jnp.broadcast_to(image, x.shape)
        _, sigma = diffusion.signal_and_sigma(schedule, t, x)
        return diffusion.predict_v(schedule, x0, t, diffusion.predict_eps(schedule, x, t, x0)) * (sigma > 0)

    for name in ("dpm 1", "dpm 2", "dpm 3", "unipc 1", "unipc 2", "unipc 3"):
        x0 = run(name, noise(), grids.trailing(1000, 6), knowing, schedule, predicts="v")
        np.testing.assert_allclose(x0, jnp.broadcast_to(image, x0.shape), rtol=1e-4)
    for name in ("euler", "heun", "pndm"):
        with pytest.raises(ValueError, match="infinite sigma there: take ddim, dpm_solver or unipc"):
            SOLVERS[name][0](knowing, schedule, noise(), grids.trailing(1000, 6), predicts="v")


@everyone
def test_another_grid_scale_and_noise_run_the_same_program(name):
    traces = []

    def counted(x, t):
        traces.append(t)
        return predict_eps(x, t)

    @jax.jit
    def draw(x_T, grid, scale):
        return SOLVERS[name][0](guidance.classifier_free(counted, predict_eps, scale), SCHEDULE, x_T, grid)

    first = draw(noise(), jnp.asarray(grids.trailing(1000, 6), float), 2.0)
    once = len(traces)
    second = draw(noise(seed=1), jnp.asarray(grids.karras(SCHEDULE, 6), float), 3.0)
    assert len(traces) == once
    assert not np.allclose(first, second)


@pytest.mark.parametrize("name", ["dpm 3", "unipc 2", "heun", "pndm"])
def test_solvers_work_under_vmap_and_grad(name):
    grid, x = grids.trailing(1000, 5), noise()

    def draw(x, scale):
        return SOLVERS[name][0](guidance.classifier_free(predict_eps, lambda x, t: 0 * x, scale), SCHEDULE, x, grid)

    alone, scales = jax.jit(draw), jnp.array([0.5, 1.0, 2.0])
    together = jax.jit(jax.vmap(draw, (None, 0)))(x, scales)
    for one, scale in zip(together, scales, strict=True):
        np.testing.assert_allclose(one, alone(x, scale), rtol=2e-4, atol=1e-5)
    gradient = jax.jit(jax.grad(lambda x: draw(x, 1.0).sum()))(x)
    change = (alone(x + 1e-2, 1.0) - alone(x - 1e-2, 1.0)).sum() / 2e-2  # affine: no error but rounding
    np.testing.assert_allclose(gradient.sum(), change, rtol=1e-2)


def test_a_solver_can_be_exported():
    draw = jax.jit(lambda x, grid: solvers.dpm_solver(predict_eps, SCHEDULE, x, grid))
    arguments = noise(), jnp.asarray(grids.trailing(1000, 5))
    np.testing.assert_array_equal(export.export(draw)(*arguments).call(*arguments), draw(*arguments))


@everyone
def test_the_trajectory_has_one_state_per_step_and_ends_in_the_image(name):
    image, states = run(name, noise(), grids.trailing(1000, 6), trajectory=True)
    assert states.shape == (6, 4, 2)
    np.testing.assert_array_equal(states[-1], image)


def test_clipping_keeps_the_image_in_range():
    for name in ("dpm 2", "heun", "euler"):
        x0 = run(name, noise(16), grids.trailing(1000, 10), lambda x, t: -x, clip_x0=True)
        assert jnp.abs(x0).max() <= 1 + 1e-5


def test_bad_arguments_are_refused():
    x, grid = noise(), grids.trailing(1000, 5)
    for call, said in [
        (lambda: solvers.dpm_solver(predict_eps, SCHEDULE, x, grid, order=4), "order is 1, 2 or 3; got 4"),
        (lambda: solvers.unipc(predict_eps, SCHEDULE, x, grid, order=0), "order is 1, 2 or 3; got 0"),
        (lambda: solvers.heun(predict_eps, SCHEDULE, x, grid, order=3), "order is 1 or 2; got 3"),
        (lambda: solvers.heun(predict_eps, SCHEDULE, x, grid, churn=1.0), "churn = 1.0 adds noise: pass a key"),
        (lambda: solvers.pndm(predict_eps, SCHEDULE, x, grid, warm_up="none"), "got 'none'"),
        *(
            (lambda solve=solve: solve(predict_eps, SCHEDULE, x, grid[::-1]), "decrease and are not negative")
            for solve, _ in SOLVERS.values()
        ),
    ]:
        with pytest.raises(ValueError, match=said):
            call()
