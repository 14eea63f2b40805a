"""The order of the batches, the background thread, the digits, and names that mean nothing."""

import subprocess
import sys
import threading
import time
from itertools import islice
from types import SimpleNamespace

import numpy as np
import pytest
from sklearn.datasets import load_digits

from train.common import data
from train.common.errors import UserError


def stream(seed, batch_size, num_examples, length):
    """The first `length` indices of a run."""
    steps = range(-(-length // batch_size))
    return np.concatenate([data.indices(seed, step, batch_size, num_examples) for step in steps])[:length]


@pytest.mark.parametrize(("batch_size", "num_examples"), [(1, 1), (4, 12), (5, 12), (12, 12), (30, 12), (64, 1797)])
def test_every_epoch_sees_every_example_once(batch_size, num_examples):
    epochs = stream(3, batch_size, num_examples, 4 * num_examples).reshape(4, num_examples)
    assert np.array_equal(np.sort(epochs, axis=1), np.tile(np.arange(num_examples), (4, 1)))


def test_the_stream_of_examples_does_not_depend_on_the_batch_size():
    expected = stream(0, 1, 10, 95)
    for batch_size in (2, 3, 10, 37, 95):
        assert np.array_equal(stream(0, batch_size, 10, 95), expected)


def test_indices_depend_on_seed_and_step_alone():
    forward = [data.indices(7, step, 8, 50) for step in range(30)]
    data._permutation.cache_clear()
    backward = [data.indices(7, step, 8, 50) for step in reversed(range(30))][::-1]
    assert np.array_equal(forward, backward)


def test_another_seed_and_another_epoch_are_another_permutation():
    orders = [stream(seed, 100, 100, 300)[i : i + 100] for seed in range(3) for i in (0, 100, 200)]
    assert len({order.tobytes() for order in orders}) == 9


def test_the_stream_is_the_permutation_drawn_from_seed_and_epoch():
    epoch = data.indices(5, 1, 100, 100)
    assert np.array_equal(epoch, np.random.default_rng([5, 1]).permutation(100))


def test_a_batch_may_begin_beyond_the_reach_of_32_bits():
    batch = data.indices(0, 2**40, 6, 3)
    assert np.array_equal(np.sort(batch.reshape(2, 3), axis=1), [[0, 1, 2]] * 2)


def test_changing_a_batch_does_not_change_the_next_one():
    expected = data.indices(0, 0, 4, 9).copy()
    data.indices(0, 0, 4, 9)[:] = 0
    assert np.array_equal(data.indices(0, 0, 4, 9), expected)


@pytest.mark.parametrize("wrong", [(-1, 0, 1, 1), (0, -1, 1, 1), (0, 0, 0, 1), (0, 0, 1, 0)])
def test_indices_refuse_what_is_no_position_in_a_stream(wrong):
    with pytest.raises(ValueError, match="got"):
        data.indices(*wrong)


def prefetch_threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("prefetch")]


def test_prefetching_changes_nothing_but_the_time():
    assert list(islice(data.prefetch(lambda step: step**2, 5), 6)) == [25, 36, 49, 64, 81, 100]


def test_prefetch_is_two_ahead_and_no_further():
    fetched = []
    batches = data.prefetch(lambda step: fetched.append(step) or step, 0, depth=2)
    for step in range(5):
        assert next(batches) == step
        deadline = time.monotonic() + 10
        while len(fetched) < step + 3 and time.monotonic() < deadline:
            time.sleep(0.001)
        assert fetched == list(range(step + 3))
    batches.close()


def test_prefetch_raises_what_fetch_raised_in_its_turn():
    def fetch(step):
        if step == 3:
            raise UserError("picture 3 is broken")
        return step

    batches = data.prefetch(fetch, 0)
    assert list(islice(batches, 3)) == [0, 1, 2]
    with pytest.raises(UserError, match="picture 3 is broken"):
        next(batches)
    assert not prefetch_threads()


def test_closing_prefetch_ends_its_thread():
    batches = data.prefetch(lambda step: step, 0)
    next(batches)
    assert len(prefetch_threads()) == 1
    batches.close()
    assert not prefetch_threads()


def test_the_digits_are_scikit_learns_and_their_ink_can_be_recovered_exactly():
    digits = data.load("digits")
    expected = load_digits()
    rows = digits.rows(np.arange(len(digits)))
    assert digits.shape == (8, 8, 1)
    assert np.array_equal(np.rint(rows["image"][..., 0] * (16 / 255)), expected.images)
    assert np.array_equal(rows["label"], expected.target)
    assert rows["image"].dtype == np.uint8
    assert (rows["image"].min(), rows["image"].max()) == (0, 255)
    assert rows["label"].dtype == np.int32
    assert digits.class_names == tuple("0123456789")


def test_the_digits_are_the_same_without_the_short_cut_to_their_file(monkeypatch, tmp_path):
    expected = data.load("digits").fingerprint
    elsewhere = SimpleNamespace(origin=str(tmp_path / "__init__.py"))
    monkeypatch.setattr(data.importlib.util, "find_spec", lambda name: elsewhere)
    assert data.load("digits").fingerprint == expected


def test_the_digits_can_be_had_in_another_size():
    digits = data.load("digits", image_size=16)
    assert digits.rows(np.arange(3))["image"].shape == (3, 16, 16, 1)


def test_the_digits_need_neither_jax_nor_scikit_learn_nor_tensorflow_datasets_to_be_imported():
    program = (
        "import sys; from train.common import data; data.load('digits');"
        "print([name for name in ('jax', 'sklearn', 'tensorflow_datasets', 'tensorflow') if name in sys.modules])"
    )
    assert subprocess.check_output([sys.executable, "-c", program], text=True).strip() == "[]"


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("mnst", "mnist"),
        ("CIFAR-10", "cifar10"),
        ("fashion-mnist", "fashion_mnist"),
        ("digit", "digits"),
        ("ring-8", "ring8"),
    ],
)
def test_a_misspelt_name_is_answered_with_the_nearest_one(name, hint):
    with pytest.raises(UserError, match=f"unknown data set '{name}' \\(did you mean '{hint}'"):
        data.load(name)


def test_a_folder_given_without_its_prefix_is_answered_with_the_prefix(tmp_path):
    with pytest.raises(UserError, match=f"did you mean 'folder:{tmp_path}'"):
        data.load(str(tmp_path))


@pytest.mark.parametrize("name", ["", "no such thing", "huggingface:mnist", "downloads"])
def test_a_name_that_nothing_resembles_is_answered_with_the_list(name, tmp_path):
    (tmp_path / "downloads").mkdir()
    with pytest.raises(
        UserError,
        match=r"digits; mnist, fashion_mnist, kmnist, cifar10; stacked_mnist, .* folder:PATH .* grid25 and ring8, points",
    ):
        data.load(name, data_dir=str(tmp_path))


@pytest.mark.parametrize("name", ["grid25", "ring8"])
def test_points_are_known_by_name_and_have_no_size_in_pixels(name):
    source = data.load(name)
    assert (source.name, source.is_points) == (name, True)
    with pytest.raises(UserError, match=f"--image-size is for images, and {name} holds points"):
        data.load(name, image_size=8)


def test_digits_points_and_folders_have_no_other_split():
    for name in ("digits", "grid25", "folder:anywhere"):
        with pytest.raises(UserError, match="one split, 'train'; got 'test'"):
            data.load(name, split="test")


def test_an_image_has_at_least_one_pixel():
    with pytest.raises(UserError, match="at least 1; got 0"):
        data.load("digits", image_size=0)
