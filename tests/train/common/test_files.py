"""A file in a run folder is whole, or not there."""

import os
from pathlib import Path

import pytest

from train.common.files import Lasting, expanded, write_atomically


def test_the_content_arrives_and_missing_folders_are_made(tmp_path):
    path = tmp_path / "a" / "b" / "file"
    write_atomically(path, b"one")
    write_atomically(path, b"two")
    assert path.read_bytes() == b"two"
    assert os.listdir(path.parent) == ["file"]


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "file"
    write_atomically(path, b"old")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


def test_a_stream_whose_reader_is_gone_still_takes_what_is_written():
    read, write = os.pipe()
    with os.fdopen(write, "w", buffering=1) as stream:
        lasting = Lasting(stream)
        lasting.write("heard\n")
        assert os.read(read, 100) == b"heard\n"
        os.close(read)
        assert lasting.write("lost\n") == 5
        lasting.write("lost too\n")
        lasting.flush()
        assert not lasting.isatty()


def test_home_directories_are_found_and_names_that_nobody_has_stay(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    assert expanded("~/pictures") == Path("/home/me/pictures")
    assert expanded("~no such user/pictures") == Path("~no such user/pictures")
