"""Schedules, grids, weights and variances against diffusers', whose tables are built in float32."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen import diffusion, diffusion_bound, grids, guidance, schedules
from tests.jaxgen.conformance import torch

diffusers = pytest.importorskip("diffusers")

CHAINS = {
    "linear": (schedules.linear(), {}),
    "scaled_linear": (schedules.scaled_linear(), {"beta_start": 0.00085, "beta_end": 0.012}),
    "squaredcos_cap_v2": (schedules.cosine(), {}),
}
LENGTHS = (2, 3, 5, 10, 20, 50, 250, 1000)


def timesteps(name, num_steps, **options):
    scheduler = getattr(diffusers, name)(**options)
    scheduler.set_timesteps(num_steps)
    return scheduler.timesteps.numpy()


@pytest.mark.parametrize("name", CHAINS)
def test_the_schedules_are_theirs_to_the_last_digits_of_float32(name):
    schedule, ends = CHAINS[name]
    scheduler = diffusers.DDPMScheduler(beta_schedule=name, **ends)
    np.testing.assert_allclose(schedule.betas, scheduler.betas, rtol=3e-7)
    np.testing.assert_allclose(schedule.alpha_bars, scheduler.alphas_cumprod, rtol=2e-5)


@pytest.mark.parametrize("name", CHAINS)
def test_without_terminal_signal_the_schedules_are_theirs(name):
    """They go from alpha_bar back to beta by differences of float32, hence the tolerance of betas."""
    schedule, ends = CHAINS[name]
    scheduler = diffusers.DDPMScheduler(beta_schedule=name, rescale_betas_zero_snr=True, **ends)
    schedule = schedules.zero_terminal_snr(schedule)
    np.testing.assert_allclose(schedule.betas, scheduler.betas, atol=1e-5)
    np.testing.assert_allclose(schedule.alpha_bars, scheduler.alphas_cumprod, rtol=1e-4, atol=1e-12)
    assert schedule.alpha_bars[-1] == scheduler.alphas_cumprod[-1] == 0


@pytest.mark.parametrize("num_steps", LENGTHS)
def test_the_grids_of_timesteps_are_theirs(num_steps):
    for offset in (0, 1) if num_steps < 1000 else (0,):
        np.testing.assert_array_equal(
            grids.leading(1000, num_steps, offset), timesteps("DDIMScheduler", num_steps, steps_offset=offset)
        )
    for spacing, grid in (("trailing", grids.trailing), ("linspace", grids.linspace)):
        np.testing.assert_array_equal(
            grid(1000, num_steps), timesteps("DDIMScheduler", num_steps, timestep_spacing=spacing)
        )


@pytest.mark.parametrize("num_steps", LENGTHS[:-1])
def test_their_multistep_solvers_take_a_grid_of_one_more_without_its_end(num_steps):
    for name in ("DPMSolverMultistepScheduler", "UniPCMultistepScheduler"):
        for spacing, grid in (("leading", grids.leading), ("linspace", grids.linspace)):
            np.testing.assert_array_equal(
                grid(1000, num_steps + 1)[:-1], timesteps(name, num_steps, timestep_spacing=spacing)
            )


@pytest.mark.parametrize("name", CHAINS)
@pytest.mark.parametrize("num_steps", [2, 5, 10, 50])
def test_karras_and_exponential_noise_levels_lie_at_their_timesteps(name, num_steps):
    """Their noise levels are rounded with alpha_bar, which moves some by a few hundredths of a timestep."""
    schedule, ends = CHAINS[name]
    for flag, grid in (("use_karras_sigmas", grids.karras), ("use_exponential_sigmas", grids.even_log_snr)):
        expected = timesteps("EulerDiscreteScheduler", num_steps, beta_schedule=name, **{flag: True}, **ends)
        np.testing.assert_allclose(grid(schedule, num_steps), expected, atol=0.1)


def differing(spacing, grid):
    every = ((n, timesteps("DDIMScheduler", n, timestep_spacing=spacing)) for n in range(1, 1001))
    return [n for n, theirs in every if list(grid(1000, n)) != list(theirs)]


def trailing_of_61():
    theirs = timesteps("DDIMScheduler", 61, timestep_spacing="trailing")
    return len(grids.trailing(1000, 61)) == 61 and len(theirs) == 62 and theirs[-1] == -1


def linspace_of_one():
    return grids.linspace(1000, 1)[0] == 999 and timesteps("DDIMScheduler", 1, timestep_spacing="linspace")[0] == 0


def karras_in_whole_timesteps():
    theirs = timesteps("DPMSolverMultistepScheduler", 10, use_karras_sigmas=True)
    return 0.1 < np.abs(grids.karras(schedules.linear(), 10) - theirs).max() <= 0.5


def linspace_in_fractions():
    return np.abs(grids.linspace(1000, 8) - timesteps("EulerDiscreteScheduler", 8)).max() > 0.2


def log_of_no_variance():
    nothing = np.zeros((1, 3))
    return their_learned_logvar(nothing - 1, 0).max() < -46 and our_learned_logvar(nothing, 0).min() > -10


DIFFERENCES = {
    "their trailing grid of 61 has 62 timesteps, the last of them -1, by rounding in arange": trailing_of_61,
    "a linspace of one timestep is at the noise, T - 1; theirs at the image, 0": linspace_of_one,
    "on Karras' noise levels the model is told fractions of timesteps; their multistep solvers round": (
        karras_in_whole_timesteps
    ),
    "linspace has whole timesteps; their Euler and Heun take fractions and interpolate sigma, not its logarithm": (
        linspace_in_fractions
    ),
    "log beta-tilde at t = 0, minus infinity, is that of t = 1 as in its authors' code; theirs is log 1e-20": (
        log_of_no_variance
    ),
}


@pytest.mark.parametrize("difference", DIFFERENCES)
def test_we_differ_on_purpose(difference):
    assert DIFFERENCES[difference]()


@pytest.mark.slow
def test_grids_of_every_length_differ_from_theirs_by_ties_and_superfluous_timesteps_alone():
    assert differing("leading", grids.leading) == []
    for spacing, grid in (("trailing", grids.trailing), ("linspace", grids.linspace)):
        for n in set(differing(spacing, grid)) - {1}:
            theirs = timesteps("DDIMScheduler", n, timestep_spacing=spacing)[:n]
            assert np.abs(grid(1000, n) - theirs).max() <= 1


def our_learned_logvar(v, t):
    v = jnp.asarray(v, jnp.float32)
    return np.asarray(diffusion_bound.learned_logvar(schedules.linear(), v, jnp.full(len(v), t)))


def their_learned_logvar(v, t):
    return diffusers.DDPMScheduler(variance_type="learned_range")._get_variance(t, torch.tensor(v)).numpy()


@pytest.mark.parametrize("t", [1, 2, 10, 500, 999])
def test_the_learned_variance_is_theirs_whose_v_runs_from_minus_one_to_one(t):
    v = np.random.default_rng(0).uniform(0, 1, (4, 3))
    np.testing.assert_allclose(our_learned_logvar(v, t), their_learned_logvar(2 * v - 1, t), rtol=1e-3)


@pytest.mark.parametrize("name", CHAINS)
def test_min_snr_weights_are_min_snr_and_gamma_in_units_of_each_predictions_error(name):
    """Hang et al. 2023, section 3.4: the squared error of eps is SNR times that of x_0, and of v, SNR + 1 times."""
    schedule, ends = CHAINS[name]
    t = np.arange(0, 1000, 37)
    alpha_bars = diffusers.DDPMScheduler(beta_schedule=name, **ends).alphas_cumprod.double().numpy()[t]
    snr = alpha_bars / (1 - alpha_bars)
    for gamma in (1.0, 5.0, 20.0):
        capped = np.minimum(snr, gamma)
        for predicts, expected in (("eps", capped / snr), ("x0", capped), ("v", capped / (snr + 1))):
            weight = diffusion.min_snr_weight(schedule, jnp.asarray(t), gamma, predicts)
            np.testing.assert_allclose(weight, expected, rtol=1e-3)


@pytest.mark.parametrize("rescale", [0.0, 0.3, 0.7, 1.0])
def test_rescaled_guidance_is_theirs(rescale):
    pipeline = pytest.importorskip("diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion")
    conditional, unconditional = np.random.default_rng(0).standard_normal((2, 4, 5, 5, 3)).astype(np.float32)
    guided = guidance.rescaled(
        lambda x, t: jnp.asarray(conditional), lambda x, t: jnp.asarray(unconditional), 7.5, rescale
    )
    free = torch.tensor(unconditional + 7.5 * (conditional - unconditional))
    expected = pipeline.rescale_noise_cfg(free, torch.tensor(conditional), rescale)
    np.testing.assert_allclose(guided(jnp.zeros((4, 5, 5, 3)), jnp.zeros(4)), expected, rtol=1e-5, atol=1e-6)
