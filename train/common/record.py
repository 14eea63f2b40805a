"""The run folder while a run is on: checkpoints, metrics, pictures, the report, and what the person sees of it all.

Of several hosts the first alone touches the folder; the others follow what it found there.
"""

import fcntl
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from tqdm import tqdm

from train.common import config as configuration
from train.common import devices, history, parallel
from train.common.checkpoint import Checkpoints
from train.common.errors import UserError
from train.common.gallery import Gallery, animate
from train.common.journal import Metrics, Session
from train.common.recipe import Recipe, State, with_keys, without_keys
from train.common.report import write_report
from train.common.sources import Source
from train.common.stopwatch import Stopwatch, seconds_since_start


class Record:
    """A context: inside it the folder is this process's alone; leaving it writes everything down."""

    def __init__(
        self, folder: Path, config: Any, description: dict, recipe: Recipe, source: Source, on: Sequence[jax.Device]
    ):
        self.folder, self._config, self._description = folder, config, description
        self.job, self._on = config.job, on
        self._step_size = recipe.minibatches * self.job.batch_size
        self._examples = "points" if source.is_points else "images"
        self._leads = devices.leads()
        self._gallery = Gallery(
            recipe, source, num=self.job.num_samples, seed=self.job.seed, on=on, how=self.job.parallel
        )
        self._stopwatch, self._unread, self._step = Stopwatch(), [], 0
        self._session = None

    def __enter__(self) -> "Record":
        with ExitStack() as stack:
            if self._leads:
                configuration.check(self.folder, self._description, self._config)
                self.folder.mkdir(parents=True, exist_ok=True)
                stack.enter_context(_alone_in(self.folder))
                self._checkpoints = stack.enter_context(closing(Checkpoints(self.folder / "checkpoints")))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, kind, error, _) -> None:
        try:
            if self._session is not None and error is not None:
                with suppress(OSError):  # a full disk is what the error itself may be about
                    self._session.note(
                        last_step=self._step, outcome=f"failed: {error}" if str(error) else kind.__name__
                    )
                    if self._leads:
                        write_report(self.folder)
        finally:
            self._stack.close()

    def restore(self, like: State) -> State | None:
        """The state of the newest sound checkpoint, whole on every device; None if the run is new.

        Raises:
            UserError: if there are checkpoints and none is sound, or there were and they are gone.
        """
        state, pending = None, []
        if self._leads:
            restored = self._checkpoints.restore(like)
            if restored is not None:
                state, pending = restored.state, restored.meta["pending"]
                for step, why in restored.damaged:
                    self._say(f"the checkpoint of step {step} is damaged ({why}) and was removed")
                self._say(f"{self.folder}: going on from step {restored.step} of {self.job.steps}")
            elif gone := Session.newest_saved(self.folder):
                raise UserError(
                    f"{self.folder} had a checkpoint of step {gone}, and now has none that is whole. Nothing was changed. "
                    "Put checkpoints/ back to go on, or choose another --run to start anew"
                )
            configuration.write(self.folder, self._description)
        if jax.process_count() > 1:
            state = _as_the_first_host(state, like)
        self._step = 0 if state is None else int(state.step)
        folder = self.folder if self._leads else None
        self._metrics = self._stack.enter_context(
            closing(Metrics(folder, self.job.log_every, self._step, pending, self.job.tensorboard))
        )
        self._session = Session(folder, self._step, devices.describe(self._on))
        self._bar = self._stack.enter_context(_progress(self._step, self.job.steps, self._leads))
        return None if state is None else parallel.place(state, self._on)

    def add(self, step: int, metrics: dict[str, jax.Array]) -> None:
        """Take in the metrics of the steps up to this one; look at them every ``log_every`` steps, for looking waits for the device.

        Raises:
            UserError: if one is not finite.
        """
        before, self._step = self._step, step
        self._unread.append((step - before, metrics))
        self._bar.update(step - before)
        if not self._stopwatch.started:
            self._look(step)
            self._session.note(seconds_to_first_step=round(seconds_since_start(), 1))
        elif step // self.job.log_every > before // self.job.log_every:
            self._look(step)

    def checkpoint(self, step: int, state: State) -> None:
        """Save the state in the background, once it is known that nothing up to here was infinite or undefined."""
        self._look(step)
        if self._leads:
            self._checkpoints.wait()
            self._session.note(saved=self._checkpoints.newest() or 0)
            self._checkpoints.save(step, parallel.local(state), {"pending": list(self._metrics.pending)})
        self._stopwatch.pause()

    def draw(self, step: int, state: State) -> None:
        """Write the grid of samples of this step, and the report."""
        self._look(step)
        if self._leads:
            self._gallery.draw(self._grid(step), state)
            self._note(step)
        self._stopwatch.pause()

    def interrupted(self, step: int, outcome: str) -> None:
        """The last word of a run that will go on later."""
        self._conclude(step, outcome)
        self._say(f"{outcome} at step {step} of {self.job.steps}; saved. The same command goes on from here.")

    def finished(self, step: int, state: State) -> None:
        """Draw the recipe's further pictures, measure its statistics; say where everything is and what to try next."""
        if not self._leads:
            return
        if not self._grid(step).exists():  # it was drawn, unless the run was killed after its last checkpoint
            self._gallery.draw(self._grid(step), state)
        self._gallery.draw_pictures(self.folder / "samples", state)
        animate(list(history.read(self.folder).grids.values()), self.folder / "samples" / "training.gif")
        self._gallery.measure(self.folder / "statistics.json", step, state)
        self._conclude(step, "finished")
        self._say(
            f"finished at step {step}\n"
            f"  samples     {self._grid(step)}\n"
            f"  report      {self.folder / 'report.html'}\n"
            f"  checkpoints {self.folder / 'checkpoints'}\n"
            f"next:\n"
            f"  python -m train.sample {self.folder} --num 64\n"
        )

    def _look(self, step):
        rows = [
            {name: float(np.atleast_1d(values)[i]) for name, values in metrics.items()}
            for count, metrics in jax.device_get([(n, parallel.local(m)) for n, m in self._unread])
            for i in range(count)
        ]
        self._unread.clear()
        self._metrics.add(step - len(rows) + 1, rows)
        self._stopwatch.lap(step)
        if rows:
            speed = self._stopwatch.steps_per_second * self._step_size
            self._bar.set_postfix_str(f"loss {rows[-1]['loss']:.4f}, {speed:,.0f} {self._examples}/s", refresh=False)

    def _conclude(self, step, outcome):
        if self._leads:
            self._checkpoints.wait()
            self._note(step, outcome=outcome, saved=self._checkpoints.newest() or 0)

    def _note(self, step, **values):
        speed = self._stopwatch.steps_per_second
        rates = {"steps_per_second": round(speed, 3), "images_per_second": round(speed * self._step_size, 1)}
        self._session.note(
            last_step=step, peak_memory_bytes=devices.peak_memory(self._on), **(rates if speed else {}), **values
        )
        write_report(self.folder)

    def _grid(self, step):
        return self.folder / "samples" / f"step_{step:08d}.png"

    def _say(self, text):
        if self._leads:
            tqdm.write(text, file=sys.stderr)


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """One process at a time in a run folder. The system gives the lock back when the process ends, however it ends."""
    with (folder / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"another process is training in {folder}; wait for it or choose another --run") from None
        except OSError:
            pass  # a file system without locks, such as a mounted cloud drive
        yield


def _as_the_first_host(state, like):
    """What the first host restored, on every host; None if it found nothing."""
    if not multihost_utils.broadcast_one_to_all(np.array(state is not None)):
        return None
    blank = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), jax.eval_shape(without_keys, like))
    data = without_keys(state) if state is not None else blank
    return with_keys(multihost_utils.broadcast_one_to_all(data), like)


def _progress(first, total, visible):
    """A live bar on a terminal; elsewhere, such as a log file, a line now and then."""
    return tqdm(
        total=total,
        initial=first,
        unit="step",
        dynamic_ncols=True,
        disable=not visible,
        smoothing=0.05,
        mininterval=0.1 if sys.stderr.isatty() else 20,
    )
