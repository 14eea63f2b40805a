"""Which accelerator, how many devices, how many hosts; and the compilation cache."""

import os
import platform
import resource
import sys
from pathlib import Path

import jax
from jax._src import xla_bridge  # the only way to ask whether JAX has already chosen its platform

from train.common.errors import UserError

# The first platform is the default one; the host's CPU stays reachable behind it.
_PLATFORMS = {"cpu": "cpu", "gpu": "cuda,cpu", "tpu": "tpu,cpu"}
_FIXES = {
    "gpu": 'install the CUDA plug-in that matches this jax (pip install -U "jax[cuda12]", restart), check nvidia-smi, '
    "or use --accelerator cpu",
    "tpu": 'choose a TPU runtime; if jax was upgraded, its libtpu must follow (pip install -U "jax[tpu]", restart); '
    "if a notebook cell already uses the TPU, restart the runtime, for one process owns it; or use --accelerator cpu",
    "cpu": "unset JAX_PLATFORMS",
}


def select(accelerator: str, num_devices: int | None) -> list[jax.Device]:
    """The devices of all hosts to train on; on a CPU, num_devices emulated ones (default 1).

    Raises:
        UserError: if the platform is not there or has fewer devices. It never falls back to another platform in silence.
    """
    if num_devices is not None and num_devices < 1:
        raise UserError(f"--devices must be at least 1; got {num_devices}")
    if not xla_bridge.backends_are_initialized():
        if accelerator in _PLATFORMS:
            jax.config.update("jax_platforms", _PLATFORMS[accelerator])
        if num_devices and accelerator in ("auto", "cpu"):
            jax.config.update("jax_num_cpu_devices", num_devices)
    try:
        came_up = jax.devices()[0].platform
    except Exception as error:  # RuntimeError or a bare AssertionError, as the platform's plug-in likes it
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        fix = _FIXES.get(accelerator, "unset JAX_PLATFORMS")
        raise UserError(f"--accelerator {accelerator} is not available here ({reason}); {fix}") from error
    if accelerator not in ("auto", came_up):
        raise UserError(f"asked for --accelerator {accelerator}, but JAX came up on {came_up}; {_FIXES[accelerator]}")
    wanted = num_devices or (1 if came_up == "cpu" else jax.local_device_count())
    if wanted > jax.local_device_count():
        raise UserError(f"--devices {wanted}: this host has {jax.local_device_count()} {came_up} devices")
    hosts = [[d for d in jax.devices() if d.process_index == host] for host in range(jax.process_count())]
    return [d for host in hosts for d in host[:wanted]]


def connect(coordinator: str | None, num_processes: int | None, process_id: int | None) -> None:
    """Join the other hosts of the run, if there are any and this is the first time; before anything touches a device.

    Raises:
        UserError: if they cannot be reached, or it is not said where.
    """
    if coordinator is None and (num_processes, process_id) != (None, None):
        raise UserError(
            "--num-processes and --process-id are of a run on several hosts: say where they meet with --coordinator HOST:PORT"
        )
    if coordinator is None or jax.distributed.is_initialized():
        return
    try:
        if coordinator == "auto":
            jax.distributed.initialize()
        else:
            jax.distributed.initialize(coordinator, num_processes, process_id)
    except (RuntimeError, ValueError) as error:
        raise UserError(f"the hosts of this run could not meet at {coordinator}: {error}") from error


def leads() -> bool:
    """Whether this is the host, of one or several, that writes."""
    return jax.process_index() == 0


def use_compilation_cache() -> None:
    """Keep compiled programs in $JAX_COMPILATION_CACHE_DIR (default ~/.cache/jaxgen), so that the next start is quick."""
    if jax.config.jax_compilation_cache_dir is None:
        cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "jaxgen"
        jax.config.update("jax_compilation_cache_dir", str(cache))


def describe(devices: list[jax.Device]) -> str:
    """For people: "8 x TPU v5 lite", "1 x Intel(R) Xeon(R) ... (2 cores)"."""
    kind = devices[0].device_kind
    if devices[0].platform == "cpu":
        kind = f"{_cpu_name()} ({os.cpu_count()} cores)"
    return f"{len(devices)} x {kind}"


def peak_memory(devices: list[jax.Device]) -> int:
    """Bytes: the most that one of this host's devices held, or on a CPU the whole process."""
    mine = [d for d in devices if d.process_index == jax.process_index()]
    held = [(d.memory_stats() or {}).get("peak_bytes_in_use", 0) for d in mine]
    unit = 1 if sys.platform == "darwin" else 1024
    return max(held) or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or "CPU"
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "CPU")
