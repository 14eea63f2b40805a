"""The network of Ho et al. 2020: its size, its value at initialisation, and what its output may depend on."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.models.unet import UNet
from tests.jaxgen.models import parameters

SMALL = UNet(out_channels=1, width=8, multipliers=(1, 2), blocks=1, attention=(4,), groups=4, dropout=0.5)


def inputs(b=2, h=8, w=8, c=1):
    x_key, t_key = jax.random.split(jax.random.key(0))
    return jax.random.normal(x_key, (b, h, w, c)), jax.random.randint(t_key, (b,), 0, 1000)


@pytest.fixture(scope="module")
def params():
    """Of SMALL, away from initialisation, where the output would be 0 whatever the input."""
    return parameters.drawn(SMALL, *inputs())


@jax.jit
def apply(params, x, t, keys=None):
    return SMALL.apply({"params": params}, x, t, keys)


def num_parameters(unet, shape):
    abstract = jax.eval_shape(unet.init, jax.random.key(0), jnp.zeros(shape), jnp.zeros(shape[:1], jnp.int32))
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(abstract))
    return sum(leaf.size for leaf in jax.tree.leaves(abstract))


# Size


def test_the_cifar10_network_of_the_paper_has_35_746_307_parameters():
    # Ho et al. 2020, appendix B: "The CIFAR10 model has 35.7 million parameters". Counted from its description:
    def conv(c_in, c_out):
        return 9 * c_in * c_out + c_out

    def dense(c_in, c_out):
        return c_in * c_out + c_out

    def norm(c):
        return 2 * c

    def residual(c_in, c_out):
        shortcut = dense(c_in, c_out) if c_in != c_out else 0
        return norm(c_in) + conv(c_in, c_out) + dense(512, c_out) + norm(c_out) + conv(c_out, c_out) + shortcut

    attention = norm(256) + 4 * dense(256, 256)
    time = dense(128, 512) + dense(512, 512)
    down = (
        (conv(3, 128) + 2 * residual(128, 128) + conv(128, 128))  # 32x32
        + (residual(128, 256) + residual(256, 256) + 2 * attention + conv(256, 256))  # 16x16
        + (2 * residual(256, 256) + conv(256, 256))  # 8x8
        + 2 * residual(256, 256)  # 4x4
    )
    middle = 2 * residual(256, 256) + attention
    up = (  # each block receives the skip of the matching resolution beside what comes from below
        3 * residual(256 + 256, 256)  # 4x4
        + (conv(256, 256) + 3 * residual(256 + 256, 256))  # 8x8
        + (conv(256, 256) + 2 * residual(256 + 256, 256) + residual(256 + 128, 256) + 3 * attention)  # 16x16
        + (conv(256, 256) + residual(256 + 128, 128) + 2 * residual(128 + 128, 128))  # 32x32
    )
    total = time + down + middle + up + norm(128) + conv(128, 3)
    assert total == 35_746_307
    assert num_parameters(UNet(dropout=0.1), (1, 32, 32, 3)) == total


def test_attention_stands_at_the_asked_heights_and_in_the_middle(params):
    found = sorted(name for name in params if "attention" in name)
    assert found == ["down1_0_attention", "middle_attention", "up1_0_attention", "up1_1_attention"]


# At initialisation


def test_a_fresh_network_predicts_exactly_zero_so_the_mean_squared_error_is_one():
    x, t = inputs(b=64)
    prediction = jax.jit(lambda key: SMALL.apply(SMALL.init(key, x, t), x, t))(jax.random.key(0))
    np.testing.assert_array_equal(prediction, 0.0)
    eps = jax.random.normal(jax.random.key(1), x.shape)
    mse = float(jnp.square(eps - prediction).mean())
    assert abs(mse - 1.0) < 4 * np.sqrt(2 / eps.size)  # eps^2 has variance 2


# What the output depends on


def test_each_example_is_predicted_independently_of_the_others(params):
    x, t = inputs(b=4)
    order = jnp.array([2, 0, 3, 1])
    np.testing.assert_allclose(apply(params, x[order], t[order]), apply(params, x, t)[order], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(apply(params, x[:1], t[:1]), apply(params, x, t)[:1], rtol=1e-4, atol=1e-4)


def test_the_prediction_depends_on_the_timestep(params):
    x, _ = inputs(b=1)
    early, late = (apply(params, x, jnp.array([t])) for t in (10, 500))
    assert jnp.abs(early - late).max() > 1e-2


def test_a_label_moves_the_prediction_of_its_own_example_only():
    net = UNet(out_channels=1, width=8, multipliers=(1,), blocks=1, attention=(), groups=4, num_classes=3)
    x, t = inputs()
    params = parameters.drawn(net, x, t, labels=jnp.zeros(2, jnp.int32))
    assert params["label"]["embedding"].shape == (4, 32)
    of_labels = jax.jit(lambda labels: net.apply({"params": params}, x, t, None, labels))
    first, second = (of_labels(jnp.array(labels)) for labels in ([0, 3], [2, 3]))
    assert jnp.abs(first - second)[0].max() > 1e-3
    np.testing.assert_array_equal(first[1], second[1])


def test_patches_are_the_channels_of_a_network_on_fewer_pixels():
    """The same parameters on the picture whose pixels are the squares, and the squares put back in their places."""
    kind = {"width": 8, "multipliers": (1, 2), "blocks": 1, "attention": (), "groups": 4}
    fine, coarse = UNet(out_channels=3, patch=2, **kind), UNet(out_channels=12, **kind)
    x, t = inputs(c=3)
    squares = np.zeros((2, 4, 4, 12), np.float32)
    for i, j in np.ndindex(2, 2):
        squares[..., 3 * (2 * i + j) : 3 * (2 * i + j) + 3] = x[:, i::2, j::2]
    params = {"params": parameters.drawn(fine, x, t)}
    out, expected = jax.jit(fine.apply)(params, x, t), jax.jit(coarse.apply)(params, jnp.asarray(squares), t)
    for i, j in np.ndindex(2, 2):
        np.testing.assert_array_equal(out[:, i::2, j::2], expected[..., 3 * (2 * i + j) : 3 * (2 * i + j) + 3])


def test_squares_that_do_not_fill_the_image_are_refused():
    with pytest.raises(ValueError, match="10x8 do not fit 2 levels: both must be multiples of 4"):
        UNet(width=8, multipliers=(1, 2), groups=4, patch=2).init(jax.random.key(0), *inputs(h=10))


def test_dropout_of_an_example_depends_on_its_own_key_only(params):
    x, t = inputs(b=4)
    keys = jax.random.split(jax.random.key(3), 4)
    together = apply(params, x, t, keys)
    halves = [apply(params, x[i : i + 2], t[i : i + 2], keys[i : i + 2]) for i in (0, 2)]
    np.testing.assert_allclose(together, jnp.concatenate(halves), rtol=1e-4, atol=1e-4)
    assert jnp.abs(together - apply(params, x, t)).max() > 1e-2


def test_residual_blocks_draw_different_masks_from_one_key():
    unet = UNet(out_channels=1, width=8, multipliers=(1,), blocks=2, attention=(), groups=4, dropout=0.5)
    x, t = jnp.zeros((1, 4, 4, 1)), jnp.array([0])
    params = parameters.drawn(unet, x, t)
    # Two blocks in a row made equal: with equal masks the second would repeat the first's increment.
    ones = jax.tree.map(jnp.ones_like, params["down0_0"])
    params = {"params": {**params, "down0_0": ones, "down0_1": ones}}
    keys = jax.random.split(jax.random.key(1), 1)
    look = jax.jit(lambda keys: unet.apply(params, x, t, keys, capture_intermediates=True, mutable=["intermediates"]))
    _, outputs = look(keys)
    first, second = (outputs["intermediates"][f"down0_{i}"]["conv2"]["__call__"][0] for i in (0, 1))
    assert jnp.abs(first - second).max() > 1e-3


def test_a_network_without_dropout_ignores_the_keys():
    unet = UNet(out_channels=1, width=8, multipliers=(1,), blocks=1, attention=(), groups=4)
    x, t = inputs()
    params = {"params": parameters.drawn(unet, x, t)}
    keys = jax.random.split(jax.random.key(1), 2)
    np.testing.assert_array_equal(jax.jit(unet.apply)(params, x, t, keys), jax.jit(unet.apply)(params, x, t))


# Shapes and precision


@pytest.mark.parametrize("shape", [(1, 8, 8, 1), (2, 8, 12, 1), (3, 16, 4, 1)])
def test_any_multiple_of_the_coarsest_pixel_is_a_valid_image(params, shape):
    x = jnp.ones(shape)
    assert apply(params, x, jnp.zeros(shape[:1], jnp.int32)).shape == shape


def test_an_image_that_cannot_be_halved_often_enough_is_refused():
    with pytest.raises(ValueError, match="8x6 do not fit 3 levels.*multiples of 4"):
        UNet(width=8, multipliers=(1, 1, 1), groups=4).init(jax.random.key(0), jnp.zeros((1, 8, 6, 3)), jnp.array([0]))


def test_bfloat16_keeps_float32_parameters_and_output_and_approximates_float32(params):
    coarse = SMALL.clone(dtype=jnp.bfloat16)
    x, t = inputs()
    abstract = jax.eval_shape(coarse.init, jax.random.key(0), x, t)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(abstract))
    y = jax.jit(coarse.apply)({"params": params}, x, t)
    exact = apply(params, x, t)
    assert y.dtype == jnp.float32
    relative_error = jnp.linalg.norm(y - exact) / jnp.linalg.norm(exact)
    assert 0.0 < relative_error < 0.1


def test_every_parameter_but_the_bias_of_the_keys_receives_a_gradient(params):
    x, t = inputs()
    gradients = jax.device_get(jax.jit(jax.grad(lambda p: jnp.square(apply(p, x, t)).mean()))(params))
    for path, gradient in jax.tree_util.tree_leaves_with_path(gradients):
        name = jax.tree_util.keystr(path)
        assert np.isfinite(gradient).all(), name
        if "['key']['bias']" not in name:  # adds the same to all scores of a pixel, which the softmax ignores
            assert np.abs(gradient).max() > 0.0, name


# The noise of a condition


def test_a_level_that_is_told_adds_one_dense_layer_and_counts_for_its_own_example_alone():
    x, t = inputs()
    plain, told = (parameters.drawn(SMALL, x, t, level=level) for level in (None, t))
    assert told.keys() - plain.keys() == {"level"}
    assert told["level"]["kernel"].shape == (8, 32)
    of_level = jax.jit(lambda level: SMALL.apply({"params": told}, x, t, level=level))
    a, b = of_level(jnp.array([3, 50])), of_level(jnp.array([3, 60]))
    np.testing.assert_array_equal(a[0], b[0])
    assert jnp.abs(a[1] - b[1]).max() > 1e-3
