"""A small convolutional classifier to judge generated images by.

    apply, params = classifier.train(source)
    labels, features = classifier.judge(apply, params, x)

Four convolutions and two dense layers, 436 thousand parameters for MNIST; Adam with half a cosine, seven epochs, or a thousand steps if
that is more, of images shifted at random by up to 2 pixels. Of MNIST's test images it gets 99.38 % right, after about three minutes of
two CPU cores. All is drawn from one seed, so on one kind of CPU the weights are the same bits each time. They are kept in
~/.cache/jaxgen under a name that changes with the images and with this file.
"""

import hashlib
import io
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from flax.traverse_util import flatten_dict, unflatten_dict

from train.common import data, images, sources
from train.common.files import write_atomically
from train.common.parallel import compiler_options

EPOCHS, BATCH, LEARNING_RATE, WARMUP = 7, 128, 2e-3, 200
LEAST_STEPS = 1000
SHIFT = 2
AT_ONCE = 1000


class Classifier(nn.Module):
    """Image -> logits of its classes, and the features that they are linear in: (b, h, w, c) in [-1, 1] -> (b, num_classes), (b, 128)."""

    num_classes: int

    @nn.compact
    def __call__(self, x):
        for i, (features, size, stride) in enumerate([(16, 5, 2), (32, 3, 1), (32, 3, 2), (64, 3, 1)]):
            x = nn.relu(nn.Conv(features, (size, size), (stride, stride), name=f"conv{i}")(x))
        x = nn.relu(nn.Dense(128, name="dense")(x.reshape(len(x), -1)))
        return nn.Dense(self.num_classes, name="logits")(x), x


def train(source: sources.Source) -> tuple[Callable, dict]:
    """The function (parameters, images (b, h, w, c) in [-1, 1]) -> logits (b, num_classes) and features (b, 128), and parameters trained on
    the source or, if it was done before, read from the cache. Prints the sha256 of the parameters on stderr."""
    network = Classifier(source.num_classes)
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "jaxgen"
    path = cache / f"classifier-{sources.digest(source.fingerprint.encode(), Path(__file__).read_bytes())}.npz"
    weights = _read(path)
    if weights is None:
        weights = {name: np.asarray(w) for name, w in flatten_dict(_fit(network, source), sep="/").items()}
        content = io.BytesIO()
        np.savez(content, **weights)
        with suppress(OSError):  # a cache that cannot be written costs the same minutes next time, and nothing else
            write_atomically(path, content.getvalue())
    params = jax.tree.map(jnp.asarray, unflatten_dict(weights, sep="/"))
    print(f"classifier {path}, weights sha256 {fingerprint(params)}", file=sys.stderr)

    def apply(params, x):
        return network.apply({"params": params}, x)

    return _program(apply), params


def _read(path: Path) -> dict | None:
    """The parameters in this file; None if they are not there or damaged."""
    try:
        with path.open("rb") as file, np.load(file) as weights:
            return dict(weights)
    # A damaged file makes zipfile and numpy raise nearly anything: BadZipFile, ValueError, NotImplementedError, ...
    except Exception:
        return None


def fingerprint(params: dict) -> str:
    """The sha256 of the parameters, in the order of their names."""
    weights = flatten_dict(params, sep="/")
    state = hashlib.sha256()
    for name in sorted(weights):
        state.update(np.asarray(weights[name]).tobytes())
    return state.hexdigest()


def judge(apply: Callable, params: dict, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The likeliest class of each image, (n,), and its features, (n, 128): images (n, h, w, c) in [-1, 1]."""
    pieces = [apply(params, x[i : i + AT_ONCE]) for i in range(0, len(x), AT_ONCE)]
    return tuple(
        np.concatenate(column) for column in zip(*((logits.argmax(-1), h) for logits, h in pieces), strict=True)
    )


def _fit(network, source):
    num_steps = max(LEAST_STEPS, EPOCHS * len(source) // BATCH)
    adam = optax.adam(optax.warmup_cosine_decay_schedule(0.0, LEARNING_RATE, WARMUP, num_steps))
    init_key, run_key = jax.random.split(jax.random.key(0))

    def shifted(key, image):
        corner = jax.random.randint(key, (2,), 0, 2 * SHIFT + 1)
        padded = jnp.pad(image, ((SHIFT, SHIFT), (SHIFT, SHIFT), (0, 0)))
        return jax.lax.dynamic_slice(padded, (*corner, 0), image.shape)

    def step(state, batch, number):
        params, moments = state
        keys = jax.random.split(jax.random.fold_in(run_key, number), BATCH)
        x = images.to_unit_range(jax.vmap(shifted)(keys, batch["image"]))

        def loss(params):
            logits, _ = network.apply({"params": params}, x)
            return optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"]).mean()

        updates, moments = adam.update(jax.grad(loss)(params), moments)
        return optax.apply_updates(params, updates), moments

    params = network.init(init_key, jnp.zeros((1, *source.shape)))["params"]
    state, run = (params, adam.init(params)), _program(step, donate=0)
    for i in sources.progress(range(num_steps), "training the classifier", num_steps):
        state = run(state, source.rows(data.indices(0, i, BATCH, len(source))), np.int32(i))
    return state[0]


def _program(function, donate=()):
    options = compiler_options(jax.default_backend())
    return jax.jit(function, donate_argnums=donate, compiler_options=options or None)
