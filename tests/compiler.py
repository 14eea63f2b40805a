"""How programs are compiled for tests, most of whose time that takes."""

import jax

_KNOWN = jax.__version_info__ < (0, 11)  # an unknown flag ends the process
FLAGS = "--xla_cpu_use_fusion_emitters=false" if _KNOWN else ""
"""For XLA_FLAGS: an older generator of a CPU's code, which takes half the time."""

USUAL = {"xla_cpu_use_fusion_emitters": True} if _KNOWN else {}
"""For `jax.jit`: the generator that everyone else has."""

ONE_BACK_END = jax.__version_info__ >= (0, 8)
"""Whether `jax.pmap` is a jitted `jax.shard_map`, to the bit; before, it is a program of its own, and rounds in its own way."""
