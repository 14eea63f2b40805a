"""The solvers of the probability-flow equation against diffusers' schedulers: whole trajectories from the same noise."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen import grids, schedules, solvers
from tests.jaxgen.conformance import (
    KEY,
    PREDICTS,
    X_T,
    assert_same,
    denoiser,
    distance,
    of_their_table,
    ours,
    same_noise,
    theirs,
    theirs_scaled,
    torch,
    torch_denoiser,
)

diffusers = pytest.importorskip("diffusers")

LINEAR = schedules.linear()
ENDS = {"beta_start": 1e-4, "beta_end": 0.02}
ALL = [(n, s, p) for n in (5, 10, 20) for s in ("leading", "trailing", "linspace") for p in PREDICTS]
SOME = [(5, "trailing", "epsilon"), (10, "leading", "sample"), (20, "linspace", "v_prediction")]
SOME_EPSILON = [(5, "trailing", "epsilon"), (10, "leading", "epsilon"), (20, "trailing", "epsilon")]


def cases(*left_out, some=SOME):
    """Cases of (num_steps, spacing, prediction), most of them slow, without some spacings and predictions."""
    return pytest.mark.parametrize(
        ("num_steps", "spacing", "prediction"),
        [
            case if case in some else pytest.param(*case, marks=pytest.mark.slow)
            for case in ALL
            if not set(case) & set(left_out)
        ],
    )


def made(name, num_steps, spacing="leading", prediction="epsilon", **options):
    """A scheduler of theirs, its timesteps set."""
    scheduler = getattr(diffusers, name)(timestep_spacing=spacing, prediction_type=prediction, **{**ENDS, **options})
    scheduler.set_timesteps(num_steps)
    return scheduler


def solved(solver, grid, schedule=LINEAR, predict=denoiser, **options):
    return ours(lambda x, t: solver(predict, schedule, x, t, trajectory=True, **options), grid)


@cases()
@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("algorithm", ["dpmsolver++", "sde-dpmsolver++"])
def test_dpm_solver_goes_where_theirs_goes(monkeypatch, algorithm, order, num_steps, spacing, prediction):
    options = {"solver_order": order, "algorithm_type": algorithm, "lower_order_final": False}
    scheduler = made("DPMSolverMultistepScheduler", num_steps, spacing, prediction, **options)
    same_noise(monkeypatch, num_steps, scheduler)
    key, predicts = KEY if algorithm.startswith("sde") else None, PREDICTS[prediction]
    states = solved(solvers.dpm_solver, scheduler.timesteps.numpy(), order=order, key=key, predicts=predicts)
    assert_same(states, theirs(scheduler))


def of_full_order(scheduler):
    """Its timesteps; UniPC must be told before the last to take that with order 1, but not to lower the order of the one before."""
    scheduler.register_to_config(lower_order_final=False)
    *timesteps, last = scheduler.timesteps
    yield from timesteps
    scheduler.register_to_config(lower_order_final=True)
    yield last


@cases()
@pytest.mark.parametrize("order", [1, 2, 3])
def test_unipc_goes_where_theirs_goes(order, num_steps, spacing, prediction):
    scheduler = made("UniPCMultistepScheduler", num_steps, spacing, prediction, solver_order=order)
    states = solved(solvers.unipc, scheduler.timesteps.numpy(), order=order, predicts=PREDICTS[prediction])
    assert_same(states, theirs(scheduler, timesteps=of_full_order(scheduler)))


@cases("linspace", some=[*SOME, (20, "trailing", "v_prediction")])
@pytest.mark.parametrize(("order", "name"), [(1, "EulerDiscreteScheduler"), (2, "HeunDiscreteScheduler")])
def test_euler_and_heun_go_where_theirs_go(order, name, num_steps, spacing, prediction):
    scheduler = made(name, num_steps, spacing, prediction)
    grid = {"leading": grids.leading, "trailing": grids.trailing}[spacing](1000, num_steps)
    states = solved(solvers.heun, grid, order=order, predicts=PREDICTS[prediction])
    assert_same(states, theirs_scaled(scheduler, every=order))


@pytest.mark.parametrize("num_steps", [5, 10, 20])
@pytest.mark.parametrize(("order", "name"), [(1, "EulerDiscreteScheduler"), (2, "HeunDiscreteScheduler")])
def test_euler_and_heun_on_karras_noise_levels_go_where_theirs_go(order, name, num_steps):
    scheduler = made(name, num_steps, "linspace", use_karras_sigmas=True)
    schedule = of_their_table(scheduler)
    states = solved(solvers.heun, grids.karras(schedule, num_steps), schedule, order=order)
    assert_same(states, theirs_scaled(scheduler, every=order))


def test_dpm_solver_on_karras_noise_levels_goes_where_theirs_goes_if_the_model_is_told_whole_timesteps():
    scheduler = made("DPMSolverMultistepScheduler", 10, use_karras_sigmas=True, lower_order_final=False)
    grid = grids.karras(LINEAR, 10)
    states = solved(solvers.dpm_solver, grid, predict=lambda x, t: denoiser(x, jnp.round(t)))
    assert_same(states, theirs(scheduler))


RAMP = (np.arange(768, dtype=np.float32) / 768).reshape(4, 3, 8, 8)


@pytest.mark.parametrize("order", [1, 2])
def test_ten_steps_of_euler_from_a_ramp_sum_to_what_ddim_does_and_heuns_to_what_theirs_do(order):
    """The ramp, the model and, for order 1, the sum of diffusers' own test of DDIM. Theirs too, if every step goes on from the sample."""

    def shrinking(x, t):
        return x * (t / (t + 1)).astype(x.dtype).reshape(-1, 1, 1, 1)

    scheduler = made({1: "EulerDiscreteScheduler", 2: "HeunDiscreteScheduler"}[order], 10)
    start = RAMP * float(torch.sqrt(scheduler.sigmas[0] ** 2 + 1))
    image = theirs(scheduler, start, lambda x, t: x * t / (t + 1))[-1]
    states = ours(
        lambda x, t: solvers.heun(shrinking, LINEAR, x, t, order=order, trajectory=True), grids.leading(1000, 10), RAMP
    )
    assert_same(states[-1:], image[None])
    if order == 1:
        np.testing.assert_allclose(np.abs(states[-1]).sum(), 172.0067, rtol=1e-5)


def test_heun_with_the_image_clipped_goes_where_theirs_goes():
    scheduler = made("HeunDiscreteScheduler", 10, clip_sample=True, clip_sample_range=1.0)
    states = solved(solvers.heun, grids.leading(1000, 10), clip_x0=True)
    assert_same(states, theirs_scaled(scheduler, every=2))


@cases("linspace", "sample", "v_prediction", some=SOME_EPSILON)
@pytest.mark.parametrize("warm_up", ["runge_kutta", "heun"])
def test_pndm_goes_where_theirs_goes(warm_up, num_steps, spacing, prediction):
    options = {"skip_prk_steps": warm_up == "heun", "set_alpha_to_one": True}
    scheduler = made("PNDMScheduler", num_steps, spacing, prediction, **options)
    grid = {"leading": grids.leading, "trailing": grids.trailing}[spacing](1000, num_steps)
    whole_steps = {"runge_kutta": [3, 7, 11, *range(12, num_steps + 9)], "heun": range(1, num_steps + 1)}[warm_up]
    assert_same(solved(solvers.pndm, grid, warm_up=warm_up), theirs(scheduler)[list(whole_steps)])


def algorithm_two(sigmas, noise, order, churn, low, high, churn_noise):
    """Karras et al. 2022, Algorithm 2, as it is printed, in float64: x / sqrt(alpha_bar) after every step."""
    log_sigmas = -0.5 * LINEAR.log_snrs

    def slope(y, sigma):
        t = np.full(len(y), np.interp(np.log(sigma), log_sigmas, np.arange(1000)))
        return np.asarray(denoiser(jnp.asarray(y / np.sqrt(1 + sigma**2)), jnp.asarray(t)))

    y = X_T * np.sqrt(1 + sigmas[0] ** 2)
    for i, (sigma, after) in enumerate(zip(sigmas, [*sigmas[1:], 0.0], strict=True)):
        gamma = min(churn / len(sigmas), np.sqrt(2) - 1) if low <= sigma <= high else 0.0
        churned = sigma * (1 + gamma)
        y = y + np.sqrt(churned**2 - sigma**2) * churn_noise * noise[1 + order * i]
        d = slope(y, churned)
        end = y + (after - churned) * d
        y = end if after == 0 or order == 1 else y + (after - churned) * (d + slope(end, after)) / 2
        yield y / np.sqrt(1 + after**2)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("order", [1, 2])
def test_churn_is_that_of_the_published_algorithm(monkeypatch, order):
    noise = same_noise(monkeypatch, 20, made("EulerDiscreteScheduler", 10))
    options = {"churn": 3.0, "churn_range": (0.05, 15.0), "churn_noise": 1.007}
    grid = grids.karras(LINEAR, 10, sigma_min=0.02, sigma_max=20.0)
    sigmas = np.exp(-0.5 * np.interp(grid, np.arange(1000), LINEAR.log_snrs))

    def sampler(x, t):
        return solvers.heun(denoiser, LINEAR, x, t, order=order, key=KEY, trajectory=True, **options)

    states = ours(sampler, grid, X_T.astype(np.float64))
    expected = np.stack([*algorithm_two(sigmas, noise, order, 3.0, 0.05, 15.0, 1.007)])
    assert_same(states, expected, rtol=1e-12)


def without_signal(name, order):
    """Solver, scheduler and schedule without any signal at the end, and with 2^-24 of it, which theirs put in the place of zero."""
    options = {"solver_order": order, "rescale_betas_zero_snr": True, "lower_order_final": "UniPC" in name}
    scheduler = made(name, 10, "trailing", "v_prediction", **options)
    none = schedules.zero_terminal_snr(LINEAR)
    some = none._replace(log_alpha_bars=np.append(none.log_alpha_bars[:-1], -24 * np.log(2)))
    solver = {"DPMSolverMultistepScheduler": solvers.dpm_solver, "UniPCMultistepScheduler": solvers.unipc}[name]
    return solver, scheduler, none, some


@pytest.mark.parametrize("name", ["DPMSolverMultistepScheduler", "UniPCMultistepScheduler"])
@pytest.mark.parametrize("order", [1, 2])
def test_from_nearly_no_signal_dpm_solver_and_unipc_go_where_theirs_go(name, order):
    solver, scheduler, _, some = without_signal(name, order)
    states = solved(solver, grids.trailing(1000, 10), some, order=order, predicts="v")
    assert_same(states, theirs(scheduler))


def exactly_no_signal(name):
    solver, scheduler, none, _ = without_signal(name, 2)
    return solved(solver, grids.trailing(1000, 10), none, predicts="v"), theirs(scheduler)


def whole_timesteps():
    scheduler = made("DPMSolverMultistepScheduler", 10, use_karras_sigmas=True)
    return solved(solvers.dpm_solver, grids.karras(LINEAR, 10)), theirs(scheduler)


def unipc_at_the_end():
    scheduler = made("UniPCMultistepScheduler", 10, solver_order=3)
    return solved(solvers.unipc, scheduler.timesteps.numpy(), order=3), theirs(scheduler)


def pndm_of_v():
    scheduler = made("PNDMScheduler", 10, prediction="v_prediction", skip_prk_steps=True, set_alpha_to_one=True)
    return solved(solvers.pndm, grids.leading(1000, 10), warm_up="heun", predicts="v"), theirs(scheduler)[1:]


def euler_with_churn(monkeypatch):
    scheduler = made("EulerDiscreteScheduler", 10)
    same_noise(monkeypatch, 10, scheduler)
    states = solved(solvers.heun, grids.leading(1000, 10), order=1, churn=3.0, key=KEY)
    return states, theirs_scaled(scheduler, s_churn=3.0)


def published_euler():
    """As diffusers' own tests take it: a step from the sample that was scaled for the model."""
    scheduler = made("EulerDiscreteScheduler", 10)
    x, states = X_T * float(scheduler.init_noise_sigma), []
    for t in scheduler.timesteps:
        x = scheduler.scale_model_input(torch.tensor(x), t)
        x = scheduler.step(torch_denoiser(x, t), t, x).prev_sample.numpy()
        states.append(x)
    return solved(solvers.heun, grids.leading(1000, 10), order=1)[-1:], np.stack(states)[-1:]


DIFFERENCES = {
    "no signal at the end of the chain is none, an infinite sigma, and no point of a polynomial; theirs is 2^-24": (
        lambda _: exactly_no_signal("DPMSolverMultistepScheduler")
    ),
    "so with UniPC": lambda _: exactly_no_signal("UniPCMultistepScheduler"),
    "the order is lowered for the step to the image alone; theirs, with n < 15, for that before it too (3M)": (
        lambda _: unipc_at_the_end()
    ),
    "our fractions of a timestep are told to the model on Karras' noise levels; theirs are rounded": (
        lambda _: whole_timesteps()
    ),
    "pndm combines the noise that every v means; theirs combines the v and then converts the sum": lambda _: (
        pndm_of_v()
    ),
    "noise of churn is added before the model looks, as in Algorithm 2; theirs is added after, and never seen": (
        euler_with_churn
    ),
    "a step goes on from the sample; the sums in their own tests of Euler, Heun and LMS go on from the scaled sample": (
        lambda _: published_euler()
    ),
}


@pytest.mark.parametrize("difference", DIFFERENCES)
def test_we_differ_on_purpose(monkeypatch, difference):
    assert distance(*DIFFERENCES[difference](monkeypatch)) > 3e-4
