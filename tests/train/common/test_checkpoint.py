import asyncio
import gc
import os
import resource
import subprocess
import sys
import textwrap
import time
from contextlib import closing
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from train.common import checkpoint, parallel
from train.common.checkpoint import Checkpoints, fingerprint
from train.common.errors import UserError
from train.common.recipe import State


def make_state(step):
    params = {"w": jnp.arange(6.0).reshape(2, 3) + step, "half": jnp.ones(3, jnp.bfloat16) * step}
    opt = optax.adam(1e-3).init(params)
    return State(jnp.asarray(step, jnp.int32), params, jax.tree.map(jnp.copy, params), opt, jax.random.key(step))


LIKE = jax.eval_shape(lambda: make_state(0))


def saved(folder, *steps):
    with closing(Checkpoints(folder)) as checkpoints:
        for step in steps:
            checkpoints.save(step, make_state(step), {"pending": [{"loss": 0.1 * step}]})


def restore(folder):
    with closing(Checkpoints(folder)) as checkpoints:
        return checkpoints.restore(LIKE)


def harm_the_data(folder, step, harm):
    """Orbax keeps the numbers twice, as each process wrote them and merged: harm both."""
    for path in (folder / str(step) / "state").rglob("d/*"):
        harm(path)


def flip_a_byte(path, position=-20):
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)


def truncate(path):
    os.truncate(path, path.stat().st_size // 2)


def test_a_restored_state_is_the_saved_one_to_the_bit(tmp_path):
    saved(tmp_path, 7)
    restored = restore(tmp_path)
    assert (restored.step, restored.meta, restored.damaged) == (7, {"pending": [{"loss": 0.1 * 7}]}, [])
    assert fingerprint(restored.state, {}) == fingerprint(make_state(7), {})
    assert jax.tree.structure(restored.state) == jax.tree.structure(LIKE)
    assert restored.state.key.dtype == LIKE.key.dtype


def test_the_newest_two_are_kept(tmp_path):
    saved(tmp_path, 1, 2, 3, 4)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["3", "4"]


def test_a_new_folder_holds_nothing(tmp_path):
    assert restore(tmp_path / "new") is None
    assert checkpoint.read(tmp_path / "other", LIKE) is None


@pytest.mark.parametrize("harm", [flip_a_byte, truncate, os.remove])
def test_a_damaged_newest_checkpoint_gives_way_to_the_one_before(tmp_path, harm):
    saved(tmp_path, 1, 2)
    harm_the_data(tmp_path, 2, harm)
    restored = restore(tmp_path)
    assert restored.step == 1
    assert [step for step, _ in restored.damaged] == [2]
    saved(tmp_path, 2)
    assert restore(tmp_path).step == 2


def test_a_changed_record_beside_the_state_is_damage_too(tmp_path):
    saved(tmp_path, 1, 2)
    path = next(p for p in (tmp_path / "2" / "meta").iterdir() if b"pending" in p.read_bytes())
    path.write_bytes(path.read_bytes().replace(b"0.2", b"0.3"))
    assert restore(tmp_path).step == 1


def test_reading_changes_nothing(tmp_path):
    saved(tmp_path, 1, 2)
    harm_the_data(tmp_path, 2, flip_a_byte)
    (tmp_path / "3").mkdir()  # another process is writing it
    before = sorted(tmp_path.rglob("*"))
    assert checkpoint.read(tmp_path, LIKE).step == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_without_a_sound_checkpoint_it_stops_and_removes_nothing(tmp_path):
    saved(tmp_path, 1, 2)
    for step in (1, 2):
        harm_the_data(tmp_path, step, flip_a_byte)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(
        UserError, match=r"no checkpoint in .* is sound \(step 2: .*; step 1: .*\)\. Nothing was changed"
    ):
        restore(tmp_path)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("debris", ["9", "9.orbax-checkpoint-tmp"])
def test_debris_of_a_killed_save_is_no_checkpoint_and_in_nobodys_way(tmp_path, debris):
    saved(tmp_path, 1)
    (tmp_path / debris / "state" / "d").mkdir(parents=True)
    (tmp_path / debris / "state" / "_METADATA").write_text("{")
    assert restore(tmp_path).step == 1
    saved(tmp_path, 9)
    assert restore(tmp_path).step == 9


def test_other_files_in_the_folder_are_left_alone(tmp_path):
    saved(tmp_path, 1)
    (tmp_path / "my_best" / "state").mkdir(parents=True)
    (tmp_path / ".DS_Store").write_text("")
    saved(tmp_path, 2, 3)
    assert sorted(p.name for p in tmp_path.iterdir()) == [".DS_Store", "2", "3", "my_best"]


def test_a_sound_checkpoint_is_never_written_over(tmp_path):
    saved(tmp_path, 5)
    times = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    saved(tmp_path, 5)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == times


def test_the_caller_may_donate_a_state_that_is_being_saved(tmp_path):
    overwrite = jax.jit(lambda x: x * 0, donate_argnums=0)
    state = make_state(1)._replace(params=jnp.arange(1_000_000.0))
    like = jax.eval_shape(lambda: state)
    with closing(Checkpoints(tmp_path)) as checkpoints:
        checkpoints.save(1, state, {})
        overwrite(state.params)
        checkpoints.wait()
        restored = checkpoints.restore(like)
    np.testing.assert_array_equal(restored.state.params, np.arange(1_000_000.0, dtype=np.float32))


def test_frozen_parameters_are_kept_with_the_state(tmp_path):
    state = make_state(1)._replace(frozen={"encoder": jnp.arange(3.0)})
    with closing(Checkpoints(tmp_path)) as checkpoints:
        checkpoints.save(1, state, {})
    restored = checkpoint.read(tmp_path, jax.eval_shape(lambda: state))
    assert fingerprint(restored.state, {}) == fingerprint(state, {})
    with pytest.raises(UserError, match="frozen"):
        checkpoint.read(tmp_path, LIKE)


@pytest.mark.parametrize(("before", "after"), [(8, 1), (1, 8)])
def test_a_checkpoint_does_not_know_how_many_devices_wrote_it(tmp_path, before, after):
    with closing(Checkpoints(tmp_path)) as checkpoints:
        checkpoints.save(1, parallel.place(make_state(1), jax.devices()[:before]), {})
    placed = parallel.place(restore(tmp_path).state, jax.devices()[:after])
    assert len(placed.params["w"].addressable_shards) == after
    assert fingerprint(placed, {}) == fingerprint(make_state(1), {})


def test_the_fingerprint_sees_names_types_shapes_and_bits():
    a = {"x": np.zeros(4, np.float32)}
    others = [
        {"y": np.zeros(4, np.float32)},
        {"x": np.zeros(4, np.int32)},
        {"x": np.zeros((2, 2), np.float32)},
        {"x": -np.zeros(4, np.float32)},
    ]
    assert len({fingerprint(tree, {}) for tree in (a, *others)} | {fingerprint(a, {"pending": []})}) == 6


@pytest.mark.parametrize(("author", "reports"), [("orbax/late.py", 0), ("mine.py", 1)])
def test_of_writes_that_fail_unasked_only_those_of_others_are_reported(tmp_path, caplog, author, reports):
    Checkpoints(tmp_path).close()
    code = {}
    exec(compile("async def write(): raise ValueError('no space')", author, "exec"), code)
    loop = asyncio.new_event_loop()
    task = loop.create_task(code["write"]())
    loop.run_until_complete(asyncio.wait([task]))
    loop.close()
    del task
    gc.collect()
    assert len(caplog.records) == reports


def test_a_full_disk_is_said_and_costs_no_earlier_checkpoint(tmp_path):
    """A limit on the size of files stands in for the full disk."""
    saved(tmp_path, 1)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    big = make_state(2)._replace(ema={"w": jax.random.normal(jax.random.key(0), (1_000_000,))})
    try:
        with pytest.raises(UserError, match=r"step 2 could not be written .* the newest sound one is step 1"):
            with closing(Checkpoints(tmp_path)) as checkpoints:
                resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, hard))
                checkpoints.save(2, big, {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert restore(tmp_path).step == 1
    saved(tmp_path, 2)
    assert restore(tmp_path).step == 2


@pytest.mark.slow
def test_killed_at_any_moment_of_a_save_the_folder_stays_sound(tmp_path):
    script = textwrap.dedent(f"""
        from contextlib import closing
        from pathlib import Path
        from tests.train.common.test_checkpoint import Checkpoints, make_state
        with closing(Checkpoints(Path({str(tmp_path)!r}))) as checkpoints:
            first = (checkpoints.newest() or 0) + 1
            print("ready", flush=True)
            for step in range(first, first + 1000):
                checkpoints.save(step, make_state(step), {{"pending": []}})
                print(step, flush=True)
    """)
    newest = 0
    for pause in np.random.default_rng(0).uniform(0.0, 0.4, size=5):
        writer = subprocess.Popen(
            [sys.executable, "-c", script], stdout=subprocess.PIPE, cwd=Path(__file__).parents[3], text=True
        )
        assert writer.stdout.readline() == "ready\n"
        time.sleep(pause)
        writer.kill()
        begun = [int(line) for line in writer.stdout.read().split()]
        writer.wait()
        restored = restore(tmp_path)
        step = restored.step if restored else 0
        # save(n) returns once save(n - 1) is on disk
        assert step >= max(newest, max(begun, default=1) - 1)
        if restored:
            assert not restored.damaged
            assert fingerprint(restored.state, {}) == fingerprint(make_state(step), {})
        newest = step
