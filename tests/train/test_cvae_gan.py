"""Algorithm 1 of Bao et al. 2017: which loss moves which network, and what an edited label does."""

from dataclasses import replace
from functools import partial

import chex
import jax
import numpy as np
import pytest

from jaxgen.models import gan as models
from tests.train.tiny import CVAE_GAN, SHAPE, batch_of, draw, state_of, step
from train import cvae_gan, gan, players
from train.common.checkpoint import fingerprint
from train.common.errors import UserError

CLASSES, ROWS = 3, 6
SGD = gan.Optimizer("sgd", learning_rate=1e-3, momentum=0.0)
NOTHING = replace(
    CVAE_GAN,
    kl_weight=0.0,
    reconstruction_weight=0.0,
    discriminator_matching=0.0,
    classifier_matching=0.0,
    optimizer=SGD,
)


def labelled(seed=0):
    return {**batch_of(ROWS, seed=seed), "label": (np.arange(ROWS) % CLASSES).astype(np.int32)}


def stepped(config, devices=1):
    recipe = cvae_gan.recipe(config, SHAPE, CLASSES)
    start = state_of(recipe, seed=1)
    after, metrics = step(recipe, start, labelled(), jax.random.key(2), devices, wanted=lambda s, m: (s, m))
    return start, after, metrics


def moved(config):
    before, after, _ = stepped(config)
    return {
        name for name in before.params if fingerprint(before.params[name], {}) != fingerprint(after.params[name], {})
    }


@pytest.mark.parametrize(
    ("weight", "players"),
    [
        ("kl_weight", {"encoder"}),
        ("reconstruction_weight", {"encoder", "generator"}),
        ("discriminator_matching", {"generator"}),
        ("classifier_matching", {"generator"}),
    ],
)
def test_each_term_moves_the_networks_that_the_algorithm_says(weight, players):
    assert moved(replace(NOTHING, **{weight: 1.0})) == players | {"discriminator", "classifier"}


def test_the_discriminator_and_the_classifier_learn_from_their_own_losses_alone():
    _, weighed, _ = stepped(replace(NOTHING, kl_weight=5.0, reconstruction_weight=3.0, discriminator_matching=2.0))
    _, alone, _ = stepped(NOTHING)
    for name in ("discriminator", "classifier"):
        chex.assert_trees_all_equal(weighed.params[name], alone.params[name])


def test_the_loss_is_the_weighted_sum_of_its_terms():
    config = replace(
        CVAE_GAN, kl_weight=2.0, reconstruction_weight=0.5, discriminator_matching=0.1, classifier_matching=0.2
    )
    _, _, m = stepped(config)
    expected = 2 * m["kl"] + 0.5 * m["error"] + 0.1 * m["matching_D"] + 0.2 * m["matching_C"]
    np.testing.assert_allclose(m["loss"], expected, rtol=1e-5)


def test_each_term_is_the_papers_of_what_the_networks_say():
    """Bao et al. 2017, eq. 1, 5 to 8 and Algorithm 1, from the networks' outputs; the moving averages begin at nothing."""
    before, after, metrics = stepped(replace(NOTHING, optimizer=replace(SGD, learning_rate=1.0)))
    generator, conditional = players.networks(NOTHING.network, SHAPE, CLASSES)
    trunk, params, batch = conditional.trunk, before.params, labelled()
    x, y = batch["image"] / np.float32(127.5) - 1, batch["label"]

    def apply(network, name, *inputs):
        return network.apply({"params": params[name]}, *inputs)

    keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(2), np.arange(ROWS))
    eps, z_p = (
        jax.vmap(lambda key: jax.random.normal(key, generator.noise_shape))(k)
        for k in jax.vmap(jax.random.split, out_axes=1)(keys)
    )
    mean, logvar = apply(models.Encoder(trunk, generator.noise_shape, CLASSES), "encoder", x, y)
    x_f, x_p = (apply(generator, "generator", z, y) for z in (mean + np.exp(logvar / 2) * eps, z_p))
    f_D = [apply(models.Discriminator(trunk), "discriminator", images)[1] for images in (x, x_f, x_p)]
    f_C = [apply(models.Classifier(trunk, CLASSES), "classifier", images)[1] for images in (x, x_f, x_p)]

    def half_square(a, b):
        return ((a - b) ** 2).reshape(len(a), -1).sum(axis=1) / 2

    of_class = [[f[y == label].mean(axis=0) for label in range(CLASSES)] for f in (f_C[0], f_C[2])]
    share = 1 - NOTHING.mean_decay
    expected = {
        "kl": ((np.exp(logvar) + mean**2 - 1 - logvar) / 2).sum(axis=1).mean(),
        "error": (half_square(x, x_f) + half_square(f_D[0], f_D[1]) + half_square(f_C[0], f_C[1])).mean(),
        "matching_D": share**2 * ((f_D[0].mean(axis=0) - f_D[2].mean(axis=0)) ** 2).sum() / 2,
        "matching_C": share**2 * ((np.array(of_class[0]) - np.array(of_class[1])) ** 2).sum() / 2,
    }
    for name, value in expected.items():
        np.testing.assert_allclose(metrics[name], value, rtol=1e-4, err_msg=name)

    def discriminator_loss(own):
        """-log D(x) - log(1 - D(x_f)) - log(1 - D(x_p))"""
        score = [models.Discriminator(trunk).apply({"params": own}, images)[0] for images in (x, x_f, x_p)]
        return (jax.nn.softplus(-score[0]) + jax.nn.softplus(score[1]) + jax.nn.softplus(score[2])).mean()

    moved = jax.tree.map(lambda a, b: a - b, before.params["discriminator"], after.params["discriminator"])
    gradient = jax.grad(discriminator_loss)(params["discriminator"])
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-5), moved, gradient)


def test_mean_features_are_moving_averages_and_a_class_that_is_not_there_keeps_its_own():
    recipe = cvae_gan.recipe(CVAE_GAN, SHAPE, CLASSES + 1)  # no image is of the last class
    state = state_of(recipe, seed=1)
    ones = jax.tree.map(np.ones_like, {name: state.opt[name] for name in ("real_means", "fake_means")})
    state = state._replace(opt={**state.opt, **ones})
    after = step(recipe, state, labelled(), jax.random.key(2), wanted=lambda s, m: s.opt["real_means"])
    x = labelled()["image"].reshape(ROWS, -1) / 127.5 - 1

    def features(name):
        dense = state.params[name]["trunk"]["hidden"]["dense0"]
        h = x @ dense["kernel"] + dense["bias"]
        return np.where(h > 0, h, 0.2 * h)

    np.testing.assert_allclose(after["D"], 0.9 + 0.1 * features("discriminator").mean(0), rtol=1e-4)
    f_C = features("classifier")
    of_class = [f_C[c::CLASSES].mean(0) for c in range(CLASSES)]
    np.testing.assert_allclose(after["C"][:CLASSES], 0.9 + 0.1 * np.array(of_class), rtol=1e-4)
    np.testing.assert_array_equal(after["C"][CLASSES], 1)


@pytest.mark.parametrize("devices", [2, 3])
def test_several_devices_take_the_step_of_one(devices):
    config = replace(CVAE_GAN, discriminator_matching=0.1, classifier_matching=0.1, optimizer=SGD)
    _, alone, metrics = stepped(config)
    _, together, others = stepped(config, devices=devices)
    for name in metrics:
        np.testing.assert_allclose(others[name], metrics[name], rtol=1e-4, err_msg=name)
    chex.assert_trees_all_close(together.params, alone.params, rtol=1e-4, atol=1e-6)


def test_an_image_is_shown_with_its_code_decoded_as_every_class():
    recipe = cvae_gan.recipe(CVAE_GAN, SHAPE, CLASSES)
    state, batch = state_of(recipe, seed=1), labelled()
    h, w, c = SHAPE
    shown = draw(recipe.pictures["edited"], state, batch, jax.random.key(0)).reshape(ROWS, h, 1 + CLASSES, w, c)
    np.testing.assert_allclose(shown[:, :, 0], batch["image"] / 127.5 - 1, atol=1e-6)
    reconstructed = draw(recipe.pictures["reconstructions"], state, batch, jax.random.key(0))[:, :, w:]
    for i, label in enumerate(batch["label"]):
        np.testing.assert_allclose(shown[i, :, 1 + label], reconstructed[i], atol=1e-5)
        assert np.abs(shown[i, :, 1 + (label + 1) % CLASSES] - reconstructed[i]).max() > 1e-3


@pytest.mark.parametrize("num_classes", [0, 1])
def test_data_without_labels_are_refused_in_words(num_classes):
    with pytest.raises(UserError, match=f"labels of at least 2 classes, and digits has {num_classes}: .*train.gan"):
        cvae_gan.recipe(CVAE_GAN, SHAPE, num_classes)


@pytest.mark.parametrize("architecture", ["plain", "dcgan"])
def test_images_that_the_networks_do_not_take_are_refused_in_words(architecture):
    network = replace(CVAE_GAN.network, architecture=architecture, width=4, multipliers=(1, 2))
    with pytest.raises(UserError, match="7x7 do not fit 2 levels"):
        cvae_gan.recipe(replace(CVAE_GAN, network=network), (7, 7, 1), CLASSES)


def test_weights_below_zero_are_refused_in_words():
    with pytest.raises(UserError, match="--kl-weight must be at least 0"):
        cvae_gan.recipe(replace(CVAE_GAN, kl_weight=-1.0), SHAPE, CLASSES)
