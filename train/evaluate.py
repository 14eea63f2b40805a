"""How well a trained model predicts images it has not seen, and how close its own come to them: python -m train.evaluate RUN

For a VAE: -log p(x), estimated with so many importance samples per image, and its bound, minus the ELBO. For a DDPM: the variational bound,
from so many timesteps per image. For super-resolution: how like the originals its images are, and those of bicubic interpolation. Stopped,
the same command goes on. With --compare N, also the distances of N samples from the data (`train.comparison`); of models that have
nothing else to evaluate that is all. The FID is among them if --inception-weights gives its network.
"""

import json
import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro
from tqdm import tqdm

from train import comparison, trained
from train.common import command
from train.common import config as configuration
from train.common.errors import UserError, check_counts, check_ranges, check_seed
from train.common.files import write_atomically


@dataclass(frozen=True)
class Options:
    """Which run, on which images, how exactly."""

    run: Annotated[Path, tyro.conf.Positional]
    """The run folder."""
    samples: int | None = None
    """VAE: importance samples per image; more come closer to log p(x), from below. Default: 5000. DDPM: timesteps per image; fewer give a
    noisier estimate of the same bound. Default: all. Super-resolution: images drawn per image. Default: 1."""
    split: str = "test"
    """Images to evaluate on."""
    num: int | None = None
    """Only the first so many of them."""
    seed: int = 0
    """Of the samples, and of the binarisation where there is one."""
    batch_size: int = 100
    """Images evaluated at a time; what is drawn for an image depends on the seed and on this number."""
    compare: int = 0
    """Draw so many images and compare them with as many of the data; published figures are of 10,000. The model is then evaluated on
    images only if --samples is given."""
    inception_weights: Path | None = None
    """With --compare: measure the FID too, in the features of this file's Inception. It is pytorch-fid's
    pt_inception-2015-12-05-6726825d.pth, converted to safetensors."""
    data_dir: str | None = None
    """Where tensorflow-datasets keeps its data. Default: where the run found its own."""
    accelerator: Literal["auto", "cpu", "gpu", "tpu"] = "auto"
    """Where to compute."""
    devices: int | None = None
    """Devices to use."""


def evaluate(options: Options) -> dict[str, dict]:
    """Of what was measured, by name: the estimates' means over images and their standard errors. Also written to RUN/evaluations.json and
    into the report.

    Raises:
        UserError: if the folder is no run, the run has no sound checkpoint, its model has no likelihood and nothing is compared, there
            are no such images, or the weights of Inception are not those.
    """
    check_counts(options, "samples", "batch_size", "num")
    check_ranges(("compare", options.compare, 0, math.inf))
    if options.inception_weights and not options.compare:
        raise UserError("--inception-weights is for the FID of samples; say of how many: --compare 10000")
    check_seed(options.seed)
    description = configuration.read(options.run)

    from train.common import devices

    on = devices.select(options.accelerator, options.devices)
    devices.use_compilation_cache()

    from train.common.report import write_report

    recipe = trained.recipe(options.run, description)
    if recipe.evaluate is None and not options.compare:
        raise UserError(
            f"{options.run} is a run of train.{description['recipe']}, which has no likelihood to evaluate; "
            "compare its samples with the data: --compare 10000"
        )

    features, weights = None, {}
    if options.inception_weights:
        from train import inception

        features, sha256 = inception.load(options.inception_weights, on)
        weights = {"inception_sha256": sha256}
    state, step = trained.restore(options.run, description, recipe, on)
    found = {}
    if recipe.evaluate is not None and (options.samples or not options.compare):
        found[options.split] = _estimates(options, description, recipe, state, step, on)
    if options.compare:

        def draw(num):
            rows = trained.rows(description, recipe, num, options.data_dir)
            return trained.draw(recipe.sample, state, on, rows, seed=options.seed)

        compared = comparison.compare(options.run, description, draw, options.compare, options.data_dir, features)
        for name, estimates in compared.items():
            about = {"split": name, "seed": options.seed, "num_images": options.compare, "step": step, **weights}
            _enter(options.run / "evaluations.json", {**about, "estimates": estimates})
        found |= compared
    write_report(options.run)
    return found


def _estimates(options, description, recipe, state, step, on):
    import jax
    import numpy as np

    from train.common import gallery
    from train.common.checkpoint import fingerprint
    from train.common.recipe import root_key

    source = trained.images(description, options.split, options.data_dir)
    num = min(options.num or len(source), len(source))
    samples = options.samples or recipe.evaluate_samples
    about = {
        "samples": samples,
        "split": options.split,
        "seed": options.seed,
        "batch_size": options.batch_size,
        "num_images": num,
        "step": step,
    }
    exact = {"data": source.fingerprint, "parameters": fingerprint(state.ema, {})[:16]}
    name = "-".join(str(value) for value in about.values()).replace("/", "_")
    partial = _Partial(options.run / "evaluations" / f"{name}.jsonl", about | exact)

    draw = gallery.drawer(lambda *arguments: recipe.evaluate(*arguments, samples), on, convolutions=recipe.convolutions)
    size, key = min(options.batch_size, num), root_key(options.seed, "evaluate")
    batches = range(-(-num // size))
    for i in tqdm(batches[len(partial.rows) :], initial=len(partial.rows), total=len(batches), unit="batch"):
        rows = np.resize(np.arange(i * size, min((i + 1) * size, num)), size)  # one shape for all batches
        estimates = draw(state, source.rows(rows), jax.random.fold_in(key, i))
        partial.add({name: values[: num - i * size].tolist() for name, values in estimates.items()})

    columns = {name: np.concatenate([row[name] for row in partial.rows]) for name in partial.rows[0]}
    means = {name: _mean(values) for name, values in columns.items()}
    _enter(options.run / "evaluations.json", {**about, "estimates": means})
    return means


class _Partial:
    """Rows of results in a file, each written as soon as it is known; those of an earlier attempt are kept."""

    def __init__(self, path: Path, header: dict):
        self.rows, self._path = [], path
        path.parent.mkdir(exist_ok=True)
        lines = path.read_text().splitlines() if path.exists() else []
        for line in lines:
            try:
                self.rows.append(json.loads(line))
            except ValueError:  # cut off in the middle
                break
        if self.rows and self.rows[0] != header:
            raise UserError(f"{path} was made from other parameters or images; move it away to evaluate anew")
        write_atomically(path, "".join(json.dumps(row) + "\n" for row in self.rows or [header]).encode())
        self.rows = self.rows[1:]

    def add(self, row: dict) -> None:
        with self._path.open("a") as file:
            file.write(json.dumps(row) + "\n")
        self.rows.append(row)


def _mean(values) -> dict:
    error = values.std(ddof=1) / math.sqrt(len(values)) if len(values) > 1 else math.inf
    return {"mean": float(values.mean()), "standard_error": float(error)}


def _enter(path: Path, entry: dict) -> None:
    """Put the entry into the list in this file, in place of one of the same settings."""
    try:
        entries = json.loads(path.read_text()) if path.exists() else []
        entries = [e for e in entries if {**e, "estimates": None} != {**entry, "estimates": None}]
        entries = sorted([*entries, entry], key=lambda e: e["step"])
    except (ValueError, TypeError, KeyError):
        raise UserError(f"{path} is damaged; move it away and run the same command again") from None
    write_atomically(path, (json.dumps(entries, indent=2) + "\n").encode())


def main(options: Options) -> int:
    """Evaluate, and say the result."""
    for name, estimates in evaluate(options).items():
        print(name)
        for quantity, value in estimates.items():
            error = f" +- {value['standard_error']:.4f}" if "standard_error" in value else ""
            print(f"  {quantity:18} {value['mean']:.4f}{error}")
    return 0


if __name__ == "__main__":
    options = command.options(Options, __doc__)
    sys.exit(command.reporting_errors(lambda: main(options)))
