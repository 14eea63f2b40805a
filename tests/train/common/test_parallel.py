import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from train.common import parallel
from train.common.errors import UserError
from train.common.recipe import example_keys

DEVICES = [1, 2, 4, 8]
BACK_ENDS = ["pmap", "shard_map"]


def devices(n):
    return jax.devices()[:n]


def gradient_step(w, x):
    """One descent step on mean (x w)^2, averaged over devices; w (3,), x (rows, 3)."""
    loss, grad = jax.value_and_grad(lambda w: ((x @ w) ** 2).mean())(w)
    loss, grad = jax.lax.pmean((loss, grad), "data")
    return w - 0.1 * grad, {"loss": loss}


def run(function, n, how, *arguments, rows, **options):
    arguments = [a if shared else parallel.place(a, devices(n)) for a, shared in zip(arguments, rows, strict=True)]
    return parallel.parallelize(function, devices(n), rows=rows, how=how, **options)(*arguments)


@pytest.mark.parametrize("how", BACK_ENDS)
@pytest.mark.parametrize("n", DEVICES)
def test_the_gradient_on_n_devices_is_the_gradient_of_the_concatenated_batch(n, how):
    x, w = np.random.default_rng(0).normal(size=(16, 3)).astype(np.float32), np.array([1.0, -2.0, 0.5], np.float32)
    ours, metrics = run(gradient_step, n, how, w, x, rows=(False, True))
    loss, grad = jax.value_and_grad(lambda w: ((x @ w) ** 2).mean())(w)
    np.testing.assert_allclose(ours, w - 0.1 * grad, rtol=1e-6)
    np.testing.assert_allclose(metrics["loss"], loss, rtol=1e-6)


@pytest.mark.parametrize("n", DEVICES)
def test_pmap_and_shard_map_give_the_same_bits(n):
    x, w = np.random.default_rng(0).normal(size=(16, 3)).astype(np.float32), np.ones(3, np.float32)
    pmapped, sharded = (run(gradient_step, n, how, w, x, rows=(False, True)) for how in BACK_ENDS)
    chex.assert_trees_all_equal(pmapped, sharded)


@pytest.mark.parametrize("how", BACK_ENDS)
def test_what_an_example_draws_does_not_depend_on_the_number_of_devices(how):
    def draw(key_data, rows):
        keys = example_keys(jax.random.wrap_key_data(key_data), len(rows))
        return jax.vmap(lambda k: jax.random.normal(k, (5,)))(keys)

    key_data = jax.random.key_data(jax.random.key(3))
    first, *others = (
        np.asarray(run(draw, n, how, key_data, np.zeros(16), rows=(False, True), gather=True)) for n in DEVICES
    )
    assert first.shape == (16, 5)
    assert len(np.unique(first)) == first.size
    for other in others:
        np.testing.assert_array_equal(first, other)


@pytest.mark.parametrize("how", BACK_ENDS)
def test_gathered_rows_keep_their_order(how):
    x = np.arange(16.0).reshape(16, 1)
    np.testing.assert_array_equal(run(lambda x: x * 2, 4, how, x, rows=(True,), gather=True), x * 2)


@pytest.mark.parametrize("how", BACK_ENDS)
def test_a_donated_argument_is_used_up(how):
    w = parallel.place(np.ones(3, np.float32), devices(4))
    program = parallel.parallelize(gradient_step, devices(4), rows=(False, True), donate=True, how=how)
    program(w, np.ones((8, 3), np.float32))
    assert w.is_deleted()


@pytest.mark.parametrize("how", BACK_ENDS)
def test_a_program_is_traced_once(how):
    traces = []

    def step(w, x):
        traces.append(1)
        return gradient_step(w, x)

    w = parallel.place(np.ones(3, np.float32), devices(2))
    program = parallel.parallelize(step, devices(2), rows=(False, True), how=how)
    for i in range(3):
        w, _ = program(w, np.full((4, 3), i, np.float32))
    assert len(traces) == 1


def test_placed_arrays_and_keys_are_whole_on_every_device():
    tree = {"w": np.arange(3.0), "key": jax.random.key(7)}
    placed = parallel.place(tree, devices(8))
    assert placed["w"].is_fully_replicated
    assert len(placed["w"].addressable_shards) == 8
    np.testing.assert_array_equal(placed["w"], tree["w"])
    np.testing.assert_array_equal(jax.random.key_data(placed["key"]), jax.random.key_data(tree["key"]))
    assert len(parallel.local(placed)["w"].devices()) == 1


@pytest.mark.parametrize(("batch", "devices", "advice"), [(10, 4, "8 or 12"), (3, 8, "8"), (0, 2, "2"), (-5, 1, "1")])
def test_a_batch_that_does_not_divide_is_refused_with_sizes_that_do(batch, devices, advice):
    with pytest.raises(UserError, match=rf"a batch of {batch} does not divide over .*; try --batch-size {advice}$"):
        parallel.check_divisible(batch, devices)


def test_a_batch_that_divides_is_accepted():
    parallel.check_divisible(24, 4)


@pytest.mark.parametrize("convolutions", [True, False])
def test_compiler_options_are_known_to_this_compiler(convolutions):
    program = jax.jit(lambda x: jnp.sin(x).sum()).lower(jnp.ones(4))
    options = parallel.compiler_options(jax.default_backend(), convolutions)
    assert program.compile(options or None)(jnp.ones(4)) > 0


def test_there_are_none_off_the_cpu_and_none_for_a_version_that_was_not_tried(monkeypatch):
    assert parallel.compiler_options("gpu") == parallel.compiler_options("tpu", convolutions=False) == {}
    monkeypatch.setattr(jax, "__version_info__", (0, 10, 2))
    kept, without = (parallel.compiler_options("cpu", convolutions) for convolutions in (True, False))
    assert kept.keys() == without.keys()
    assert kept != without
    for version in ((0, 7, 2), (0, 11, 0), (1, 10, 0)):
        monkeypatch.setattr(jax, "__version_info__", version)
        assert parallel.compiler_options("cpu") == {}
