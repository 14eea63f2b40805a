"""Algorithm 1 of Goodfellow et al. 2014, as recipes play it."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from jaxgen import adversarial
from tests import compiler
from tests.train.tiny import GAN, PERCEPTRONS, SHAPE, WGAN_GP, batch_of, draw, state_of, step
from train import game, gan, players, wgan_gp
from train.common import data, loop, parallel
from train.common.checkpoint import fingerprint
from train.common.errors import UserError
from train.common.recipe import State

K = 3
DENSE = replace(GAN, network=PERCEPTRONS, discriminator_steps=1, r1=0.0)


def difference(score, real, fake, labels, keys):
    real_scores, fake_scores = game.of_both(score, real, fake, labels)
    return adversarial.discriminator_loss(real_scores, fake_scores), {}


LOSSES = game.Losses(difference, adversarial.non_saturating_generator_loss)


def test_each_discriminator_step_takes_rows_and_noise_of_its_own_and_the_generator_comes_last():
    seen = []

    def discriminator(state, minibatch, key):
        seen.append((minibatch["image"].tolist(), jax.random.key_data(key).tolist()))
        return state + 1, {"loss": state}

    def generator(state, minibatch, key):
        seen.append(("generator", jax.random.key_data(key).tolist()))
        return state + 100, {"generator_loss": 5}

    recorder = game.Game(None, discriminator, generator, None, None, None)
    rows = {"image": np.arange(12), "label": np.arange(12)}
    state, metrics = game.play(recorder, K, 0, rows, jax.random.key(0))
    assert state == 103
    assert metrics == {"loss": 2, "generator_loss": 5}
    assert [rows for rows, _ in seen] == [[0, 3, 6, 9], [1, 4, 7, 10], [2, 5, 8, 11], "generator"]
    assert len({tuple(key) for _, key in seen}) == K + 1


@pytest.mark.parametrize(
    "network", [PERCEPTRONS, pytest.param(GAN.network, marks=pytest.mark.slow)], ids=["mlp", "plain"]
)
def test_the_step_of_one_donated_program_is_k_plus_1_separate_moves_to_the_bit(network, monkeypatch):
    """With a penalty, which differentiates twice, and learning rates that fall."""

    def penalised(score, real, fake, labels, keys):
        value, metrics = difference(score, real, fake, labels, keys)
        x_hat = adversarial.interpolate(keys, real, fake)
        return value + game.of_each(adversarial.gradient_penalty, score, x_hat, labels).mean(), metrics

    options = parallel.compiler_options
    monkeypatch.setattr(parallel, "compiler_options", lambda *a: {**options(*a), **compiler.USUAL})
    config = replace(GAN, network=network, optimizer=replace(GAN.optimizer, decay_steps=3))
    losses, on = game.Losses(penalised, adversarial.non_saturating_generator_loss), jax.devices()[:1]
    recipe, played = game.build(config, (8, 8, 1), 0, K, losses), game.moves(config, (8, 8, 1), 0, losses, K)
    batch, key = data.load("digits").rows(np.arange(8 * K)), parallel.place(jax.random.key(7), on)
    start = loop.initial_state(recipe, 0, on)
    begun = fingerprint(start, {})

    def program(function, donate=False):
        return parallel.parallelize(function, on, rows=(False, True, False), donate=donate)

    def move(k):
        def one(state, batch, key):
            kind, row = (played.discriminator, k) if k < K else (played.generator, K - 1)
            return kind(state, {name: rows[row::K] for name, rows in batch.items()}, jax.random.fold_in(key, k))[0]

        return program(one)

    apart, moves = start, [move(k) for k in range(K + 1)]
    for _ in range(2):
        for take in moves:
            apart = take(apart, batch, key)
    whole, together = program(lambda *arguments: recipe.step(*arguments)[0], donate=True), start
    for _ in range(2):
        together = whole(together, batch, key)
    assert fingerprint(together, {}) == fingerprint(apart, {})
    assert fingerprint(together, {}) != begun


def test_a_discriminator_move_leaves_the_generator_alone_and_the_reverse():
    played = game.moves(DENSE, (8, 8, 1), 0, LOSSES)
    batch = data.load("digits").rows(np.arange(8))
    state = played.init(jax.random.key(0))

    def moved(move):
        def on_one(state):
            return jax.vmap(lambda s: move(s, batch, jax.random.key(1))[0], None, 0, axis_name="data", axis_size=1)(
                state
            )

        after = jax.tree.map(lambda leaf: leaf[0], jax.jit(on_one)(state))
        return [
            name for name in state.params if fingerprint(state.params[name], {}) != fingerprint(after.params[name], {})
        ]

    assert moved(played.discriminator) == ["discriminator"]
    assert moved(played.generator) == ["generator"]


def test_the_set_is_seen_k_times_as_fast():
    """Steps of k minibatches go through the data as k times as many steps of one do."""
    source = data.load("digits")
    recipe = gan.recipe(replace(DENSE, discriminator_steps=K), source.shape)
    seen = []

    def spy(state, batch, key):
        jax.debug.callback(lambda image: seen.append(np.asarray(image)), batch["image"])
        return state._replace(step=state.step + 1), {"loss": jnp.zeros(())}

    state = loop.initial_state(recipe, 0, jax.devices()[:1])
    fold = loop.steps(recipe._replace(step=spy), state, source, batch_size=4, seed=0, on=jax.devices()[:1])
    for _ in range(2):
        jax.block_until_ready(next(fold))
    jax.effects_barrier()
    expected = source.rows(data.indices(0, 0, 2 * K * 4, len(source)))["image"]
    np.testing.assert_array_equal(np.concatenate(seen), expected)


@pytest.mark.parametrize("devices", [2, 4])
def test_several_devices_play_the_game_of_one(devices):
    recipe = gan.recipe(replace(DENSE, discriminator_steps=K, r1=0.3), SHAPE)
    state, batch, key = state_of(recipe, seed=1), batch_of(4 * K), jax.random.key(3)
    alone = step(recipe, state, batch, key)
    together = step(recipe, state, batch, key, devices)
    for name in alone:
        np.testing.assert_allclose(together[name], alone[name], rtol=1e-4, err_msg=name)


OBJECTIVES = {
    # Of scores: the discriminator's loss, the generator's, and D.
    "minimax": (
        lambda real, fake: np.log1p(np.exp(-real)).mean() + np.log1p(np.exp(fake)).mean(),
        lambda fake: -np.log1p(np.exp(fake)),
        special.expit,
    ),
    "non_saturating": (
        lambda real, fake: np.log1p(np.exp(-real)).mean() + np.log1p(np.exp(fake)).mean(),
        lambda fake: np.log1p(np.exp(-fake)),
        special.expit,
    ),
    "hinge": (
        lambda real, fake: np.maximum(0, 1 - real).mean() + np.maximum(0, 1 + fake).mean(),
        lambda fake: -fake,
        lambda score: np.clip((score + 1) / 2, 0, 1),
    ),
    "least_squares": (
        lambda real, fake: ((real - 1) ** 2).mean() / 2 + (fake**2).mean() / 2,
        lambda fake: (fake - 1) ** 2 / 2,
        lambda score: score,
    ),
}


def scores_of_a_step(recipe, played, state, batch, key):
    """The scores, float64, that the discriminator's move sees of the data and of samples; those that the generator's move then sees; what
    the first move saw; and the metrics."""
    after, metrics = step(recipe, state, batch, key, wanted=lambda s, m: (s.params["discriminator"], m))
    num, generator = len(batch["image"]), state.params["generator"]
    keys = [jax.vmap(jax.random.fold_in, (None, 0))(jax.random.fold_in(key, k), jnp.arange(num)) for k in range(2)]
    z_keys, loss_keys = jax.vmap(jax.random.split, out_axes=1)(keys[0])
    real = batch["image"] / np.float32(127.5) - 1
    fake, last = (played.generate(generator, played.noise(k), None) for k in (z_keys, keys[1]))

    def score(params, x):
        return np.asarray(played.score(params, x, None), np.float64)

    before = state.params["discriminator"]
    return score(before, real), score(before, fake), score(after, last), (real, fake, loss_keys), metrics


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_the_metrics_of_a_step_are_the_losses_of_the_networks_scores(objective):
    discriminator_loss, generator_loss, D = OBJECTIVES[objective]
    recipe = gan.recipe(replace(DENSE, objective=objective), SHAPE)
    played, state = game.moves(DENSE, SHAPE, 0, LOSSES), state_of(recipe, seed=1)
    real, fake, last, _, metrics = scores_of_a_step(recipe, played, state, batch_of(6), jax.random.key(3))
    expected = {
        "loss": discriminator_loss(real, fake),
        "d_real": D(real).mean(),
        "d_fake": D(fake).mean(),
        "generator_loss": generator_loss(last).mean(),
    }
    assert metrics.keys() == expected.keys() | {"spread", "grad_norm", "generator_grad_norm"}
    for name, value in expected.items():
        np.testing.assert_allclose(metrics[name], value, rtol=1e-5, err_msg=name)


def test_r1_and_r2_add_half_gamma_times_the_mean_squared_slope_at_real_and_at_generated_images():
    state, batch, key = state_of(gan.recipe(DENSE, SHAPE), seed=1), batch_of(6), jax.random.key(3)

    def loss(r1, r2):
        return step(gan.recipe(replace(DENSE, r1=r1, r2=r2), SHAPE), state, batch, key)["loss"]

    def score(x):
        return game.moves(DENSE, SHAPE, 0, LOSSES).score(state.params["discriminator"], x[None], None)[0]

    at_real = adversarial.r1_penalty(score, batch["image"] / np.float32(127.5) - 1).mean()
    alone = loss(0.0, 0.0)
    np.testing.assert_allclose(loss(0.6, 0.0) - alone, 0.3 * at_real, rtol=1e-3)
    at_fake = loss(0.0, 0.6) - alone
    assert abs(at_fake / at_real - 0.3) > 1e-3
    np.testing.assert_allclose(loss(0.6, 0.6) - alone, 0.3 * at_real + at_fake, rtol=1e-3)


@pytest.mark.parametrize(("r1", "r2"), [(0.6, 0.0), (0.0, 0.6), (0.6, 0.2)])
def test_a_step_goes_where_it_would_if_penalised_images_were_scored_once_more(r1, r2):
    def apart(score, real, fake, labels, keys):
        value, metrics = difference(score, real, fake, labels, keys)
        for gamma, x in ((r1, real), (r2, fake)):
            value += gamma / 2 * game.of_each(adversarial.r1_penalty, score, x, labels).mean()
        return value, metrics

    config = replace(DENSE, labels=True, r1=r1, r2=r2, optimizer=gan.Optimizer("sgd", 1.0, momentum=0.0))
    losses = game.Losses(apart, adversarial.non_saturating_generator_loss)
    recipe, expected = gan.recipe(config, SHAPE, 3), game.build(config, SHAPE, 3, 1, losses)
    state, key = state_of(recipe, seed=1), jax.random.key(3)
    batch = {**batch_of(6), "label": np.array([0, 1, 2, 0, 1, 2], np.int32)}
    after, as_expected = (step(r, state, batch, key, wanted=lambda s, m: s.params) for r in (recipe, expected))
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5), after, as_expected)


def test_plain_descent_moves_against_the_gradient_of_each_players_own_loss():
    """With sgd without momentum, learning rate times gradient is the step; the gradient norms are logged."""
    rates = gan.Optimizer("sgd", learning_rate=0.5, discriminator_learning_rate=0.25, momentum=0.0)
    recipe = gan.recipe(replace(DENSE, optimizer=rates), SHAPE)
    state, batch = state_of(recipe, seed=1), batch_of(6)
    after, metrics = step(recipe, state, batch, jax.random.key(3), wanted=lambda s, m: (s.params, m))
    for player, rate, norm in (("generator", 0.5, "generator_grad_norm"), ("discriminator", 0.25, "grad_norm")):
        moves = jax.tree.leaves(jax.tree.map(lambda a, b: a - b, after[player], state.params[player]))
        length = np.sqrt(sum((move**2).sum() for move in moves))
        np.testing.assert_allclose(length, rate * metrics[norm], rtol=1e-3)


def test_both_learning_rates_fall_over_the_steps_of_the_run_however_often_the_discriminator_moves():
    generator, discriminator = players.descents(gan.Optimizer("sgd", 0.5, momentum=0.0, decay_steps=4), K)

    def rates(descent, moves):
        """The length of each move along a gradient of 1."""
        taken, state = [], descent.init(jnp.zeros(()))
        for _ in range(moves):
            update, state = descent.update(jnp.ones(()), state)
            taken.append(-float(update))
        return taken

    np.testing.assert_allclose(rates(generator, 5), rates(discriminator, 4 * K + 1)[::K], rtol=1e-5)
    np.testing.assert_allclose(rates(generator, 5)[::4], [0.5, 0.005], rtol=1e-5)


def test_only_the_generator_is_averaged_and_samples_are_drawn_with_the_average():
    recipe = gan.recipe(DENSE, SHAPE)
    state, batch, key = state_of(recipe, seed=1), batch_of(3), jax.random.key(5)
    fresh = jax.eval_shape(recipe.init, jax.random.key(0))
    assert jax.tree.structure(fresh.ema) == jax.tree.structure(fresh.params["generator"])
    zero = jax.tree.map(np.zeros_like, state.params)
    drawn = draw(recipe.sample, state._replace(params=zero), batch, key)
    assert drawn.shape == (3, *SHAPE)
    assert np.abs(drawn).max() > 0
    blank = state._replace(ema=jax.tree.map(np.zeros_like, state.ema))
    assert np.abs(draw(recipe.sample, blank, batch, key)).max() == 0


def test_spread_is_1_for_the_data_themselves_and_0_for_a_single_image():
    x = jax.random.normal(jax.random.key(0), (4, 5, 3))  # four devices with five rows each

    def spread(fake):
        return jax.vmap(game.spread, axis_name="data")(x, fake)["spread"][0]

    np.testing.assert_allclose(spread(x), 1, rtol=1e-5)
    np.testing.assert_allclose(spread(3 * x + 1), 3, rtol=1e-4)
    assert spread(jnp.broadcast_to(x[:1, :1], x.shape)) < 1e-3
    assert jax.vmap(game.spread, axis_name="data")(x[:1, :1], x[:1, :1]) == {}  # of a batch of one nothing can be said


def test_an_interpolation_goes_from_each_sample_to_the_next_over_noise_of_the_same_length():
    recipe = gan.recipe(DENSE, SHAPE)
    state, batch, key = state_of(recipe, seed=1), batch_of(4), jax.random.key(5)
    way = draw(recipe.pictures["interpolation"], state, batch, key, devices=2)
    samples = draw(recipe.sample, state, batch, key)
    np.testing.assert_allclose(way[:, 0], samples, atol=1e-5)
    np.testing.assert_allclose(way[:, -1], np.roll(samples, -1, axis=0), atol=1e-5)


def test_clipping_keeps_every_parameter_of_the_critic_within_the_bound_and_takes_no_penalty():
    recipe = wgan_gp.recipe(replace(WGAN_GP, lipschitz="clipping", clip=0.02), SHAPE)
    state, batch = state_of(recipe, seed=1), batch_of(4 * WGAN_GP.critic_steps)
    params, metrics = step(recipe, state, batch, jax.random.key(0), wanted=lambda s, m: (s.params, m))
    assert max(np.abs(leaf).max() for leaf in jax.tree.leaves(params["discriminator"])) == np.float32(0.02)
    assert max(np.abs(leaf).max() for leaf in jax.tree.leaves(params["generator"])) > 0.02
    assert "penalty" not in metrics


def test_the_critic_pays_its_penalty_between_both_and_the_generator_climbs_the_critic():
    recipe = wgan_gp.recipe(replace(WGAN_GP, critic_steps=1, penalty_weight=7.0), SHAPE)
    played, state = game.moves(WGAN_GP, SHAPE, 0, LOSSES), state_of(recipe, seed=1)
    real, fake, last, seen, metrics = scores_of_a_step(recipe, played, state, batch_of(4), jax.random.key(0))
    x_real, x_fake, keys = seen
    u = np.asarray(jax.vmap(jax.random.uniform)(keys))[:, None, None, None]
    between = u * x_real + (1 - u) * x_fake
    slopes = jax.vmap(jax.grad(lambda x: played.score(state.params["discriminator"], x[None], None)[0]))(between)
    penalty = ((np.linalg.norm(slopes.reshape(4, -1), axis=1) - 1) ** 2).mean()
    expected = {
        "score_real": real.mean(),
        "score_fake": fake.mean(),
        "wasserstein": real.mean() - fake.mean(),
        "penalty": penalty,
        "loss": fake.mean() - real.mean() + 7 * penalty,
        "generator_loss": -last.mean(),
    }
    for name, value in expected.items():
        np.testing.assert_allclose(metrics[name], value, rtol=1e-4, err_msg=name)


def test_a_conditional_game_asks_about_each_image_with_its_own_label():
    config = replace(DENSE, labels=True, r1=1.0)
    recipe, key = gan.recipe(config, SHAPE, 3), jax.random.key(3)
    state, batch = state_of(recipe, seed=1), batch_of(6)
    labelled = {**batch, "label": np.array([0, 1, 2, 0, 1, 2], np.int32)}
    assert step(recipe, state, batch, key)["loss"] != step(recipe, state, labelled, key)["loss"]
    assert np.abs(draw(recipe.sample, state, batch, key) - draw(recipe.sample, state, labelled, key))[1:3].max() > 1e-3
    shown = draw(recipe.pictures["classes"], state, batch, key)
    assert shown.shape == (6, SHAPE[0], 3 * SHAPE[1], SHAPE[2])


def test_points_are_generated_and_judged_over_the_plane():
    recipe = gan.recipe(DENSE, (2,))
    state = state_of(recipe, seed=1)
    points = np.random.default_rng(0).normal(size=(8, 2)).astype(np.float32)
    batch = {"point": points, "label": np.zeros(8, np.int32)}
    assert np.isfinite(list(step(recipe, state, batch, jax.random.key(0)).values())).all()
    assert draw(recipe.sample, state, batch, jax.random.key(0)).shape == (8, 2)
    assert recipe.landscape(state, points).shape == (8,)
    assert recipe.pictures == {}


@pytest.mark.parametrize(
    ("change", "shape", "message"),
    [
        ({"discriminator_steps": 0}, SHAPE, "--discriminator-steps must be at least 1"),
        ({"r1": -1.0}, SHAPE, "--r1 must be at least 0"),
        ({"r2": float("nan")}, SHAPE, "--r2 must be at least 0, and finite"),
        ({"labels": True}, SHAPE, "--labels needs labels of at least 2 classes, and digits has 0"),
        ({"network": replace(PERCEPTRONS, latent_dim=0)}, SHAPE, "--latent-dim must be at least 1"),
        ({"network": replace(PERCEPTRONS, hidden=())}, SHAPE, "--hidden must name at least one"),
        ({"network": GAN.network}, (2,), "--architecture plain is for images; for points choose mlp"),
        ({"network": GAN.network}, (7, 8, 1), "7x8 do not fit 2 levels"),
        ({"optimizer": gan.Optimizer(learning_rate=0.0)}, SHAPE, "--learning-rate must be at least"),
        ({"optimizer": gan.Optimizer(discriminator_learning_rate=-1.0)}, SHAPE, "--discriminator-learning-rate must"),
    ],
)
def test_settings_that_cannot_work_are_refused_in_words(change, shape, message):
    with pytest.raises(UserError, match=message):
        gan.recipe(replace(DENSE, **change), shape)


def test_a_critic_without_steps_is_refused_in_words():
    with pytest.raises(UserError, match="--critic-steps must be at least 1"):
        wgan_gp.recipe(replace(WGAN_GP, critic_steps=0), SHAPE)


@pytest.mark.parametrize("module", [gan, wgan_gp])
@pytest.mark.parametrize(
    ("name", "shape"), [("*", (32, 32, 3)), ("*", (64, 64, 3)), ("mnist", (28, 28, 1)), ("ring8", (2,))]
)
def test_presets_take_examples_of_their_usual_shapes(module, name, shape):
    recipe = module.recipe(module.PRESETS[name], shape)
    assert isinstance(jax.eval_shape(recipe.init, jax.random.key(0)), State)
