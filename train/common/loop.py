"""The training loop: fold a recipe's step over the data; log, checkpoint and draw on the way.

`steps` is the fold, a generator that knows nothing of files. `fit` is what a command does with it; a notebook may write its own
``for``.
"""

import itertools
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import jax
import numpy as np

from train.common import data, parallel
from train.common.interrupt import Interrupt
from train.common.recipe import Recipe, State, root_key
from train.common.record import Record
from train.common.sources import Images

# A data set up to this size lives on every device and is gathered there; a larger one is sent batch by batch.
RESIDENT_BYTES = 2**30


def initial_state(recipe: Recipe, seed: int, on: Sequence[jax.Device]) -> State:
    """The state before the first step, whole on every device."""
    program = jax.jit(lambda: recipe.init(root_key(seed, "training")), out_shardings=parallel.replicated(on)).lower()
    # It runs once: on a CPU, where optimising takes longer than running, leave it as it is.
    unoptimised = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
    return program.compile(unoptimised if on[0].platform == "cpu" else None)()


def steps(
    recipe: Recipe,
    state: State,
    source: Images,
    *,
    batch_size: int,
    seed: int,
    on: Sequence[jax.Device],
    how: str = "pmap",
) -> Iterator[tuple[State, dict]]:
    """The state after each further step and that step's metrics, without end. Each state is donated to the next step.

    Batch and key are functions of (seed, step), so a state goes on in the same way whenever it is picked up. The metrics may
    still be under way when they are yielded.

    Raises:
        UserError: if the devices cannot share the batch evenly.
    """
    parallel.check_divisible(batch_size, len(on))
    first = int(parallel.local(state.step))

    def indices(step):
        return np.split(data.indices(seed, step, batch_size, len(source)), jax.process_count())[jax.process_index()]

    resident = source.nbytes <= RESIDENT_BYTES
    if resident:
        table = parallel.place(source.rows(np.arange(len(source))), on)
        feed = (indices(step) for step in itertools.count(first))
    else:
        table = None
        feed = data.prefetch(lambda step: source.rows(indices(step)), first)

    def program(state, table, rows):
        batch = {name: column[rows] for name, column in table.items()} if resident else rows
        return recipe.step(state, batch, jax.random.fold_in(state.key, state.step))

    run = parallel.parallelize(program, on, rows=(False, False, True), donate=True, how=how)
    with closing(feed):
        for rows in feed:
            state, metrics = run(state, table, rows)
            yield state, metrics


def fit(config: Any, description: dict, recipe: Recipe, source: Images, folder: Path, on: Sequence[jax.Device]) -> int:
    """Train to config.job.steps in the run folder, from its newest sound checkpoint if it has one.

    Args:
        config: a recipe's configuration, with its ``job``.
        description: `config.describe` of it, for the folder.

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
            state = initial_state(recipe, job.seed, on)
        first = step = int(parallel.local(state.step))
        fold = steps(recipe, state, source, batch_size=job.batch_size, seed=job.seed, on=on, how=job.parallel)
        for step, (state, metrics) in enumerate(itertools.islice(fold, max(0, job.steps - first)), first + 1):
            record.add(step, metrics)
            stop = interrupt.asked(step)
            if stop or step == job.steps or step % job.checkpoint_every == 0:
                record.checkpoint(step, state)
            if stop:
                record.interrupted(step, interrupt.outcome)
                return interrupt.exit_status
            if step == job.steps or step % job.sample_every == 0 or step == job.sample_every // 10:
                record.draw(step, state)
        record.finished(step, state)
    return 0
