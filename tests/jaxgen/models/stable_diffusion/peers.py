"""The same network in PyTorch, from diffusers or transformers, with random weights: what ours is held against."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.models import pytorch
from jaxgen.models.stable_diffusion import weights

torch = pytest.importorskip("torch", reason="pip install -r tests/bench/requirements.txt")


def randomised(model, seed=0):
    """The model, every tensor of it random: no bias is zero, no norm's scale is one, and layers that start at zero do not stay there."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            noise = torch.randn(p.shape, generator=generator)
            p.copy_(noise / p[0].numel() ** 0.5 if p.ndim > 1 else (1 if p.mean() > 0.5 else 0) + 0.3 * noise)
    return model.eval()


def tensors(model):
    return {name: tensor.numpy() for name, tensor in model.state_dict().items()}


def params(model, shapes):
    """Our parameters with the weights of their model, on the device."""
    return jax.tree.map(jnp.asarray, weights.from_tensors(tensors(model), shapes))


def normal(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def channels_first(x):
    """(b, h, w, c) -> (b, c, h, w), a torch tensor."""
    return torch.from_numpy(np.asarray(x).transpose(0, 3, 1, 2).copy())


def channels_last(x):
    """(b, c, h, w), a torch tensor -> (b, h, w, c)."""
    return x.numpy().transpose(0, 2, 3, 1)


def assert_agree(ours, theirs):
    """No value differs by more than 1e-4, and there is something to agree on."""
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    assert ours.shape == theirs.shape
    assert ours.dtype == np.float32
    assert theirs.std() > 0.1
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-4)


def assert_map_is_invertible(model, shapes, spelling=lambda name: name):
    """Tensors -> parameters -> tensors: the same names, shapes and bits, but for how names of the model are spelt."""
    theirs = {spelling(name): tensor for name, tensor in tensors(model).items()}
    ours = pytorch.to_tensors(weights.from_tensors(theirs, shapes))
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        np.testing.assert_array_equal(ours[name], tensor, strict=True)


def assert_finite_in_bfloat16(module, params, theirs, *inputs, method=None):
    """Every intermediate output of the module is finite, and its result near their float32 one."""

    @jax.jit
    def run(params, *inputs):
        half = module.clone(dtype=jnp.bfloat16)
        return half.apply({"params": params}, *inputs, method=method, capture_intermediates=True)

    result, seen = run(params, *inputs)
    assert len(jax.tree.leaves(seen)) > 5
    for path, x in jax.tree_util.tree_leaves_with_path(seen):
        assert np.isfinite(np.asarray(x, np.float32)).all(), jax.tree_util.keystr(path)
    error = np.asarray(jax.tree.leaves(result)[0], np.float32) - np.asarray(theirs)
    assert np.abs(error).mean() < 0.05 * np.asarray(theirs).std()
