"""The adversarial game: losses of a discriminator D or critic f and of a generator G, and what keeps the game stable.

Everything is given as logits or scores, never as probabilities: D(x) = sigmoid(logit), and log D, log (1 - D) are taken of the logit
itself, so values and gradients are exact and finite however sure D is. The discriminator's losses are scalars, for they compare
two samples; a generator's loss is one value per generated example, (b,), to be averaged.

I. Goodfellow et al. 2014, "Generative Adversarial Nets", arXiv:1406.2661.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, Shaped

from jaxgen import gaussian

Scalar = Float[Array, ""]
Scores = Float[Array, " b"]


def minimax_value(real_logits: Float[Array, " n"], fake_logits: Scores) -> Scalar:
    """V(D, G) = E log D(x) + E log (1 - D(G(z))), in nats, a scalar  (eq. 1).

    D maximises it and G minimises it. At most 0; -2 log 2 where D = 1/2 everywhere; and for the best D, p / (p + p_G), it is
    2 JS(p, p_G) - 2 log 2 (theorem 1). The two samples may have different sizes.
    """
    return jax.nn.log_sigmoid(real_logits).mean() + jax.nn.log_sigmoid(-fake_logits).mean()


def discriminator_loss(real_logits: Float[Array, " n"], fake_logits: Scores) -> Scalar:
    """-V(D, G), in nats, a scalar: the cross-entropy of telling real from generated, once for each kind."""
    return -minimax_value(real_logits, fake_logits)


def saturating_generator_loss(fake_logits: Scores) -> Scores:
    """log (1 - D(G(z))), in nats, one per generated example: the generator's share of V as it stands.

    Its derivative by the logit is -D(G(z)): where the discriminator wins, nothing is left to learn from.
    """
    return jax.nn.log_sigmoid(-fake_logits)


def non_saturating_generator_loss(fake_logits: Scores) -> Scores:
    """-log D(G(z)), in nats, one per generated example (section 3 of the paper).

    Its derivative by the logit is D(G(z)) - 1: of the same sign as the saturating loss's, and strongest where the discriminator wins.
    """
    return -jax.nn.log_sigmoid(fake_logits)


def hinge_discriminator_loss(real_scores: Float[Array, " n"], fake_scores: Scores) -> Scalar:
    """E max(0, 1 - f(x)) + E max(0, 1 + f(G(z))), no unit, a scalar: scores beyond the margin teach nothing any more.

    The generator's part is `wasserstein_generator_loss`. Lim and Ye 2017, arXiv:1705.02894, eq. 8 to 10.
    """
    return jax.nn.relu(1 - real_scores).mean() + jax.nn.relu(1 + fake_scores).mean()


def least_squares_discriminator_loss(real_scores: Float[Array, " n"], fake_scores: Scores) -> Scalar:
    """1/2 E (f(x) - 1)^2 + 1/2 E f(G(z))^2, no unit, a scalar. Mao et al. 2017, arXiv:1611.04076, eq. 9."""
    return ((real_scores - 1) ** 2).mean() / 2 + (fake_scores**2).mean() / 2


def least_squares_generator_loss(fake_scores: Scores) -> Scores:
    """1/2 (f(G(z)) - 1)^2, no unit, one per generated example. Mao et al. 2017, arXiv:1611.04076, eq. 9."""
    return (fake_scores - 1) ** 2 / 2


def wasserstein_critic_loss(real_scores: Float[Array, " n"], fake_scores: Scores) -> Scalar:
    """E f(G(z)) - E f(x), in units of the images, a scalar.

    For a critic whose gradient is nowhere longer than 1 it is minus a lower bound of the Wasserstein distance, and minus the distance
    itself for the best one. Arjovsky et al. 2017, arXiv:1701.07875, eq. 2 and 3.
    """
    return fake_scores.mean() - real_scores.mean()


def wasserstein_generator_loss(fake_scores: Scores) -> Scores:
    """-f(G(z)), in units of the images, one per generated example; the generator's loss of the hinge too."""
    return -fake_scores


def interpolate(keys: Key[Array, " b"], real: Float[Array, "b *d"], fake: Float[Array, "b *d"]) -> Float[Array, "b *d"]:
    """u real + (1 - u) fake with u ~ Uniform(0, 1) drawn for each pair by its own key, in units of the images, (b, ...).

    Where Gulrajani et al. 2017 (algorithm 1) take the gradient penalty: on the straight lines between the two samples.
    """

    def between(key, x, y):
        return y + jax.random.uniform(key) * (x - y)

    return jax.vmap(between)(keys, real, fake)


def gradient_penalty(critic: Callable[..., Scalar], x: Float[Array, "b *d"], *context: Shaped[Array, "b *_"]) -> Scores:
    """(|grad f(x_i)| - 1)^2, no unit, one per image. Gulrajani et al. 2017, arXiv:1704.00028, eq. 3, without its weight of 10.

    Value and gradient are finite also where the gradient of the critic is zero: there it is 1.

    Args:
        critic: ONE image to ONE score, so that no image can see another, as it could through a normalisation over the batch.
        x: (b, ...), for the paper `interpolate` of real and generated images.
        context: what else the critic takes of each image, such as its label.
    """
    # Below the floor it is a constant, whose root has a gradient, namely none.
    return (jnp.sqrt(jnp.maximum(scores_and_squared_slopes(critic, x, *context)[1], 1e-12)) - 1) ** 2


def r1_penalty(critic: Callable[..., Scalar], x: Float[Array, "b *d"], *context: Shaped[Array, "b *_"]) -> Scores:
    """|grad f(x_i)|^2, no unit, one per image: on real images, the R1 of Mescheder et al. 2018, arXiv:1801.04406, eq. 9, without
    its weight gamma / 2. It makes the equilibrium one that the game comes to.

    Args:
        critic, context: as in `gradient_penalty`.
    """
    return scores_and_squared_slopes(critic, x, *context)[1]


def scores_and_squared_slopes(
    critic: Callable[..., Scalar], x: Float[Array, "b *d"], *context: Shaped[Array, "b *_"]
) -> tuple[Scores, Scores]:
    """f(x_i) and |grad f(x_i)|^2, no unit, one of each per image: for a loss that wants the scores of the images whose slopes are
    penalised, and need not ask for them again.

    Args:
        critic, context: as in `gradient_penalty`.
    """
    # What the critic closes over, its parameters, becomes an argument, to be differentiated by.
    scores, parameters = jax.closure_convert(jax.vmap(critic), x, *context)
    return _with_squared_slopes(scores, x, context, parameters)


def clip(params: Any, bound: float) -> Any:
    """Every parameter cut to [-bound, bound]: the older way to bound a critic's slope (Arjovsky et al. 2017, algorithm 1)."""
    return jax.tree.map(lambda leaf: jnp.clip(leaf, -bound, bound), params)


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _with_squared_slopes(scores, x, context, parameters):
    values, slopes = _with_slopes(scores, x, context, parameters)
    return values, gaussian.sum_per_example(slopes**2)


@_with_squared_slopes.defjvp
def _with_squared_slopes_jvp(scores, primals, tangents):
    """The squares' derivative is that of 2 u . grad f with u = grad f held still, where u . grad f, the slope of f along u, is taken
    forwards, which gives f as well.

    That is the same, and for convolutions on a CPU much quicker than the gradient of a gradient.
    """
    _, slopes = _with_slopes(scores, *primals)

    def with_slope_along_2u(x, context, parameters):
        return jax.jvp(lambda x: scores(x, *context, *parameters), (x,), (2 * slopes,))

    (values, _), derivatives = jax.jvp(with_slope_along_2u, primals, tangents)
    return (values, gaussian.sum_per_example(slopes**2)), derivatives


def _with_slopes(scores, x, context, parameters):
    """f(x_i), (b,), and grad f(x_i), (b, ...)."""
    values, pull_back = jax.vjp(lambda x: scores(x, *context, *parameters), x)
    return values, pull_back(jnp.ones_like(values))[0]
