"""Similarity of images against closed forms, a brute force in float64, and scikit-image where it is installed."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen import similarity


def pairs(shape=(3, 16, 13, 2), seed=0):
    rng = np.random.default_rng(seed)
    x = rng.uniform(-1, 1, shape)
    return x, np.clip(x + rng.normal(scale=[[[[0.05]]], [[[0.3]]], [[[1.0]]]], size=shape), -1, 1)


def test_an_image_is_infinitely_like_itself():
    x, _ = pairs()
    assert np.isposinf(similarity.psnr(jnp.asarray(x), jnp.asarray(x))).all()
    np.testing.assert_allclose(similarity.ssim(jnp.asarray(x), jnp.asarray(x)), 1, rtol=1e-6)


@pytest.mark.parametrize(("shift", "decibels"), [(0.2, 20), (0.02, 40)])
def test_a_tenth_of_the_range_everywhere_is_20_decibels_and_a_hundredth_40(shift, decibels):
    x = jnp.asarray(pairs()[0])
    np.testing.assert_allclose(similarity.psnr(x, x + shift), decibels, rtol=1e-4)


def test_bytes_and_unit_ranges_have_the_same_ratio():
    x, y = (jnp.asarray(z) for z in pairs())
    expected = similarity.psnr(x, y)
    np.testing.assert_allclose(similarity.psnr(127.5 * (x + 1), 127.5 * (y + 1), peak=255.0), expected, rtol=1e-5)


def test_of_constant_images_the_structural_similarity_is_that_of_their_means():
    """(2 a b + C_1) / (a^2 + b^2 + C_1), with C_1 = (0.01 2)^2."""
    a, b = 0.5, -0.3
    found = similarity.ssim(jnp.full((1, 12, 12, 1), a), jnp.full((1, 12, 12, 1), b))
    np.testing.assert_allclose(found, (2 * a * b + 4e-4) / (a**2 + b**2 + 4e-4), rtol=1e-5)


def test_of_an_image_without_mean_under_any_window_the_negative_has_negative_similarity():
    """Stripes of period two: their mean under the window is nothing, and s_xy = -s^2 makes the quotient about -1."""
    stripes = jnp.broadcast_to((-1.0) ** jnp.arange(14)[None, None, :, None], (1, 14, 14, 1))
    np.testing.assert_allclose(similarity.ssim(stripes, -stripes), -1, atol=0.01)


def brute_force(x, y, data_range, window):
    """The formula of Wang et al. 2004, window by window, in float64."""
    offsets = np.arange(window) - window // 2
    w = np.exp(-(offsets[:, None] ** 2 + offsets[None, :] ** 2) / (2 * 1.5**2))
    w /= w.sum()
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    values = []
    for i, j, c in np.ndindex(x.shape[0] - window + 1, x.shape[1] - window + 1, x.shape[2]):
        p, q = (z[i : i + window, j : j + window, c] for z in (x, y))
        mp, mq = (w * p).sum(), (w * q).sum()
        vp, vq, cov = (w * (p - mp) ** 2).sum(), (w * (q - mq) ** 2).sum(), (w * (p - mp) * (q - mq)).sum()
        values.append((2 * mp * mq + c1) * (2 * cov + c2) / ((mp**2 + mq**2 + c1) * (vp + vq + c2)))
    return np.mean(values)


@pytest.mark.parametrize("window", [11, 7])
def test_structural_similarity_is_its_formula(window):
    x, y = pairs()
    found = similarity.ssim(jnp.asarray(x), jnp.asarray(y), window=window)
    expected = [brute_force(p, q, 2.0, window) for p, q in zip(x, y, strict=True)]
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    assert found[0] > found[1] > found[2]


def test_a_nearly_flat_image_keeps_its_digits():
    """Near white, where a variance is a small difference of large numbers; in float32."""
    x, y = (0.99 + 0.01 * z for z in pairs())
    expected = [brute_force(p, q, 2.0, 11) for p, q in zip(x, y, strict=True)]
    found = similarity.ssim(jnp.asarray(x, jnp.float32), jnp.asarray(y, jnp.float32))
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_both_are_scikit_images():
    metrics = pytest.importorskip("skimage.metrics")
    how = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 2.0}
    x, y = pairs()
    for p, q, ratio in zip(x, y, similarity.psnr(jnp.asarray(x), jnp.asarray(y)), strict=True):
        np.testing.assert_allclose(ratio, metrics.peak_signal_noise_ratio(p, q, data_range=2.0), rtol=1e-5)
        similar = similarity.ssim(jnp.asarray(p[None]), jnp.asarray(q[None]))[0]
        np.testing.assert_allclose(similar, metrics.structural_similarity(p, q, channel_axis=2, **how), rtol=1e-4)


@pytest.mark.parametrize(("side", "window"), [(10, 11), (16, 8)])
def test_images_without_a_whole_window_and_windows_without_a_middle_are_refused(side, window):
    x = jnp.zeros((1, 16, side, 1))
    with pytest.raises(ValueError, match=f"a window of {window}x{window} pixels must be odd and fit"):
        similarity.ssim(x, x, window=window)
