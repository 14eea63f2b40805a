import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen import diffusion, diffusion_bound, importance
from jaxgen.models.unet import UNet
from tests.train.tiny import DDPM, batch_of, change, state_of, step
from train import ddpm, denoising
from train.common import data, gallery, loop, parallel
from train.common.errors import UserError

SHAPE = (8, 8, 1)


def first_step(devices):
    """What the loss sees in step 0 on so many devices: x0, t and noise, put together again; and the metrics."""
    seen = {}

    def simple_loss(schedule, predict_eps, x0, t, noise, **options):
        def keep(device, *arrays):
            seen[int(device)] = [np.asarray(a) for a in arrays]

        jax.debug.callback(keep, jax.lax.axis_index("data"), x0, t, noise)
        return original(schedule, predict_eps, x0, t, noise, **options)

    original = diffusion.simple_loss
    on = jax.devices()[:devices]
    recipe = ddpm.recipe(change(DDPM, dropout=0.0), SHAPE)
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(diffusion, "simple_loss", simple_loss)
        fold = loop.steps(recipe, loop.initial_state(recipe, 0, on), data.load("digits"), batch_size=16, seed=0, on=on)
        state, metrics = next(fold)
        jax.block_until_ready(state)
        jax.effects_barrier()
    return [np.concatenate(parts) for parts in zip(*(seen[i] for i in range(devices)), strict=True)], metrics


@pytest.fixture(scope="module")
def alone():
    return first_step(1)


@pytest.mark.slow
@pytest.mark.usefixtures("compiled_as_usual")
def test_every_number_of_devices_sees_the_same_images_timesteps_and_noise_to_the_bit():
    alone, _ = first_step(1)
    for devices in (2, 4, 8):
        shared, _ = first_step(devices)
        for a, b in zip(alone, shared, strict=True):
            np.testing.assert_array_equal(a, b)


def test_the_loss_starts_at_one(alone):
    """The fresh network predicts 0, so the loss is the mean of eps^2, with standard error sqrt(2 / 1024)."""
    (_, _, noise), metrics = alone
    np.testing.assert_allclose(metrics["loss"], (noise**2).mean(), rtol=1e-5)
    assert abs(metrics["loss"] - 1) < 4 * np.sqrt(2 / noise.size)


def test_timesteps_cover_the_chain_and_noise_is_standard_normal(alone):
    (x0, t, noise), _ = alone
    assert set(t) <= set(range(20))
    assert len(set(t)) > 5
    assert abs(noise.mean()) < 4 / np.sqrt(noise.size)
    assert np.abs(x0).max() == 1


@pytest.mark.slow
def test_a_step_in_pieces_is_the_whole_step():
    """Without dropout the draws are the same, so only the order of sums differs."""
    on = jax.devices()[:1]
    results = []
    for pieces in (1, 2):
        recipe = ddpm.recipe(change(DDPM, pieces=pieces), SHAPE)
        fold = loop.steps(recipe, loop.initial_state(recipe, 0, on), data.load("digits"), batch_size=16, seed=0, on=on)
        results.append([float(next(fold)[1]["loss"]) for _ in range(3)])
    np.testing.assert_allclose(results[1], results[0], rtol=1e-5)


@pytest.mark.parametrize("sampler", ["ancestral", "ddim", "dpm_solver", "dpm_solver_sde", "unipc", "heun", "pndm"])
def test_the_denoising_chain_ends_in_the_samples(sampler):
    on = jax.devices()[:1]
    recipe = ddpm.recipe(change(DDPM, sampler=sampler), SHAPE)
    state = parallel.place(state_of(recipe, 0), on)
    batch = {"image": np.zeros((2, *SHAPE), np.uint8), "label": np.zeros(2, np.int32)}
    key_data = jax.random.key_data(jax.random.key(0))

    def both(state, batch, key_data):
        key = jax.random.wrap_key_data(key_data)
        return recipe.sample(state, batch, key), recipe.pictures["denoising"](state, batch, key)

    program = parallel.parallelize(both, on, rows=(False, True, False), gather=True)
    images, moments = program(state, batch, parallel.place(key_data, on))
    assert moments.shape == (2, 4, *SHAPE)
    np.testing.assert_allclose(moments[:, -1], images, rtol=1e-5, atol=1e-6)


def test_the_cifar10_preset_is_the_papers():
    """Ho et al. 2020, appendix B: 35.7 million parameters, batch 128, 800 thousand steps, dropout 0.1, EMA 0.9999, flips."""
    config = ddpm.PRESETS["cifar10"]
    recipe = ddpm.recipe(config, (32, 32, 3))
    params = jax.eval_shape(lambda: recipe.init(jax.random.key(0))).params
    assert 35.6e6 < sum(leaf.size for leaf in jax.tree.leaves(params)) < 35.8e6
    assert (config.job.batch_size, config.job.steps, config.network.dropout, config.optimizer.ema_decay) == (
        128,
        800_000,
        0.1,
        0.9999,
    )
    assert config.flip
    assert config.optimizer.learning_rate == 2e-4


@pytest.mark.slow
def test_bfloat16_changes_the_products_and_not_the_parameters():
    recipe = ddpm.recipe(change(DDPM, dtype="bfloat16"), SHAPE)
    on = jax.devices()[:1]
    fold = loop.steps(recipe, loop.initial_state(recipe, 0, on), data.load("digits"), batch_size=16, seed=0, on=on)
    state, metrics = next(fold)
    assert {leaf.dtype for leaf in jax.tree.leaves(state.params)} == {jnp.dtype(jnp.float32)}
    assert np.isfinite(metrics["loss"])


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"num_timesteps": 0}, "--num-timesteps"),
        ({"sample_steps": 30}, "--sample-steps"),
        ({"sampler": "heun", "order": 3}, "--order must lie between 1 and 2"),
        ({"guidance": 2.0}, "--guidance is for models with labels"),
        ({"rescale": 2.0}, "--rescale must lie between 0"),
        ({"zero_terminal_snr": True}, "take --predicts v"),
        (
            {"zero_terminal_snr": True, "predicts": "v", "sampler": "heun"},
            "needs some signal at the end of the chain",
        ),
        ({"conditional": True}, "--conditional needs labels of at least 2 classes, and digits has 0"),
        ({"min_snr": 0.0}, "--min-snr"),
        ({"ema_decay": 1.5}, "--ema-decay"),
        ({"learning_rate": 0.0}, "--learning-rate"),
        ({"pieces": 0}, "--pieces"),
        ({"multipliers": (1, 1, 1, 1, 1)}, "8x8"),
        ({"multipliers": ()}, "--multipliers must name at least one level"),
        ({"multipliers": (1, 0)}, "--multipliers must be at least 1"),
        ({"groups": 3}, "groups"),
        ({"groups": 0}, "--groups must be at least 1"),
        ({"head_dim": 0}, "--head-dim must be at least 1"),
        ({"decay_steps": 4}, "--decay-steps must be more than the 4 --warmup-steps; got 4"),
        ({"dropout": 1.0}, "--dropout"),
    ],
)
def test_settings_that_cannot_work_are_refused_in_words(values, said):
    with pytest.raises(UserError, match=said):
        ddpm.recipe(change(DDPM, **values), SHAPE)


def state_and_batch(recipe, rows):
    state = parallel.place(state_of(recipe, 0), jax.devices()[:1])
    return state, {"image": np.zeros((rows, *SHAPE), np.uint8), "label": np.arange(rows, dtype=np.int32) % 10}


@pytest.mark.parametrize("samples", [20, 5, 1])
def test_the_bound_is_a_sum_over_all_timesteps_or_an_unbiased_estimate_of_it(monkeypatch, samples):
    """With (t + 1)^2 in the place of the terms the sum is known; from all timesteps it is exact."""

    def term(schedule, predict, x0, t, eps, **how):
        return (t + 1.0) ** 2

    monkeypatch.setattr(diffusion_bound, "term", term)
    monkeypatch.setattr(diffusion_bound, "prior_term", lambda schedule, x0: jnp.full(len(x0), 7.0))
    recipe, rows = ddpm.recipe(DDPM, SHAPE), 4000
    state, batch = state_and_batch(recipe, rows)
    draw = gallery.drawer(lambda *a: recipe.evaluate(*a, samples), jax.devices()[:1])
    bound = draw(state, batch, jax.random.key(0))["bound"]
    total = 7 + sum((t + 1) ** 2 for t in range(20))
    if samples == 20:
        np.testing.assert_allclose(bound, total, rtol=1e-6)
    else:
        assert abs(bound.mean() - total) < 4 * bound.std() / np.sqrt(rows)


def test_guidance_follows_the_label_and_scale_one_is_the_conditional_model(monkeypatch):
    """With a network that predicts its label: scale w makes of label y and no label, 10, the prediction 10 + w (y - 10)."""
    seen = []

    def apply(self, variables, x, t, keys=None, labels=None, residuals=None):
        return jnp.broadcast_to(labels.astype(jnp.float32)[:, None, None, None], x.shape)

    monkeypatch.setattr(UNet, "apply", apply)
    monkeypatch.setattr(
        denoising, "draw", lambda drawing, keys, predict, schedule, x, grid, **o: seen.append(predict(x, None)) or x
    )
    for scale in (1.0, 3.0):
        recipe = ddpm.recipe(change(DDPM, conditional=True, guidance=scale), SHAPE, 10)
        state = jax.eval_shape(recipe.init, jax.random.key(0))
        batch = {"image": jnp.zeros((3, *SHAPE), jnp.uint8), "label": jnp.array([0, 4, 9])}
        sample = functools.partial(recipe.sample, state, batch)
        jax.vmap(lambda _, sample=sample: sample(jax.random.key(0)), axis_name="data")(jnp.zeros(1))
    np.testing.assert_allclose(seen[0][:, 0, 0, 0], [0, 4, 9])
    np.testing.assert_allclose(seen[1][:, 0, 0, 0], [-20, -8, 7])


def test_guidance_needs_labels_that_were_hidden_now_and_then():
    with pytest.raises(UserError, match="--guidance is for .* hidden now and then in training"):
        ddpm.recipe(change(DDPM, conditional=True, label_dropout=0.0, guidance=2.0), SHAPE, 10)


def test_labels_are_hidden_as_often_as_asked(monkeypatch):
    seen = []

    def simple_loss(schedule, predict, x0, t, noise, **options):
        return predict(x0, t)[:, 0, 0, 0]

    def apply(self, variables, x, t, keys=None, labels=None, residuals=None):
        jax.debug.callback(lambda y: seen.append(np.asarray(y)), labels)
        return x * jax.tree.leaves(variables)[0].sum()

    monkeypatch.setattr(diffusion, "simple_loss", simple_loss)
    recipe = ddpm.recipe(change(DDPM, conditional=True, label_dropout=0.25), SHAPE, 10)
    state, batch = state_and_batch(recipe, 1000)
    monkeypatch.setattr(UNet, "apply", apply)
    program = parallel.parallelize(recipe.step, jax.devices()[:1], rows=(False, True, False))
    jax.block_until_ready(program(state, batch, parallel.place(jax.random.key(0), jax.devices()[:1])))
    jax.effects_barrier()
    (labels,) = seen
    hidden = labels == 10
    assert abs(hidden.mean() - 0.25) < 4 * np.sqrt(0.25 * 0.75 / 1000)
    np.testing.assert_array_equal(labels[~hidden], batch["label"][~hidden])


def loss_of_t(monkeypatch):
    """From here on the loss at timestep t is (t + 1)^2, whatever the network says."""

    def simple_loss(schedule, predict, x0, t, noise, **options):
        return (t + 1.0) ** 2 + 0 * predict(x0, t).mean()

    monkeypatch.setattr(diffusion, "simple_loss", simple_loss)


def timesteps_of(recipe, state, key, p, num):
    """What a step draws with these probabilities of the timesteps, and 1 / (T p_t)."""
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(num))
    t_keys = jax.vmap(lambda k: jax.random.split(k, 5), out_axes=1)(keys)[0]
    return [np.asarray(part) for part in jax.vmap(importance.draw, (0, None))(t_keys, p)]


@pytest.mark.parametrize("predicts", ["eps", "v"])
def test_the_weight_of_a_timestep_is_that_of_what_is_predicted(monkeypatch, predicts):
    loss_of_t(monkeypatch)
    seen = []

    def min_snr_weight(schedule, t, gamma, predicted):
        jax.debug.callback(lambda t: seen.append((np.asarray(t), gamma, predicted)), t)
        return original(schedule, t, gamma, predicted)

    original = diffusion.min_snr_weight
    monkeypatch.setattr(diffusion, "min_snr_weight", min_snr_weight)
    config = change(DDPM, dropout=0.0, predicts=predicts, min_snr=3.0)
    recipe = ddpm.recipe(config, SHAPE)
    found = step(recipe, state_of(recipe, seed=0), batch_of(16, SHAPE), jax.random.key(1))["loss"]
    jax.effects_barrier()
    t = seen[0][0]
    assert seen[0][1:] == (3.0, predicts)
    weight = original(denoising.schedule(config.chain.schedule, 20), t, 3.0, predicts)
    np.testing.assert_allclose(found, (weight * (t + 1) ** 2).mean(), rtol=1e-5)


@pytest.mark.parametrize("devices", [1, 2])
def test_timesteps_of_large_losses_are_drawn_more_often_weigh_less_and_are_remembered_unweighted(monkeypatch, devices):
    loss_of_t(monkeypatch)
    recipe, key = ddpm.recipe(change(DDPM, dropout=0.0, timesteps="importance"), SHAPE), jax.random.key(1)
    state = state_of(recipe, seed=0)
    before = np.tile(np.linspace(1, 5, 20)[:, None], (1, 10)).astype(np.float32)
    history = importance.History(before, np.full(20, 10, np.int32))
    state = state._replace(opt=(state.opt[0], history))
    t, weight = timesteps_of(recipe, state, key, importance.probabilities(history), 16)
    assert len(np.unique(weight)) > 3

    def wanted(state, metrics):
        return metrics["loss"], state.opt[1]

    loss, after = step(recipe, state, batch_of(16, SHAPE), key, devices, wanted=wanted)
    np.testing.assert_allclose(loss, (weight * (t + 1) ** 2).mean(), rtol=1e-5)
    np.testing.assert_array_equal(after.counts, 10 + np.bincount(t, minlength=20))
    expected = before.copy()
    for one in np.unique(t):
        expected[one, : (t == one).sum()] = (one + 1) ** 2
    np.testing.assert_allclose(after.losses, expected, rtol=1e-5)
