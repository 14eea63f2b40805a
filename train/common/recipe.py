"""What a trainable model is: pure functions over a state pytree."""

import zlib
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp


class State(NamedTuple):
    """Everything that training changes, and nothing else: data only, so that a checkpoint of it is the whole run."""

    step: jax.Array
    """() int32, optimiser steps done."""
    params: Any
    """Parameters, float32."""
    ema: Any
    """Exponential moving average of the parameters: what samples are drawn with."""
    opt: Any
    """State of the optimiser."""
    key: jax.Array
    """The run's key. It never changes: a step's key is fold_in(key, step)."""
    frozen: Any = ()
    """Parameters of networks that the run stands on and does not train."""


class Recipe(NamedTuple):
    """A trainable generative model.

    A batch is a dictionary of arrays with one row per example: "image", uint8 (b, h, w, c), or "point", float32 (b, 2); "label",
    int32 (b,); and further columns of the data set, if it has any.
    """

    init: Callable[..., State]
    """key -> state. A recipe that stands on trained networks also takes their parameters, and without them makes some up."""
    step: Callable[[State, dict, jax.Array], tuple[State, dict]]
    """state, batch, key -> state, metrics; sees one device's rows and averages over the axis named "data"."""
    sample: Callable[[State, dict, jax.Array], jax.Array]
    """state, batch, key -> images in [-1, 1], or points, one per row of the batch; sees one device's rows of axis "data"."""
    pictures: Mapping[str, Callable[[State, dict, jax.Array], jax.Array]] = MappingProxyType({})
    """Further pictures of a finished run, by name, called like sample. What gives one image per row makes a grid; what
    gives its moments too, (b, moments, h, w, c), a strip and an animation."""
    statistics: Mapping[str, Callable[[State, dict, jax.Array], jax.Array]] = MappingProxyType({})
    """Vectors that describe a finished run, by name: state, batch, key -> one vector per row, (b, n), to be averaged."""
    evaluate: Callable[[State, dict, jax.Array, int], dict[str, jax.Array]] | None = None
    """state, batch, key, samples -> by name an estimate for each row, (b,), from so many samples each. "nll", or "bound" on it, is in
    nats."""
    evaluate_samples: int = 5000
    """How many, if nobody says."""
    edit: Callable[[State, dict, jax.Array, float, int], jax.Array] | None = None
    """state, batch, key, strength, resamplings -> images like those of the batch, changed so far; or with their part where the batch's
    "mask", (b, h, w, 1), is 1, gone over so often."""
    draws_of_data: bool = False
    """Whether ``sample`` looks at more of a batch than labels: then whoever draws gives it rows of the data."""
    convolutions: bool = True
    """Whether a step has convolutions, which decides where a loop over steps pays."""
    minibatches: int = 1
    """Minibatches that one step takes, of job.batch_size rows each. They come interleaved, so that on any number of devices the same
    rows are of minibatch j: rows j, j + minibatches, ... of the step's batch."""
    landscape: Callable[[State, jax.Array], jax.Array] | None = None
    """state, points of the plane (n, 2) -> what the model thinks of each, (n,); drawn behind samples that are points."""


class Basis(NamedTuple):
    """What a run stands on besides its data: trained networks, a tokenizer."""

    about: dict | None
    """All that a recipe must know of it, as JSON; it is kept with the run. None where it stands on nothing."""
    parameters: Callable[[], Any] = lambda: None
    """Reads those of its networks, for ``Recipe.init``; called where a run begins."""


def root_key(seed: int, use: Literal["training", "gallery", "sample", "evaluate"]) -> jax.Array:
    """Where all keys for one use of a seed come from: what two uses draw has nothing in common."""
    return jax.random.fold_in(jax.random.key(seed), zlib.crc32(use.encode()))


def example_keys(key: jax.Array, num_rows: int) -> jax.Array:
    """A key for each of this device's rows, (num_rows,): fold_in(key, the row's index in the global batch).

    Hence what an example draws does not depend on how many devices share the batch.
    """
    first = jax.lax.axis_index("data") * num_rows
    return jax.vmap(jax.random.fold_in, (None, 0))(key, first + jnp.arange(num_rows))


def mean_over_rows(x: jax.Array) -> jax.Array:
    """Mean over the rows of all devices, (b, ...) -> (...), for use inside a loss: its gradient is this device's part, and the mean of
    all devices' gradients is the gradient."""
    mean = x.mean(axis=0)
    return mean + jax.lax.stop_gradient(jax.lax.pmean(mean, "data") - mean)


def without_keys(tree: Any) -> Any:
    """The tree with typed keys as their uint32 data: files and the wire hold numbers."""
    return jax.tree.map(lambda x: jax.random.key_data(x) if _is_key(x) else x, tree)


def with_keys(tree: Any, like: Any) -> Any:
    """The reverse: data become keys where ``like`` has keys."""
    return jax.tree.map(lambda x, y: jax.random.wrap_key_data(x) if _is_key(y) else x, tree, like)


def _is_key(x):
    return jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
