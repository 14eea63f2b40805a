import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from scipy.spatial import distance

from jaxgen import information

pytestmark = pytest.mark.usefixtures("x64")

P, Q = np.random.default_rng(0).dirichlet(np.full(7, 0.5), size=(2, 20))
"""Twenty pairs of distributions of seven outcomes."""


def test_entropy_cross_entropy_and_divergences_agree_with_scipy():
    np.testing.assert_allclose(information.entropy(P), stats.entropy(P, axis=1), rtol=1e-12)
    np.testing.assert_allclose(information.kl_divergence(P, Q), stats.entropy(P, Q, axis=1), rtol=1e-12)
    np.testing.assert_allclose(information.js_divergence(P, Q), distance.jensenshannon(P, Q, axis=1) ** 2, rtol=1e-12)
    np.testing.assert_allclose(information.entropy(P, base=2), stats.entropy(P, base=2, axis=1), rtol=1e-12)


def test_a_fair_coin_has_one_bit_and_a_fair_die_log2_of_6():
    assert information.entropy(jnp.full(2, 0.5), base=2) == 1
    np.testing.assert_allclose(information.entropy(jnp.full(6, 1 / 6), base=2), np.log2(6), rtol=1e-12)


def test_uniform_maximises_entropy():
    n = P.shape[1]
    assert (information.entropy(P) < np.log(n)).all()
    np.testing.assert_allclose(information.entropy(jnp.full(n, 1 / n)), np.log(n), rtol=1e-12)
    # At the maximum no move along the simplex, v with sum 0, changes the entropy to first order.
    gradient = jax.grad(information.entropy)(jnp.full(n, 1 / n))
    np.testing.assert_allclose(gradient - gradient.mean(), 0, atol=1e-12)


def test_cross_entropy_is_at_least_entropy_with_equality_at_q_equal_p():
    assert (information.cross_entropy(P, Q) > information.entropy(P)).all()
    np.testing.assert_array_equal(information.cross_entropy(P, P), information.entropy(P))


def test_kl_is_cross_entropy_minus_entropy():
    expected = information.cross_entropy(P, Q) - information.entropy(P)
    np.testing.assert_allclose(information.kl_divergence(P, Q), expected, rtol=1e-12)


def test_kl_is_zero_only_for_equal_distributions_and_is_not_symmetric():
    np.testing.assert_array_equal(information.kl_divergence(P, P), 0)
    assert (information.kl_divergence(P, Q) > 0).all()
    assert not np.allclose(information.kl_divergence(P, Q), information.kl_divergence(Q, P), rtol=0.01)


def test_in_float32_divergences_of_near_neighbours_are_zero_to_rounding_and_js_is_finite_down_to_the_smallest_numbers():
    near = P * (1 + 1e-4 * np.random.default_rng(1).standard_normal(P.shape))
    p, q = P.astype(np.float32), (near / near.sum(axis=1, keepdims=True)).astype(np.float32)
    for divergence in (information.kl_divergence, information.js_divergence):
        np.testing.assert_array_equal(divergence(p, p), 0)
        assert np.abs(divergence(p, q)).max() < 3e-7
    one, tiny = np.array([0, 1], np.float32), np.array([1.5e-38, 1], np.float32)  # whose half is not a normal number
    np.testing.assert_allclose(information.js_divergence(tiny, one), 0, atol=1e-7)


def test_js_is_symmetric_and_reaches_log_2_only_for_disjoint_distributions():
    js = information.js_divergence(P, Q)
    np.testing.assert_allclose(js, information.js_divergence(Q, P), rtol=1e-12)
    assert (js < np.log(2)).all()
    np.testing.assert_array_equal(information.js_divergence(P, P), 0)
    disjoint = np.array([0.5, 0.5, 0, 0]), np.array([0, 0, 0.1, 0.9])
    np.testing.assert_allclose(information.js_divergence(*disjoint, base=2), 1, rtol=1e-12)


def test_zero_times_log_zero_is_zero_in_value_and_gradient():
    p, q = jnp.array([0.0, 1.0]), jnp.array([0.0, 1.0])
    for divergence in (information.cross_entropy, information.kl_divergence, information.js_divergence):
        assert divergence(p, q) == 0
        for gradient in jax.grad(divergence, argnums=(0, 1))(p, q):
            assert np.isfinite(gradient).all()
    assert information.entropy(p) == 0
    assert np.isfinite(jax.grad(information.entropy)(p)).all()


def test_kl_is_infinite_where_q_is_zero_and_p_is_not():
    p, q = jnp.array([0.5, 0.5]), jnp.array([0.0, 1.0])
    assert information.kl_divergence(p, q) == np.inf
    assert information.cross_entropy(p, q) == np.inf
    assert np.isfinite(information.kl_divergence(q, p))
    assert np.isfinite(information.js_divergence(p, q))


def test_the_base_divides_by_its_logarithm_and_must_be_one():
    for function in (information.cross_entropy, information.kl_divergence, information.js_divergence):
        np.testing.assert_allclose(function(P, Q, base=2), function(P, Q) / np.log(2), rtol=1e-12)
    for base in (0, 1, -2):
        with pytest.raises(ValueError, match=f"positive and not 1; got {base}"):
            information.entropy(P, base=base)


def test_axes_before_the_last_are_many_distributions():
    shaped = P.reshape(4, 5, 7), Q.reshape(4, 5, 7)
    expected = information.js_divergence(P, Q).reshape(4, 5)
    np.testing.assert_array_equal(information.js_divergence(*shaped), expected)
