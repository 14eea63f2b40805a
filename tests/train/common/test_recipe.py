import itertools
import typing

import jax
import numpy as np

from train.common import recipe
from train.common.recipe import example_keys, root_key

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
