"""A page is one well-formed file that fetches nothing."""

import base64
import io
import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from PIL import Image

from train.common import page, pictures

NASTY = "<script>alert('x')</script> & \"quotes\" \x00\x1b ]]> \ud800 é 数"


def test_any_text_comes_back_as_it_was_save_unprintable_characters():
    body = page.section("a", NASTY, page.facts(NASTY, [(NASTY, NASTY)]) + page.table([NASTY], [[NASTY]]))
    root = ET.fromstring(page.document(NASTY, body + page.missing(NASTY) + page.command("x")))
    read = re.sub("[\x00\x1b\ud800]", "\ufffd", NASTY)
    assert root.findtext("head/title") == read
    assert [root.findtext(f".//{tag}") for tag in ("h2", "h3", "dt", "dd", "th", "td", "p")] == [read] * 7
    assert root.find(".//td").get("data-name") == read
    assert root.find(".//script") is None


def test_a_command_is_shown_letter_by_letter():
    line = "python -m train.ddpm --run 'a  b' --dataset 'folder:<x>'"
    assert "".join(ET.fromstring(page.command(line)).itertext()) == line


def test_a_small_picture_is_embedded_byte_by_byte(tmp_path):
    pictures.save_png(tmp_path / "a.png", np.zeros((3, 4, 1), np.uint8))
    element = ET.fromstring(page.picture(tmp_path / "a.png", NASTY))
    head, content = element.get("src").split(",")
    assert head == "data:image/png;base64"
    assert base64.b64decode(content) == (tmp_path / "a.png").read_bytes()
    assert (element.get("width"), element.get("height")) == ("4", "3")


def test_a_large_picture_is_embedded_smaller_and_looks_the_same(tmp_path):
    y, x = np.mgrid[:600, :600]
    smooth = np.stack([x // 3, y // 3, (x + y) // 6], -1)
    noisy = (smooth + np.random.default_rng(0).integers(0, 8, smooth.shape)).astype(np.uint8)
    pictures.save_png(tmp_path / "a.png", noisy)
    assert (tmp_path / "a.png").stat().st_size > page.PICTURE_BYTES
    content = base64.b64decode(ET.fromstring(page.picture(tmp_path / "a.png", "a")).get("src").split(",")[1])
    assert len(content) < page.PICTURE_BYTES
    with Image.open(io.BytesIO(content)) as image:
        assert np.abs(np.asarray(image).astype(float) - noisy).mean() < 5


def test_an_animation_stands_still_at_its_end_for_those_who_want_no_motion(tmp_path):
    frames = [np.full((4, 4, 1), grey, np.uint8) for grey in (0, 128, 255)]
    pictures.save_gif(tmp_path / "a.gif", frames)
    element = ET.fromstring(page.picture(tmp_path / "a.gif", "a"))
    assert element.find("img").get("src").startswith("data:image/gif;base64,")
    still = element.find("source[@media='(prefers-reduced-motion: reduce)']").get("srcset")
    with Image.open(io.BytesIO(base64.b64decode(still.split(",")[1]))) as image:
        assert np.asarray(image).min() == 255


@pytest.mark.parametrize("content", [b"", b"no picture", None])
def test_a_broken_or_absent_picture_is_none(tmp_path, content):
    if content is not None:
        (tmp_path / "a.png").write_bytes(content)
    assert page.picture(tmp_path / "a.png", "a") is None


def test_the_aspect_of_a_picture_is_its_width_over_its_height_and_1_where_there_is_none(tmp_path):
    pictures.save_png(tmp_path / "a.png", np.zeros((2, 5, 1), np.uint8))
    (tmp_path / "b.png").write_bytes(b"no picture")
    assert [page.aspect(tmp_path / name) for name in ("a.png", "b.png", "absent.png")] == [2.5, 1, 1]


def test_half_a_picture_is_none(tmp_path):
    for name in ("a.png", "a.gif"):
        noise = list(np.random.default_rng(0).integers(0, 256, (3, 64, 64, 1), dtype=np.uint8))
        pictures.save_png(tmp_path / name, noise[0]) if name == "a.png" else pictures.save_gif(tmp_path / name, noise)
        whole = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(whole[: len(whole) // 2])
        assert page.picture(tmp_path / name, "a") is None
