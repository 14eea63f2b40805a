"""Attention in turns equals attention all at once, in value and gradient, and never holds all the scores."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.models.attention import attend
from jaxgen.models.stable_diffusion import attention


@pytest.fixture(scope="module")
def qkv():
    keys = jax.random.split(jax.random.key(0), 3)
    return tuple(jax.random.normal(key, (2, n, 3, 8)) for key, n in zip(keys, (24, 10, 10), strict=True))


@pytest.mark.parametrize(
    ("limit", "in_cache"), [(1, 10**9), (2 * 3 * 10 * 5, 10**9), (10**9, 10**9), (10**9, 10 * 5), (10**9, 24 * 10)]
)
def test_it_is_attention_all_at_once(qkv, limit, in_cache):
    def loss(function):
        return lambda *x: jnp.sin(function(*x)).sum()

    def in_turns(*x):
        return attention.attend_in_turns(*x, limit=limit, in_cache=in_cache)

    np.testing.assert_allclose(jax.jit(in_turns)(*qkv), attend(*qkv), atol=1e-6)
    ours, theirs = (jax.jit(jax.grad(loss(f), (0, 1, 2)))(*qkv) for f in (in_turns, attend))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), ours, theirs)


@pytest.mark.parametrize("queries", [1, 7, 60, 61, 4096, 9216])
def test_the_turns_are_equal_and_as_few_as_the_limit_allows(queries):
    for limit in (1, 500, 10**4, 10**8):
        n = attention.turns(queries, 100, limit)
        assert queries % n == 0
        assert n == queries or queries // n * 100 <= limit
        assert all(queries % m or queries // m * 100 > limit for m in range(1, n))


@pytest.mark.parametrize("tokens", [4096, 9216])
def test_scores_of_a_large_image_are_never_there_all_at_once(tokens):
    q = jax.ShapeDtypeStruct((2, tokens, 8, 40), jnp.float32)
    all_scores = 4 * 2 * 8 * tokens**2
    jaxpr = jax.make_jaxpr(jax.grad(lambda q, k, v: attention.attend_in_turns(q, k, v).sum(), (0, 1, 2)))(q, q, q)
    sizes = [v.aval.size * v.aval.dtype.itemsize for j in _all(jaxpr.jaxpr) for e in j.eqns for v in e.outvars]
    assert 2 * attention.SCORES < max(sizes) <= 4 * attention.SCORES < all_scores / 4


def test_on_a_cpu_the_scores_of_a_large_image_fit_its_caches():
    q = jax.ShapeDtypeStruct((2, 2048, 2, 8), jnp.float32)
    program = jax.jit(attention.attend_in_turns).trace(q, q, q).lower(lowering_platforms=("cpu",)).compile()
    assert program.memory_analysis().temp_size_in_bytes < 3 * 4 * attention.SCORES_IN_CACHE < 4 * 2 * 2 * 2048**2


def _all(jaxpr):
    yield jaxpr
    for equation in jaxpr.eqns:
        for inner in jax.tree.leaves(dict(equation.params), is_leaf=lambda p: hasattr(p, "eqns")):
            if hasattr(inner, "eqns"):
                yield from _all(inner)
