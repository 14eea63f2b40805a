"""Each quick route equals the textbook's formula, in value and in gradient; fresh residual layers are the identity."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax.test_util import check_grads

from jaxgen.models import attention, layers, normalization
from tests.jaxgen.models.parameters import noised


def normal(seed, *shape):
    return jax.random.normal(jax.random.key(seed), shape)


def assert_same_value_and_gradients(f, g, *arguments, tolerance=1e-4):
    """f and g agree, and so do their vector-Jacobian products with one random cotangent."""
    value_f, pull_f = jax.vjp(f, *arguments)
    value_g, pull_g = jax.vjp(g, *arguments)
    np.testing.assert_allclose(value_f, value_g, rtol=tolerance, atol=tolerance)
    cotangent = normal(99, *value_f.shape)
    for gradient_f, gradient_g in zip(pull_f(cotangent), pull_g(cotangent), strict=True):
        scale = jnp.abs(gradient_g).max()
        np.testing.assert_allclose(gradient_f / scale, gradient_g / scale, atol=tolerance)


# Timestep embedding


def test_timestep_embedding_is_sines_then_cosines_of_geometric_frequencies():
    t, dim = np.array([0, 1, 17, 999]), 8
    frequencies = 10_000.0 ** (-np.arange(4) / 3)  # from 1 to exactly 1/10000
    angles = t[:, None] * frequencies
    expected = np.concatenate([np.sin(angles), np.cos(angles)], axis=1)
    np.testing.assert_allclose(layers.timestep_embedding(jnp.array(t), dim), expected, atol=1e-4)


def test_timestep_embedding_of_odd_dimension_ends_with_a_zero_column():
    embedding = layers.timestep_embedding(jnp.array([3, 4]), 9)
    np.testing.assert_array_equal(embedding[:, :8], layers.timestep_embedding(jnp.array([3, 4]), 8))
    np.testing.assert_array_equal(embedding[:, 8], 0.0)


def test_timestep_embedding_below_four_dimensions_is_refused():
    with pytest.raises(ValueError, match="got 3"):
        layers.timestep_embedding(jnp.array([0]), 3)


# Pooling


def test_pooling_undoes_unpooling_and_keeps_the_mean():
    x = normal(0, 2, 4, 6, 3)
    np.testing.assert_allclose(layers.pool(layers.unpool(x)), x, rtol=1e-6)
    np.testing.assert_array_equal(layers.unpool(x)[:, 2:4, 4:6], jnp.broadcast_to(x[:, 1:2, 2:3], (2, 2, 2, 3)))
    np.testing.assert_allclose(layers.pool(x).mean((1, 2)), x.mean((1, 2)), rtol=1e-5, atol=1e-6)


def test_pooled_convolution_is_the_mean_over_squares_of_the_textbook_convolution():
    def textbook(x, kernel):
        y = layers.convolve(x, kernel)
        return (y[:, ::2, ::2] + y[:, 1::2, ::2] + y[:, ::2, 1::2] + y[:, 1::2, 1::2]) / 4

    x, kernel = normal(0, 2, 6, 4, 3), normal(1, 3, 3, 3, 5)
    assert_same_value_and_gradients(layers.convolve_pool, textbook, x, kernel)


# Dropout


def test_dropout_mask_depends_on_its_own_key_only():
    keys = jax.random.split(jax.random.key(0), 4)
    x = jnp.ones((4, 3, 5, 2))
    together = layers.dropout(x, keys, 0.5)
    apart = jnp.concatenate([layers.dropout(x[i : i + 1], keys[i : i + 1], 0.5) for i in (3, 1, 0, 2)])
    np.testing.assert_array_equal(together[jnp.array([3, 1, 0, 2])], apart)


def test_dropout_keeps_the_mean_and_the_share_of_survivors():
    n, rate = 100_000, 0.3
    y = layers.dropout(jnp.ones((1, n)), jax.random.split(jax.random.key(0), 1), rate)
    standard_error = np.sqrt(rate * (1 - rate) / n)
    assert abs(float((y > 0).mean()) - (1 - rate)) < 4 * standard_error
    np.testing.assert_allclose(jnp.unique(y), [0.0, 1 / (1 - rate)], rtol=1e-6)


def test_dropout_without_keys_or_at_rate_zero_is_the_identity():
    x, keys = normal(0, 2, 7), jax.random.split(jax.random.key(0), 2)
    assert layers.dropout(x, None, 0.5) is x
    assert layers.dropout(x, keys, 0.0) is x


# Group normalisation


def textbook_group_norm(x, gamma, beta, groups, epsilon):
    b, h, w, c = x.shape
    y = x.reshape(b, h, w, groups, c // groups)
    mean = y.mean((1, 2, 4), keepdims=True)
    variance = jnp.square(y - mean).mean((1, 2, 4), keepdims=True)
    y = ((y - mean) / jnp.sqrt(variance + epsilon)).reshape(x.shape)
    return y * gamma[None, None, None, :] + beta[None, None, None, :]


@pytest.mark.parametrize("silu", [False, True])
@pytest.mark.parametrize("groups", [1, 4, 12])
def test_group_norm_by_channel_averages_equals_the_textbook(groups, silu):
    def ours(x, gamma, beta):
        return layers.GroupNorm(groups, silu=silu).apply({"params": {"scale": gamma, "bias": beta}}, x)

    def textbook(x, gamma, beta):
        y = textbook_group_norm(x, gamma, beta, groups, 1e-6)
        return nn.silu(y) if silu else y

    x = 3.0 * normal(0, 2, 6, 5, 12) + 1.5
    assert_same_value_and_gradients(ours, textbook, x, normal(1, 12), normal(2, 12))


@pytest.mark.slow
def test_gradients_written_out_can_be_differentiated_again():
    x, q = normal(0, 1, 2, 2, 4), normal(1, 1, 3, 1, 2)
    check_grads(
        lambda x: normalization.norm_silu(x, normal(2, 4), normal(3, 4), 2, 1e-6), (x,), 2, modes=["rev"], rtol=0.05
    )
    check_grads(lambda q: attention.attend(q, q[:, ::-1], q + 1.0), (q,), 2, modes=["rev"], rtol=0.05)


def test_group_norm_of_a_constant_image_is_its_shift():
    norm = layers.GroupNorm(2)
    x = jnp.full((1, 4, 4, 4), 1000.1)  # rounding could make the variance negative here
    y = norm.apply(norm.init(jax.random.key(0), x), x)
    assert jnp.isfinite(y).all()


def test_group_norm_takes_its_statistics_in_float32():
    x = 10.0 + normal(0, 1, 64, 64, 2)
    params = layers.GroupNorm(1).init(jax.random.key(0), x)
    exact = layers.GroupNorm(1).apply(params, x.astype(jnp.bfloat16).astype(jnp.float32))
    coarse = layers.GroupNorm(1, dtype=jnp.bfloat16).apply(params, x.astype(jnp.bfloat16))
    assert coarse.dtype == jnp.bfloat16
    np.testing.assert_allclose(coarse.astype(jnp.float32), exact, rtol=2**-8)  # one rounding, of the result


def test_groups_that_do_not_divide_the_channels_are_refused():
    with pytest.raises(ValueError, match="groups=32 does not divide 48 channels.*groups=16"):
        layers.GroupNorm(32).init(jax.random.key(0), jnp.zeros((1, 4, 4, 48)))


# Convolution


def test_upsampled_convolution_equals_convolution_of_the_upsampled_image():
    def textbook(x, kernel):
        return layers.convolve(x.repeat(2, axis=1).repeat(2, axis=2), kernel)

    assert_same_value_and_gradients(layers.upsample_convolve, textbook, normal(0, 2, 4, 6, 5), normal(1, 3, 3, 5, 7))


@pytest.mark.parametrize("stride", [1, 2])
def test_conv3x3_equals_linens_convolution_with_the_same_parameters(stride):
    x = normal(0, 2, 8, 6, 4)
    plain = nn.Conv(5, (3, 3), strides=stride)
    params = plain.init(jax.random.key(0), x)
    ours = layers.Conv3x3(5, stride=stride)
    shapes = jax.tree.map(jnp.shape, ours.init(jax.random.key(0), x))
    assert shapes == jax.tree.map(jnp.shape, params)
    np.testing.assert_allclose(ours.apply(params, x), plain.apply(params, x), atol=1e-5)


# Attention


def textbook_attention(q, k, v):
    q, k, v = (x.swapaxes(1, 2) for x in (q, k, v))  # heads before tokens
    return (jax.nn.softmax(q @ k.swapaxes(-1, -2) / jnp.sqrt(q.shape[-1]), axis=-1) @ v).swapaxes(1, 2)


def test_attention_normalised_after_the_product_equals_softmax_attention():
    q, k, v = (2.0 * normal(i, 2, 7, 3, 4) for i in range(3))
    assert_same_value_and_gradients(attention.attend, textbook_attention, q, k, v)


def test_attention_differentiated_one_image_at_a_time_equals_softmax_attention():
    q, k, v = (normal(i, 2, 1024, 1, 4) for i in range(3))  # enough weights for that
    assert_same_value_and_gradients(attention.attend, textbook_attention, q, k, v)


def test_attention_to_scores_beyond_the_range_of_exp_is_finite():
    q = k = 100.0 * jnp.eye(4)[None, :, None, :]
    v = normal(0, 1, 4, 1, 4)
    np.testing.assert_allclose(attention.attend(q, k, v), v, atol=1e-6)
    gradients = jax.grad(lambda *qkv: attention.attend(*qkv).sum(), argnums=(0, 1, 2))(q, k, v)
    assert all(jnp.isfinite(g).all() for g in gradients)


def test_self_attention_commutes_with_permutations_of_the_pixels():
    x = normal(0, 2, 4, 3, 8)
    layer = layers.SelfAttention(head_dim=4, groups=4)
    params = noised(layer.init(jax.random.key(0), x), 0, scale=0.3)
    order = jax.random.permutation(jax.random.key(1), 12)

    def shuffle(image):
        return image.reshape(2, 12, 8)[:, order].reshape(2, 4, 3, 8)

    np.testing.assert_allclose(layer.apply(params, shuffle(x)), shuffle(layer.apply(params, x)), atol=1e-5)


def test_head_dim_that_does_not_divide_the_channels_is_refused():
    with pytest.raises(ValueError, match="head_dim=5 does not divide 8 channels"):
        layers.SelfAttention(head_dim=5, groups=4).init(jax.random.key(0), jnp.zeros((1, 2, 2, 8)))


# Residual layers


def test_a_fresh_attention_layer_is_the_identity():
    x = normal(0, 1, 4, 4, 8)
    layer = layers.SelfAttention(groups=4)
    np.testing.assert_array_equal(layer.apply(layer.init(jax.random.key(0), x), x), x)


def test_a_fresh_residual_block_is_the_identity():
    x, embedding = normal(0, 1, 4, 4, 8), normal(1, 1, 16)
    block = layers.ResidualBlock(8, groups=4)
    np.testing.assert_array_equal(block.apply(block.init(jax.random.key(0), x, embedding), x, embedding), x)


def test_the_shortcut_of_a_fresh_residual_block_is_a_1x1_convolution():
    x, embedding = normal(0, 1, 4, 4, 8), normal(1, 1, 16)
    block = layers.ResidualBlock(12, groups=4)
    params = block.init(jax.random.key(0), x, embedding)
    kernel = params["params"]["shortcut"]["kernel"][None, None]
    np.testing.assert_allclose(block.apply(params, x, embedding), layers.convolve(x, kernel), atol=1e-5)


def test_a_residual_block_is_the_formula_of_its_docstring():
    x, embedding = normal(0, 2, 4, 6, 8), normal(1, 2, 16)
    block = layers.ResidualBlock(8, groups=4)
    params = noised(block.init(jax.random.key(0), x, embedding), 0, scale=0.3)
    p = params["params"]

    def conv(name, h):
        return nn.Conv(8, (3, 3)).apply({"params": p[name]}, h)

    def norm(name, h):
        return textbook_group_norm(h, p[name]["scale"], p[name]["bias"], 4, 1e-6)

    time = nn.silu(embedding) @ p["time"]["kernel"] + p["time"]["bias"][None, :]
    h = conv("conv1", nn.silu(norm("norm1", x))) + time[:, None, None, :]
    expected = x + conv("conv2", nn.silu(norm("norm2", h)))
    np.testing.assert_allclose(block.apply(params, x, embedding), expected, rtol=1e-4, atol=1e-4)
