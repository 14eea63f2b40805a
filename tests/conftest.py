"""Strict modes, eight fake devices and a compilation cache for every test."""

import gc
import os
import tempfile
from pathlib import Path

import jax
import pytest

from tests import compiler
from train.common import parallel

# Children of the tests (command-line runs) inherit these two.
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {compiler.FLAGS}".strip()
CACHE = os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(tempfile.gettempdir()) / "jaxgen-test-cache"))

if os.environ.get("JAX_PLATFORMS", "cpu") == "cpu":
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_compilation_cache_dir", CACHE)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_disable_most_optimizations", True)


@pytest.fixture(autouse=True, scope="module")
def forget_programs():
    """A process keeps every program it has compiled in memory mappings of its own, of which the system allows 65,530."""
    yield
    jax.clear_caches()
    gc.collect()


@pytest.fixture
def compiled_as_usual(monkeypatch):
    """For promises of bits that programs of `train.common.parallel` share."""
    options = parallel.compiler_options
    monkeypatch.setattr(parallel, "compiler_options", lambda *arguments: options(*arguments) | compiler.USUAL)


@pytest.fixture
def x64():
    """64-bit floats for mathematics compared with closed forms."""
    with jax.enable_x64(True) if hasattr(jax, "enable_x64") else jax.experimental.enable_x64():
        yield


def pytest_collection_modifyitems(items):
    for item in items:
        if item.get_closest_marker("accelerator") and jax.default_backend() == "cpu":
            item.add_marker(pytest.mark.skip(reason="needs a GPU or a TPU; run with JAX_PLATFORMS=cuda or tpu"))
