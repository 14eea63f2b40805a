"""One way to put a file in a run folder: whole, or not at all. And what else a person's system may do to files and streams."""

import os
from contextlib import suppress
from pathlib import Path
from typing import Any


def expanded(path: str | Path) -> Path:
    """The path, with the home directory for ~ and ~name; that of an unknown name stays as it is."""
    return Path(os.path.expanduser(path))


class Lasting:
    """A text stream that stands when its reader is gone, as `tee` is after Ctrl-C: what is written from then on is lost, no more."""

    def __init__(self, stream: Any):
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """As the stream's own, but nothing is raised."""
        try:
            self._stream.write(text)
        except OSError:
            self._give_up()
        return len(text)

    def flush(self) -> None:
        """As the stream's own, but nothing is raised."""
        try:
            self._stream.flush()
        except OSError:
            self._give_up()

    def _give_up(self):
        """What is still in the stream's buffer must go somewhere when the process ends."""
        with suppress(OSError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)


def write_atomically(path: Path, content: bytes) -> None:
    """Puts all of `content` at `path`, or leaves `path` as it was: no reader and no crash ever sees half a file.

    Missing parent folders are made. The content goes to a hidden neighbour first, because only a rename within one
    file system is atomic.

    Raises:
        OSError: no space, no permission; it names `path`, and nothing is left behind.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        unfinished.write_bytes(content)
        os.replace(unfinished, path)
    except BaseException as error:
        unfinished.unlink(missing_ok=True)
        if isinstance(error, OSError):  # a failed write alone would not say which file
            raise type(error)(error.errno, error.strerror, str(path)) from error
        raise
