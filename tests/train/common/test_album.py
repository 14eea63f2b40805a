"""What a run drew is shown with words that say what it is, and beside what another run drew."""

import json
import xml.etree.ElementTree as ET

import numpy as np
import pytest

from train.common import album, history, page, pictures

MOTION = "The same noise while the model learns"


def draw(folder, *names, height=8, width=8):
    for name in names:
        picture = np.full((height, width, 1), 128, np.uint8)
        path = folder / "samples" / name
        pictures.save_gif(path, [picture, picture // 2]) if path.suffix == ".gif" else pictures.save_png(path, picture)


def configure(folder, recipe, shape=(8, 8, 1), **job):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(
        json.dumps({"recipe": recipe, "config": {"job": job}, "data": {"shape": shape}})
    )


def shown(folder):
    return ET.fromstring(page.document("", album.samples(history.read(folder))))


def captions(root):
    return [figure.findtext("figcaption") for figure in root.iter("figure")]


def sources(root):
    return [image.get("src") for image in root.iter("img")]


def test_known_pictures_come_first_with_a_sentence_and_others_under_their_name(tmp_path):
    draw(tmp_path, "a_view.png", *(f"{name}.png" for name in sorted(album.CAPTIONS)))
    told = captions(shown(tmp_path))
    assert told == [*album.CAPTIONS.values(), "a view"]


def test_a_wide_picture_has_a_row_of_its_own(tmp_path):
    draw(tmp_path, "reconstructions.png", width=12)
    draw(tmp_path, "manifold.png", "classes.png", width=11)
    rows = [
        [figure.findtext("figcaption") for figure in row.iter("figure")] for row in shown(tmp_path).findall(".//div")
    ]
    assert rows == [[album.CAPTIONS["reconstructions"]], [album.CAPTIONS["classes"], album.CAPTIONS["manifold"]]]


def test_an_animation_is_left_out_where_its_strip_is_there_save_for_denoising(tmp_path):
    draw(tmp_path, "interpolation.gif", "other.gif", "interpolation.png", "denoising.gif", "denoising.png")
    draw(tmp_path, "step_00000010.png")
    assert captions(shown(tmp_path)) == [
        "Samples at step 10",
        "The same model at work: from noise to pictures",
        "Denoising, from left to right; one example per row",
        album.CAPTIONS["interpolation"],
        "other",
    ]


@pytest.mark.parametrize("at_work", [(), ("denoising.gif",)])
def test_the_animation_of_the_training_stands_beside_the_newest_samples(tmp_path, at_work):
    draw(tmp_path, "step_00000010.png", "step_00000020.png", "training.gif", *at_work)
    root = shown(tmp_path)
    pair = [figure.findtext("figcaption") for figure in root.find(".//div[@class='pair']")]
    assert pair == ["Samples at step 20", *("The same model at work: from noise to pictures" for _ in at_work), MOTION]
    assert captions(root) == [*pair, "step 10"]


def test_of_points_the_page_says_which_are_which(tmp_path):
    draw(tmp_path, "step_00000010.png")
    for shape, told in (((8, 8, 1), ""), ((2,), "Strong: samples. Faint: data.")):
        configure(tmp_path, "gan", shape)
        assert shown(tmp_path).findtext(".//p[@class='note']", "")[:29] == told


def test_the_newest_grid_of_another_run_stands_beside_the_newest_of_this_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    configure(tmp_path / "ae", "ae", beside="runs/vae <b>")
    configure(tmp_path / "runs" / "vae <b>", "vae")
    draw(tmp_path / "ae", "step_00000010.png", "step_00000020.png")
    draw(tmp_path / "runs" / "vae <b>", "step_00001000.png", width=7)
    draw(tmp_path / "runs" / "vae <b>", "step_00002000.png", "manifold.png", width=9)
    root = shown(tmp_path / "ae")
    assert captions(root) == [
        "Samples at step 20",
        "For comparison: samples of runs/vae <b> (train.vae) at step 2,000",
        "step 10",
    ]
    assert [image.get("width") for image in root.iter("img")] == ["8", "9", "8"]


@pytest.mark.parametrize("beside", ["runs/vae", "\0", "x" * 5000, "/dev/null"])
def test_where_the_other_run_has_no_samples_the_page_says_so(tmp_path, monkeypatch, beside):
    monkeypatch.chdir(tmp_path)
    configure(tmp_path / "ae", "ae", beside=beside)
    draw(tmp_path / "ae", "step_00000010.png")
    root = shown(tmp_path / "ae")
    assert captions(root) == ["Samples at step 10"]
    told = root.findtext(".//p[@class='note']")
    assert told.startswith(f"Samples of {beside}".replace("\0", "\ufffd"))
    assert "has none yet" in told


@pytest.mark.parametrize("beside", [None, "", 3, ["a"]])
def test_without_another_run_nothing_is_said_of_it(tmp_path, beside):
    configure(tmp_path, "ae", beside=beside)
    draw(tmp_path, "step_00000010.png")
    assert shown(tmp_path).find(".//p") is None


def test_a_broken_picture_is_named_and_the_others_are_shown(tmp_path):
    draw(tmp_path, "step_00000010.png", "manifold.png")
    (tmp_path / "samples" / "manifold.png").write_bytes(b"no picture")
    root = shown(tmp_path)
    assert len(sources(root)) == 1
    assert root.findtext(".//p[@class='missing']").startswith("samples/manifold.png is unreadable")
