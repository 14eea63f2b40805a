import numpy as np
import pytest

from jaxgen import grids, schedules


@pytest.mark.parametrize("make", [grids.trailing, grids.linspace, grids.leading])
@pytest.mark.parametrize(("num_train", "num"), [(1000, 1000), (1000, 50), (1000, 7), (10, 3), (1, 1)])
def test_grids_of_timesteps_are_even_and_decrease_within_the_chain(make, num_train, num):
    grid = make(num_train, num)
    assert len(grid) == num
    assert grid[-1] >= 0
    assert grid[0] < num_train
    steps = -np.diff(grid)
    assert np.all(steps >= 1)
    assert not len(steps) or steps.max() - steps.min() <= 1


def test_trailing_begins_at_the_end_of_the_chain_leading_ends_at_its_beginning_linspace_does_both():
    """Lin et al. 2024, table 2, for T = 1000 and 10 steps (their t is one more)."""
    assert grids.trailing(1000, 10).tolist() == [999, 899, 799, 699, 599, 499, 399, 299, 199, 99]
    assert grids.leading(1000, 10).tolist() == [900, 800, 700, 600, 500, 400, 300, 200, 100, 0]
    assert grids.leading(1000, 10, offset=1).tolist() == [901, 801, 701, 601, 501, 401, 301, 201, 101, 1]
    assert grids.linspace(1000, 10).tolist() == [999, 888, 777, 666, 555, 444, 333, 222, 111, 0]


def noise_levels(schedule, grid):
    return np.exp(np.interp(grid, np.arange(schedule.num_steps), -0.5 * schedule.log_snrs))


@pytest.mark.parametrize("schedule", [schedules.linear(), schedules.cosine()])
def test_karras_noise_levels_are_even_after_the_seventh_root(schedule):
    sigma = noise_levels(schedule, grids.karras(schedule, 12))
    np.testing.assert_allclose(np.diff(sigma ** (1 / 7), n=2), 0, atol=1e-9)
    np.testing.assert_allclose(sigma[[0, -1]], np.exp(-0.5 * schedule.log_snrs[[-1, 0]]), rtol=1e-9)


def test_the_ends_of_the_noise_levels_can_be_chosen():
    schedule = schedules.linear()
    sigma = noise_levels(schedule, grids.karras(schedule, 5, sigma_min=0.1, sigma_max=10.0))
    np.testing.assert_allclose(sigma[[0, -1]], [10, 0.1], rtol=1e-9)


def test_for_a_large_power_karras_grid_is_even_in_log_snr():
    schedule = schedules.linear()
    even = grids.even_log_snr(schedule, 9)
    np.testing.assert_allclose(np.diff(np.log(noise_levels(schedule, even)), n=2), 0, atol=1e-9)
    np.testing.assert_allclose(grids.karras(schedule, 9, rho=1e6), even, atol=0.1)


@pytest.mark.parametrize("num", [0, 11])
def test_more_sampling_steps_than_the_chain_has_are_refused(num):
    makes = [grids.trailing, grids.leading, grids.linspace]
    for make in [*makes, lambda T, n: grids.karras(schedules.linear(T), n)]:
        with pytest.raises(ValueError, match=f"between 1 and the 10 steps of the chain; got {num}"):
            make(10, num)


def test_noise_levels_outside_the_chain_are_refused():
    schedule = schedules.linear()
    for options, said in [
        ({"sigma_min": 1e-9}, "between the chain's, 0.01 to 157"),
        ({"sigma_max": 1e4}, "got 0.01 to 1e"),
        ({"sigma_min": 2.0, "sigma_max": 1.0}, "got 2 to 1"),
        ({"rho": 0.0}, "rho must be positive; got 0"),
    ]:
        with pytest.raises(ValueError, match=said):
            grids.karras(schedule, 5, **options)
    with pytest.raises(ValueError, match="infinite noise level"):
        grids.even_log_snr(schedules.zero_terminal_snr(schedule), 5)
    with pytest.raises(ValueError, match="leads out of the chain"):
        grids.leading(10, 5, offset=2)
