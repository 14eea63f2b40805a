import numpy as np
import pytest

from jaxgen import schedules

ALL = [schedules.linear(), schedules.scaled_linear(), schedules.cosine()]


@pytest.mark.parametrize("schedule", ALL)
def test_alpha_bars_are_the_running_product_of_one_minus_beta(schedule):
    np.testing.assert_allclose(schedule.alpha_bars, np.cumprod(1 - schedule.betas), rtol=1e-12)


@pytest.mark.parametrize("schedule", ALL)
def test_alpha_bars_fall_from_nearly_one_to_nearly_zero(schedule):
    assert np.all(np.diff(schedule.alpha_bars) < 0)
    assert schedule.alpha_bars[0] > 0.999
    assert schedule.alpha_bars[-1] < 0.005


def test_the_linear_schedule_ends_where_the_paper_says():
    """Ho et al. 2020, section 4: KL(q(x_T | x_0) || N(0, I)) is about 1e-5 bits per dimension; alpha_bar_T is 4.04e-5."""
    schedule = schedules.linear()
    assert schedule.betas[0] == 1e-4
    assert schedule.betas[-1] == 0.02
    np.testing.assert_allclose(schedule.alpha_bars[-1], 4.04e-5, rtol=2e-3)


def test_the_square_root_of_the_scaled_linear_variances_is_linear():
    np.testing.assert_allclose(np.diff(np.sqrt(schedules.scaled_linear().betas), n=2), 0, atol=1e-15)


def test_cosine_alpha_bars_follow_the_squared_cosine_until_the_cut():
    num_steps, offset = 1000, 0.008
    u = np.arange(num_steps + 1) / num_steps
    f = np.cos((u + offset) / (1 + offset) * np.pi / 2) ** 2
    schedule = schedules.cosine(num_steps)
    np.testing.assert_allclose(schedule.alpha_bars[:-1], f[1:-1] / f[0], rtol=1e-9)
    assert schedule.betas[-1] == 0.999


@pytest.mark.parametrize("make", [schedules.linear, schedules.scaled_linear, schedules.cosine])
def test_a_schedule_of_no_steps_is_refused(make):
    with pytest.raises(ValueError, match="at least one step; got num_steps = 0"):
        make(0)


@pytest.mark.parametrize("make", [schedules.linear, schedules.scaled_linear, schedules.cosine])
def test_a_chain_of_one_step_is_a_schedule(make):
    assert make(1).alpha_bars.shape == (1,)


@pytest.mark.parametrize("betas", [[0.0, 0.1], [0.1, 1.0], [0.1, np.nan], [], [[0.1]]])
def test_variances_outside_zero_and_one_are_refused(betas):
    with pytest.raises(ValueError, match="betas must"):
        schedules.from_betas(betas)


@pytest.mark.parametrize("schedule", ALL)
def test_the_signal_to_noise_ratio_is_that_of_alpha_bar(schedule):
    a = schedule.alpha_bars
    np.testing.assert_allclose(np.exp(schedule.log_snrs), a / (1 - a), rtol=1e-9)


@pytest.mark.parametrize("schedule", ALL)
def test_zero_terminal_snr_leaves_nothing_at_the_end_and_the_first_step_as_it_was(schedule):
    """And sqrt(alpha_bar) stays an affine map of what it was: Lin et al. 2024, algorithm 1."""
    zero = schedules.zero_terminal_snr(schedule)
    assert zero.alpha_bars[-1] == 0
    assert zero.betas[-1] == 1
    np.testing.assert_allclose(zero.betas[0], schedule.betas[0], rtol=1e-9)
    before, after = np.sqrt(schedule.alpha_bars), np.sqrt(zero.alpha_bars)
    np.testing.assert_allclose(np.polyval(np.polyfit(before, after, 1), before), after, atol=1e-12)
    np.testing.assert_allclose(np.cumprod(1 - zero.betas), zero.alpha_bars, rtol=1e-7)


@pytest.mark.parametrize("schedule", ALL)
def test_a_respaced_chain_passes_through_the_same_marginals(schedule):
    timesteps = np.array([999, 500, 20, 3])
    short = schedules.respaced(schedule, timesteps)
    np.testing.assert_allclose(short.alpha_bars, schedule.alpha_bars[[3, 20, 500, 999]], rtol=1e-12)
    np.testing.assert_allclose(np.cumprod(1 - short.betas), short.alpha_bars, rtol=1e-7)


def test_respaced_at_every_timestep_a_chain_is_itself():
    schedule = schedules.cosine(50)
    np.testing.assert_allclose(schedules.respaced(schedule, np.arange(50)).betas, schedule.betas, rtol=1e-9)


@pytest.mark.parametrize("timesteps", [[], [3, 3], [-1, 3], [3, 10]])
def test_a_chain_is_not_respaced_at_what_is_not_in_it(timesteps):
    with pytest.raises(ValueError, match="different ones of {0, ..., 9}"):
        schedules.respaced(schedules.linear(10), np.array(timesteps, int))


def test_a_chain_of_one_step_has_no_terminal_snr_to_change():
    with pytest.raises(ValueError, match="one step"):
        schedules.zero_terminal_snr(schedules.linear(1))
