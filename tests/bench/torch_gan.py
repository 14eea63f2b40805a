"""The networks and training steps of ``train.gan`` and ``train.wgan_gp`` in plain PyTorch, for `tests.bench.gan_cpu`.

The same layers in the same order and with as many parameters as `jaxgen.models.gan` has; a convolution of stride 2 pads at both edges,
ours at the far one, which costs no time.
"""

import itertools
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from train import gan, wgan_gp


def activation():
    return nn.LeakyReLU(0.2)


def conv(inputs, outputs, stride=1):
    return nn.Conv2d(inputs, outputs, 3, stride, padding=1)


def norm(groups, channels):
    return nn.GroupNorm(groups, channels, eps=1e-6) if groups else nn.Identity()


def dcgan(network, size, channels):
    """Generator and discriminator, for images of this size and so many channels."""
    widths = [network.width * multiplier for multiplier in network.multipliers]
    small = [side // 2 ** (len(widths) - 1) for side in size]
    peak = widths[-1]
    doublings = [
        [nn.Upsample(scale_factor=2), conv(a, b), norm(network.groups, b), activation()]
        for a, b in itertools.pairwise(widths[::-1])
    ]
    generator = nn.Sequential(
        nn.Linear(network.latent_dim, math.prod(small) * peak),
        nn.Unflatten(1, (peak, *small)),
        norm(network.groups, peak),
        activation(),
        *itertools.chain(*doublings),
        conv(widths[0], channels),
        nn.Tanh(),
    )
    halvings = [[conv(a, b, stride=2), activation()] for a, b in itertools.pairwise(widths)]
    discriminator = nn.Sequential(
        conv(channels, widths[0]),
        activation(),
        *itertools.chain(*halvings),
        nn.Flatten(),
        nn.Linear(math.prod(small) * peak, 1),
    )
    return generator, discriminator


class Residual(nn.Module):
    """The sum of two paths."""

    def __init__(self, shortcut, *branch):
        super().__init__()
        self.shortcut, self.branch = shortcut, nn.Sequential(*branch)

    def forward(self, x):
        return self.shortcut(x) + self.branch(x)


def residual(network, size, channels):
    """As `dcgan`."""
    widths, groups = [network.width * multiplier for multiplier in network.multipliers], network.groups
    small = [side // 2 ** (len(widths) - 1) for side in size]
    peak, first = widths[-1], widths[0]

    def up(a, b):
        branch = [norm(groups, a), activation(), nn.Upsample(scale_factor=2), conv(a, b)]
        branch += [norm(groups, b), activation(), conv(b, b)]
        return Residual(nn.Sequential(nn.Conv2d(a, b, 1), nn.Upsample(scale_factor=2)), *branch)

    def down(a, b):
        branch = [activation(), conv(a, a), activation(), conv(a, b), nn.AvgPool2d(2)]
        return Residual(nn.Sequential(nn.AvgPool2d(2), nn.Conv2d(a, b, 1)), *branch)

    generator = nn.Sequential(
        nn.Linear(network.latent_dim, math.prod(small) * peak),
        nn.Unflatten(1, (peak, *small)),
        *(up(a, b) for a, b in itertools.pairwise(widths[::-1])),
        norm(groups, first),
        activation(),
        conv(first, channels),
        nn.Tanh(),
    )
    discriminator = nn.Sequential(
        conv(channels, first),
        *(down(a, b) for a, b in itertools.pairwise(widths)),
        Residual(nn.Identity(), activation(), conv(peak, peak), activation(), conv(peak, peak)),
        activation(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(peak, 1),
    )
    return generator, discriminator


def squared_slopes(discriminator, x):
    """Scores, and |grad f(x_i)|^2 of each image, which can be differentiated once more."""
    x = x.detach().requires_grad_()
    scores = discriminator(x)[:, 0]
    (slopes,) = torch.autograd.grad(scores.sum(), x, create_graph=True)
    return scores, slopes.square().sum(dim=(1, 2, 3))


def gan_loss(config, discriminator, real, fake):
    """-V(D, G) + gamma / 2 |grad D(x)|^2."""
    if not config.r1:
        real_logits, fake_logits = discriminator(torch.cat([real, fake]))[:, 0].chunk(2)
        return F.softplus(-real_logits).mean() + F.softplus(fake_logits).mean()
    real_logits, penalty = squared_slopes(discriminator, real)
    fake_logits = discriminator(fake)[:, 0]
    return F.softplus(-real_logits).mean() + F.softplus(fake_logits).mean() + config.r1 / 2 * penalty.mean()


def critic_loss(config, discriminator, real, fake):
    """E f(G(z)) - E f(x) + lambda (|grad f(x_hat)| - 1)^2."""
    real_scores, fake_scores = discriminator(torch.cat([real, fake]))[:, 0].chunk(2)
    x_hat = torch.lerp(fake, real, torch.rand(len(real), 1, 1, 1, device=real.device))
    _, squares = squared_slopes(discriminator, x_hat)
    penalty = (squares.clamp_min(1e-12).sqrt() - 1).square().mean()
    return fake_scores.mean() - real_scores.mean() + config.penalty_weight * penalty


LOSSES = {
    gan.Config: (gan_loss, lambda logits: F.softplus(-logits)),
    wgan_gp.Config: (critic_loss, lambda scores: -scores),
}


def training(
    config: Any, images: torch.Tensor, k: int, memory_format: torch.memory_format, fused: bool | None, compiled: bool
) -> tuple[Callable[[int], None], int]:
    """A function that takes so many steps, each k of the discriminator and one of the generator, and the number of parameters."""
    device, network, settings, size = images.device, config.network, config.optimizer, config.job.batch_size
    pair = {"dcgan": dcgan, "residual": residual}[network.architecture](network, images.shape[2:], images.shape[1])
    generator, discriminator = (player.to(device, memory_format=memory_format) for player in pair)
    generate = torch.compile(generator) if compiled else generator
    discriminator_loss, generator_loss = LOSSES[type(config)]
    betas = (settings.momentum, settings.beta2)
    descents = [
        torch.optim.Adam(player.parameters(), lr=settings.learning_rate, betas=betas, fused=fused)
        for player in (generator, discriminator)
    ]

    def batches():
        while True:
            for rows in torch.randperm(len(images), device=device).split(size):
                if len(rows) == size:
                    yield images[rows].contiguous(memory_format=memory_format)

    def noise():
        return torch.randn(size, network.latent_dim, device=device)

    def descend(descent, loss):
        descent.zero_grad()
        loss.backward()
        descent.step()

    feed = batches()

    def take(steps):
        for _ in range(steps):
            discriminator.requires_grad_(True)
            for _ in range(k):
                with torch.no_grad():
                    fake = generate(noise())
                descend(descents[1], discriminator_loss(config, discriminator, next(feed), fake))
            discriminator.requires_grad_(False)
            loss = generator_loss(discriminator(generate(noise()))[:, 0]).mean()
            descend(descents[0], loss)
        loss.item()  # waits for the GPU

    return take, sum(p.numel() for player in pair for p in player.parameters())
