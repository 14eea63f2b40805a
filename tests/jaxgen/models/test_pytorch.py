"""The map from names of tensors to parameters, and what it refuses."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from jaxgen.models import pytorch
from tests.jaxgen.models.named import SHAPES, assert_same, random_tensors


@pytest.fixture
def tensors():
    return random_tensors()


def test_a_dense_kernel_is_pytorchs_weight_transposed(tensors):
    params = pytorch.from_tensors(tensors, SHAPES)
    np.testing.assert_array_equal(
        params["text_model.encoder.layers.0"]["mlp.fc1"]["kernel"],
        tensors["text_model.encoder.layers.0.mlp.fc1.weight"].T,
    )


def test_a_convolution_is_the_same_under_the_map():
    torch = pytest.importorskip("torch")
    layer = torch.nn.Conv2d(3, 4, (3, 3))
    kernel = np.zeros((3, 3, 3, 4), np.float32)
    shapes = {"conv": {"kernel": kernel, "bias": np.zeros(4, np.float32)}}
    params = pytorch.from_tensors({f"conv.{k}": v.numpy() for k, v in layer.state_dict().items()}, shapes)
    x = np.random.default_rng(0).normal(size=(2, 5, 6, 3)).astype(np.float32)
    ours = nn.Conv(4, (3, 3), padding="VALID").apply({"params": params["conv"]}, x)
    theirs = layer(torch.from_numpy(x.transpose(0, 3, 1, 2))).detach().numpy().transpose(0, 2, 3, 1)
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_what_is_missing_surplus_or_misshapen_is_listed_at_once(tensors):
    del tensors["text_model.final_layer_norm.bias"]
    tensors["text_model.encoder.layers.0.mlp.fc1.weight"] = np.zeros((6, 5), np.float32)
    tensors["text_projection.weight"] = np.zeros((2, 2), np.float32)
    with pytest.raises(ValueError) as error:
        pytorch.from_tensors(tensors, SHAPES)
    assert str(error.value) == (
        "the tensors are not those of this model: 1 missing: text_model.final_layer_norm.bias; "
        "1 surplus: text_projection.weight; "
        "1 misshapen: text_model.encoder.layers.0.mlp.fc1.weight (6, 5) instead of (6, 4)"
    )


def test_at_most_eight_of_a_kind_are_named():
    with pytest.raises(ValueError, match=r"20 missing: [^;]* and 12 more$") as error:
        pytorch.from_tensors({}, SHAPES)
    assert str(error.value).count("text_model.") == 8


@pytest.mark.parametrize("dtype", [np.float16, jnp.bfloat16])
def test_halves_become_the_same_values_in_float32(tensors, dtype):
    halves = {name: tensor.astype(dtype) for name, tensor in tensors.items()}
    params = pytorch.from_tensors(halves, SHAPES)
    assert_same(params, pytorch.from_tensors({k: v.astype(np.float32) for k, v in halves.items()}, SHAPES))


def test_a_tensor_is_read_when_it_is_its_turn_and_once(tensors):
    reads = []

    class Stored:
        def __init__(self, name):
            self.name, self.shape = name, tensors[name].shape

        def __array__(self, dtype=None, copy=None):
            reads.append(self.name)
            return tensors[self.name]

    assert_same(
        pytorch.from_tensors({name: Stored(name) for name in tensors}, SHAPES), pytorch.from_tensors(tensors, SHAPES)
    )
    assert sorted(reads) == sorted(tensors)
