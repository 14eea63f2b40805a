"""Generative adversarial networks (Goodfellow et al. 2014, arXiv:1406.2661): python -m train.gan

`game.play` lies beside the paper's Algorithm 1: k steps of the discriminator, each on a fresh minibatch of data and of noise, and one
of the generator on fresh noise. Here is what the two want.
"""

import math
import sys
from dataclasses import dataclass, field, replace
from typing import Literal

from train.common.config import Job
from train.common.errors import check_ranges
from train.players import Network, Optimizer


@dataclass(frozen=True)
class Config:
    """A generative adversarial network and how to train it."""

    job: Job = field(default_factory=Job)
    network: Network = field(default_factory=Network)
    labels: bool = False
    """Whether both players see the class of an image (Mirza and Osindero 2014)."""
    objective: Literal["minimax", "non_saturating", "hinge", "least_squares"] = "non_saturating"
    """minimax: the generator's loss is log(1 - D(G(z))), which saturates; non_saturating: -log D(G(z))."""
    discriminator_steps: int = 1
    """k, the steps of the discriminator for each of the generator; each takes a minibatch of its own."""
    r1: float = 0.0
    """gamma of the gradient penalty on real images, gamma / 2 |grad D(x)|^2, which lets the game settle (Mescheder et al. 2018)."""
    r2: float = 0.0
    """gamma of the same penalty on generated images; with both, the discriminator is smooth wherever it is asked."""
    optimizer: Optimizer = field(default_factory=Optimizer)


DIGITS = Config(
    job=Job(dataset="digits", steps=6000, batch_size=64, checkpoint_every=1000, sample_every=500),
    network=Network(architecture="plain", width=16, multipliers=(1, 2)),
    r1=0.1,
)
MNIST = Config(
    job=Job(dataset="mnist", steps=6000, batch_size=64, checkpoint_every=1000, sample_every=500),
    network=Network(architecture="residual", width=16, groups=8),
    r1=0.1,
    optimizer=Optimizer(learning_rate=1e-3, decay_steps=6000),
)
"""Half an hour of processor time."""
STACKED = replace(
    MNIST,
    job=replace(MNIST.job, dataset="stacked_mnist", steps=10_000),
    network=replace(MNIST.network, latent_dim=128),
    optimizer=replace(MNIST.optimizer, decay_steps=10_000),
)
POINTS = Config(
    job=Job(dataset="grid25", steps=60_000, batch_size=128, checkpoint_every=5000, sample_every=2000),
    network=Network(architecture="mlp", latent_dim=2, hidden=(64,) * 6, discriminator_hidden=(64,) * 3, frequencies=32),
    r1=0.01,
    r2=0.01,
    optimizer=Optimizer(learning_rate=2e-3, momentum=0.0, beta2=0.99, decay_steps=60_000),
)
IMAGES = Config(
    job=Job(steps=100_000, batch_size=64, checkpoint_every=1000, sample_every=1000),
    network=Network(latent_dim=128, width=64, groups=8),
    r1=0.1,
)

PRESETS = {
    "digits": DIGITS,
    "mnist": MNIST,
    "fashion_mnist": replace(MNIST, job=replace(MNIST.job, dataset="fashion_mnist")),
    "kmnist": replace(MNIST, job=replace(MNIST.job, dataset="kmnist")),
    "stacked_mnist": STACKED,
    "grid25": POINTS,
    "ring8": replace(POINTS, job=replace(POINTS.job, dataset="ring8")),
    "*": IMAGES,
}


def recipe(config: Config, image_shape: tuple[int, ...], num_classes: int = 0):
    """A GAN of images (h, w, c), or of points (2,), with so many classes. JAX is imported here, once the command line has been read.

    Raises:
        UserError: if the configuration cannot work, or not for images of this shape, or labels are missing.
    """
    import jax
    import jax.numpy as jnp

    from jaxgen import adversarial
    from train import game

    check_ranges(
        ("discriminator-steps", config.discriminator_steps, 1, math.inf),
        ("r1", config.r1, 0, math.inf),
        ("r2", config.r2, 0, math.inf),
    )

    def itself(score):
        return score

    def side(score):
        """From -1 or less, made up, to 1 or more, real: the best hinge score is the sign of p - q."""
        return jnp.clip((1 + score) / 2, 0, 1)

    # What each player wants; and D, of the scores, at best p / (p + q).
    versus = {
        "minimax": (adversarial.discriminator_loss, adversarial.saturating_generator_loss, jax.nn.sigmoid),
        "non_saturating": (adversarial.discriminator_loss, adversarial.non_saturating_generator_loss, jax.nn.sigmoid),
        "hinge": (adversarial.hinge_discriminator_loss, adversarial.wasserstein_generator_loss, side),
        "least_squares": (
            adversarial.least_squares_discriminator_loss,
            adversarial.least_squares_generator_loss,
            itself,
        ),
    }
    discriminator_loss, generator_loss, D = versus[config.objective]

    def judged(score, x, labels, gamma):
        """Scores, (b,), and gamma / 2 |grad D(x)|^2 on average, a scalar, of the same pass."""
        if not gamma:
            return score(x, labels), 0.0
        scores, squares = game.of_each(adversarial.scores_and_squared_slopes, score, x, labels)
        return scores, gamma / 2 * squares.mean()

    def discriminator(score, real, fake, labels, _):
        real_scores, r1 = judged(score, real, labels, config.r1)
        fake_scores, r2 = judged(score, fake, labels, config.r2)
        value = discriminator_loss(real_scores, fake_scores) + r1 + r2
        return value, {"d_real": D(real_scores).mean(), "d_fake": D(fake_scores).mean()}

    losses = game.Losses(discriminator, generator_loss)
    return game.build(config, image_shape, num_classes, config.discriminator_steps, losses)


if __name__ == "__main__":
    from train.common import command

    sys.exit(command.main("gan", command.parse(Config, PRESETS, __doc__), recipe, points=True))
