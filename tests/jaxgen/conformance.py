"""The other side of the conformance tests: diffusers' schedulers in PyTorch, and one denoiser in both frameworks.

Both sides start from the same x_T and, where a sampler is stochastic, are given the same noise. Every state after a step is compared.
"""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen import editing, runge_kutta, samplers, solvers
from jaxgen.schedules import Schedule

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")

MIX = np.array([[0.8, 0.5, -0.3], [-0.4, 0.9, 0.2], [0.1, -0.6, 0.7]])
X_T = np.random.default_rng(0).standard_normal((4, 3)).astype(np.float32)
PREDICTS = {"epsilon": "eps", "sample": "x0", "v_prediction": "v"}
KEY = object()
"""Stands for a key where `same_noise` deals the draws."""


def denoiser(x, t):
    """Neither linear nor pointwise, and another function at every t; near enough to x that no sampler diverges."""
    return 0.9 * x + 0.3 * jnp.sin(x @ jnp.asarray(MIX, x.dtype) + (t / 200).astype(x.dtype)[:, None])


def torch_denoiser(x, t):
    return 0.9 * x + 0.3 * torch.sin(x @ torch.tensor(MIX, dtype=x.dtype) + float(t) / 200)


def theirs(scheduler, x=X_T, predict=torch_denoiser, timesteps=None, **options):
    """(len(timesteps), ...) every sample that the scheduler makes, in its own coordinates, float32 as it comes."""
    x, states = torch.tensor(x), []
    for t in scheduler.timesteps if timesteps is None else timesteps:
        x = scheduler.step(predict(scheduler.scale_model_input(x, t), t), t, x, **options).prev_sample
        states.append(x.numpy())
    return np.stack(states)


def theirs_scaled(scheduler, every=1, **options):
    """The same for schedulers of x / sqrt(alpha_bar), begun at and brought back to x; every so many-th state and the last."""
    scale = torch.sqrt(scheduler.sigmas**2 + 1).numpy()
    states = theirs(scheduler, X_T * scale[0], **options)
    kept = np.append(np.arange(every - 1, len(states) - 1, every), len(states) - 1)
    return states[kept] / scale[1:][kept].reshape(-1, *[1] * X_T.ndim)


def ours(sampler, grid, x=X_T):
    """The same of a sampler ``(x_T, timesteps) -> image, trajectory``, compiled with the grid as data."""
    image, states = jax.jit(lambda *arguments: sampler(*arguments))(jnp.asarray(x), jnp.asarray(grid))
    np.testing.assert_array_equal(image, states[-1])
    return np.asarray(states)


def same_noise(monkeypatch, count, scheduler, first=1, shape=X_T.shape):
    """Draws number ``first``, ``first + 1`` ... of ours are what the scheduler draws first, second ..."""
    noise = np.random.default_rng(1).standard_normal((count + first, *shape)).astype(np.float32)
    left = iter(noise[first:])
    module = sys.modules[type(scheduler).__module__]
    monkeypatch.setattr(module, "randn_tensor", lambda *_, **__: torch.tensor(next(left)))
    for where in (samplers, solvers, runge_kutta, editing):
        monkeypatch.setattr(where, "normal", lambda draw, shape: jnp.asarray(noise)[draw])
    for where in (samplers, runge_kutta, editing):
        monkeypatch.setattr(where, "fold_in", lambda key, draw: draw if key is KEY else key)
    return noise


def of_their_table(scheduler):
    """The schedule with their alpha_bars, to compare what is sensitive to the float32 that they are rounded to."""
    log_alpha_bars = np.log(scheduler.alphas_cumprod.double().numpy())
    return Schedule(-np.expm1(np.diff(log_alpha_bars, prepend=0.0)), log_alpha_bars)


def distance(actual, expected):
    """The largest difference over all states, each relative to the largest value of the expected state."""
    assert actual.shape == expected.shape
    axes = tuple(range(1, expected.ndim))
    return (np.abs(actual - expected).max(axes) / np.abs(expected).max(axes)).max()


def assert_same(actual, expected, rtol=1e-4):
    assert np.isfinite(expected).all()
    assert distance(actual, expected) < rtol
