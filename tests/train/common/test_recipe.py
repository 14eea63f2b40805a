import itertools
import typing

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from train.common import parallel, recipe
from train.common.recipe import example_keys, mean_over_rows, root_key

USES = typing.get_args(typing.get_type_hints(root_key)["use"])


def data(keys):
    return {tuple(map(int, row)) for row in np.atleast_2d(jax.random.key_data(keys))}


def family(key):
    """The key itself, what it splits into and what folding small numbers into it gives."""
    folded = jax.vmap(jax.random.fold_in, (None, 0))(key, np.arange(100))
    return data(key) | data(jax.random.split(key, 4)) | data(folded)


def test_a_seed_gives_each_use_keys_of_its_own():
    families = [family(root_key(seed, use)) for seed in (0, 1) for use in USES]
    assert all(a.isdisjoint(b) for a, b in itertools.combinations(families, 2))
    assert data(root_key(3, "sample")) == data(root_key(3, "sample"))


def test_an_example_has_the_key_of_its_index_in_the_global_batch():
    key = jax.random.key(5)
    on_four = jax.pmap(lambda _: example_keys(key, 2), axis_name="data", devices=jax.devices()[:4])(np.zeros(4))
    expected = [jax.random.key_data(jax.random.fold_in(key, i)) for i in range(8)]
    np.testing.assert_array_equal(jax.random.key_data(on_four).reshape(8, -1), expected)


def test_typed_keys_become_numbers_and_keys_again():
    tree = {"key": jax.random.key(7), "x": np.arange(3)}
    numbers = recipe.without_keys(tree)
    assert numbers["key"].dtype == np.uint32
    assert data(recipe.with_keys(numbers, tree)["key"]) == data(tree["key"])


def bent(w, x):
    """A loss that is no mean over rows: a function, with corners, of a mean over rows."""
    return jnp.maximum(mean_over_rows(jnp.sin(x * w[None])), 0.1).sum()


@pytest.mark.parametrize("how", ["pmap", "shard_map"])
@pytest.mark.parametrize("devices", [1, 2, 4, 8])
def test_a_function_of_the_mean_over_all_rows_has_the_same_value_and_gradient_on_any_number_of_devices(devices, how):
    on, w = jax.devices()[:devices], np.array([1.0, -2.0, 0.5], np.float32)
    x = np.random.default_rng(1).normal(0.5, size=(16, 3)).astype(np.float32)
    mean = np.sin(x * w).mean(0)
    assert set(mean > 0.1) == {True, False}

    def value_and_grad(w, x):
        return jax.lax.pmean(jax.value_and_grad(bent)(w, x), "data")

    program = parallel.parallelize(value_and_grad, on, rows=(False, True), how=how)
    value, grad = program(parallel.place(w, on), x)
    np.testing.assert_allclose(value, np.maximum(mean, 0.1).sum(), rtol=1e-5)
    np.testing.assert_allclose(grad, (mean > 0.1) * (np.cos(x * w) * x).mean(0), rtol=1e-4, atol=1e-6)
