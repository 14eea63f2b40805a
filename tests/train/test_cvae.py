from dataclasses import replace

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special, stats

from tests.train.test_vae import LinearGaussian
from tests.train.tiny import CVAE, NETWORK, SHAPE, batch_of, draw, perceptron, state_of, step
from train import cvae, vae
from train.common import gallery
from train.common.errors import UserError

CLASSES = 3
CONFIG = replace(CVAE, network=replace(NETWORK, hidden=(5,)), likelihood="gaussian")
INPUTS = replace(CONFIG, labels="inputs")


def labelled(num):
    return {**batch_of(num), "label": (np.arange(num) % CLASSES).astype(np.int32)}


def encoded(state, batch):
    """Mean and log-variance of q, float64."""
    pixels = batch["image"].reshape(len(batch["image"]), -1) / 255
    return np.split(perceptron(state.params["encoder"], "code", pixels), 2, axis=1)


def noise_of(key, num):
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(num))
    return np.asarray(jax.vmap(lambda key: jax.random.normal(key, (2,)))(keys), np.float64)


def test_before_training_it_is_the_vae():
    """The same parameters, and all class means are 0."""

    def both(key):
        return cvae.recipe(CONFIG, SHAPE, CLASSES).init(key).params, vae.recipe(CONFIG, SHAPE).init(key).params

    ours, theirs = jax.jit(both)(jax.random.key(0))
    np.testing.assert_array_equal(ours.pop("condition")["class_mean"], np.zeros((CLASSES, 2)))
    assert theirs.pop("condition") == {}
    chex.assert_trees_all_equal(ours, theirs)


def test_the_kl_is_to_the_classes_own_prior_and_pulls_each_class_mean_towards_its_codes():
    """d KL / d mu_y is the sum of mu_y - m over the images of class y; Adam's first moment is 0.1 times the gradient."""
    recipe, batch = cvae.recipe(CONFIG, SHAPE, CLASSES), labelled(7)
    state = state_of(recipe, seed=2)
    mean, logvar = encoded(state, batch)
    away = state.params["condition"]["class_mean"][batch["label"]] - mean
    kl = (np.exp(logvar) + away**2 - 1 - logvar).sum(1).mean() / 2
    gradient = [away[batch["label"] == label].sum(0) / 7 for label in range(CLASSES)]

    found = step(
        recipe, state, batch, jax.random.key(0), wanted=lambda state, metrics: (metrics["kl"], state.opt[1][0].mu)
    )
    np.testing.assert_allclose(found[0], kl, rtol=1e-5)
    np.testing.assert_allclose(found[1]["condition"]["class_mean"], 0.1 * np.array(gradient), rtol=1e-4, atol=1e-6)


def test_an_estimate_is_the_evidence_of_the_image_in_its_own_class():
    """Of `LinearGaussian` with a prior N(mu_1, I), where q is the posterior of class 1: p(x | y = 1) = N(b + mu_1 W, W'W + c I)."""
    linear, label = LinearGaussian(), 1
    config = replace(CONFIG, network=linear.config.network, variance=linear.config.variance)
    recipe = cvae.recipe(config, SHAPE, CLASSES)
    means = np.array([[7.0, -7.0], [0.6, -0.4], [9.0, 9.0]], np.float32)
    code, pixels = linear.state.ema["encoder"]["code"], linear.state.ema["decoder"]["pixels"]
    bias = code["bias"] + np.append(means[label] * linear.variance, [0, 0])
    encoder = {"code": {**code, "bias": bias.astype(np.float32)}}
    state = linear.state._replace(ema={**linear.state.ema, "encoder": encoder, "condition": {"class_mean": means}})

    batch = {**batch_of(6), "label": np.full(6, label, np.int32)}
    W, c = pixels["kernel"].astype(np.float64), config.variance
    evidence = stats.multivariate_normal(pixels["bias"] + means[label] @ W, W.T @ W + c * np.eye(6))
    expected = -evidence.logpdf(batch["image"].reshape(6, -1) / 127.5 - 1)
    found = draw(lambda *a: recipe.evaluate(*a, 3), state, batch, jax.random.key(0))
    np.testing.assert_allclose(found["nll"], expected, rtol=1e-5)
    np.testing.assert_allclose(found["negative_elbo"], expected, rtol=1e-5)


def test_a_label_is_drawn_by_decoding_the_same_noise_around_its_class_mean():
    recipe = cvae.recipe(replace(CONFIG, likelihood="bernoulli"), SHAPE, CLASSES)
    batch, key = labelled(4), jax.random.key(1)
    state = state_of(recipe, seed=2)
    codes = state.params["condition"]["class_mean"][batch["label"]] + noise_of(key, 4)
    expected = 2 * special.expit(perceptron(state.params["decoder"], "pixels", codes)) - 1
    np.testing.assert_allclose(draw(recipe.sample, state, batch, key).reshape(4, -1), expected, atol=1e-5)


def test_the_label_as_an_input_is_seen_by_encoder_and_decoder_and_not_by_the_prior():
    recipe, batch, key = cvae.recipe(INPUTS, SHAPE, CLASSES), labelled(4), jax.random.key(1)
    state = state_of(recipe, seed=2)
    assert state.params["condition"] == {}
    one_hot = np.eye(CLASSES)[batch["label"]]

    seen = np.hstack([batch["image"].reshape(4, -1) / 255, one_hot])
    mean, logvar = np.split(perceptron(state.params["encoder"], "code", seen), 2, axis=1)
    kl = (np.exp(logvar) + mean**2 - 1 - logvar).sum(1) / 2
    spent = draw(recipe.statistics["KL per latent dimension"], state, batch, key)
    np.testing.assert_allclose(spent.sum(1), kl, rtol=1e-5)

    expected = perceptron(state.params["decoder"], "pixels", np.hstack([noise_of(key, 4), one_hot]))
    np.testing.assert_allclose(draw(recipe.sample, state, batch, key).reshape(4, -1), expected, atol=1e-5)


@pytest.mark.parametrize("config", [CONFIG, INPUTS], ids=lambda config: config.labels)
def test_there_is_no_one_map_of_codes_that_mean_another_image_in_each_class(config):
    assert "manifold" in vae.recipe(CONFIG, SHAPE).pictures
    assert list(cvae.recipe(config, SHAPE, CLASSES).pictures) == ["classes", "reconstructions", "interpolation"]


@pytest.mark.parametrize("config", [CONFIG, INPUTS], ids=lambda config: config.labels)
def test_the_classes_are_shown_side_by_side_from_the_same_noise(config):
    recipe, batch, key = cvae.recipe(config, SHAPE, CLASSES), labelled(2), jax.random.key(1)
    state = state_of(recipe, seed=2)
    assert next(iter(recipe.pictures)) == "classes"
    h, w, c = SHAPE
    shown = draw(recipe.pictures["classes"], state, batch, key).reshape(2, h, CLASSES, w, c)
    sample = gallery.drawer(recipe.sample, jax.devices()[:1])
    for label in range(CLASSES):
        alone = sample(state, {**batch, "label": np.full(2, label, np.int32)}, key)
        np.testing.assert_allclose(shown[:, :, label], alone, atol=1e-6)
    assert np.abs(np.diff(shown, axis=2)).max(axis=(1, 2, 3, 4)).min() > 1e-3


@pytest.mark.parametrize("labels", ["prior", "inputs"])
@pytest.mark.parametrize("num_classes", [0, 1])
def test_data_without_labels_are_refused_in_words(labels, num_classes):
    with pytest.raises(UserError, match=f"labels of at least 2 classes, and digits has {num_classes}: .*train.vae"):
        cvae.recipe(replace(CONFIG, labels=labels), SHAPE, num_classes)


@pytest.mark.parametrize("shape", [(32, 32, 3), (64, 64, 3), (28, 28, 1)])
def test_the_preset_for_other_data_takes_images_of_their_usual_sizes(shape):
    cvae.recipe(cvae.PRESETS["*"], shape, CLASSES)
