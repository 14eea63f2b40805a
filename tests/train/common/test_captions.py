"""Captions come from files or labels, in the order of the pictures, and what is missing is named."""

import json

import numpy as np
import pytest
from PIL import Image

from train.common import captions, data
from train.common.errors import UserError


@pytest.fixture
def pictures(tmp_path):
    for i, name in enumerate(("b/2.png", "a/1.png", "a/10.png")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("L", (4, 4), i).save(tmp_path / name)
    return tmp_path


def said(source):
    rows = np.arange(len(source))
    found = captions.of(source)
    return [found.texts[i] for i in found.number(rows, source.rows(rows)["label"])]


def test_captions_of_digits_name_the_digit_in_every_form():
    source = data.load("digits")
    labels, texts = source.rows(np.arange(40))["label"], said(source)[:40]
    names = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
    assert all(text.endswith(names[label]) for text, label in zip(texts, labels, strict=True))
    assert {text.replace(names[label], "N") for text, label in zip(texts, labels, strict=True)} == {
        "a handwritten N",
        "the digit N",
        "N",
    }


def test_a_class_is_written_as_words_after_its_article():
    texts = captions.of_labels("pictures", ("airplane", "polar_bear")).texts
    assert "a photo of an airplane" in texts
    assert "a photo of a polar bear" in texts


def test_a_listing_gives_each_picture_its_own_caption(pictures):
    rows = [{"file": "b/2.png", "caption": "two"}, {"file_name": "a/10.png", "text": " ten "}]
    lines = [json.dumps(row) for row in (*rows, {"file": "a/1.png", "caption": "one"})]
    (pictures / "captions.jsonl").write_text("\n".join(lines) + "\n\n")
    assert said(data.load(f"folder:{pictures}")) == ["one", "ten", "two"]


def test_a_text_beside_each_picture_is_its_caption(pictures):
    for name, text in (("b/2", "zwei Bären\n"), ("a/1", "one"), ("a/10", "a\nlong  one")):
        (pictures / f"{name}.txt").write_text(text, encoding="utf-8")
    assert said(data.load(f"folder:{pictures}")) == ["one", "a long one", "zwei Bären"]


def test_without_captions_the_subfolders_are_the_classes(pictures):
    assert [text.split()[-1] for text in said(data.load(f"folder:{pictures}"))] == ["a", "a", "b"]


def test_pictures_without_a_caption_are_named(pictures):
    (pictures / "a/1.txt").write_text("one")
    with pytest.raises(UserError, match=r"2 of 3 pictures.*no caption in a \.txt file beside it: a/10\.png, b/2\.png"):
        captions.of(data.load(f"folder:{pictures}"))
    (pictures / "captions.jsonl").write_text(json.dumps({"file": "a/1.png", "caption": ""}))
    with pytest.raises(UserError, match=r"3 of 3 pictures.*captions\.jsonl: a/1\.png, a/10\.png, b/2\.png"):
        captions.of(data.load(f"folder:{pictures}"))


@pytest.mark.parametrize("line", ["{", "[1]", '"a"'])
def test_a_damaged_line_of_a_listing_is_named(pictures, line):
    (pictures / "captions.jsonl").write_text('{"file": "a/1.png", "caption": "one"}\n' + line)
    with pytest.raises(UserError, match=r"line 2 of .*captions\.jsonl"):
        captions.of(data.load(f"folder:{pictures}"))


def test_a_listing_that_is_not_in_utf_8_is_named(pictures):
    (pictures / "captions.jsonl").write_bytes('{"file": "a/1.png", "caption": "Bär"}'.encode("latin-1"))
    with pytest.raises(UserError, match=r"captions\.jsonl cannot be read as text in UTF-8"):
        captions.of(data.load(f"folder:{pictures}"))


def test_pictures_with_neither_captions_nor_labels_are_refused_with_both_ways_out(tmp_path):
    Image.new("L", (4, 4)).save(tmp_path / "a.png")
    with pytest.raises(UserError, match=r"captions\.jsonl or a \.txt file.*one subfolder per class"):
        captions.of(data.load(f"folder:{tmp_path}"))
