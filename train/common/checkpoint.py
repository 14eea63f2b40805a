"""Checkpoints that can be trusted: whole, checked by content, written beside the training and never over a sound one.

Orbax writes them, one folder a step, committed by a last marker file. It keeps no checksum of the content, so we keep our own.
Of several hosts only the first touches the disk.
"""

import functools
import hashlib
import json
import logging
import shutil
import sys
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from train.common.errors import UserError, one_line
from train.common.recipe import State, with_keys, without_keys


class Restored(NamedTuple):
    """A sound checkpoint, and what was found on the way to it."""

    step: int
    state: Any
    """Host arrays; keys are typed."""
    meta: dict
    damaged: Sequence[tuple[int, str]]
    """Newer steps that were not sound, and why."""


class Checkpoints:
    """The checkpoints that a run writes; the newest two are kept. Close it, or the last one may be lost."""

    def __init__(self, folder: Path, *, keep: int = 2):
        self.folder = folder.absolute()
        self.folder.mkdir(parents=True, exist_ok=True)
        self._resources = ExitStack()
        self._manager = self._resources.enter_context(closing(_open(self.folder, keep=keep)))
        self._writer = self._resources.enter_context(ThreadPoolExecutor(1, "checkpoint"))
        self._writing: Future | None = None
        self._copy = jax.jit(lambda tree: jax.tree.map(jnp.copy, tree))

    def save(self, step: int, state: Any, meta: dict) -> None:
        """Write the state of this step in the background. It is copied on the device first: the caller may donate it at once.

        Raises:
            UserError: if the save before this one failed.
        """
        self.wait()
        snapshot = self._copy(state)
        self._writing = self._writer.submit(self._write, step, snapshot, meta)

    def wait(self) -> None:
        """Return when nothing is being written.

        Raises:
            UserError: if the write failed; earlier checkpoints are untouched.
        """
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def restore(self, like: Any) -> Restored | None:
        """The newest sound checkpoint of a state shaped like this; None where nothing was ever saved whole.

        Newer ones that are damaged are removed once a sound one is found, to make room for their successors.

        Raises:
            UserError: if there are checkpoints and none is sound; nothing is removed then.
        """
        restored = _newest_sound(self._manager, self.folder, like)
        if restored is not None and restored.damaged:
            for step, _ in restored.damaged:
                shutil.rmtree(self.folder / str(step))
            self._manager.reload()
        return restored

    def newest(self) -> int | None:
        """Step of the newest checkpoint on disk."""
        return self._manager.latest_step()

    def close(self) -> None:
        """Wait for the last write and stop."""
        try:
            self.wait()
        finally:
            self._resources.close()

    def _write(self, step: int, snapshot: Any, meta: dict) -> None:
        committed = self._manager.all_steps()
        if step in committed:  # saved before an interruption: the same content, and a sound one is not touched
            return
        try:
            for path in self.folder.iterdir():  # what killed saves left behind would mix with this one's files
                if path.name.endswith(".orbax-checkpoint-tmp") or (
                    path.name.isdigit() and int(path.name) not in committed
                ):
                    shutil.rmtree(path)
            state = jax.tree.map(np.asarray, jax.device_get(without_keys(snapshot)))
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(_fields(state)),
                    meta=ocp.args.JsonSave({**meta, "sha256": fingerprint(state, meta)}),
                ),
                force=True,
            )
        except Exception as error:
            newest = self.newest()
            kept = "there is no earlier one" if newest is None else f"the newest sound one is step {newest}"
            raise UserError(
                f"the checkpoint of step {step} could not be written to {self.folder} ({one_line(error)}); {kept}. "
                "Is the disk full? Make room and run the same command again"
            ) from error


def any_in(folder: Path) -> bool:
    """Whether a checkpoint in the folder was ever written to its end, be it sound or not by now."""
    return any(folder.glob("*/commit_success.txt"))


def read(folder: Path, like: Any) -> Restored | None:
    """Like `Checkpoints.restore`, but changes nothing in the folder, where a run may be writing.

    Raises:
        UserError: if there are checkpoints and none is sound.
    """
    if not folder.is_dir():
        return None
    folder = folder.absolute()
    with closing(_open(folder, read_only=True)) as manager:
        return _newest_sound(manager, folder, like)


def fingerprint(state: Any, meta: dict) -> str:
    """sha256 over the names, types, shapes and bytes of all leaves, and over meta."""
    digest = hashlib.sha256(json.dumps(meta, sort_keys=True).encode())
    for path, leaf in jax.tree_util.tree_flatten_with_path(without_keys(state))[0]:
        array = np.ascontiguousarray(leaf)
        digest.update(f"{jax.tree_util.keystr(path)}|{array.dtype}|{array.shape}|".encode())
        digest.update(array.reshape(-1).view(np.uint8))
    return digest.hexdigest()


def _open(folder: Path, *, keep: int | None = None, read_only: bool = False) -> ocp.CheckpointManager:
    # Orbax reports every directory it makes, and with a traceback the errors that reach us as exceptions.
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    _without_late_reports()
    return ocp.CheckpointManager(
        folder,
        item_names=("state", "meta"),
        options=ocp.CheckpointManagerOptions(
            create=False,
            read_only=read_only,
            preservation_policy=ocp.checkpoint_managers.LatestN(keep),
            enable_async_checkpointing=False,  # our own thread copies, hashes and writes
            atomicity_options=ocp.options.AtomicityOptions(mode=ocp.options.AtomicityMode.COMMIT_FILE),
            multiprocessing_options=ocp.options.MultiprocessingOptions(primary_host=0, active_processes={0}),
        ),
    )


@functools.cache
def _without_late_reports() -> None:
    """When one of many reads or writes fails, its error reaches us as an exception, and the others end when nobody asks for them any more.
    Where Orbax has closed their event loop by then, Python prints each as an ignored exception; where it has not, asyncio logs each
    as never retrieved. From now on neither is shown."""
    before = sys.unraisablehook

    def unless_late(unraisable):
        if str(unraisable.exc_value) != "Event loop is closed":
            before(unraisable)

    sys.unraisablehook = unless_late
    logging.getLogger("asyncio").addFilter(
        lambda record: not ("never retrieved" in record.getMessage() and "orbax" in record.getMessage())
    )


def _fields(state: State) -> dict[str, Any]:
    """What is written of a state: its fields by name; without frozen parameters where there are none."""
    return {name: value for name, value in state._asdict().items() if name != "frozen" or jax.tree.leaves(value)}


def _newest_sound(manager: ocp.CheckpointManager, folder: Path, like: Any) -> Restored | None:
    template = jax.tree.map(lambda x: np.empty(x.shape, x.dtype), jax.eval_shape(without_keys, like))
    damaged = []
    for step in sorted(manager.all_steps(), reverse=True):
        try:
            item = manager.restore(
                step,
                args=ocp.args.Composite(state=ocp.args.StandardRestore(_fields(template)), meta=ocp.args.JsonRestore()),
            )
            meta, state = dict(item.meta), template._replace(**item.state)
            if meta.pop("sha256") != fingerprint(state, meta):
                raise ValueError("its content does not match its sha256")
            return Restored(step, with_keys(state, like), meta, damaged)
        except Exception as error:  # whatever a damaged file makes Orbax, TensorStore or JSON raise
            damaged.append((step, f"{type(error).__name__}: {one_line(error)}"))
    if damaged:
        found = "; ".join(f"step {step}: {why}" for step, why in damaged)
        raise UserError(
            f"no checkpoint in {folder} is sound ({found}). Nothing was changed. Put a good copy back, "
            "or train into another folder with --run"
        )
    return None
