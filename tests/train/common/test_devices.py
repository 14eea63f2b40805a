import jax
import pytest

from train.common import devices
from train.common.errors import UserError


def test_a_cpu_is_one_device_unless_more_are_asked_for():
    assert devices.select("cpu", None) == jax.devices()[:1]
    assert devices.select("auto", 3) == jax.devices()[:3]


@pytest.mark.parametrize(("num", "said"), [(0, "at least 1; got 0"), (9, "--devices 9: this host has 8 cpu devices")])
def test_a_number_of_devices_that_is_not_there_is_refused(num, said):
    with pytest.raises(UserError, match=said):
        devices.select("cpu", num)


@pytest.mark.parametrize("accelerator", ["gpu", "tpu"])
def test_another_platform_than_the_one_asked_for_is_refused_with_the_fix(accelerator):
    with pytest.raises(
        UserError, match=f"asked for --accelerator {accelerator}, but JAX came up on cpu; .*--accelerator cpu"
    ):
        devices.select(accelerator, None)


def test_people_are_told_the_number_and_the_kind_of_devices():
    assert devices.describe(jax.devices()[:4]).startswith("4 x ")


def test_the_peak_of_memory_is_at_least_what_this_process_holds():
    assert devices.peak_memory(jax.devices()[:1]) > 50e6
