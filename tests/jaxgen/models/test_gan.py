"""What generators and discriminators promise a game, whatever they are made of."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.models import gan

SHAPE, CLASSES = (8, 12, 2), 3
CONV = {"width": 4, "multipliers": (1, 2, 1)}
GENERATORS = {
    "plain": partial(gan.Generator, SHAPE, **CONV),
    "dcgan": partial(gan.DCGANGenerator, SHAPE, latent_dim=5, groups=2, **CONV),
    "residual": partial(gan.ResidualGenerator, SHAPE, latent_dim=5, groups=2, **CONV),
    "mlp": partial(gan.MLPGenerator, SHAPE, latent_dim=5, hidden=(6, 7)),
}
TRUNKS = {
    "plain": gan.Trunk(**CONV),
    "dcgan": gan.DCGANTrunk(**CONV),
    "residual": gan.ResidualTrunk(**CONV),
    "mlp": gan.MLPTrunk((6, 7)),
    "waves": gan.MLPTrunk((6, 7), frequencies=3),
}
LABELS = jnp.array([0, 2, 1, 0])


def normal(seed, *shape):
    return jax.random.normal(jax.random.key(seed), shape)


def made(module, *arguments):
    """The module with fresh parameters, as a function."""
    params = jax.jit(module.init)(jax.random.key(0), *arguments)
    return jax.jit(partial(module.apply, params))


@pytest.mark.parametrize("name", GENERATORS)
def test_noise_becomes_an_image_each_from_its_own(name):
    generator = GENERATORS[name]()
    z = normal(1, 4, *generator.noise_shape)
    generate = made(generator, z)
    images = generate(z)
    assert images.shape == (4, *SHAPE)
    assert np.abs(images).max() <= 1 or name == "mlp"
    np.testing.assert_allclose(generate(z.at[1:].set(0))[0], images[0], rtol=1e-4, atol=1e-5)
    assert np.abs(images[0] - images[1]).max() > 1e-2


@pytest.mark.parametrize("name", GENERATORS)
def test_a_conditional_generator_makes_other_images_of_other_labels(name):
    generator = GENERATORS[name](num_classes=CLASSES)
    z = normal(1, 4, *generator.noise_shape)
    generate = made(generator, z, LABELS)
    images, others = generate(z, LABELS), generate(z, (LABELS + 1) % CLASSES)
    assert (np.abs(images - others).max(axis=(1, 2, 3)) > 1e-3).all()


def test_the_plain_generators_noise_is_a_small_picture_and_no_two_doublings_follow_each_other():
    generator = GENERATORS["plain"]()
    assert generator.noise_shape == (2, 3, 1)
    table = jax.eval_shape(generator.init, jax.random.key(0), jnp.zeros((1, 2, 3, 1)))["params"]
    order = ("widen", "peak", "unpool1", "conv1", "unpool0", "conv0", "image")
    assert set(table) == set(order)
    assert [table[name]["kernel"].shape[-1] for name in order] == [2, 4, 8, 8, 4, 4, SHAPE[-1]]


@pytest.mark.parametrize("name", TRUNKS)
def test_a_score_depends_on_its_own_image_and_on_nothing_else(name):
    x = normal(1, 4, *SHAPE)
    score = made(gan.Discriminator(TRUNKS[name]), x)
    scores, features = score(x)
    assert scores.shape == (4,)
    assert features.shape[0] == 4
    np.testing.assert_allclose(score(x.at[1:].set(9))[0][0], scores[0], rtol=1e-4)
    slope = jax.jacobian(lambda x: score(x)[0])(x)  # of each score by each image
    mixed = slope * (1 - jnp.eye(4)).reshape(4, 4, 1, 1, 1)
    assert np.abs(mixed).max() == 0
    assert (np.abs(slope).sum((2, 3, 4)).diagonal() > 0).all()


def test_waves_stand_beside_what_the_fully_connected_trunk_sees():
    module, x = gan.MLPTrunk((6, 7), frequencies=3), normal(1, 4, 2)
    params = module.init(jax.random.key(0), x)["params"]
    phases = x @ params["frequencies"]
    seen = jnp.concatenate([x, jnp.cos(phases), jnp.sin(phases)], axis=1)
    plain = gan.MLPTrunk((6, 7)).apply({"params": {"hidden": params["hidden"]}}, seen)
    np.testing.assert_allclose(module.apply({"params": params}, x), plain, rtol=1e-4, atol=1e-5)


def test_a_label_adds_to_the_score_what_is_linear_in_the_features():
    """score_y = w . h + b + e_y . h: between two labels it differs by (e_y - e_y') . h."""
    x, module = normal(1, 4, *SHAPE), gan.Discriminator(TRUNKS["dcgan"], CLASSES)
    params = module.init(jax.random.key(0), x, LABELS)
    scores, h = module.apply(params, x, LABELS)
    others, _ = module.apply(params, x, LABELS * 0)
    e = params["params"]["label"]["embedding"]
    np.testing.assert_allclose(scores - others, ((e[LABELS] - e[:1]) * h).sum(1), rtol=1e-3, atol=1e-5)


def test_logits_of_a_classifier_are_linear_in_its_features():
    x = normal(1, 4, *SHAPE)
    module = gan.Classifier(TRUNKS["plain"], CLASSES)
    params = module.init(jax.random.key(0), x)
    logits, h = module.apply(params, x)
    expected = h @ params["params"]["logits"]["kernel"] + params["params"]["logits"]["bias"][None]
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)


def test_an_encoder_gives_a_mean_and_a_logvar_of_the_noise_and_sees_the_label():
    x, module = normal(1, 4, *SHAPE), gan.Encoder(TRUNKS["dcgan"], (2, 3, 1), CLASSES)
    encode = made(module, x, LABELS)
    mean, logvar = encode(x, LABELS)
    assert mean.shape == logvar.shape == (4, 2, 3, 1)
    assert np.abs(mean - logvar).max() > 1e-2
    assert np.abs(encode(x, (LABELS + 1) % CLASSES)[0] - mean).max() > 1e-3


@pytest.mark.parametrize("name", ["plain", "dcgan", "residual"])
def test_images_that_cannot_be_halved_so_often_are_refused(name):
    generator = GENERATORS[name]()
    with pytest.raises(ValueError, match="10x12 .*multiples of 4"):
        generator.clone(shape=(10, 12, 1)).init(jax.random.key(0), jnp.zeros((1, *generator.noise_shape)))
    with pytest.raises(ValueError, match="10x12 .*multiples of 4"):
        gan.Discriminator(TRUNKS[name]).init(jax.random.key(0), jnp.zeros((1, 10, 12, 1)))


def test_noise_of_another_size_is_refused():
    with pytest.raises(ValueError, match=r"\(b, \*\(2, 3, 1\)\); got \(4, 3, 3, 1\)"):
        GENERATORS["plain"]().init(jax.random.key(0), jnp.zeros((4, 3, 3, 1)))


def test_groups_that_do_not_divide_the_channels_are_refused():
    generator = gan.DCGANGenerator(SHAPE, width=4, groups=3)
    with pytest.raises(ValueError, match="groups=3 does not divide"):
        generator.init(jax.random.key(0), jnp.zeros((1, 64)))
