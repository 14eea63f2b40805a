"""Wasserstein GANs with gradient penalty (Gulrajani et al. 2017, arXiv:1704.00028): python -m train.wgan_gp

A critic, bound to slopes of 1, measures how far what is generated is from the data; the generator goes the shortest way. `critic` lies
beside the paper's Algorithm 1; the game around it, five critic steps on fresh minibatches for each generator step, is `game.play`.
"""

import math
import sys
from dataclasses import dataclass, field, replace
from typing import Literal

from train import gan
from train.common.config import Job
from train.common.errors import check_ranges
from train.players import Network, Optimizer

ADAM = Optimizer(learning_rate=1e-4, momentum=0.0, beta2=0.9)
"""The paper's."""


@dataclass(frozen=True)
class Config:
    """A Wasserstein GAN and how to train it."""

    job: Job = field(default_factory=Job)
    network: Network = field(default_factory=lambda: Network(architecture="residual"))
    labels: bool = False
    """Whether both players see the class of an image."""
    lipschitz: Literal["penalty", "clipping"] = "penalty"
    """What bounds the critic's slope. clipping: of its parameters, the older way (Arjovsky et al. 2017)."""
    penalty_weight: float = 10.0
    """penalty: lambda, the weight of (|grad f| - 1)^2 on the lines between real and generated images."""
    clip: float = 0.01
    """clipping: the largest size of a parameter of the critic."""
    critic_steps: int = 5
    """Steps of the critic for each of the generator; each takes a minibatch of its own."""
    optimizer: Optimizer = ADAM


DIGITS = Config(
    job=replace(gan.DIGITS.job, steps=3000),
    network=replace(gan.DIGITS.network, architecture="residual"),
    optimizer=replace(ADAM, learning_rate=5e-4),
)
MNIST = Config(
    job=replace(gan.MNIST.job, steps=5000, batch_size=32),
    network=Network(architecture="dcgan", width=16, groups=8),
    optimizer=replace(ADAM, learning_rate=5e-4, decay_steps=5000),
)
"""A quarter of an hour of processor time."""
POINTS = Config(
    job=replace(gan.POINTS.job, steps=10_000),
    network=gan.POINTS.network,
    optimizer=replace(ADAM, learning_rate=1e-3, decay_steps=10_000),
)
IMAGES = Config(
    job=gan.IMAGES.job,
    network=Network(architecture="residual", latent_dim=128, width=32, multipliers=(1, 2, 4, 8), groups=8),
)

PRESETS = {
    "digits": DIGITS,
    "mnist": MNIST,
    "fashion_mnist": replace(MNIST, job=replace(MNIST.job, dataset="fashion_mnist")),
    "kmnist": replace(MNIST, job=replace(MNIST.job, dataset="kmnist")),
    "grid25": POINTS,
    "ring8": replace(POINTS, job=replace(POINTS.job, dataset="ring8")),
    "*": IMAGES,
}


def recipe(config: Config, image_shape: tuple[int, ...], num_classes: int = 0):
    """A WGAN of images (h, w, c), or of points (2,), with so many classes. JAX is imported here, once the command line has been read.

    Raises:
        UserError: if the configuration cannot work, or not for images of this shape, or labels are missing.
    """
    from jaxgen import adversarial
    from train import game

    check_ranges(
        ("penalty-weight", config.penalty_weight, 0, math.inf),
        ("clip", config.clip, 1e-12, math.inf),
        ("critic-steps", config.critic_steps, 1, math.inf),
    )

    def critic(score, real, fake, labels, keys):
        """Algorithm 1, lines 4 to 8: x_hat between x and G(z), f(G(z)) - f(x) + lambda (|grad f(x_hat)| - 1)^2."""
        real_scores, fake_scores = game.of_both(score, real, fake, labels)
        value = adversarial.wasserstein_critic_loss(real_scores, fake_scores)
        metrics = {"wasserstein": -value, "score_real": real_scores.mean(), "score_fake": fake_scores.mean()}
        if config.lipschitz == "clipping":
            return value, metrics
        x_hat = adversarial.interpolate(keys, real, fake)
        penalty = game.of_each(adversarial.gradient_penalty, score, x_hat, labels).mean()
        return value + config.penalty_weight * penalty, {**metrics, "penalty": penalty}

    def constrain(params):
        return adversarial.clip(params, config.clip) if config.lipschitz == "clipping" else params

    losses = game.Losses(critic, adversarial.wasserstein_generator_loss, constrain)
    return game.build(config, image_shape, num_classes, config.critic_steps, losses)


if __name__ == "__main__":
    from train.common import command

    sys.exit(command.main("wgan_gp", command.parse(Config, PRESETS, __doc__), recipe, points=True))
