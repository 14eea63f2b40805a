"""The loss is minus the bound, an estimate of the evidence is right where the evidence is known, and bad flags are refused."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special, stats

from tests.train.tiny import ADAM, CVAE, NETWORK, SHAPE, VAE, batch_of, draw, perceptron, state_of, step
from train import cvae, vae
from train.common import images
from train.common.errors import UserError

GAUSSIAN = replace(VAE, network=replace(NETWORK, hidden=(5,)), likelihood="gaussian")


def log_likelihood(config, decoded, x, c):
    """log p(x | z) in float64, (k, b), for decoded (k, b, h, w, channels)."""
    if config.likelihood == "bernoulli":
        terms = stats.bernoulli.logpmf((x > 0).astype(int), special.expit(decoded))
    elif config.likelihood == "gaussian":
        terms = stats.norm.logpdf(x, decoded, np.sqrt(config.variance))
    else:
        mean, scale = decoded[..., :c], np.exp(np.maximum(decoded[..., c:], -7))
        above = np.where(x == 1, 1.0, special.expit((x + 1 / 255 - mean) / scale))
        below = np.where(x == -1, 0.0, special.expit((x - 1 / 255 - mean) / scale))
        terms = np.log(above - below)
    return terms.sum((-3, -2, -1))


def bound(config, params, x, noise):
    """What a step lowers, its reconstruction error and its KL, in float64, of images x (b, h, w, c) and noise (k, b, d)."""
    b, h, w, c = x.shape
    d = config.network.latent_dim
    mean, logvar = np.split(perceptron(params["encoder"], "code", (x.reshape(b, -1) + 1) / 2), 2, axis=1)
    z = mean + np.exp(logvar / 2) * noise
    decoded = perceptron(params["decoder"], "pixels", z.reshape(-1, d)).reshape(len(z), b, h, w, -1)
    log_p = log_likelihood(config, decoded, x, c)
    kl = (np.exp(logvar) + mean**2 - 1 - logvar) / 2
    if config.iwae_samples > 1:
        log_q = stats.norm.logpdf(z, mean, np.exp(logvar / 2)).sum(-1)
        loss = -special.logsumexp(log_p + stats.norm.logpdf(z).sum(-1) - log_q, axis=0, b=1 / len(z)).mean()
    elif config.regularizer == "naive":
        loss = -log_p.mean() + config.beta * (mean**2 + logvar**2).sum(1).mean()
    else:
        loss = -log_p.mean() + config.beta * np.maximum(kl.mean(0), config.free_bits).sum()
    return loss, -log_p.mean(), kl.sum(1).mean()


@partial(jax.jit, static_argnums=(1, 2, 3))
def drawn(key, num, k, d):
    """Each image's key for its pixels, and the noise of its k codes (k, b, d): functions of its index alone."""
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(num))
    pixel_keys, code_keys = jax.vmap(jax.random.split, out_axes=1)(keys)
    each = jax.vmap(lambda key: jax.random.split(key, k), out_axes=1)(code_keys)
    return pixel_keys, jax.vmap(jax.vmap(lambda key: jax.random.normal(key, (d,))))(each)


@pytest.mark.parametrize(
    "change",
    [
        {"likelihood": "bernoulli"},
        {"likelihood": "discretized_logistic"},
        {"variance": 0.3},
        {"iwae_samples": 3},
        {"beta": 2.5},
        {"free_bits": 0.4},
        {"regularizer": "naive", "beta": 0.5},
    ],
    ids=lambda change: "-".join(map(str, next(iter(change.items())))),
)
def test_the_loss_is_minus_the_bound_computed_in_float64_from_the_same_noise(change):
    config = replace(GAUSSIAN, **change)
    recipe, key, names = vae.recipe(config, SHAPE), jax.random.key(1), ("loss", "reconstruction", "kl")
    state, batch = state_of(recipe, seed=2), batch_of(6)
    pixel_keys, noise = drawn(key, 6, config.iwae_samples, 2)
    x = images.to_unit_range(batch["image"])
    if config.likelihood == "bernoulli":
        x = images.to_binary(pixel_keys, batch["image"])
    expected = bound(config, state.params, np.asarray(x, np.float64), np.asarray(noise, np.float64))
    ours = step(recipe, state, batch, key, wanted=lambda _, metrics: [metrics[name] for name in names])
    np.testing.assert_allclose(ours, expected, rtol=2e-5)


def test_free_bits_are_of_the_whole_batch_however_many_devices_share_it():
    """They are exceeded by the batch and not by each device's rows. Adam's first moment is 0.1 times the gradient."""
    state, batch = state_of(vae.recipe(GAUSSIAN, SHAPE), seed=2), batch_of(8)
    encoded = perceptron(state.params["encoder"], "code", batch["image"].reshape(8, -1) / 255)
    mean, logvar = encoded[:, 0], encoded[:, 2]
    kl = (np.exp(logvar) + mean**2 - 1 - logvar) / 2
    free = 0.99 * float(kl.mean())
    assert set(kl.reshape(4, 2).mean(1) > free) == {True, False}

    recipe = vae.recipe(replace(GAUSSIAN, free_bits=free), SHAPE)
    alone, shared = (
        step(recipe, state, batch, jax.random.key(1), n, lambda state, metrics: (state.opt, metrics)) for n in (1, 4)
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), alone, shared)


def test_gradients_are_finite_where_the_decoder_is_as_sure_as_can_be():
    recipe = vae.recipe(replace(GAUSSIAN, likelihood="discretized_logistic"), (1, 2, 3))
    state = state_of(recipe, seed=2)
    state.params["decoder"]["pixels"]["bias"][:] = np.tile([0.5, 0.5, 0.5, -60.0, 0.0, 60.0], 2)
    metrics = step(recipe, state, batch_of(4, (1, 2, 3)), jax.random.key(1))
    assert np.isfinite(list(metrics.values())).all()


def test_a_decoder_that_says_nothing_costs_log_2_per_pixel_with_any_number_of_samples():
    """p(x | z) = 2^-D for every z, and q = N(0, I) is the posterior: all weights are equal, and the bound is the evidence."""
    recipe = vae.recipe(VAE, SHAPE)
    state = state_of(recipe, seed=0, scale=0.0)
    for samples in (1, vae.AT_ONCE + 3):
        found = draw(lambda *a, n=samples: recipe.evaluate(*a, n), state, batch_of(5), jax.random.key(0))
        for name in ("nll", "negative_elbo"):
            np.testing.assert_allclose(found[name], np.full(5, 6 * np.log(2)), rtol=1e-6)


class LinearGaussian:
    """x = z W + b + noise of variance c, with orthogonal rows of W, as a VAE without hidden layers: its posterior is diagonal.

    p(x) = N(b, W'W + c I)   and   p(z | x) = N((x - b) W' / (a + c), c / (a + c)) with a = the squared lengths of the rows.
    """

    def __init__(self):
        self.config = replace(GAUSSIAN, network=replace(NETWORK, hidden=()), variance=0.25)
        self.recipe = vae.recipe(self.config, SHAPE)
        rng, c = np.random.default_rng(0), self.config.variance
        a, b = np.array([0.5, 0.1]), rng.normal(size=6) / 4
        W = np.linalg.qr(rng.normal(size=(6, 2)))[0].T * np.sqrt(a)[:, None]
        self.evidence = stats.multivariate_normal(b, W.T @ W + c * np.eye(6)).logpdf
        self.variance = c / (a + c)
        kernel = W.T / (a + c)
        bias = np.hstack([-(1 + b) @ kernel, np.log(self.variance)])  # the encoder sees (x + 1) / 2
        encoder = {"kernel": np.hstack([2 * kernel, 0 * kernel]), "bias": bias}
        params = {"encoder": {"code": encoder}, "decoder": {"pixels": {"kernel": W, "bias": b}}, "condition": {}}
        params = jax.tree.map(np.float32, params)
        self.state = state_of(self.recipe, 0)._replace(params=params, ema=params)

    def astray(self, shift, log_factor):
        """The state with another mean and variance in q than the posterior's, and the KL between the two."""
        bias = self.state.ema["encoder"]["code"]["bias"] + np.repeat([shift, log_factor], 2)
        code = {**self.state.ema["encoder"]["code"], "bias": bias.astype(np.float32)}
        kl = (np.exp(log_factor) + shift**2 / self.variance - 1 - log_factor).sum() / 2
        return self.state._replace(ema={**self.state.ema, "encoder": {"code": code}}), kl

    def estimate(self, state, batch, samples, devices=1):
        return draw(lambda *a: self.recipe.evaluate(*a, samples), state, batch, jax.random.key(3), devices)


@pytest.fixture(scope="module")
def linear():
    return LinearGaussian()


@pytest.mark.parametrize("samples", [1, 2 * vae.AT_ONCE, 2 * vae.AT_ONCE + 3])
def test_where_q_is_the_posterior_every_estimate_is_the_evidence_without_error(linear, samples):
    batch = batch_of(6)
    evidence = linear.evidence(batch["image"].reshape(6, -1) / 127.5 - 1)
    found = linear.estimate(linear.state, batch, samples)
    np.testing.assert_allclose(found["nll"], -evidence, rtol=1e-5)
    np.testing.assert_allclose(found["negative_elbo"], -evidence, rtol=1e-5)


def test_elsewhere_the_elbo_is_off_by_the_kl_to_the_posterior_and_more_samples_come_closer_to_the_evidence(linear):
    """One image in many rows; each row draws its own codes."""
    num, (state, kl) = 256, linear.astray(0.8, 1.0)
    batch = {name: column.repeat(num, axis=0) for name, column in batch_of(1).items()}
    evidence = linear.evidence(batch["image"][0].reshape(-1) / 127.5 - 1)
    few, many = (linear.estimate(state, batch, samples) for samples in (5, 505))

    def error(values):
        return 4 * values.std() / np.sqrt(num)

    for found in (few, many):
        assert abs(found["negative_elbo"].mean() + evidence - kl) < error(found["negative_elbo"])
        assert (found["nll"] <= found["negative_elbo"] + 1e-4).all()
    assert abs(many["nll"].mean() + evidence) < error(many["nll"])
    assert -evidence + error(few["nll"]) < few["nll"].mean() < few["negative_elbo"].mean() - error(few["nll"])


def test_an_estimate_is_the_same_on_8_devices(linear):
    state, batch = linear.astray(0.3, 0.6)[0], batch_of(16)
    alone, shared = (linear.estimate(state, batch, 7, devices) for devices in (1, 8))
    assert len(np.unique(alone["nll"])) == 16
    for name, values in alone.items():
        np.testing.assert_allclose(shared[name], values, rtol=1e-5)


def test_a_sample_is_the_mean_of_its_pixels_for_a_code_of_the_prior_and_labels_do_not_matter():
    recipe = vae.recipe(replace(GAUSSIAN, likelihood="bernoulli"), SHAPE)
    state, key = state_of(recipe, seed=2), jax.random.key(1)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(5))
    codes = np.asarray(jax.vmap(lambda key: jax.random.normal(key, (2,)))(keys), np.float64)
    expected = 2 * special.expit(perceptron(state.params["decoder"], "pixels", codes)) - 1
    for label in (0, 7):
        batch = {**batch_of(5), "label": np.full(5, label, np.int32)}
        np.testing.assert_allclose(draw(recipe.sample, state, batch, key).reshape(5, -1), expected, atol=1e-5)


@pytest.mark.parametrize("likelihood", ["gaussian", "discretized_logistic"])
def test_a_sample_of_grey_levels_is_where_they_lie_and_no_whiter_than_white(likelihood):
    recipe = vae.recipe(replace(GAUSSIAN, likelihood=likelihood), SHAPE)
    state, batch = state_of(recipe, seed=2, scale=2.0), batch_of(5)
    drawn = draw(recipe.sample, state, batch, jax.random.key(1))
    assert drawn.shape == (5, *SHAPE)
    assert (drawn.min(), drawn.max()) == (-1, 1)
    assert len(np.unique(drawn)) > 2


@pytest.mark.parametrize(
    ("likelihood", "code_length"), [("bernoulli", True), ("discretized_logistic", True), ("gaussian", False)]
)
def test_only_what_gives_pixels_probabilities_has_bits(likelihood, code_length):
    recipe = vae.recipe(replace(GAUSSIAN, likelihood=likelihood), SHAPE)
    found = draw(lambda *a: recipe.evaluate(*a, 2), state_of(recipe, seed=2), batch_of(5, seed=1), jax.random.key(1))
    assert ("bits_per_dim" in found) == code_length
    if code_length:
        np.testing.assert_allclose(found["bits_per_dim"], found["nll"] / (6 * np.log(2)), rtol=1e-6)


def test_the_kl_per_latent_dimension_adds_up_to_the_kl_and_is_that_of_the_moving_average():
    recipe = vae.recipe(GAUSSIAN, SHAPE)
    state, batch = state_of(recipe, seed=2), batch_of(6)
    x = batch["image"] / 127.5 - 1
    found = draw(recipe.statistics["KL per latent dimension"], state._replace(params=None), batch, jax.random.key(0))
    assert found.shape == (6, 2)
    np.testing.assert_allclose(found.sum(1).mean(), bound(GAUSSIAN, state.ema, x, np.zeros((1, 6, 2)))[2], rtol=1e-5)


def test_its_pictures_are_of_images_as_the_likelihood_sees_them():
    recipe, batch, key = vae.recipe(replace(GAUSSIAN, likelihood="bernoulli"), SHAPE), batch_of(4), jax.random.key(1)
    state = state_of(recipe, seed=2)
    h, w, c = SHAPE
    shapes = {"reconstructions": (h, 2 * w, c), "interpolation": (11, h, w, c), "manifold": (h, 4 * w, c)}
    shown = {name: draw(function, state, batch, key) for name, function in recipe.pictures.items()}
    assert {name: images.shape for name, images in shown.items()} == {name: (4, *s) for name, s in shapes.items()}
    before, after = np.split(shown["reconstructions"], 2, axis=2)
    assert set(before.flat) == {-1, 1}
    np.testing.assert_allclose(shown["interpolation"][:, 0], after, atol=1e-6)
    np.testing.assert_allclose(shown["interpolation"][:, -1], np.roll(after, -1, axis=0), atol=1e-6)
    assert all(np.abs(images).max() <= 1 for images in shown.values())


def test_only_codes_in_the_plane_have_a_map():
    assert "manifold" in vae.recipe(VAE, SHAPE).pictures
    assert "manifold" not in vae.recipe(replace(VAE, network=replace(NETWORK, latent_dim=3)), SHAPE).pictures


def test_the_default_network_is_the_iwae_papers():
    """Burda et al. 2016, arXiv:1509.00519, with one stochastic layer: 784-200-200-(50, 50) and 50-200-200-784."""
    params = jax.eval_shape(vae.recipe(vae.Config(), (28, 28, 1)).init, jax.random.key(0)).params
    encoder = 784 * 200 + 200 + 200 * 200 + 200 + 200 * 100 + 100
    decoder = 50 * 200 + 200 + 200 * 200 + 200 + 200 * 784 + 784
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == encoder + decoder


@pytest.mark.parametrize("shape", [(32, 32, 3), (64, 64, 3), (28, 28, 1)])
def test_the_preset_for_other_data_takes_images_of_their_usual_sizes(shape):
    vae.recipe(vae.PRESETS["*"], shape)


CONV = replace(NETWORK, architecture="conv", width=4, groups=2)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"network": replace(NETWORK, latent_dim=0)}, "--latent-dim"),
        ({"network": replace(NETWORK, latent_dim=-1)}, "--latent-dim"),
        ({"network": replace(NETWORK, architecture="map", multipliers=())}, "--multipliers"),
        ({"network": replace(NETWORK, hidden=(16, 0))}, "--hidden"),
        ({"network": replace(CONV, width=0)}, "--width"),
        ({"network": replace(CONV, multipliers=(1, 0))}, "--multipliers"),
        ({"network": replace(CONV, multipliers=(1, 1, 1, 1, 1))}, "8x8 do not fit 5 levels"),
        ({"network": replace(CONV, blocks=-1)}, "--blocks"),
        ({"network": replace(CONV, groups=0)}, "--groups"),
        ({"network": replace(CONV, groups=3)}, "groups=3 does not divide 4 channels"),
        ({"variance": 0.0}, "--variance"),
        ({"variance": float("nan")}, "--variance"),
        ({"beta": -1.0}, "--beta"),
        ({"free_bits": -0.1}, "--free-bits"),
        ({"iwae_samples": 0}, "--iwae-samples"),
        ({"iwae_samples": 5, "beta": 2.0}, "leave --regularizer, --beta and --free-bits"),
        ({"iwae_samples": 5, "free_bits": 0.1}, "leave --regularizer, --beta and --free-bits"),
        ({"iwae_samples": 5, "regularizer": "naive"}, "leave --regularizer, --beta and --free-bits"),
        ({"regularizer": "naive", "free_bits": 0.1}, "--regularizer kl"),
        ({"optimizer": replace(ADAM, learning_rate=0.0)}, "--learning-rate"),
        ({"optimizer": replace(ADAM, warmup_steps=-1)}, "--warmup-steps"),
        ({"optimizer": replace(ADAM, decay_steps=-1)}, "--decay-steps"),
        ({"optimizer": replace(ADAM, decay_steps=ADAM.warmup_steps)}, "--decay-steps"),
        ({"optimizer": replace(ADAM, clip_norm=0.0)}, "--clip-norm"),
        ({"optimizer": replace(ADAM, ema_decay=1.5)}, "--ema-decay"),
    ],
)
def test_settings_that_cannot_work_are_refused_in_words(change, said):
    for make, config, classes in ((vae.recipe, VAE, 0), (cvae.recipe, CVAE, 10)):
        with pytest.raises(UserError, match=said):
            make(replace(config, **change), (8, 8, 1), classes)


def test_colour_is_not_drawn_as_black_and_white_dots():
    with pytest.raises(
        UserError, match="--likelihood bernoulli .* 3 channels. Choose discretized_logistic or gaussian"
    ):
        vae.recipe(VAE, (8, 8, 3))
