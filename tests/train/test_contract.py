"""What every recipe promises, whatever it models."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import compiler
from tests.train.tiny import RECIPES, build, furnished, given
from train.common import data, gallery, loop, parallel
from train.common.checkpoint import fingerprint

SOURCE = data.load("digits")
PARALLELIZE = parallel.parallelize


class Model:
    """A recipe on digits, and its programs, compiled once for all tests that use them."""

    def __init__(self, name):
        self.traces = 0
        built = build(name, SOURCE)
        self.given, self.source = given(name, SOURCE), furnished(name, SOURCE)

        def step(state, batch, key):
            self.traces += 1
            return built.step(state, batch, key)

        self.recipe = built._replace(step=step)
        self._start, self.programs = {}, {}

    def start(self, on):
        if len(on) not in self._start:
            self._start[len(on)] = loop.initial_state(self.recipe, 0, on, self.given)
        return jax.tree.map(jnp.copy, self._start[len(on)])  # training donates it

    def train(self, num_steps, devices=1, how="pmap", state=None):
        on = jax.devices()[:devices]
        fold = loop.steps(
            self.recipe, self.start(on) if state is None else state, self.source, batch_size=16, seed=0, on=on, how=how
        )
        states, metrics = zip(*itertools.islice(fold, num_steps), strict=True)
        return states[-1], [{name: float(value) for name, value in row.items()} for row in metrics]

    def parallelize(self, function, devices, **how):
        """`parallel.parallelize`, which would make the same program anew for every call of the loop."""
        options = parallel.compiler_options(devices[0].platform)
        key = function.__qualname__, *devices, *how.items(), *options.items(), loop.RESIDENT_BYTES
        if key not in self.programs:
            self.programs[key] = PARALLELIZE(function, devices, **how)
        return self.programs[key]


HEAVY = (
    "ddpm",
    "guided_ddpm",
    "super_resolution",
    "latent_diffusion",
    "conv_vae",
    "gan",
    "controlnet",
)
"""Recipes whose convolutions take long to compile."""


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(name, marks=[pytest.mark.slow] * (name in HEAVY))
        for name in RECIPES
        if name != "guided_controlnet"  # its parts are controlnet's and guided_ddpm's
    ],
)
def model(request):
    yield Model(request.param)
    jax.clear_caches()


@pytest.fixture(autouse=True)
def programs_are_kept(model, monkeypatch):
    monkeypatch.setattr(parallel, "parallelize", model.parallelize)


def losses(history):
    return np.array([row["loss"] for row in history])


def test_training_is_finite_traced_once_and_lowers_the_loss(model):
    model.programs.clear()
    model.traces = 0
    state, history = model.train(60)
    assert model.traces == 1
    assert np.isfinite([list(row.values()) for row in history]).all()
    assert losses(history)[-10:].mean() < 0.8 * losses(history)[:5].mean()
    assert int(state.step) == 60


def test_parameters_and_their_average_are_float32_and_the_average_follows(model):
    state, _ = model.train(5)
    for tree in (state.params, state.ema):
        assert {leaf.dtype for leaf in jax.tree.leaves(tree)} == {jnp.dtype(jnp.float32)}
    start = model.start(jax.devices()[:1])
    moved = jax.tree.map(lambda a, b: jnp.abs(a - b).max(), state.ema, start.ema)
    assert max(jax.tree.leaves(moved)) > 0
    assert fingerprint(state.ema, {}) != fingerprint(state.params, {})


def test_the_same_seed_gives_the_same_bits_and_another_does_not(model):
    first, second = (model.train(3)[0] for _ in range(2))
    assert fingerprint(first, {}) == fingerprint(second, {})
    other = loop.initial_state(model.recipe, 1, jax.devices()[:1], model.given)
    assert fingerprint(other.params, {}) != fingerprint(model.start(jax.devices()[:1]).params, {})


@pytest.mark.usefixtures("compiled_as_usual")
def test_pmap_and_shard_map_train_alike_and_since_jax_0_8_the_same_bits(model):
    (pmapped, one), (sharded, other) = (model.train(3, devices=2, how=how) for how in ("pmap", "shard_map"))
    np.testing.assert_allclose(losses(one), losses(other), rtol=1e-5)
    if compiler.ONE_BACK_END:
        assert fingerprint(pmapped, {}) == fingerprint(sharded, {})


@pytest.mark.slow
def test_losses_on_1_2_4_and_8_devices_agree_over_20_steps(model):
    alone = losses(model.train(20)[1])
    for devices in (2, 4, 8):
        np.testing.assert_allclose(losses(model.train(20, devices)[1]), alone, rtol=1e-5)


@pytest.mark.slow
def test_a_state_trained_on_8_devices_goes_on_on_1_and_the_reverse(model):
    straight = losses(model.train(8)[1])
    for before, after in ((8, 1), (1, 8)):
        state, _ = model.train(4, before)
        moved = parallel.place(parallel.local(state), jax.devices()[:after])
        np.testing.assert_allclose(losses(model.train(4, after, state=moved)[1]), straight[4:], rtol=1e-5)


@pytest.mark.slow
@pytest.mark.usefixtures("compiled_as_usual")
def test_strides_take_the_same_steps_whatever_their_length_and_a_loop_ends_with_the_same_bits(model):
    on = jax.devices()[:2]

    def train(ends):
        start, common = model.start(on), {"longest": 4, "batch_size": 16, "seed": 0, "on": on}
        fold = list(loop.strides(model.recipe, start, model.source, ends, **common))
        counts = np.diff([0, *ends])
        history = [
            {name: values[i] for name, values in metrics.items()}
            for count, (_, metrics) in zip(counts, fold, strict=True)
            for i in range(count)
        ]
        return fold[-1][0], losses(history)

    (first, first_losses), (second, second_losses) = train([1, 5, 7]), train([2, 3, 7])
    assert fingerprint(first, {}) == fingerprint(second, {})
    np.testing.assert_array_equal(first_losses, second_losses)
    assert int(first.step) == 7
    np.testing.assert_allclose(first_losses, losses(model.train(7, devices=2)[1]), rtol=1e-4)


def test_samples_are_images_one_per_row_and_the_same_on_8_devices(model):
    state = model.start(jax.devices()[:1])
    batch, key = model.source.rows(np.arange(5)), jax.random.key(0)
    images = gallery.drawer(model.recipe.sample, jax.devices()[:1])(state, batch, key)
    assert images.shape == (5, *SOURCE.shape)
    assert np.isfinite(images).all()
    on_eight = gallery.drawer(model.recipe.sample, jax.devices()[:8])(model.start(jax.devices()[:8]), batch, key)
    np.testing.assert_allclose(on_eight, images, rtol=1e-4, atol=1e-4)


@pytest.mark.usefixtures("compiled_as_usual")
def test_a_large_set_fed_batch_by_batch_trains_like_one_on_the_device(model, monkeypatch):
    resident, _ = model.train(3)
    monkeypatch.setattr(loop, "RESIDENT_BYTES", 0)
    fed, _ = model.train(3)
    assert fingerprint(resident, {}) == fingerprint(fed, {})
