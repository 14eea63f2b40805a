from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.train.tiny import ADAM, AE, NETWORK, SHAPE, batch_of, draw, perceptron, state_of, step
from train import ae
from train.common.errors import UserError

CONFIG = replace(AE, network=replace(NETWORK, hidden=(5,)))


def images_and_codes(state, batch):
    x = (batch["image"] / 127.5 - 1).reshape(len(batch["image"]), -1)
    return x, perceptron(state.params["encoder"], "code", (x + 1) / 2)


def test_the_loss_is_the_squared_error_per_pixel_computed_in_float64():
    recipe, batch = ae.recipe(CONFIG, SHAPE), batch_of(6)
    state = state_of(recipe, seed=2)
    x, codes = images_and_codes(state, batch)
    expected = ((x - perceptron(state.params["decoder"], "pixels", codes)) ** 2).mean()
    ours = step(recipe, state, batch, jax.random.key(0), wanted=lambda _, metrics: metrics["loss"])
    np.testing.assert_allclose(ours, expected, rtol=1e-5)


def test_reconstructions_are_of_the_moving_average_and_samples_decode_standard_normal_codes():
    recipe, batch, key = ae.recipe(CONFIG, SHAPE), batch_of(4), jax.random.key(1)
    state = state_of(recipe, seed=2)
    x, codes = images_and_codes(state, batch)
    decoder = state.params["decoder"]
    state = state._replace(params=None)

    shown = draw(recipe.pictures["reconstructions"], state, batch, key)
    assert shown.shape == (4, 2, 6, 1)
    np.testing.assert_allclose(shown[:, :, :3].reshape(4, -1), x, atol=1e-6)
    np.testing.assert_allclose(shown[:, :, 3:].reshape(4, -1), perceptron(decoder, "pixels", codes), atol=1e-5)

    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(4))
    noise = np.asarray(jax.vmap(lambda key: jax.random.normal(key, (2,)))(keys), np.float64)
    sampled = draw(recipe.sample, state, batch, key)
    np.testing.assert_allclose(sampled.reshape(4, -1), perceptron(decoder, "pixels", noise), atol=1e-5)


def test_a_linear_autoencoder_with_as_many_dimensions_as_pixels_can_lose_nothing():
    """With (x + 1) / 2 as the code of x: loss 0, and no gradient."""
    recipe = ae.recipe(replace(AE, network=replace(NETWORK, hidden=(), latent_dim=6)), SHAPE)
    kernel, bias = np.eye(6, dtype=np.float32), np.ones(6, np.float32)
    encoder, decoder = {"kernel": kernel, "bias": 0 * bias}, {"kernel": 2 * kernel, "bias": -bias}
    params = {"encoder": {"code": encoder}, "decoder": {"pixels": decoder}}
    metrics = step(recipe, state_of(recipe, 0)._replace(params=params), batch_of(3), jax.random.key(0))
    assert metrics["loss"] < 1e-12
    assert metrics["grad_norm"] < 1e-6


def test_it_has_no_likelihood_to_evaluate_and_only_codes_in_the_plane_have_a_map():
    recipe = ae.recipe(CONFIG, SHAPE)
    assert recipe.evaluate is None
    assert "manifold" in recipe.pictures
    assert "manifold" not in ae.recipe(replace(AE, network=replace(NETWORK, latent_dim=3)), SHAPE).pictures


@pytest.mark.parametrize("shape", [(32, 32, 3), (64, 64, 3), (28, 28, 1)])
def test_the_preset_for_other_data_takes_images_of_their_usual_sizes(shape):
    ae.recipe(ae.PRESETS["*"], shape)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"network": replace(NETWORK, latent_dim=0)}, "--latent-dim"),
        ({"network": replace(NETWORK, architecture="conv", groups=3)}, "groups=3 does not divide 32 channels"),
        ({"network": replace(NETWORK, architecture="conv", multipliers=(1,) * 5)}, "8x8 do not fit 5 levels"),
        ({"optimizer": replace(ADAM, learning_rate=0.0)}, "--learning-rate"),
    ],
)
def test_settings_that_cannot_work_are_refused_in_words(change, said):
    with pytest.raises(UserError, match=said):
        ae.recipe(replace(AE, **change), (8, 8, 1))
