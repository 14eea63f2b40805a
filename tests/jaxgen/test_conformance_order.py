"""The third-order multistep DPM-Solver++ of its authors' code, of diffusers and of k-diffusion is of order 2; ours is of order 3.

Through the last three estimates of x_0 goes the polynomial m + D1 u + D2 u^2 in u = (lambda - lambda_t) / h. The step needs its
integral against e^(lambda - lambda_s), and of u^2 that is  h int_0^1 e^(-h (1 - u)) u^2 du = 2 (1/2 - 1/h + (1 - e^(-h)) / h^2).
Their D2 is the same second divided difference, h^2 m'' / 2, but they weigh it with half of this, as if it were h^2 m''. (In their
singlestep method D2 has the factor 2.) In the stochastic method diffusers moreover has -1/2 for +1/2, and is of order 1.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen import grids, multistep, schedules, solvers
from tests.jaxgen.conformance import KEY, assert_same, denoiser, distance, ours, same_noise, theirs, torch

diffusers = pytest.importorskip("diffusers")

MEAN, VARIANCE = 0.5, 0.3


def scheduler_of_order_three(algorithm="dpmsolver++", **options):
    return diffusers.DPMSolverMultistepScheduler(
        solver_order=3, algorithm_type=algorithm, lower_order_final=False, **options
    )


def their_steps(log_snrs, algorithm="dpmsolver++"):
    """Their update without noise, in float64, for half log-SNRs: (i, x, the last three estimates, newest first) -> x at i + 1."""
    scheduler = scheduler_of_order_three(algorithm)
    scheduler.sigmas = torch.tensor(np.exp(-log_snrs))

    def step(i, x, estimates):
        scheduler._step_index = i
        x, *estimates = (torch.tensor(value, dtype=torch.float64) for value in (x, *estimates))
        update = scheduler.multistep_dpm_solver_third_order_update
        return float(update(estimates[::-1], sample=x, noise=torch.zeros_like(x)))

    return step


def our_steps(log_snrs, stochastic=False):
    """The same of the weights that `solvers.dpm_solver` takes."""
    (_, sigma_t), (signal_s, sigma_s) = signal_and_sigma(log_snrs[:-1]), signal_and_sigma(log_snrs[1:])
    columns = signal_s, sigma_t, sigma_s, log_snrs[:-1], np.diff(log_snrs), np.arange(1, len(log_snrs)).clip(max=3)
    nodes = multistep.Nodes(*map(jnp.asarray, columns))
    weights = jax.jit(lambda nodes: multistep.dpm_weights(nodes, 3, stochastic=stochastic))(nodes)
    carry, share = np.asarray(weights.carry), np.asarray(weights.share)
    return lambda i, x, estimates: carry[i] * x + share[i] @ estimates


def signal_and_sigma(log_snr):
    return 1 / np.sqrt(1 + np.exp(-2 * log_snr)), 1 / np.sqrt(1 + np.exp(2 * log_snr))


def on_the_path(log_snr):
    """x on one path of the probability-flow equation of data N(MEAN, VARIANCE)."""
    signal, sigma = signal_and_sigma(log_snr)
    return signal * MEAN + 1.7 * np.sqrt(signal**2 * VARIANCE + sigma**2)


def estimate(x, log_snr):
    """E[x_0 | x]."""
    signal, sigma = signal_and_sigma(log_snr)
    return MEAN + signal * VARIANCE / (signal**2 * VARIANCE + sigma**2) * (x - signal * MEAN)


def errors(steps, lengths=(320, 640)):
    """At the end of an uneven grid, begun with three exact estimates, since lower orders at the start would hide the order."""
    for n in lengths:
        log_snrs = -2 + 5 * np.linspace(0, 1, n + 1) ** 1.2
        x, step = on_the_path(log_snrs[2]), steps(log_snrs)
        estimates = [estimate(on_the_path(moment), moment) for moment in log_snrs[1::-1]]
        for i in range(2, n):
            estimates = [estimate(x, log_snrs[i]), *estimates[:2]]
            x = step(i, x, estimates)
        yield abs(x - on_the_path(log_snrs[-1]))


@pytest.mark.usefixtures("x64")
def test_on_gaussian_data_our_error_falls_with_the_third_power_of_the_step_and_theirs_with_the_second():
    our_errors, their_errors = (np.array([*errors(steps)]) for steps in (our_steps, their_steps))
    np.testing.assert_allclose(np.log2(our_errors[0] / our_errors[1]), 3, atol=0.1)
    np.testing.assert_allclose(np.log2(their_errors[0] / their_errors[1]), 2, atol=0.1)
    assert our_errors[1] < 0.01 * their_errors[1]


@pytest.mark.usefixtures("x64")
def test_the_stochastic_mean_of_diffusers_is_of_order_one_and_of_ours_of_order_three():
    """One step's error, for an estimate that is sin(lambda), falls by one power more than the order."""

    def error(steps, h, **options):
        log_snrs = 0.3 + h * np.array([-2.2, -1.0, 0.0, 1.0])
        x = steps(log_snrs, **options)(2, 0.8, np.sin(log_snrs[2::-1]))
        return abs(x - exact_mean_of_step(log_snrs, 0.8, np.sin, True))

    ours, theirs = (
        np.array([error(steps, h, **options) for h in (0.02, 0.01)])
        for steps, options in ((our_steps, {"stochastic": True}), (their_steps, {"algorithm": "sde-dpmsolver++"}))
    )
    np.testing.assert_allclose(np.log2(ours[0] / ours[1]), 4, atol=0.1)
    np.testing.assert_allclose(np.log2(theirs[0] / theirs[1]), 2, atol=0.1)


def exact_mean_of_step(log_snrs, x, m, stochastic):
    """The integral that a step approximates, for an estimate m(lambda), by quadrature."""
    t, s = log_snrs[2:]
    nodes, weights = np.polynomial.legendre.leggauss(40)
    moments, rate = t + (s - t) * (nodes + 1) / 2, 1 + stochastic
    integral = rate * (s - t) / 2 * np.sum(weights * np.exp(rate * (moments - s)) * m(moments))
    (_, sigma_t), (signal_s, sigma_s) = signal_and_sigma(t), signal_and_sigma(s)
    return sigma_s / sigma_t * np.exp(-stochastic * (s - t)) * x + signal_s * integral


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("stochastic", [False, True])
def test_a_parabola_is_integrated_exactly_by_ours_and_a_line_alone_by_theirs(stochastic):
    log_snrs, x = np.array([-0.7, -0.3, 0.4, 0.9]), 0.8
    algorithm = "sde-dpmsolver++" if stochastic else "dpmsolver++"
    for m, theirs_is_exact in ((lambda y: 1 - 0.4 * y, True), (lambda y: 0.2 - 0.4 * y + 0.7 * y**2, False)):
        estimates, exact = m(log_snrs[2::-1]), exact_mean_of_step(log_snrs, x, m, stochastic)
        np.testing.assert_allclose(our_steps(log_snrs, stochastic)(2, x, estimates), exact, rtol=1e-12)
        assert np.isclose(their_steps(log_snrs, algorithm)(2, x, estimates), exact, rtol=1e-6) == theirs_is_exact


def with_their_weights(monkeypatch):
    """Our solver with their weight of D2: phi_2 / 2 for our phi_2, or with noise, phi_2 / 2 - 1."""
    dpm_weights = multistep.dpm_weights

    def weights(grid, order, *, stochastic):
        h, k = grid.h, (2 if stochastic else 1) * grid.h
        phi2 = 1 - 2 / k * (1 + jnp.expm1(-k) / k)
        r0, r1 = (multistep.shifted(h, i, 1.0) / h for i in (1, 2))
        second_difference = jnp.stack([1 / r0, -1 / r0 - 1 / r1, 1 / r1], axis=1) / (r0 + r1)[:, None]
        surplus = jnp.where(grid.orders == 3, grid.signal_s * (phi2 / 2 + (1 if stochastic else 0)), 0.0)[:, None]
        correct = dpm_weights(grid, order, stochastic=stochastic)
        theirs = jnp.where(surplus == 0, correct.share, correct.share - surplus * second_difference)
        return correct._replace(share=theirs)

    monkeypatch.setattr(multistep, "dpm_weights", weights)


@pytest.mark.parametrize("algorithm", ["dpmsolver++", "sde-dpmsolver++"])
@pytest.mark.parametrize("num_steps", [5, 10, 20])
def test_with_their_weight_of_the_second_difference_ours_is_theirs(monkeypatch, algorithm, num_steps):
    scheduler = scheduler_of_order_three(algorithm)
    scheduler.set_timesteps(num_steps)
    same_noise(monkeypatch, num_steps, scheduler)
    schedule, grid = schedules.linear(), grids.linspace(1000, num_steps + 1)[:-1]

    def sampler(x, t):
        key = KEY if algorithm.startswith("sde") else None
        return solvers.dpm_solver(denoiser, schedule, x, t, order=3, key=key, trajectory=True)

    expected, correct = theirs(scheduler), ours(sampler, grid)
    with_their_weights(monkeypatch)
    assert_same(ours(sampler, grid), expected)
    assert distance(correct, expected) > 1e-3
