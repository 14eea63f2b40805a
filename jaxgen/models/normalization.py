"""Group normalisation as arithmetic, with the gradient of normalise-scale-SiLU written out. `layers.GroupNorm` has the parameters."""

import functools

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax


def group_mean(x, groups):
    """Mean over each group of channels, at every channel of the group: (b, 1, 1, c) -> (b, 1, 1, c)."""
    b, _, _, c = x.shape
    return jnp.repeat(x.reshape(b, 1, 1, groups, c // groups).mean(-1), c // groups, axis=-1)


def group_statistics(x, groups, epsilon):
    """Mean and 1 / sqrt(variance + epsilon) of each channel's group, float32: (b, h, w, c) -> (b, 1, 1, c) twice.

    The big array is averaged per channel, and only those averages are gathered into groups: splitting its channels into
    (groups, c / groups) would give the compiler a short innermost axis, which it cannot vectorise.
    """
    x = x.astype(jnp.float32)
    mean = group_mean(_pixel_mean(x), groups)
    variance = group_mean(_pixel_mean(x * x), groups) - mean * mean
    return mean, lax.rsqrt(jnp.maximum(variance, 0.0) + epsilon)  # rounding may take the difference below zero


def _pixel_mean(x):
    return x.mean((1, 2), keepdims=True)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def norm_silu(x, gamma, beta, groups, epsilon):
    """silu(gamma x_hat + beta) with x_hat = (x - mean) / std of its group: (b, h, w, c), (c,), (c,) -> (b, h, w, c), dtype of x.

    The gradient is written out, so that the backward pass keeps only x and reads it twice. Differentiated line by line it
    would store, or compute once for each of its sums, the whole chain x_hat, z, sigmoid(z), silu'(z).
    """
    return _norm_silu_forward(x, gamma, beta, groups, epsilon)[0]


def _norm_silu_forward(x, gamma, beta, groups, epsilon):
    mean, inverse_std = group_statistics(x, groups, epsilon)
    z = affine(x, gamma, beta, mean, inverse_std)
    return (z * nn.sigmoid(z)).astype(x.dtype), (x, gamma, beta, mean, inverse_std)


def _norm_silu_backward(groups, epsilon, residuals, dy):
    x, gamma, beta, mean, inverse_std = residuals
    z = affine(x, gamma, beta, mean, inverse_std)
    gate = nn.sigmoid(z)
    dz = dy.astype(jnp.float32) * gate * (1.0 + z * (1.0 - gate))
    x = x.astype(jnp.float32)
    dz_mean = _pixel_mean(dz)
    dz_x_hat_mean = (_pixel_mean(dz * x) - mean * dz_mean) * inverse_std
    # dx = (gamma dz - <gamma dz> - x_hat <gamma dz x_hat>) / std, <> the mean over a group: x_hat changes neither when
    # its group is shifted nor when it is scaled, so the gradient has no part along these two. Collected in powers of x:
    gamma = gamma[None, None, None, :]
    slope = inverse_std * inverse_std * group_mean(gamma * dz_x_hat_mean, groups)
    offset = inverse_std * group_mean(gamma * dz_mean, groups) - mean * slope
    dx = inverse_std * gamma * dz - slope * x - offset
    pixels = x.shape[1] * x.shape[2]
    dgamma, dbeta = (pixels * per_image.sum((0, 1, 2)) for per_image in (dz_x_hat_mean, dz_mean))
    return dx.astype(dy.dtype), dgamma, dbeta


def affine(x, gamma, beta, mean, inverse_std):
    scale = inverse_std * gamma[None, None, None, :]
    return x.astype(jnp.float32) * scale + (beta[None, None, None, :] - mean * scale)


norm_silu.defvjp(_norm_silu_forward, _norm_silu_backward)
