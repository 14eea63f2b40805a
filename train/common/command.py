"""From the command line to a trained model: parse, choose the accelerator, load the data, claim the run folder, train.

Only the parser is imported here; JAX follows when the flags are known, so ``--help`` is quick and ``--accelerator`` comes first.
"""

import argparse
import os
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

import tyro

from train.common import config as configuration
from train.common import stopwatch  # noqa: F401  its clock starts now
from train.common.errors import UserError, check_counts, check_seed, one_line
from train.common.files import Lasting, expanded


def parse(
    config_type: type, presets: Mapping[str, Any], description: str, arguments: Sequence[str] | None = None
) -> Any:
    """The configuration that the command line asks for. ``--dataset`` chooses the preset whose values the other flags override;
    a data set without one gets ``presets["*"]``.
    """
    dataset = ahead("--dataset", arguments) or "digits"
    return options(config_type, description, arguments, default=presets.get(dataset, presets["*"]))


def ahead(flag: str, arguments: Sequence[str] | None = None) -> str | None:
    """What the command line says of this flag, if anything, before the rest of it is looked at."""
    parser = argparse.ArgumentParser(prog=_name(), add_help=False, allow_abbrev=False)
    parser.add_argument(flag, dest="value")
    return parser.parse_known_args(arguments)[0].value


def options(kind: Any, description: str, arguments: Sequence[str] | None = None, **settings: Any) -> Any:
    """What the command line asks for, by a dataclass, or a union of them for subcommands, whose parts' names are not in the flags."""
    omit = (tyro.conf.OmitArgPrefixes,)
    return tyro.cli(kind, prog=_name(), description=description, args=arguments, config=omit, **settings)


def _name() -> str | None:
    """The command, as it was called: "python -m train.ddpm"."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return f"python -m {spec.name}" if spec else None


def main(
    name: str,
    config: Any,
    recipe: Callable,
    points: bool = False,
    prepare: Callable[[Any, Any, dict | None], tuple[Any, Any]] | None = None,
) -> int:
    """Train recipe(config, shape, num_classes), which takes images (h, w, c) and, if `points`, also points (2,). Returns the process's
    exit status.

    Args:
        prepare: config, the data set, what the run in the folder stands on or None -> the data set with the further columns that the
            recipe needs, and the `recipe.Basis` that it stands on, whose ``about`` the recipe then also takes.
    """
    return reporting_errors(lambda: _train(name, config, recipe, points, prepare))


def reporting_errors(action: Callable[[], int]) -> int:
    """The action's exit status; what the person can mend becomes one line on stderr and status 1. It goes on, too, when nobody reads
    what it says any more.
    """
    with redirect_stderr(Lasting(sys.stderr)):
        return _reporting_errors(action)


def _reporting_errors(action):
    try:
        return action()
    except (UserError, OSError) as error:  # an OSError (no space, no permission) names its file
        _say(str(error))
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        if not (isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error)):
            traceback.print_exc()
            _leave_at_once_if_not_alone()
            return 1
        _say(
            f"out of memory ({one_line(error)}); try a smaller --batch-size, --num-samples or --image-size, or more --pieces"
        )
    return 1


def _say(message):
    print(f"error: {message}", file=sys.stderr, flush=True)
    _leave_at_once_if_not_alone()


def _leave_at_once_if_not_alone():
    jax = sys.modules.get("jax")
    if jax is not None and jax.distributed.is_initialized():
        sys.stderr.flush()
        os._exit(1)  # a polite exit would wait minutes for the other hosts, which wait for this one


def _train(name, config, recipe, points, prepare):
    job = config.job
    _check(job)
    from train.common import devices

    devices.connect(job.coordinator, job.num_processes, job.process_id)
    on = devices.select(job.accelerator, job.devices)
    devices.use_compilation_cache()

    from train.common import data, loop, parallel
    from train.common.recipe import Basis

    parallel.check_divisible(job.batch_size, len(on))
    source = data.load(job.dataset, data_dir=job.data_dir, image_size=job.image_size)
    if source.is_points and not points:
        raise UserError(
            f"{source.name} holds points of the plane, and train.{name} is for images; train.gan and train.wgan_gp take points"
        )
    folder, stands = run_folder(name, job), Basis(None)
    if prepare is not None:
        source, stands = prepare(config, source, begun(name, folder).get("basis"))
    built = recipe(config, source.shape, source.num_classes, *(() if stands.about is None else (stands.about,)))
    if devices.leads():
        examples = "points" if source.is_points else f"images {'x'.join(map(str, source.shape))}"
        where = f"{devices.describe(on)}, in {folder}"
        print(f"{name} on {source.name} ({len(source):,} {examples}), {where}", file=sys.stderr)
    description = configuration.describe(name, config, source.describe(), stands.about)
    return loop.fit(config, description, built, source, folder, on, stands.parameters)


def _check(job):
    check_counts(job, "steps", "batch_size", "checkpoint_every", "sample_every", "log_every", "num_samples", "stride")
    check_seed(job.seed)
    if job.max_hours is not None and not job.max_hours > 0:
        raise UserError(f"--max-hours must be more than 0; got {job.max_hours}")


def run_folder(name: str, job: Any) -> Path:
    """Where a run of this recipe is kept."""
    return Path(job.run or f"runs/{name}-{_slug(job.dataset)}")


def begun(name: str, folder: Path) -> dict:
    """The description of this recipe's run in the folder; nothing if there is none, or none that was saved: it begins anew, for it has no
    copy yet of what it stands on.
    """
    from train.common import checkpoint

    if not checkpoint.any_in(folder / "checkpoints"):
        return {}
    description = configuration.read(folder)
    return description if description["recipe"] == name else {}


def _slug(dataset: str) -> str:
    """The data set's name as part of a folder's name."""
    if dataset.startswith("folder:"):
        return expanded(dataset.removeprefix("folder:")).resolve().name
    return dataset.replace("/", "-").replace(":", "-")
