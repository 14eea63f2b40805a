"""A folder of pictures as a data set."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from train.common import data, sources
from train.common.errors import UserError

FACES = Path(__file__).parents[4] / "shared" / "data" / "anime_faces"


def write(file, value=0, size=(6, 4), mode="RGB", **options):
    """A picture of one value, of (width, height)."""
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full(size[::-1], value, np.uint8)).convert(mode).save(file, **options)


def values(source):
    """The first byte of every image."""
    return source.rows(np.arange(len(source)))["image"][:, 0, 0, 0].tolist()


def test_pictures_come_in_the_order_of_their_paths_whatever_their_format(tmp_path):
    for name, value in [("b.png", 3), ("a.bmp", 2), ("B.webp", 1), ("c/a.gif", 4), ("c-d/a.png", 5), ("A.PNG", 0)]:
        write(tmp_path / name, value, lossless=True) if name.endswith("webp") else write(tmp_path / name, value)
    write(tmp_path / "d.JPG", 128, quality=100)
    source = data.load(f"folder:{tmp_path}")
    # Code points: capitals first; and the folder "c" before the folder "c-d".
    assert values(source) == [0, 1, 2, 3, 4, 5, 128]
    assert source.shape == (4, 6, 3)


def test_what_is_hidden_or_no_picture_is_passed_over(tmp_path):
    write(tmp_path / "cat.png", 9)
    for name in ("._cat.png", ".trash/dog.png", "readme.txt"):
        file = tmp_path / name
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(b"no picture")
    assert values(data.load(f"folder:{tmp_path}")) == [9]


def test_labels_are_the_first_subfolders_if_every_picture_lies_in_one(tmp_path):
    for name in ("dogs/1.png", "cats/white/2.png", "cats/1.png"):
        write(tmp_path / name)
    source = data.load(f"folder:{tmp_path}")
    assert source.class_names == ("cats", "dogs")
    assert source.rows(np.arange(3))["label"].tolist() == [0, 0, 1]
    write(tmp_path / "stray.png")
    source = data.load(f"folder:{tmp_path}")
    assert source.class_names == ()
    assert source.rows(np.arange(4))["label"].tolist() == [0, 0, 0, 0]


def test_the_images_are_grey_only_if_every_picture_is(tmp_path):
    write(tmp_path / "a.png", 10, mode="L")
    write(tmp_path / "b.png", 255, mode="1")
    source = data.load(f"folder:{tmp_path}")
    assert source.shape == (4, 6, 1)
    assert values(source) == [10, 255]
    write(tmp_path / "c.png", 30)
    assert data.load(f"folder:{tmp_path}").shape == (4, 6, 3)


def test_a_camera_held_sideways_is_obeyed(tmp_path):
    image = np.zeros((4, 6, 3), np.uint8)
    image[:, :3] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter, clockwise
    Image.fromarray(image).save(tmp_path / "a.png", exif=exif)
    source = data.load(f"folder:{tmp_path}")
    assert source.shape == (6, 4, 3)
    assert np.array_equal(source.rows(np.arange(1))["image"][0], np.rot90(image, -1))


def test_with_a_size_pictures_of_any_size_will_do(tmp_path):
    for i, size in enumerate([(5, 9), (40, 30), (8, 8)]):
        write(tmp_path / f"{i}.png", 50 * i, size)
    source = data.load(f"folder:{tmp_path}", image_size=8)
    assert source.shape == (8, 8, 3)
    assert values(source) == [0, 50, 100]


def test_without_a_size_pictures_of_different_sizes_are_refused(tmp_path):
    write(tmp_path / "a.png", size=(5, 9))
    write(tmp_path / "b.png", size=(9, 5))
    with pytest.raises(UserError, match=r"2 different sizes \(5x9, 9x5, ...\): give --image-size N"):
        data.load(f"folder:{tmp_path}")


def test_a_large_photograph_decoded_small_is_the_photograph(tmp_path):
    x, y = np.meshgrid(np.linspace(0, 255, 640), np.linspace(0, 255, 480))
    image = np.stack([x, y, 255 - x], -1).astype(np.uint8)
    Image.fromarray(image).save(tmp_path / "a.jpg", quality=95)
    decoded = data.load(f"folder:{tmp_path}", image_size=32).rows(np.arange(1))["image"][0]
    expected = sources.pixels(Image.fromarray(image), grey=False, size=32)
    assert np.abs(decoded.astype(int) - expected).max() <= 4


def test_no_folder_and_an_empty_folder_are_told_apart(tmp_path):
    with pytest.raises(UserError, match="there is no folder"):
        data.load(f"folder:{tmp_path / 'nowhere'}")
    with pytest.raises(UserError, match="no pictures in the folder"):
        data.load(f"folder:{tmp_path}")


def test_broken_pictures_among_good_ones_are_named(tmp_path):
    for i in range(4):
        write(tmp_path / f"good/{i}.png", size=(30, 30))
    (tmp_path / "good/1.png").write_bytes(b"not a picture at all")
    (tmp_path / "good/3.png").write_bytes(b"")
    with pytest.raises(
        UserError, match=r"2 of 4 pictures in .* cannot be read: good/1.png \(not a picture\); good/3.png"
    ):
        data.load(f"folder:{tmp_path}")


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_a_truncated_picture_among_good_ones_is_named(tmp_path, suffix):
    for i in range(3):
        noise = np.random.default_rng(i).integers(0, 256, (50, 50, 3), np.uint8)
        Image.fromarray(noise).save(tmp_path / f"{i}.{suffix}")
    file = tmp_path / f"1.{suffix}"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(UserError, match=rf"1 of 3 pictures in .* cannot be read: 1.{suffix} \(.*Delete them"):
        data.load(f"folder:{tmp_path}")


def test_of_many_broken_pictures_the_first_five_are_named(tmp_path):
    for i in range(8):
        (tmp_path / f"{i}.png").write_bytes(b"")
    with pytest.raises(UserError, match=r"8 of 8 .* 4.png \(not a picture\); and 3 more"):
        data.load(f"folder:{tmp_path}")


def test_a_folder_too_large_for_memory_gives_the_same_rows(tmp_path, monkeypatch):
    for i in range(5):
        write(tmp_path / f"{'ab'[i % 2]}/{i}.png", 40 * i)
    table = data.load(f"folder:{tmp_path}")
    monkeypatch.setattr(sources, "IN_MEMORY_BYTES", 100)
    lazy = data.load(f"folder:{tmp_path}")
    chosen = np.array([4, 1, 1])
    for key in ("image", "label"):
        assert np.array_equal(lazy.rows(chosen)[key], table.rows(chosen)[key])
        assert lazy.rows(chosen)[key].dtype == table.rows(chosen)[key].dtype
    assert (lazy.shape, len(lazy), lazy.nbytes, lazy.class_names) == (
        table.shape, len(table), table.nbytes, table.class_names,
    )  # fmt: skip


def test_in_a_folder_too_large_for_memory_a_broken_picture_is_named_when_its_turn_comes(tmp_path, monkeypatch):
    noise = np.random.default_rng(0).integers(0, 256, (50, 50, 3), np.uint8)
    for i in range(3):
        Image.fromarray(noise).save(tmp_path / f"{i}.png")
    file = tmp_path / "1.png"
    file.write_bytes(file.read_bytes()[:4000])
    monkeypatch.setattr(sources, "IN_MEMORY_BYTES", 100)
    lazy = data.load(f"folder:{tmp_path}", image_size=20)
    lazy.rows(np.array([0, 2]))
    with pytest.raises(UserError, match=r"cannot be read: 1.png"):
        lazy.rows(np.array([0, 1]))


@pytest.mark.parametrize("limit", [100, 2**20])
def test_another_picture_is_another_fingerprint(tmp_path, monkeypatch, limit):
    monkeypatch.setattr(sources, "IN_MEMORY_BYTES", limit)
    write(tmp_path / "a.png", 1)
    write(tmp_path / "b.png", 2)
    before = data.load(f"folder:{tmp_path}").fingerprint
    assert data.load(f"folder:{tmp_path}").fingerprint == before
    write(tmp_path / "c.png", 3)
    assert data.load(f"folder:{tmp_path}").fingerprint != before


@pytest.mark.skipif(not FACES.is_dir(), reason="needs shared/data/anime_faces beside the repository")
def test_fifteen_hundred_faces_are_read_exactly():
    source = data.load(f"folder:{FACES}")
    assert (len(source), source.shape, source.class_names) == (1500, (64, 64, 3), ())
    first = sorted(FACES.glob("*.png"))[0]
    assert np.array_equal(source.rows(np.array([0]))["image"][0], np.asarray(Image.open(first).convert("RGB")))
