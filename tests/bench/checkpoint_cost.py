"""Time that a checkpoint of the paper's CIFAR-10 network (35.7 M parameters; 571 MB with average and Adam) takes from training.

    python -m tests.bench.checkpoint_cost

`save` returns when the state has been copied on the device; hashing and writing go on in the background.
"""

import platform
import statistics
import sys
import tempfile
import time
from contextlib import closing
from datetime import date
from pathlib import Path

import jax
import jax.numpy as jnp

from train import ddpm
from train.common import devices
from train.common.checkpoint import Checkpoints

SAVES = 7


def main() -> int:
    recipe = ddpm.recipe(ddpm.CIFAR10, (32, 32, 3))
    like = jax.eval_shape(recipe.init, jax.random.key(0))
    numbers = jax.tree.map(lambda x: jax.random.normal(jax.random.key(x.size), x.shape, x.dtype), like.params)
    # Random numbers everywhere, since zeros would compress to nothing.
    state = like._replace(
        step=jnp.zeros((), jnp.int32),
        params=numbers,
        ema=jax.tree.map(jnp.copy, numbers),
        opt=(jax.tree.map(jnp.copy, numbers), jax.tree.map(jnp.copy, numbers)),
        key=jax.random.key(0),
    )
    jax.block_until_ready(state.params)
    lost, whole = [], []
    with tempfile.TemporaryDirectory() as folder, closing(Checkpoints(Path(folder))) as checkpoints:
        for step in range(SAVES + 1):
            began = time.perf_counter()
            checkpoints.save(step, state, {"pending": []})
            saved = time.perf_counter()
            checkpoints.wait()
            if step:  # the first compiles the copy
                lost.append(saved - began)
                whole.append(time.perf_counter() - began)
    megabytes = sum(x.nbytes for x in jax.tree.leaves((state.params, state.ema, state.opt))) / 1e6
    print(
        f"{megabytes:.0f} MB: save() returns after {statistics.median(lost):.3f} s "
        f"({min(lost):.3f} to {max(lost):.3f}), is on disk after {statistics.median(whole):.1f} s; median of {SAVES}; "
        f"{devices.describe(jax.devices()[:1])}, jax {jax.__version__}, python {platform.python_version()}, {date.today()}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
