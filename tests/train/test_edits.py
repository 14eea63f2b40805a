"""A picture from a file is seen as a person sees it, whatever its format."""

import numpy as np
import pytest
from PIL import Image

from train import edits

NOISE = np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)


@pytest.mark.parametrize("mode", ["L", "P", "RGB", "RGBA", "1"])
def test_a_small_image_of_a_large_one_is_of_its_averages_in_every_mode(mode):
    """Numbers of a palette's colours are no grey levels, and are not averaged; nor is a neighbour taken in place of an average."""
    picture = Image.fromarray(NOISE).convert(mode)
    grey = Image.fromarray(np.asarray(picture.convert("L")))
    expected = np.asarray(grey.resize((8, 8), Image.Resampling.LANCZOS))[..., None]
    np.testing.assert_allclose(edits.fitted(picture, (8, 8, 1)).astype(int), expected, atol=1)
    assert edits.fitted(picture, (8, 16, 3)).shape == (8, 16, 3)
    np.testing.assert_array_equal(edits.fitted(picture, (64, 64, 1))[..., 0], grey)


def test_a_picture_that_a_camera_held_sideways_stands_upright(tmp_path):
    picture = Image.fromarray(NOISE[:40, :20])
    exif = Image.Exif()
    exif[0x0112] = 6  # the orientation: to be turned clockwise by a quarter
    picture.save(tmp_path / "a.png", exif=exif)
    opened = edits.open_picture(tmp_path / "a.png")
    assert opened.size == (40, 20)
    np.testing.assert_array_equal(np.asarray(opened), np.rot90(NOISE[:40, :20], -1))
