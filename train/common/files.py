"""One way to put a file in a run folder: whole, or not at all."""

import os
from pathlib import Path


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
