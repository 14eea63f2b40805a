"""MNIST and its kin and CIFAR-10 from their original files."""

import functools
import gzip
import hashlib
import http.server
import io
import os
import tarfile
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import requests

from train.common import data, originals
from train.common.errors import UserError

SHARED = Path(__file__).parents[4] / "shared" / "data"
RAW = SHARED / "raw" / "mnist"
needs_raw = pytest.mark.skipif(not RAW.is_dir(), reason="needs shared/data/raw/mnist beside the repository")


def idx(array):
    """An array of bytes as an IDX file."""
    return bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes() + array.tobytes()


def example_files():
    """Five images and labels in files of the names of MNIST's."""
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (5, 28, 28), np.uint8), np.array([3, 1, 4, 1, 5], np.uint8)
    files = {
        "train-images-idx3-ubyte.gz": gzip.compress(idx(images), mtime=0),
        "train-labels-idx1-ubyte.gz": gzip.compress(idx(labels), mtime=0),
    }
    return images, labels, files


def example_cifar10():
    """Records of CIFAR-10's layout, two to a file, and the archive that holds them."""
    rng = np.random.default_rng(0)
    records = rng.integers(0, 256, (6, 2, 3073), np.uint8)
    names = [*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"]
    contents = {name: record.tobytes() for name, record in zip(names, records, strict=True)}
    contents["batches.meta.txt"] = b"airplane\nautomobile\n\n"
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for name, content in contents.items():
            member = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return records, packed.getvalue()


def builder_of(data_dir, files, address="http://nowhere.invalid"):
    """What `originals.load` reads of a tfds builder, with these files registered."""
    registered = {
        f"{address}/{name}": SimpleNamespace(
            filename=name, size=len(content), checksum=hashlib.sha256(content).hexdigest()
        )
        for name, content in files.items()
    }
    info = SimpleNamespace(features={"label": SimpleNamespace(names=list("0123456789"))})
    return SimpleNamespace(data_dir_root=data_dir, url_infos=registered, info=info)


def put(folder, files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)


@pytest.fixture
def offline(monkeypatch):
    def get(url, **options):
        raise requests.ConnectionError("no network")

    monkeypatch.setattr(requests, "get", get)


@pytest.mark.parametrize("shape", [(0,), (7,), (2, 3, 4)])
def test_an_idx_file_holds_the_array_it_was_made_from(shape):
    array = np.arange(np.prod(shape), dtype=np.uint8).reshape(shape)
    read = originals.read_idx(idx(array))
    assert read.shape == shape
    assert np.array_equal(read, array)


@pytest.mark.parametrize(
    "wrong", [b"", b"\x00\x00", b"\x00\x00\x09\x01\x00\x00\x00\x00", idx(np.zeros((2, 3), np.uint8))[:-1],
              idx(np.zeros(3, np.uint8)) + b"x", b"\x00\x00\x08\x03\x00\x00\x00\x01"]
)  # fmt: skip
def test_what_is_no_idx_file_of_bytes_is_refused(wrong):
    with pytest.raises(ValueError, match="an IDX file of"):
        originals.read_idx(wrong)


def test_a_cifar10_record_is_a_label_and_three_planes(tmp_path):
    records, packed = example_cifar10()
    (tmp_path / "archive").write_bytes(packed)
    for split, expected in [("train", records[:5].reshape(10, 3073)), ("test", records[5])]:
        images, labels, class_names = originals.read_cifar10(tmp_path / "archive", split)
        assert np.array_equal(labels, expected[:, 0])
        for row, column, channel in [(0, 0, 0), (3, 17, 1), (31, 31, 2)]:
            assert np.array_equal(images[:, row, column, channel], expected[:, 1 + 1024 * channel + 32 * row + column])
        assert class_names.tolist() == ["airplane", "automobile"]


@pytest.mark.parametrize("folder", ["downloads/manual/mnist", "downloads/manual", "mnist", "."])
def test_files_a_person_has_put_there_are_used(tmp_path, folder):
    images, labels, files = example_files()
    put(tmp_path / folder, files)
    rows = originals.load("mnist", builder_of(tmp_path, files), "train", None).rows(np.arange(5))
    assert np.array_equal(rows["image"][..., 0], images)
    assert np.array_equal(rows["label"], labels)


def test_the_size_asked_for_is_the_size_given(tmp_path):
    _, _, files = example_files()
    put(tmp_path, files)
    assert originals.load("mnist", builder_of(tmp_path, files), "train", 32).shape == (32, 32, 1)


def test_cifar10_keeps_the_order_of_its_files(tmp_path):
    records, packed = example_cifar10()
    files = {"cifar-10-binary.tar.gz": packed}
    put(tmp_path, files)
    source = originals.load("cifar10", builder_of(tmp_path, files), "train", None)
    assert (source.shape, len(source), source.class_names) == ((32, 32, 3), 10, ("airplane", "automobile"))
    assert np.array_equal(source.rows(np.arange(10))["label"], records[:5, :, 0].ravel())


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda content: content[:-1], "has .* bytes where .* are registered"),
        (lambda content: content[:-1] + b"?", "has SHA-256 .* where .* is registered"),
    ],
)
def test_a_file_that_is_not_the_registered_one_is_named_and_not_used(tmp_path, damage, reason):
    _, _, files = example_files()
    builder = builder_of(tmp_path, files)
    name = "train-labels-idx1-ubyte.gz"
    put(tmp_path / "downloads/manual", {**files, name: damage(files[name])})
    with pytest.raises(UserError, match=f"downloads/manual/{name} {reason}.*delete it or move it away"):
        originals.load("mnist", builder, "train", None)


def test_a_wrong_file_does_not_hide_the_right_one(tmp_path):
    _, labels, files = example_files()
    put(tmp_path / "downloads/manual", dict.fromkeys(files, b"of another set"))
    put(tmp_path, files)
    rows = originals.load("mnist", builder_of(tmp_path, files), "train", None).rows(np.arange(5))
    assert np.array_equal(rows["label"], labels)


@pytest.mark.parametrize("name", originals.NAMES)
@pytest.mark.usefixtures("offline")
def test_without_a_network_the_address_and_the_place_for_the_file_are_given(name, tmp_path):
    where = tmp_path / "downloads/manual" / name
    with pytest.raises(UserError, match=f"{name} is not in .*: http.*gz cannot be reached .* put it into {where}"):
        data.load(name, data_dir=str(tmp_path))


def test_there_is_a_train_and_a_test_split(tmp_path):
    with pytest.raises(UserError, match=r"the splits 'train' and 'test', .*; got 'validation'"):
        data.load("kmnist", data_dir=str(tmp_path), split="validation")


@pytest.mark.usefixtures("offline")
def test_the_second_start_takes_the_decoded_arrays(tmp_path):
    _, _, files = example_files()
    builder = builder_of(tmp_path, files)
    put(tmp_path, files)
    first = originals.load("mnist", builder, "train", None)
    for name in files:
        (tmp_path / name).unlink()
    assert originals.load("mnist", builder, "train", None).fingerprint == first.fingerprint
    assert os.listdir(tmp_path / "jaxgen") == ["mnist-train.npz"]


@pytest.mark.parametrize("where", [0.2, 0.5, 0.8, None])
def test_damaged_decoded_arrays_are_decoded_anew(tmp_path, where):
    _, _, files = example_files()
    builder = builder_of(tmp_path, files)
    put(tmp_path, files)
    expected = originals.load("mnist", builder, "train", None).fingerprint
    cache = tmp_path / "jaxgen" / "mnist-train.npz"
    sound = cache.read_bytes()
    damaged = bytearray(sound)
    if where is None:
        del damaged[len(sound) // 2 :]
    else:
        damaged[int(where * len(sound))] ^= 255
    cache.write_bytes(damaged)
    assert originals.load("mnist", builder, "train", None).fingerprint == expected
    assert cache.read_bytes() == sound


def test_no_flipped_byte_of_the_decoded_arrays_goes_unnoticed(tmp_path):
    arrays = np.arange(32, dtype=np.uint8).reshape(2, 4, 4, 1), np.array([1, 0], np.uint8), np.array(["a", "b"])
    files = [originals.Original("images", "http://nowhere.invalid", 1, "00ff")]
    cache = tmp_path / "set.npz"
    originals._write_cache(cache, arrays, files)
    sound = cache.read_bytes()
    for i in range(len(sound)):
        cache.write_bytes(sound[:i] + bytes([sound[i] ^ 255]) + sound[i + 1 :])
        read = originals._read_cache(cache, files)
        assert read is None or all(map(np.array_equal, read, arrays)), i


def test_decoded_arrays_of_other_originals_are_decoded_anew(tmp_path):
    images, _, files = example_files()
    put(tmp_path, files)
    before = originals.load("mnist", builder_of(tmp_path, files), "train", None).fingerprint
    files["train-images-idx3-ubyte.gz"] = gzip.compress(idx(255 - images))
    put(tmp_path, files)
    assert originals.load("mnist", builder_of(tmp_path, files), "train", None).fingerprint != before


def test_decoded_arrays_that_cannot_be_kept_do_no_harm(tmp_path):
    _, _, files = example_files()
    put(tmp_path, files)
    (tmp_path / "jaxgen").write_text("a file where the folder would be")
    assert len(originals.load("mnist", builder_of(tmp_path, files), "train", None)) == 5


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A web server on this machine: its folder, its address."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    folder = tmp_path / "served"
    folder.mkdir()

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    handler = functools.partial(Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield folder, f"http://127.0.0.1:{running.server_port}"
        running.shutdown()
        thread.join()


def test_without_tensorflow_files_are_downloaded_by_tensorflow_datasets(tmp_path, server):
    folder, address = server
    images, _, files = example_files()
    put(folder, files)
    source = originals.load("mnist", builder_of(tmp_path / "data", files, address), "train", None)
    assert np.array_equal(source.rows(np.arange(5))["image"][..., 0], images)


def test_what_has_been_downloaded_once_is_not_downloaded_again(tmp_path, server, monkeypatch):
    folder, address = server
    _, _, files = example_files()
    put(folder, files)
    builder = builder_of(tmp_path / "data", files, address)
    first = originals.load("mnist", builder, "train", None).fingerprint
    (tmp_path / "data/jaxgen/mnist-train.npz").unlink()
    monkeypatch.delattr(requests, "get")
    assert originals.load("mnist", builder, "train", None).fingerprint == first


def test_a_download_that_is_not_the_registered_file_is_named_and_not_used(tmp_path, server):
    folder, address = server
    _, _, files = example_files()
    put(folder, {**files, "train-images-idx3-ubyte.gz": b"an error page"})
    with pytest.raises(UserError, match=r"has 13 bytes where .* are registered: delete it and run"):
        originals.load("mnist", builder_of(tmp_path / "data", files, address), "train", None)


def test_a_file_that_the_server_does_not_have_is_named(tmp_path, server):
    _, address = server
    _, _, files = example_files()
    with pytest.raises(UserError, match=r"train-images-idx3-ubyte.gz answers 404"):
        originals.load("mnist", builder_of(tmp_path / "data", files, address), "train", None)


def test_a_directory_that_cannot_be_written_is_named(tmp_path, server):
    folder, address = server
    _, _, files = example_files()
    put(folder, files)
    (tmp_path / "data").write_text("a file where the folder would be")
    with pytest.raises(UserError, match=f"could not download .* to {tmp_path / 'data'}"):
        originals.load("mnist", builder_of(tmp_path / "data", files, address), "train", None)


@needs_raw
@pytest.mark.usefixtures("offline")
def test_mnists_original_files_hold_the_images_that_tensorflow_datasets_prepared(tmp_path):
    (tmp_path / "downloads" / "manual").mkdir(parents=True)
    (tmp_path / "downloads" / "manual" / "mnist").symlink_to(RAW)
    source = data.load("mnist", data_dir=str(tmp_path), split="test")
    rows = source.rows(np.arange(len(source)))
    assert (len(source), source.shape, source.class_names) == (10000, (28, 28, 1), tuple("0123456789"))
    assert np.bincount(rows["label"]).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    if (SHARED / "tfds" / "mnist").is_dir():
        prepared = data.load("mnist", data_dir=str(SHARED / "tfds"), split="test[:500]").rows(np.arange(500))
        originals_seen = {(image.tobytes(), label) for image, label in zip(*rows.values(), strict=True)}
        assert all((image.tobytes(), label) in originals_seen for image, label in zip(*prepared.values(), strict=True))
