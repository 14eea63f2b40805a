"""The training loop: fold a recipe's step over the data; log, checkpoint and draw on the way.

`steps` is the fold, a generator that knows nothing of files. `fit` is what a command does with it; a notebook may write its own
``for``.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from train.common import data, parallel
from train.common.interrupt import Interrupt
from train.common.recipe import Recipe, State, root_key
from train.common.record import Record
from train.common.sources import Source

RESIDENT_BYTES = 2**30
"""A data set up to this size lives on every device and is gathered there; a larger one is sent batch by batch."""

STRIDE = 64
"""Steps in one dispatch, at most, where nothing speaks against a loop on the device."""


def initial_state(recipe: Recipe, seed: int, on: Sequence[jax.Device], given: Any = None) -> State:
    """The state before the first step, whole on every device; from the parameters given, where the recipe stands on trained networks."""
    placed = () if given is None else (parallel.place(given, on),)

    def init(*given):
        return recipe.init(root_key(seed, "training"), *given)

    program = jax.jit(init, out_shardings=parallel.replicated(on)).lower(*placed)
    # It runs once: on a CPU, where optimising takes longer than running, leave it as it is.
    unoptimised = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
    return program.compile(unoptimised if on[0].platform == "cpu" else None)(*placed)


def steps(
    recipe: Recipe,
    state: State,
    source: Source,
    *,
    batch_size: int,
    seed: int,
    on: Sequence[jax.Device],
    how: str = "pmap",
) -> Iterator[tuple[State, dict]]:
    """The state after each further step and that step's metrics, without end. Each state is donated to the next step.

    Batch and key are functions of (seed, step), so a state goes on in the same way whenever it is picked up. The metrics may
    still be under way when they are yielded. A step takes ``recipe.minibatches`` minibatches of ``batch_size`` rows.

    Raises:
        UserError: if the devices cannot share the batch evenly.
    """
    parallel.check_divisible(batch_size, len(on))
    num_rows = recipe.minibatches * batch_size
    first = int(parallel.local(state.step))
    if resident(source):
        table = parallel.place(source.rows(np.arange(len(source))), on)
        feed = (_indices(source, seed, step, num_rows) for step in itertools.count(first))
    else:
        table = None
        feed = data.prefetch(lambda step: source.rows(_indices(source, seed, step, num_rows)), first)
    run = parallel.parallelize(
        _step(recipe), on, rows=(False, False, True), donate=True, convolutions=recipe.convolutions, how=how
    )
    with closing(feed):
        for rows in feed:
            state, metrics = run(state, table, rows)
            yield state, metrics


def strides(
    recipe: Recipe,
    state: State,
    source: Source,
    ends: Iterable[int],
    *,
    longest: int,
    batch_size: int,
    seed: int,
    on: Sequence[jax.Device],
    how: str = "pmap",
) -> Iterator[tuple[State, dict]]:
    """Like `steps`, but a loop on the device goes from end to end: for small networks, where handing over each step takes as long as
    the step.

    Args:
        ends: after which steps to yield, ascending, at most ``longest`` apart. Where they lie does not change a bit of the states.

    The metrics are (longest,) arrays, of which as many entries are filled as steps were taken.
    """
    parallel.check_divisible(batch_size, len(on))
    num_rows = recipe.minibatches * batch_size
    step = int(parallel.local(state.step))
    table = parallel.place(source.rows(np.arange(len(source))), on)
    take_step = _step(recipe)

    def program(state, table, rows, count):
        def take(i, carry):
            state, metrics = carry
            state, row = take_step(state, table, rows[:, i])
            return state, {name: column.at[i].set(row[name]) for name, column in metrics.items()}

        row = jax.eval_shape(take_step, state, table, rows[:, 0])[1]
        metrics = {name: jnp.zeros(longest, value.dtype) for name, value in row.items()}
        return jax.lax.fori_loop(0, count, take, (state, metrics))

    run = parallel.parallelize(
        program, on, rows=(False, False, True, False), donate=True, convolutions=recipe.convolutions, how=how
    )
    for end in ends:
        # A new array each time: a CPU device reads it where it is, and may still be reading.
        rows = np.zeros((num_rows // jax.process_count(), longest), np.int32)
        for i, number in enumerate(range(step, end)):
            rows[:, i] = _indices(source, seed, number, num_rows)
        state, metrics = run(state, table, rows, parallel.place(np.int32(end - step), on))
        yield state, metrics
        step = end


def resident(source: Source) -> bool:
    """Whether the data set lives on every device."""
    return source.nbytes <= RESIDENT_BYTES


def _step(recipe):
    """A step of the recipe on rows that are either a batch or, of a table on the device, the indices of one."""

    def step(state, table, rows):
        batch = rows if table is None else {name: column[rows] for name, column in table.items()}
        return recipe.step(state, batch, jax.random.fold_in(state.key, state.step))

    return step


def _indices(source, seed, step, num_rows):
    """This host's part of the batch."""
    return np.split(data.indices(seed, step, num_rows, len(source)), jax.process_count())[jax.process_index()]


def fit(
    config: Any,
    description: dict,
    recipe: Recipe,
    source: Source,
    folder: Path,
    on: Sequence[jax.Device],
    given: Callable[[], Any] = lambda: None,
) -> int:
    """Train to config.job.steps in the run folder, from its newest sound checkpoint if it has one.

    Args:
        config: a recipe's configuration, with its ``job``.
        description: `config.describe` of it, for the folder.
        given: reads the parameters that the recipe stands on; called where a run begins.

    Returns:
        The exit status for the process: 0, or 128 + the signal that ended training early.

    Raises:
        UserError: for whatever the person can mend; the newest sound checkpoint is kept.
    """
    job = config.job
    like = jax.eval_shape(recipe.init, jax.random.key(job.seed))
    with Interrupt(job.max_hours) as interrupt, Record(folder, config, description, recipe, source, on) as record:
        state = record.restore(like)
        if state is None:
            state = initial_state(recipe, job.seed, on, given())
        step = int(parallel.local(state.step))
        common = {"batch_size": job.batch_size, "seed": job.seed, "on": on, "how": job.parallel}
        longest = _longest_stride(job, recipe, source, on)
        if longest == 1:
            numbered = enumerate(
                itertools.islice(steps(recipe, state, source, **common), max(0, job.steps - step)), step + 1
            )
        else:
            ends = list(_ends(step, job, longest))
            numbered = zip(ends, strides(recipe, state, source, ends, longest=longest, **common), strict=True)
        for step, (state, metrics) in numbered:
            record.add(step, metrics)
            stop = interrupt.asked()
            if stop or step == job.steps or step % job.checkpoint_every == 0:
                record.checkpoint(step, state)
            if stop:
                record.interrupted(step, interrupt.outcome)
                return interrupt.exit_status
            if step == job.steps or step % job.sample_every == 0 or step == job.sample_every // 10:
                record.draw(step, state)
        record.finished(step, state)
    return 0


def _longest_stride(job, recipe, source, on):
    """Convolution gradients inside a loop are slow on a CPU (they miss its fast kernels), and batches from the host come one by one."""
    if job.stride is not None:
        return job.stride if resident(source) else 1
    return STRIDE if resident(source) and not (recipe.convolutions and on[0].platform == "cpu") else 1


def _ends(step, job, longest):
    """The steps at which there is something to do, at most so far apart; the first comes alone, to show soon that all is well."""
    start = step
    while step < job.steps:
        due = [step + 1 if step == start else step + longest, job.steps]
        due += [step - step % every + every for every in (job.checkpoint_every, job.sample_every)]
        first_picture = job.sample_every // 10
        step = min([*due, first_picture] if step < first_picture else due)
        yield step
