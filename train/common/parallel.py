"""One place where a function of one device's rows becomes a program on all devices.

The function sees its own rows under the axis name "data" and says itself what is averaged over it. Two back ends run it:
``jax.pmap``, and ``jax.jit(jax.shard_map)``, which since JAX 0.8 is what pmap is made of. A test holds them to the same bits since
then, and to rounding before.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from train.common.errors import UserError
from train.common.recipe import with_keys, without_keys


def compiler_options(platform: str, convolutions: bool = True) -> dict[str, str]:
    """Options for the compiler that pay off, with convolutions or without, on this platform and this version of JAX.

    On a CPU XLA hands a good deal to a library (YNNPACK) that is slow at convolutions with what surrounds them: it keeps reductions
    and products there; and where there are no convolutions, nothing. An unknown option is an error, so it is set only on the
    versions where it was tried.
    """
    if platform != "cpu" or jax.__version_info__[:2] not in ((0, 10), (0, 12)):
        return {}
    kept = "LIBRARY_FUSION_TYPE_REDUCE,LIBRARY_FUSION_TYPE_DOT" if convolutions else ""
    return {"xla_cpu_experimental_ynn_fusion_type": kept}


def replicated(devices: Sequence[jax.Device]) -> NamedSharding:
    """The sharding of what every device holds whole: the state, a data set."""
    return NamedSharding(_mesh(devices), PartitionSpec())


def place(tree: Any, devices: Sequence[jax.Device]) -> Any:
    """The tree of arrays on this host, whole on every device. All hosts give the same values."""
    sharding = replicated(devices)
    data = jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, np.asarray(x)), without_keys(tree))
    return with_keys(data, tree)


def local(tree: Any) -> Any:
    """This host's own copy of what every device holds whole."""
    return jax.tree.map(lambda x: x.addressable_data(0), tree)


def check_divisible(batch_size: int, num_devices: int) -> None:
    """Nothing, where so many devices can share the batch evenly.

    Raises:
        UserError: where they cannot; with sizes that would do.
    """
    if batch_size < 1 or batch_size % num_devices:
        below = batch_size // num_devices * num_devices
        fitting = [size for size in (below, max(below, 0) + num_devices) if size > 0]
        raise UserError(
            f"a batch of {batch_size} does not divide over {num_devices} device{'s' * (num_devices > 1)}; "
            f"try --batch-size {' or '.join(map(str, fitting))}"
        )


def parallelize(
    function: Callable,
    devices: Sequence[jax.Device],
    *,
    rows: Sequence[bool],
    gather: bool = False,
    donate: bool = False,
    convolutions: bool = True,
    how: Literal["pmap", "shard_map"] = "pmap",
) -> Callable:
    """The program that runs function on every device, each with its share of the rows.

    Args:
        function: of one device's arguments, under the axis name "data".
        devices: of all hosts.
        rows: for each argument, whether the devices share its rows; otherwise each sees it whole. A host passes its own rows.
        gather: whether the result has one row per row; otherwise function has made it equal on every device.
        donate: whether the first argument's memory may be reused for the result.
        convolutions: whether function has any, for the compiler.
        how: the back end.

    It is compiled once, for the shapes of the first call.
    """
    donated = (0,) if donate else ()
    options = compiler_options(devices[0].platform, convolutions)
    here = [d for d in devices if d.process_index == jax.process_index()]
    if how == "pmap":
        program = jax.pmap(
            function,
            axis_name="data",
            in_axes=tuple(0 if shared else None for shared in rows),
            out_axes=0 if gather else None,
            devices=list(devices),
            donate_argnums=donated,
        )

        def split(x):
            return x.reshape(len(here), -1, *x.shape[1:])

        def join(x):
            return x.reshape(-1, *x.shape[2:]) if gather else x
    else:
        mesh, shared_spec = _mesh(devices), PartitionSpec("data")
        # check_vma=True would sum the gradients of replicated parameters over devices before our own pmean divides them.
        program = jax.jit(
            jax.shard_map(
                function,
                mesh=mesh,
                in_specs=tuple(shared_spec if shared else PartitionSpec() for shared in rows),
                out_specs=shared_spec if gather else PartitionSpec(),
                check_vma=False,
            ),
            donate_argnums=donated,
        )

        def split(x):
            return jax.make_array_from_process_local_data(NamedSharding(mesh, shared_spec), x)

        def join(x):
            return x

    compiled = None

    def call(*arguments):
        nonlocal compiled
        arguments = [
            jax.tree.map(split, argument) if shared else argument
            for argument, shared in zip(arguments, rows, strict=True)
        ]
        if how == "pmap" and jax.process_count() > 1:  # only its uncompiled form takes rows of several hosts
            return jax.tree.map(join, program(*arguments))
        if compiled is None:
            compiled = program.lower(*arguments).compile(options or None)
        return jax.tree.map(join, compiled(*arguments))

    return call


def _mesh(devices: Sequence[jax.Device]) -> Mesh:
    return Mesh(np.array(devices), ("data",))
