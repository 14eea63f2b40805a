from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads
from scipy import special

from jaxgen import adversarial, information

pytestmark = pytest.mark.usefixtures("x64")

RNG = np.random.default_rng(0)
P, Q = RNG.dirichlet(np.ones(6), size=2)
"""Two distributions of six outcomes: what is real, and what is generated."""
EXTREME = np.array([-1e4, -30.0, -1.0, 0.0, 1.0, 30.0, 1e4])

PER_EXAMPLE = {
    "saturating": adversarial.saturating_generator_loss,
    "non_saturating": adversarial.non_saturating_generator_loss,
    "least_squares": adversarial.least_squares_generator_loss,
    "wasserstein": adversarial.wasserstein_generator_loss,
}
OF_TWO_SAMPLES = {
    "minimax": adversarial.minimax_value,
    "discriminator": adversarial.discriminator_loss,
    "hinge": adversarial.hinge_discriminator_loss,
    "least_squares": adversarial.least_squares_discriminator_loss,
    "wasserstein": adversarial.wasserstein_critic_loss,
}


def expected_value(logits):
    """V for a discriminator with these logits of the six outcomes, the expectations taken exactly."""
    return P @ jax.nn.log_sigmoid(logits) + Q @ jax.nn.log_sigmoid(-logits)


def sample_of(weights, values, size=2**16):
    """As many copies of each value as its weight says."""
    return jnp.repeat(values, jnp.asarray(np.rint(weights * size).astype(int)))


def critic(weights):
    """A smooth critic of one image."""
    return lambda x: jnp.tanh(weights[0] @ x.reshape(-1)) + weights[1] @ jnp.sin(x.reshape(-1))


def test_a_discriminator_that_cannot_tell_has_the_value_minus_2_log_2():
    zeros = jnp.zeros(5)
    np.testing.assert_allclose(adversarial.minimax_value(zeros, jnp.zeros(3)), -2 * np.log(2), rtol=1e-15)
    np.testing.assert_allclose(adversarial.discriminator_loss(zeros, zeros), 2 * np.log(2), rtol=1e-15)


def test_the_value_is_the_mean_log_probability_of_being_right_about_each_kind():
    real, fake = RNG.normal(size=(2, 50))
    expected = np.log(special.expit(real)).mean() + np.log(1 - special.expit(fake)).mean()
    np.testing.assert_allclose(adversarial.minimax_value(real, fake), expected, rtol=1e-12)


def test_the_best_discriminator_is_p_over_p_plus_q_and_its_value_2_jsd_minus_2_log_2():
    best = np.log(P) - np.log(Q)  # the logit of p / (p + q)
    np.testing.assert_allclose(jax.grad(expected_value)(best), 0, atol=1e-15)
    curvature = jax.hessian(expected_value)(best)
    assert (np.linalg.eigvalsh(curvature) < 0).all()  # V is concave in the logits, so it is the maximum
    expected = 2 * information.js_divergence(P, Q) - 2 * np.log(2)
    np.testing.assert_allclose(expected_value(best), expected, rtol=1e-12)
    on_samples = adversarial.minimax_value(sample_of(P, best), sample_of(Q, best))
    np.testing.assert_allclose(on_samples, expected, rtol=1e-4)


def test_gradient_ascent_on_the_value_finds_that_discriminator():
    def ascend(_, logits):
        return logits + 10 * jax.grad(expected_value)(logits)

    logits = jax.jit(lambda: jax.lax.fori_loop(0, 20_000, ascend, jnp.zeros(6)))()
    np.testing.assert_allclose(special.expit(logits), P / (P + Q), rtol=1e-6)


@pytest.mark.parametrize("name", ["saturating", "non_saturating"])
def test_both_generator_losses_pull_at_all_outcomes_alike_exactly_at_the_fixed_point(name):
    """Against the best discriminator, what the generator gains by moving mass is the same everywhere if and only if q = p."""
    at_the_point = PER_EXAMPLE[name](jnp.log(P) - jnp.log(P))
    np.testing.assert_allclose(at_the_point - at_the_point[0], 0, atol=1e-15)
    elsewhere = PER_EXAMPLE[name](jnp.log(P) - jnp.log(Q))
    assert (jnp.argsort(elsewhere) == jnp.argsort(Q / P)).all()  # mass is worth most where q has least of it


def test_the_saturating_gradient_is_minus_d_and_vanishes_where_d_wins_the_other_is_d_minus_1_and_does_not():
    slope = {name: jax.grad(lambda logits, f=f: f(logits).sum())(EXTREME) for name, f in PER_EXAMPLE.items()}
    np.testing.assert_allclose(slope["saturating"], -special.expit(EXTREME), rtol=1e-12)
    np.testing.assert_allclose(slope["non_saturating"], special.expit(EXTREME) - 1, rtol=1e-12, atol=1e-15)
    assert slope["saturating"][0] == 0
    assert slope["non_saturating"][0] == -1


@pytest.mark.parametrize("name", PER_EXAMPLE)
def test_generator_losses_are_finite_with_their_gradients_at_logits_of_1e4_and_one_per_example(name):
    loss, pull_back = jax.vjp(PER_EXAMPLE[name], EXTREME)
    assert loss.shape == EXTREME.shape
    assert np.isfinite(loss).all()
    assert np.isfinite(pull_back(jnp.ones_like(loss))[0]).all()


@pytest.mark.parametrize("name", OF_TWO_SAMPLES)
def test_losses_of_two_samples_are_finite_with_their_gradients_at_logits_of_1e4_and_take_any_two_sizes(name):
    value, gradients = jax.value_and_grad(OF_TWO_SAMPLES[name], argnums=(0, 1))(EXTREME, EXTREME[:3])
    assert value.shape == ()
    assert np.isfinite(value)
    assert all(np.isfinite(gradient).all() for gradient in gradients)


def test_in_float32_a_sure_discriminator_still_counts_its_logit():
    with jax.default_device(jax.devices()[0]):
        logits = jnp.array([-200.0], jnp.float32)
        assert adversarial.non_saturating_generator_loss(logits)[0] == 200
        assert adversarial.discriminator_loss(logits, -logits) == 400


def test_hinge_ignores_scores_beyond_the_margin():
    real, fake = jnp.array([1.0, 5.0]), jnp.array([-1.0, -7.0])
    assert adversarial.hinge_discriminator_loss(real, fake) == 0
    assert adversarial.hinge_discriminator_loss(jnp.zeros(2), jnp.zeros(3)) == 2
    slope = jax.grad(lambda f: adversarial.hinge_discriminator_loss(f, fake))(jnp.array([2.0, 0.5]))
    np.testing.assert_array_equal(slope, [0, -0.5])


def test_the_best_hinge_score_is_the_sign_of_p_minus_q_and_its_loss_2_minus_twice_the_total_variation():
    best = jnp.sign(P - Q)
    loss = adversarial.hinge_discriminator_loss(sample_of(P, best), sample_of(Q, best))
    np.testing.assert_allclose(loss, 2 - np.abs(P - Q).sum(), rtol=1e-3)


def test_the_best_least_squares_score_is_p_over_p_plus_q():
    def loss(scores):
        return P @ (scores - 1) ** 2 / 2 + Q @ scores**2 / 2

    best = P / (P + Q)
    np.testing.assert_allclose(jax.grad(loss)(best), 0, atol=1e-15)
    on_samples = adversarial.least_squares_discriminator_loss(sample_of(P, best), sample_of(Q, best))
    np.testing.assert_allclose(on_samples, loss(best), rtol=1e-4)
    np.testing.assert_allclose(adversarial.least_squares_generator_loss(jnp.array([1.0, 3.0])), [0, 2])


def test_on_the_line_the_best_critic_of_slope_1_measures_how_far_one_sample_was_moved():
    x = jnp.asarray(RNG.normal(size=1000))
    moved = x + 3.0
    np.testing.assert_allclose(adversarial.wasserstein_critic_loss(-x, -moved), -3, rtol=1e-12)
    assert adversarial.wasserstein_critic_loss(jnp.sin(-x), jnp.sin(-moved)) > -3


def test_interpolations_lie_between_each_pair_uniformly_and_depend_on_their_own_keys_alone():
    keys = jax.random.split(jax.random.key(0), 10_000)
    real, fake = jnp.ones((10_000, 2, 3)), jnp.zeros((10_000, 2, 3))
    u = adversarial.interpolate(keys, real, fake)
    np.testing.assert_array_equal(u, jnp.broadcast_to(u[:, :1, :1], u.shape))  # one number for the whole image
    u = np.sort(u[:, 0, 0])
    assert np.abs(u - (np.arange(10_000) + 0.5) / 10_000).max() < 1.63 / 100  # Kolmogorov and Smirnov, 1 per cent
    np.testing.assert_array_equal(adversarial.interpolate(keys[7:9], real[:2], fake[:2])[:, 0, 0], u_of(keys[7:9]))


def u_of(keys):
    return jax.vmap(jax.random.uniform)(keys)


def test_the_penalty_of_a_linear_critic_is_the_square_of_how_far_its_length_is_from_1():
    x = jnp.asarray(RNG.normal(size=(4, 2, 3)))
    for w in RNG.normal(size=(5, 6)):
        penalty = adversarial.gradient_penalty(lambda image, w=w: w @ image.reshape(-1), x)
        np.testing.assert_allclose(penalty, np.full(4, (np.linalg.norm(w) - 1) ** 2), rtol=1e-12)
        squared = adversarial.r1_penalty(lambda image, w=w: w @ image.reshape(-1), x)
        np.testing.assert_allclose(squared, np.full(4, w @ w), rtol=1e-12)


def test_the_penalty_of_a_constant_critic_is_1_with_a_finite_gradient():
    x = jnp.ones((3, 4))

    def penalty(w):
        return adversarial.gradient_penalty(lambda image: w * image.sum(), x).sum()

    value, slope = jax.value_and_grad(penalty)(0.0)
    np.testing.assert_allclose(value, 3, rtol=1e-5)
    assert np.isfinite(slope)
    assert adversarial.r1_penalty(lambda image: 0.0 * image.sum(), x).sum() == 0


def test_r1_alone_turns_the_circling_dirac_game_into_a_spiral():
    """One point at theta against a critic psi x of real data at 0: without a penalty the game's field has eigenvalues +-i f'(0), and it
    circles; with gamma / 2 |grad|^2 = gamma / 2 psi^2 their real part is -gamma / 2 (Mescheder et al. 2018, lemma 2.3 and section 4.1)."""
    gamma, zero = 0.3, jnp.zeros((1, 1))

    def field(players):
        def discriminator(psi, theta):
            loss = adversarial.discriminator_loss(0 * psi[None], (psi * theta)[None])
            return loss + gamma / 2 * adversarial.r1_penalty(lambda x: (psi * x).sum(), zero).mean()

        def generator(theta, psi):
            return adversarial.saturating_generator_loss((psi * theta)[None]).mean()

        psi, theta = players
        return -jnp.array([jax.grad(discriminator)(psi, theta), jax.grad(generator)(theta, psi)])

    eigenvalues = np.linalg.eigvals(jax.jacobian(field)(jnp.zeros(2)))
    expected = (
        -gamma + np.array([1, -1]) * np.sqrt(complex(gamma**2 - 1))
    ) / 2  # roots of l^2 + gamma l + f'(0)^2, f'(0) = 1/2
    np.testing.assert_allclose(np.sort(eigenvalues), np.sort(expected), rtol=1e-6)


def test_the_penalty_is_each_images_own():
    weights = jnp.asarray(RNG.normal(size=(2, 6)))
    x = jnp.asarray(RNG.normal(size=(5, 2, 3)))
    together = adversarial.gradient_penalty(critic(weights), x)
    alone = [adversarial.gradient_penalty(critic(weights), x[i : i + 1])[0] for i in range(5)]
    np.testing.assert_allclose(together, alone, rtol=1e-12)


def test_the_penalties_differentiate_by_parameters_and_images():
    rng = np.random.default_rng(1)  # its own, lest the draws depend on which tests ran before
    weights, x = jnp.asarray(rng.normal(size=(2, 6))), jnp.asarray(rng.normal(size=(3, 2, 3)))
    for penalty in (adversarial.gradient_penalty, adversarial.r1_penalty):
        check_grads(lambda w, x, f=penalty: f(critic(w), x).mean(), (weights, x), order=2)


def test_the_penalties_differentiate_by_what_else_a_critic_takes_of_an_image():
    rng = np.random.default_rng(3)
    x, scale, labels = jnp.asarray(rng.normal(size=(3, 4))), jnp.asarray(rng.normal(size=3)), jnp.array([0, 1, 0])

    def score(x, scale, label):
        return jnp.tanh(scale) * (x**2).sum() + label * x[0]

    for penalty in (adversarial.gradient_penalty, adversarial.r1_penalty):
        check_grads(lambda x, scale, f=penalty: f(score, x, scale, labels).mean(), (x, scale), order=2)


def test_scores_that_come_with_the_slopes_have_the_values_and_the_gradients_of_the_two_taken_apart():
    rng = np.random.default_rng(2)
    weights, x = jnp.asarray(rng.normal(size=(2, 6))), jnp.asarray(rng.normal(size=(3, 2, 3)))

    def together(w, x):
        scores, squares = adversarial.scores_and_squared_slopes(critic(w), x)
        return adversarial.non_saturating_generator_loss(scores).mean() + squares.mean()

    def apart(w, x):
        scores = jax.vmap(critic(w))(x)
        return adversarial.non_saturating_generator_loss(scores).mean() + adversarial.r1_penalty(critic(w), x).mean()

    results = (jax.value_and_grad(loss, argnums=(0, 1))(weights, x) for loss in (together, apart))
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-12), *results)
    check_grads(together, (weights, x), order=2)


def test_clipping_leaves_parameters_within_the_bound_alone():
    params = {"a": jnp.array([-3.0, 0.005]), "b": jnp.array([[0.5]])}
    clipped = adversarial.clip(params, 0.01)
    np.testing.assert_array_equal(clipped["a"], [-0.01, 0.005])
    np.testing.assert_array_equal(clipped["b"], [[0.01]])
