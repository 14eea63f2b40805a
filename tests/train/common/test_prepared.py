"""Sets prepared by tensorflow-datasets, read without TensorFlow."""

import contextlib
import importlib.util
import shutil
from pathlib import Path

import numpy as np
import pytest
import requests
import tensorflow_datasets as tfds
from PIL import Image

from train.common import data, prepared, sources
from train.common.errors import UserError

SHARED = Path(__file__).parents[4] / "shared" / "data" / "tfds"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="needs shared/data/tfds beside the repository")


class JaxgenSquares(tfds.core.GeneratorBasedBuilder):
    """Seven squares of one colour each. Pictures given as such can be prepared without TensorFlow."""

    VERSION = tfds.core.Version("1.0.0")
    CLASSES = ("dark", "light")

    def _info(self):
        features = {
            "image": tfds.features.Image(shape=(4, 4, 3)),
            "mask": tfds.features.Image(shape=(4, 4, 1)),
            "label": tfds.features.ClassLabel(names=list(self.CLASSES)),
        }
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        for i in range(7):
            image = np.full((4, 4, 3), 30 * i, np.uint8)
            yield i, {"image": Image.fromarray(image), "mask": Image.fromarray(image[..., 0]), "label": i % 2}


class JaxgenOblongs(tfds.core.GeneratorBasedBuilder):
    """Grey pictures of no common size, without labels."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        features = tfds.features.FeaturesDict({"image": tfds.features.Image(shape=(None, None, 1))})
        return tfds.core.DatasetInfo(builder=self, features=features)

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        for i in range(3):
            yield i, {"image": Image.fromarray(np.full((4 + i, 9, 1), i, np.uint8)[..., 0])}


class JaxgenNumbers(tfds.core.GeneratorBasedBuilder):
    """No images at all."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        features = tfds.features.FeaturesDict({"number": tfds.features.Scalar(dtype=np.int64)})
        return tfds.core.DatasetInfo(builder=self, features=features)

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        yield 0, {"number": 1}


def prepare(name, data_dir):
    """Prepares a set; the file that holds its train split."""
    tfds.builder(name, data_dir=str(data_dir), file_format="array_record").download_and_prepare()
    (file,) = data_dir.glob(f"{name}/1.0.0/*train*")
    return file


@pytest.fixture(scope="module")
def squares(tmp_path_factory):
    data_dir = tmp_path_factory.mktemp("tfds")
    prepare("jaxgen_squares", data_dir)
    return data_dir


@pytest.fixture
def offline(monkeypatch):
    """No request leaves this machine; the list of those tried."""
    tried = []

    def get(url, **options):
        tried.append(url)
        raise requests.ConnectionError("no network")

    monkeypatch.setattr(requests, "get", get)
    return tried


@pytest.fixture
def tensorflow_installed(monkeypatch):
    """As if TensorFlow were there: a set that does not use it is then prepared all the same."""
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: find_spec("numpy" if name == "tensorflow" else name))


def test_a_prepared_set_is_read_whole(squares):
    source = data.load("jaxgen_squares", data_dir=str(squares))
    rows = source.rows(np.arange(7))
    assert (len(source), source.shape, source.class_names) == (7, (4, 4, 3), ("dark", "light"))
    assert sorted(rows["image"][:, 0, 0, 0].tolist()) == [0, 30, 60, 90, 120, 150, 180]
    assert np.array_equal(rows["image"][:, 0, 0, 0] // 30 % 2, rows["label"])
    assert (rows["image"].dtype, rows["label"].dtype) == (np.uint8, np.int32)


def test_a_prepared_set_is_the_one_tensorflow_datasets_reads(squares):
    source = data.load("jaxgen_squares", data_dir=str(squares))
    records = tfds.data_source("jaxgen_squares", data_dir=str(squares), split="train")
    assert np.array_equal(source.rows(np.arange(7))["image"], [record["image"] for record in records])


def test_a_part_of_a_split_can_be_asked_for(squares):
    whole = data.load("jaxgen_squares", data_dir=str(squares)).rows(np.arange(7))
    part = data.load("jaxgen_squares", data_dir=str(squares), split="train[2:5]")
    assert np.array_equal(part.rows(np.arange(3))["image"], whole["image"][2:5])


def test_the_data_directory_may_come_from_the_environment(squares, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(squares))
    assert len(data.load("jaxgen_squares")) == 7


def test_a_prepared_set_too_large_for_memory_gives_the_same_rows(squares, monkeypatch):
    table = data.load("jaxgen_squares", data_dir=str(squares), image_size=3)
    monkeypatch.setattr(sources, "IN_MEMORY_BYTES", 10)
    lazy = data.load("jaxgen_squares", data_dir=str(squares), image_size=3)
    chosen = np.array([6, 0, 0, 3])
    for key in ("image", "label"):
        assert np.array_equal(lazy.rows(chosen)[key], table.rows(chosen)[key])
    assert (lazy.shape, len(lazy), lazy.nbytes) == (table.shape, len(table), table.nbytes)


def test_images_of_no_common_size_need_a_size(tmp_path):
    prepare("jaxgen_oblongs", tmp_path)
    with pytest.raises(UserError, match="no common size: give --image-size N"):
        data.load("jaxgen_oblongs", data_dir=str(tmp_path))
    source = data.load("jaxgen_oblongs", data_dir=str(tmp_path), image_size=4)
    rows = source.rows(np.arange(3))
    assert rows["image"].shape == (3, 4, 4, 1)
    assert (source.class_names, rows["label"].tolist()) == ((), [0, 0, 0])


def test_a_set_without_images_is_refused(tmp_path):
    prepare("jaxgen_numbers", tmp_path)
    with pytest.raises(UserError, match=r"no feature 'image' of that kind but \['number'\]"):
        data.load("jaxgen_numbers", data_dir=str(tmp_path))


def test_a_split_that_is_not_there_is_refused(squares):
    with pytest.raises(UserError, match=r"Unknown split 'test'. Should be one of \['train'\]"):
        data.load("jaxgen_squares", data_dir=str(squares), split="test")


def test_a_configuration_that_is_not_there_is_refused(squares):
    with pytest.raises(UserError, match="tensorflow-datasets has no 'jaxgen_squares/huge'"):
        data.load("jaxgen_squares/huge", data_dir=str(squares))


def test_without_tensorflow_an_unprepared_set_names_what_to_install(tmp_path, monkeypatch, offline):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install tensorflow-cpu"):
        data.load("jaxgen_squares", data_dir=str(tmp_path))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("tensorflow_installed")
def test_with_tensorflow_an_unprepared_set_is_prepared(tmp_path, squares):
    source = data.load("jaxgen_squares", data_dir=str(tmp_path))
    assert source.fingerprint == data.load("jaxgen_squares", data_dir=str(squares)).fingerprint


@pytest.mark.usefixtures("tensorflow_installed")
def test_without_a_network_nothing_is_retried(tmp_path, offline):
    with pytest.raises(UserError, match=r"celeb_a is not prepared in .* and cannot be downloaded: http"):
        data.load("celeb_a", data_dir=str(tmp_path))
    assert len(offline) == 1


@pytest.mark.usefixtures("tensorflow_installed")
def test_what_goes_wrong_in_preparing_is_said_in_one_line(tmp_path, monkeypatch):
    def fail(self, dl_manager):
        raise AssertionError("Manual directory\n does not exist")

    monkeypatch.setattr(JaxgenSquares, "_split_generators", fail)
    with pytest.raises(UserError, match=r"could not prepare jaxgen_squares in .*: Manual directory does not exist"):
        data.load("jaxgen_squares", data_dir=str(tmp_path))


def test_a_set_prepared_as_tfrecord_asks_for_a_directory_of_its_own(squares, tmp_path):
    shutil.copytree(squares / "jaxgen_squares", tmp_path / "jaxgen_squares")
    info = tmp_path / "jaxgen_squares/1.0.0/dataset_info.json"
    info.write_text(info.read_text().replace("array_record", "tfrecord"))
    with pytest.raises(UserError, match=r"holds jaxgen_squares as tfrecord files.* give --data-dir a directory"):
        data.load("jaxgen_squares", data_dir=str(tmp_path))


@pytest.mark.parametrize("damage", [lambda content: content[: len(content) // 2], lambda content: b""])
def test_damaged_files_of_a_prepared_set_are_named(tmp_path, damage):
    file = prepare("jaxgen_squares", tmp_path)
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(UserError, match=f"the files of jaxgen_squares in {file.parent} are damaged"):
        data.load("jaxgen_squares", data_dir=str(tmp_path))


def test_an_address_that_answers_is_reachable_and_one_that_refuses_says_how(monkeypatch):
    class Answer(contextlib.nullcontext):
        def __init__(self, status_code, reason):
            super().__init__(self)
            self.ok, self.status_code, self.reason = status_code < 400, status_code, reason

    answers = {"http://here": Answer(200, "OK"), "http://gone": Answer(404, "Not Found")}
    monkeypatch.setattr(requests, "get", lambda url, **options: answers[url])
    assert prepared.unreachable("http://here") == ""
    assert prepared.unreachable("http://gone") == "http://gone answers 404 Not Found"


@needs_shared
@pytest.mark.parametrize(("name", "shape"), [("mnist", (28, 28, 1)), ("cifar10", (32, 32, 3))])
def test_mnist_and_cifar10_are_read_as_tensorflow_datasets_reads_them(name, shape):
    source = data.load(name, data_dir=str(SHARED), split="train[:1%]")
    records = tfds.data_source(name, data_dir=str(SHARED), split="train[:1%]")
    rows = source.rows(np.arange(len(source)))
    assert source.shape == shape
    assert np.array_equal(rows["image"], [record["image"] for record in records])
    assert np.array_equal(rows["label"], [record["label"] for record in records])


@needs_shared
@pytest.mark.slow
def test_the_whole_of_cifar10_has_five_thousand_images_of_each_class():
    source = data.load("cifar10", data_dir=str(SHARED))
    labels = source.rows(np.arange(len(source)))["label"]
    assert np.bincount(labels).tolist() == [5000] * 10
    assert source.class_names[0] == "airplane"
