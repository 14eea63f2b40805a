"""Inception has the shapes of the published weights, and the pools and the resizing that the FID is measured with."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.models import inception


@pytest.fixture(scope="module")
def shapes():
    return inception.shapes()


@pytest.fixture
def tensors(shapes):
    """Zeros by pytorch-fid's names, with all that its file has."""

    def tensor(path, leaf):
        axes = (3, 2, 0, 1) if len(leaf.shape) == 4 else range(len(leaf.shape))
        name = ".".join(key.key for key in path).replace("kernel", "weight").replace("scale", "weight")
        return name, np.broadcast_to(np.float32(0), tuple(leaf.shape[axis] for axis in axes))

    counter = np.zeros((), np.int64)
    logits = {"fc.weight": np.zeros((1008, 2048), np.float32), "fc.bias": np.zeros(1008, np.float32)}
    named = dict(tensor(*leaf) for leaf in jax.tree_util.tree_leaves_with_path(shapes))
    return named | logits | {"Mixed_5b.branch1x1.bn.num_batches_tracked": counter}


def test_it_has_94_convolutions_and_as_many_parameters_as_inception_without_its_logits(shapes):
    """21,785,568 that were trained, and a mean and a variance of each of 17,216 channels."""
    leaves = jax.tree_util.tree_leaves_with_path(shapes)
    assert sum(path[-1].key == "kernel" for path, _ in leaves) == 94
    running = [leaf.size for path, leaf in leaves if path[-1].key.startswith("running")]
    assert sum(running) == 2 * 17_216
    assert sum(math.prod(leaf.shape) for _, leaf in leaves) == 21_785_568 + 2 * 17_216


def test_the_features_are_2048_and_the_maps_of_each_block_those_of_the_paper(shapes):
    x = jax.ShapeDtypeStruct((2, 299, 299, 3), jnp.float32)

    def run(params, x):
        y, maps = inception.Inception().apply(
            {"params": params}, x, capture_intermediates=lambda module, _: module.name and "Mixed" in module.name
        )
        return y, maps["intermediates"]

    y, maps = jax.eval_shape(run, shapes, x)
    assert y.shape == (2, 2048)
    found = {name: maps[name]["__call__"][0].shape[1:] for name in maps}
    assert found == {
        "Mixed_5b": (35, 35, 256),
        "Mixed_5c": (35, 35, 288),
        "Mixed_5d": (35, 35, 288),
        "Mixed_6a": (17, 17, 768),
        **{f"Mixed_6{letter}": (17, 17, 768) for letter in "bcde"},
        "Mixed_7a": (8, 8, 1280),
        "Mixed_7b": (8, 8, 2048),
        "Mixed_7c": (8, 8, 2048),
    }


def pool_of(block, x):
    """What the branch with the pool makes of one channel where its convolution is 1 and its normalisation the identity."""
    shapes = jax.eval_shape(block.init, jax.random.key(0), x)["params"]
    params = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), shapes)
    for name in params:
        params[name]["bn"]["running_var"] += 1 - inception.EPSILON
    params["branch_pool"]["conv"]["kernel"] += 1
    params["branch_pool"]["bn"]["scale"] += 1
    return np.asarray(jax.jit(block.apply)({"params": params}, x))[0, :, :, -1]


@pytest.mark.parametrize("block", [inception.Squares(1), inception.Strips(1), inception.Forks("average")])
def test_an_average_pool_divides_by_the_pixels_that_are_there(block):
    x = np.zeros((1, 4, 4, 1), np.float32)
    x[0, 0, 0] = 36
    expected = np.zeros((4, 4))
    expected[:2, :2] = [[36 / 4, 36 / 6], [36 / 6, 36 / 9]]
    np.testing.assert_allclose(pool_of(block, x), expected, rtol=1e-5)


def test_the_last_block_takes_the_maximum():
    x = np.zeros((1, 4, 4, 1), np.float32)
    x[0, 0, 0], x[0, 3, 3] = 5, 2
    expected = np.zeros((4, 4))
    expected[:2, :2], expected[2:, 2:] = 5, 2
    np.testing.assert_allclose(pool_of(inception.Forks("maximum"), x), expected, rtol=1e-5)


def test_batch_normalisation_is_that_of_the_mean_and_the_variance_it_is_given():
    scale, bias, mean, variance = (np.array(row, np.float32) for row in ([2, -1], [1, 0.5], [3, -4], [0, 2.249]))
    params = {"scale": scale, "bias": bias, "running_mean": mean, "running_var": variance}
    x = np.random.default_rng(0).normal(size=(2, 3, 1, 2)).astype(np.float32)
    expected = scale * (x.astype(np.float64) - mean) / np.sqrt(variance.astype(np.float64) + 1e-3) + bias
    np.testing.assert_allclose(inception.BatchNorm().apply({"params": params}, x), expected, rtol=1e-4)


@pytest.mark.parametrize("shape", [(2, 8, 8, 1), (1, 28, 32, 3), (1, 299, 299, 3), (1, 320, 640, 3)])
def test_images_are_resized_as_pytorch_does_it_and_grey_is_repeated(shape):
    torch = pytest.importorskip("torch", reason="pip install -r tests/bench/requirements.txt")
    x = np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32)
    y = torch.nn.functional.interpolate(
        torch.from_numpy((x.transpose(0, 3, 1, 2) + 1) / 2), size=(299, 299), mode="bilinear", align_corners=False
    )
    theirs = np.broadcast_to(2 * y.numpy().transpose(0, 2, 3, 1) - 1, (shape[0], 299, 299, 3))
    np.testing.assert_allclose(jax.jit(inception.prepare)(x), theirs, atol=2e-5)


def test_images_of_other_channels_are_refused():
    with pytest.raises(ValueError, match="images of 1 channel or 3; got 4"):
        inception.prepare(np.zeros((1, 8, 8, 4), np.float32))


def test_tensors_become_parameters_channels_last(tensors, shapes):
    kernel = np.random.default_rng(0).normal(size=(384, 384, 1, 3)).astype(np.float32)
    variance = np.arange(32, dtype=np.float32)
    tensors |= {"Mixed_7b.branch3x3_2a.conv.weight": kernel, "Conv2d_1a_3x3.bn.running_var": variance}
    params = inception.from_tensors(tensors, shapes)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), params) == jax.tree.map(lambda x: (x.shape, x.dtype), shapes)
    found = params["Mixed_7b"]["branch3x3_2a"]["conv"]["kernel"]
    np.testing.assert_array_equal(found[0, 2, 5, 7], kernel[7, 5, 0, 2])
    np.testing.assert_array_equal(params["Conv2d_1a_3x3"]["bn"]["running_var"], variance)


def test_the_logits_need_not_be_there(tensors, shapes):
    inception.from_tensors({name: tensor for name, tensor in tensors.items() if not name.startswith("fc.")}, shapes)


def test_tensors_of_another_network_are_named(tensors, shapes):
    """torchvision's Inception has 1000 classes and a second head, else the same names and shapes."""
    del tensors["Mixed_6c.branch_pool.bn.bias"]
    tensors |= {
        "fc.weight": np.zeros((1000, 2048)),
        "AuxLogits.fc.bias": np.zeros(1000),
        "Conv2d_1a_3x3.conv.weight": np.zeros((32, 1, 3, 3)),
    }
    with pytest.raises(ValueError) as raised:
        inception.from_tensors(tensors, shapes)
    assert str(raised.value) == (
        "the tensors are not those of the FID's Inception: 1 missing: Mixed_6c.branch_pool.bn.bias; 1 surplus: AuxLogits.fc.bias; "
        "2 misshapen: Conv2d_1a_3x3.conv.weight (32, 1, 3, 3) instead of (32, 3, 3, 3), fc.weight (1000, 2048) instead of (1008, 2048)"
    )


def test_of_many_tensors_eight_are_named(shapes):
    with pytest.raises(ValueError, match=r"470 missing: Conv2d_1a_3x3\.bn\.bias, (\S+, ){6}\S+ and 462 more$"):
        inception.from_tensors({}, shapes)
