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


@pytest.mark.parametrize(("num_train", "num"), [(1000, 1000), (1000, 50), (1000, 7), (10, 3), (1, 1)])
def test_trailing_timesteps_fall_from_the_end_of_the_chain_and_are_even(num_train, num):
    grid = schedules.trailing_timesteps(num_train, num)
    assert len(grid) == num
    assert grid[0] == num_train - 1
    assert grid[-1] >= 0
    steps = -np.diff(grid)
    assert np.all(steps >= 1)
    assert not len(steps) or steps.max() - steps.min() <= 1


@pytest.mark.parametrize("num", [0, 11])
def test_more_sampling_steps_than_the_chain_has_are_refused(num):
    with pytest.raises(ValueError, match=f"between 1 and the 10 steps of the chain; got {num}"):
        schedules.trailing_timesteps(10, num)
