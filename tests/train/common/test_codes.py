"""Where a code is two pixels and an image shows its code, every picture of a space of codes can be written down."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from train.common import codes, gallery, images

N = 8


def observe(batch, _):
    return images.to_unit_range(batch["image"])


def encode(scale, x, _):
    """The first two pixels of (b, 1, 3, 1), scaled."""
    return scale * x[:, 0, :2, 0]


def decode(scale, z, labels):
    """The code, scaled back, and the label, as an image of 1x3 pixels."""
    return jnp.concatenate([z / scale, labels[:, None].astype(z.dtype)], axis=1)[:, None, :, None]


def drawn(picture, devices, num=N):
    image = np.random.default_rng(0).integers(0, 256, (num, 1, 3, 1), dtype=np.uint8)
    batch = {"image": image, "label": np.arange(num, dtype=np.int32)}
    shown = gallery.drawer(picture, jax.devices()[:devices])(np.float32(3), batch, jax.random.key(0))
    return shown, image[..., 0] / 127.5 - 1


def image_of(code, label):
    return np.append(code, label)[None]


@pytest.mark.parametrize("devices", [1, 8])
def test_a_reconstruction_is_right_of_its_original_and_decoded_under_its_label(devices):
    shown, x = drawn(codes.reconstructions(observe, encode, decode), devices)
    expected = [np.hstack([x[i], image_of(x[i, 0, :2], i)]) for i in range(N)]
    np.testing.assert_allclose(shown[..., 0], expected, atol=1e-6)


@pytest.mark.parametrize("devices", [1, 2, 8])
def test_an_interpolation_is_the_segment_from_each_code_to_the_next_and_the_last_ones_next_is_the_first(devices):
    shown, x = drawn(codes.interpolation(observe, encode, decode), devices)
    here, parts = x[:, 0, :2], np.linspace(0, 1, codes.MOMENTS)
    there = np.roll(here, -1, axis=0)
    expected = [[image_of((1 - t) * here[i] + t * there[i], i) for t in parts] for i in range(N)]
    assert shown.shape == (N, codes.MOMENTS, 1, 3, 1)
    np.testing.assert_allclose(shown[..., 0], expected, atol=1e-6)


def test_an_interpolation_of_rows_that_the_devices_cannot_share_ends_where_it_began_too():
    shown, x = drawn(codes.interpolation(observe, encode, decode), devices=4, num=6)
    np.testing.assert_allclose(shown[-1, -1, 0, :2, 0], x[0, 0, :2], atol=1e-6)


@pytest.mark.parametrize("devices", [1, 2, 8])
def test_row_i_column_j_of_the_map_is_what_the_quantiles_of_i_and_j_mean(devices):
    shown, _ = drawn(codes.manifold(decode), devices)
    quantiles = stats.norm.ppf((np.arange(N) + 0.5) / N)
    expected = [np.hstack([image_of([u / 3, v / 3], i) for v in quantiles]) for i, u in enumerate(quantiles)]
    assert shown.shape == (N, 1, 3 * N, 1)
    np.testing.assert_allclose(shown[..., 0], expected, atol=1e-5)
