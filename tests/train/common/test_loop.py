import itertools
from dataclasses import replace

import jax
import numpy as np
import pytest

from tests.train.tiny import JOB
from train.common import data, loop
from train.common.recipe import Recipe, State
from train.common.sources import in_memory

SOURCE = in_memory("numbers", np.arange(24, dtype=np.uint8).reshape(24, 1, 1, 1), np.arange(24), map(str, range(24)))


def take_in(state, batch, key):
    """Keeps the labels that it saw, and its key, in the state."""
    seen = jax.lax.all_gather(batch["label"], "data", tiled=True)
    params = jax.lax.dynamic_update_slice(state.params, seen[None], (state.step, 0))
    return state._replace(step=state.step + 1, params=params), {"loss": seen.sum(), "key": jax.random.bits(key)}


RECIPE = Recipe(
    lambda key: State(np.int32(0), np.zeros((12, 6), np.int32), (), (), key), take_in, None, convolutions=False
)
COMMON = {"batch_size": 6, "seed": 3}


def start(on):
    return loop.initial_state(RECIPE, 0, on)


@pytest.mark.parametrize("devices", [1, 3])
@pytest.mark.parametrize("ends", [[12], [1, 5, 12], [4, 8, 12]], ids=str)
def test_a_loop_on_the_device_sees_the_batches_and_keys_of_single_steps(ends, devices):
    on = jax.devices()[:devices]
    singles = list(itertools.islice(loop.steps(RECIPE, start(on), SOURCE, on=on, **COMMON), 12))
    folded = list(loop.strides(RECIPE, start(on), SOURCE, ends, longest=12, on=on, **COMMON))
    expected = [data.indices(3, step, 6, 24) for step in range(12)]
    np.testing.assert_array_equal(singles[-1][0].params, expected)
    np.testing.assert_array_equal(folded[-1][0].params, expected)
    for name in ("loss", "key"):
        one_by_one = [metrics[name] for _, metrics in singles]
        counts = np.diff([0, *ends])
        together = [metrics[name][:count] for count, (_, metrics) in zip(counts, folded, strict=True)]
        np.testing.assert_array_equal(np.concatenate(together), one_by_one)


def test_what_was_handed_to_a_device_is_not_written_to_again(monkeypatch):
    """The device may still be reading it, in place: on a CPU, where an array is aligned as XLA likes it, nothing is copied."""
    handed = []

    def parallelize(*_, **__):
        def run(state, table, rows, count):
            handed.append((int(count), rows))
            return state, {}

        return run

    on = jax.devices()[:1]
    state = start(on)
    monkeypatch.setattr(loop.parallel, "parallelize", parallelize)
    list(loop.strides(RECIPE, state, SOURCE, [3, 5, 8], longest=3, on=on, **COMMON))
    assert [count for count, _ in handed] == [3, 2, 3]
    for first, (count, rows) in zip((0, 3, 5), handed, strict=True):
        expected = [data.indices(3, step, 6, 24) for step in range(first, first + count)]
        np.testing.assert_array_equal(rows[:, :count].T, expected)


@pytest.mark.parametrize(("steps", "save", "draw"), [(200, 30, 50), (7, 100, 100), (130, 1, 9), (1, 3, 5)])
@pytest.mark.parametrize("first", [0, 1, 5, 29])
@pytest.mark.parametrize("longest", [1, 4, 64])
def test_a_stride_ends_wherever_there_is_something_to_do_and_the_first_is_one_step(steps, save, draw, first, longest):
    job = replace(JOB, steps=steps, checkpoint_every=save, sample_every=draw)
    ends = list(loop._ends(first, job, longest))
    if first >= steps:
        assert ends == []
        return
    assert ends[0] == first + 1
    assert ends[-1] == steps
    gaps = np.diff([first, *ends])
    assert gaps.min() >= 1
    assert gaps.max() <= longest
    due = {step for step in range(first + 1, steps) if step % save == 0 or step % draw == 0 or step == draw // 10}
    assert due <= set(ends)


def test_a_loop_pays_where_the_data_live_on_the_device_and_not_for_convolutions_on_a_cpu(monkeypatch):
    on = jax.devices()[:1]
    convolutional = RECIPE._replace(convolutions=True)
    assert loop._longest_stride(JOB, RECIPE, SOURCE, on) == loop.STRIDE
    assert loop._longest_stride(JOB, convolutional, SOURCE, on) == (1 if on[0].platform == "cpu" else loop.STRIDE)
    assert loop._longest_stride(replace(JOB, stride=5), convolutional, SOURCE, on) == 5
    monkeypatch.setattr(loop, "RESIDENT_BYTES", 0)
    for job in (JOB, replace(JOB, stride=5)):
        assert loop._longest_stride(job, RECIPE, SOURCE, on) == 1
