import jax
import numpy as np

from train.common import images, pictures


def test_the_unit_range_is_exactly_undone_by_pictures():
    grey = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
    unit = images.to_unit_range(grey)
    assert unit.min() == -1
    assert unit.max() == 1
    np.testing.assert_array_equal(pictures.to_uint8(unit), grey)


def test_an_image_is_mirrored_or_left_alone_and_about_half_are():
    n = 1000
    x = np.random.default_rng(0).normal(size=(n, 2, 3, 1))
    flipped = np.asarray(images.random_flip(jax.random.split(jax.random.key(0), n), x))
    mirrored = (flipped == x[:, :, ::-1].astype(np.float32)).all((1, 2, 3))
    same = (flipped == x.astype(np.float32)).all((1, 2, 3))
    assert np.all(mirrored ^ same)
    assert abs(mirrored.mean() - 0.5) < 4 * 0.5 / np.sqrt(n)
