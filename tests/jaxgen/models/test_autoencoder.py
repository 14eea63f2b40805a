"""Encoders and decoders have the sizes that are published, take images of any shape that fits, and see their context."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from jaxgen.models.autoencoder import (
    ConvDecoder,
    ConvEncoder,
    MapDecoder,
    MapEncoder,
    MLPDecoder,
    MLPEncoder,
    ResidualPair,
)
from jaxgen.models.layers import smallest_size


def normal(seed, *shape):
    return jax.random.normal(jax.random.key(seed), shape)


def networks(kind, shape, code_dim):
    if kind == "mlp":
        return MLPEncoder(code_dim, (7, 5)), MLPDecoder(shape, (5, 7))
    options = {"width": 4, "multipliers": (1, 2), "groups": 2}
    return ConvEncoder(code_dim, **options), ConvDecoder(shape, **options)


def count(network, *arguments):
    params = jax.eval_shape(network.init, jax.random.key(0), *arguments)
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def shape_of(network, *arguments):
    return jax.eval_shape(lambda *a: network.init_with_output(jax.random.key(0), *a)[0], *arguments).shape


def test_the_defaults_have_the_parameters_of_the_iwae_papers_network():
    """Burda et al. 2016, arXiv:1509.00519, one stochastic layer: 784-200-200-(50, 50) and 50-200-200-784."""
    encoder = 784 * 200 + 200 + 200 * 200 + 200 + 200 * 100 + 100
    decoder = 50 * 200 + 200 + 200 * 200 + 200 + 200 * 784 + 784
    assert count(MLPEncoder(100), jnp.zeros((1, 28, 28, 1))) == encoder
    assert count(MLPDecoder((28, 28, 1)), jnp.zeros((1, 50))) == decoder


@pytest.mark.parametrize("kind", ["mlp", "conv"])
@pytest.mark.parametrize("shape", [(8, 8, 1), (8, 12, 3), (2, 6, 3)])
@pytest.mark.parametrize("context", [None, jnp.zeros((5, 4))])
def test_an_encoder_makes_codes_of_images_and_a_decoder_images_of_codes(kind, shape, context):
    encoder, decoder = networks(kind, shape, 3)
    assert shape_of(encoder, jnp.zeros((5, *shape)), context) == (5, 3)
    assert shape_of(decoder, jnp.zeros((5, 2)), context) == (5, *shape)


@pytest.mark.parametrize("kind", ["mlp", "conv"])
def test_a_context_changes_what_comes_out_and_only_of_its_own_row(kind):
    encoder, decoder = networks(kind, (4, 4, 1), 3)
    contexts = [jnp.eye(2)[jnp.array(classes)] for classes in ([0, 0, 0], [0, 1, 0])]
    for network, x in ((encoder, normal(0, 3, 4, 4, 1)), (decoder, normal(1, 3, 2))):
        output = jax.jit(lambda x, context, n=network: n.init_with_output(jax.random.key(2), x, context)[0])
        before, after = (output(x, context).reshape(3, -1) for context in contexts)
        assert np.any(before != after, axis=1).tolist() == [False, True, False]


@pytest.mark.parametrize("context", [None, jnp.ones((5, 4))])
def test_a_map_encoder_makes_small_images_and_a_map_decoder_images_of_them(context):
    options = {"channels": 3, "width": 4, "multipliers": (1, 2), "groups": 2}
    mean_and_logvar = 2 * (4 * 6 * 3)
    assert shape_of(MapEncoder(mean_and_logvar, **options), jnp.zeros((5, 8, 12, 1)), context) == (5, mean_and_logvar)
    assert shape_of(MapDecoder((8, 12, 1), **options), jnp.zeros((5, 4 * 6 * 3)), context) == (5, 8, 12, 1)


def test_a_code_of_a_map_encoder_is_a_whole_small_image_and_then_the_next():
    encoder, x = MapEncoder(2 * (4 * 4 * 3), 3, width=4, multipliers=(1, 2), groups=2), normal(0, 2, 8, 8, 1)
    code, variables = jax.jit(encoder.init_with_output)(jax.random.key(1), x)
    kernel = variables["params"]["code"]["kernel"]
    variables["params"]["code"]["kernel"] = kernel.at[:, 3:].set(0)  # of the second image nothing is left
    first, second = jnp.split(encoder.apply(variables, x), 2, axis=1)
    np.testing.assert_allclose(first, code[:, : 4 * 4 * 3], rtol=1e-5, atol=1e-6)
    assert (code[:, 4 * 4 * 3 :] != 0).all()
    assert (second == 0).all()


@pytest.mark.parametrize(("activation", "formula"), [(nn.silu, lambda h: h / (1 + np.exp(-h))), (jnp.tanh, np.tanh)])
def test_a_fully_connected_network_is_its_formula_and_an_encoder_sees_black_as_0(activation, formula):
    encoder, decoder = MLPEncoder(3, (7, 5), activation), MLPDecoder((2, 3, 1), (7, 5), activation)
    x, z = normal(0, 2, 2, 3, 1), normal(1, 2, 6)
    for network, argument, h, last in ((encoder, x, (x.reshape(2, 6) + 1) / 2, "code"), (decoder, z, z, "pixels")):
        out, params = jax.jit(network.init_with_output)(jax.random.key(1), argument)
        params = params["params"]
        for layer in (params["hidden"]["dense0"], params["hidden"]["dense1"]):
            h = formula(h @ layer["kernel"])  # fresh biases are 0
        np.testing.assert_allclose(out.reshape(2, -1), h @ params[last]["kernel"], atol=1e-5)


def test_without_hidden_layers_both_networks_are_affine():
    """f(x + y) + f(0) = f(x) + f(y)."""
    for network, shape in ((MLPEncoder(3, ()), (2, 2, 1)), (MLPDecoder((2, 2, 1), ()), (3,))):
        x, y = normal(0, 4, *shape), normal(1, 4, *shape)
        params = network.init(jax.random.key(2), x)
        at = np.split(network.apply(params, jnp.concatenate([x + y, jnp.zeros_like(x), x, y])), 4)
        np.testing.assert_allclose(at[0] + at[1], at[2] + at[3], atol=1e-5)


def test_a_fresh_residual_pair_is_the_identity():
    pair, x = ResidualPair(groups=2), normal(0, 2, 3, 5, 4)
    np.testing.assert_array_equal(jax.jit(pair.init_with_output)(jax.random.key(1), x)[0], x)


def test_a_code_depends_on_every_pixel_and_every_pixel_on_the_code():
    """Through a dense layer that sees the whole of the smallest map."""
    encoder, decoder = networks("conv", (8, 4, 1), 3)

    def encode(x):
        return encoder.init_with_output(jax.random.key(2), x)[0].sum()

    assert (jax.jit(jax.grad(encode))(normal(0, 1, 8, 4, 1)) != 0).all()
    one, other = jax.jit(decoder.init_with_output)(jax.random.key(2), normal(1, 2, 3))[0]
    assert (one != other).all()


@pytest.mark.parametrize("size", [(6, 8), (8, 6), (7, 7)])
def test_images_that_do_not_halve_so_often_are_refused_with_the_multiple_that_does(size):
    options = {"width": 4, "multipliers": (1, 1, 1), "groups": 2}
    said = f"{size[0]}x{size[1]} do not fit 3 levels: both must be multiples of 4"
    with pytest.raises(ValueError, match=said):
        shape_of(ConvEncoder(3, **options), jnp.zeros((1, *size, 1)))
    with pytest.raises(ValueError, match=said):
        shape_of(ConvDecoder((*size, 1), **options), jnp.zeros((1, 3)))
    with pytest.raises(ValueError, match=said):
        shape_of(MapEncoder(8, 2, **options), jnp.zeros((1, *size, 1)))
    with pytest.raises(ValueError, match=said):
        shape_of(MapDecoder((*size, 1), 2, **options), jnp.zeros((1, 8)))


def test_the_smallest_size_is_the_size_halved_level_by_level():
    assert smallest_size((32, 48), 1) == (32, 48)
    assert smallest_size((32, 48), 5) == (2, 3)
