"""What was logged and measured of a run, as sections of its report."""

import math
from collections.abc import Iterator

import numpy as np

from train.common import charts, page, points
from train.common.history import Evaluation, Run

ACTIVE = 0.01
"""Nats of KL above which a latent dimension counts as active, by custom; Burda et al. 2016, arXiv:1509.00519, have the same number
for the variance of the code's mean."""

UNITS = {
    "nll": "NLL (nats)",
    "negative_elbo": "−ELBO (nats)",
    "bound": "Bound on the NLL (nats)",
    "prior_term": "of it, prior term (nats)",
    "bits_per_dim": "Bits per dimension",
    "frechet_distance": "Fréchet distance",
    "fid": "FID",
    "kernel_distance": "Kernel distance",
    "nearest_distance": "To the nearest",
    "psnr": "PSNR (dB)",
    "bicubic_psnr": "Bicubic: PSNR (dB)",
    "ssim": "SSIM",
    "bicubic_ssim": "Bicubic: SSIM",
    "consistency_error": "Consistency error",
    "bicubic_consistency_error": "Bicubic: consistency error",
    "kl_to_uniform": "KL to uniform (nats)",
}
"""Estimates by name; others are called as they are."""

WON = 0.95
"""A discriminator has won that is so sure, on average, of the data, and so sure of what is generated."""

ALIKE = 0.5
"""Modes have collapsed where the samples' standard deviation is below this share of the data's."""

REMEDY = "In a new --run, try a gradient penalty (--r1 of train.gan, or train.wgan_gp), a larger --batch-size or a smaller --learning-rate."
"""Against modes that have collapsed."""

LATE = 5
"""Rows of metrics, at least, from which such things are told."""


def curves(run: Run) -> str:
    """A chart of every metric over the steps; of a reconstruction error and a KL also one against the other. Before them, in words,
    what has gone wrong in an adversarial game.
    """
    if not run.metrics:
        return page.section("curves", "Curves", page.missing("metrics.jsonl holds no numbers yet."))
    resumed = [step for session in run.sessions if (step := session.first_step)]
    figures = [_line(name, *curve, resumed) for name, curve in run.metrics.items()]
    note = "Over optimiser steps; the strong line is a moving average."
    if resumed:
        note += " Dotted: a session went on from there."
    if has_tug(run):
        figures.append(_tug(run))
        note += " Of reconstruction against kl: the way from the ring, after a fiftieth of the steps, to the dot; "
        note += "along a faint line their sum is the same."
    warnings = "".join(page.warning(sentence) for sentence in _warnings(run))
    charted = f'<div class="charts">{"".join(figures)}</div><p class="note">{note}</p>'
    return page.section("curves", "Curves", warnings + charted)


def has_tug(run: Run) -> bool:
    """Whether the loss is the sum of a reconstruction error and a KL, logged at the same steps."""
    return bool(_tug_steps(run).size)


def statistics(run: Run) -> str:
    """A bar chart of every vector; nothing if there is none."""
    if not run.statistics:
        return ""
    shares, warnings = np.array(run.statistics.get(points.SHARES, ())), ""
    if (lost := np.sum(shares <= ACTIVE)) > 0:
        warnings = page.warning(
            f"{lost} of the {len(shares)} Gaussians of the data have at most {ACTIVE} of the samples each: modes have collapsed. {REMEDY}"
        )
    figures = "".join(_bars(name, values) for name, values in run.statistics.items())
    when = "" if run.statistics_step is None else f", at step {charts.number(run.statistics_step)}"
    note = f"The largest first{when}; faint: at most {ACTIVE}."
    return page.section(
        "statistics", "Statistics", f'{warnings}<div class="charts">{figures}</div><p class="note">{note}</p>'
    )


def evaluations(run: Run) -> str:
    """A table of what was estimated, newest step last; nothing if nothing was."""
    if not run.evaluations:
        return ""
    names = list(dict.fromkeys(name for evaluation in run.evaluations for name in evaluation.estimates))
    heads = ["Step", "Split", "Images", "Samples per image", "Seed", *(UNITS.get(name, name) for name in names)]
    table = page.table(heads, [_row(evaluation, names) for evaluation in run.evaluations])
    note = "Mean over the images ± standard error."
    if "frechet_distance" in names:
        note += (
            " Distances are those of as many training images, in the features of a classifier of our own, and not those that are "
            "published as FID and KID; the rows of real images say what is to be reached. To the nearest: median distance of the "
            "nearest of these training images, which would be small for copies."
        )
    if "fid" in names:
        note += (
            " FID: the Fréchet distance from as many training images in the features of Inception; it falls as the images become more, "
            "so published ones of other numbers are not comparable, and the rows of real images say what is to be reached."
        )
    return page.section("evaluation", "Evaluation", f'{table}<p class="note">{note}</p>')


def evaluated_steps(run: Run) -> set[float | None]:
    """The steps at which something was estimated."""
    return {evaluation.step for evaluation in run.evaluations}


def with_error(mean: float, error: float | None) -> str:
    """A mean and its standard error, with two digits of the latter: 86.10 ± 0.20."""
    if error is None or error < 0:
        return f"{mean:,.5g}"
    if not 1e-9 < error < 1e9 or abs(mean) > 1e9:
        return f"{mean:,.5g} ± {charts.number(error)}"
    decimals = max(0, 1 - math.floor(math.log10(error)))
    return f"{mean:,.{decimals}f} ± {error:,.{decimals}f}"


def _warnings(run: Run) -> Iterator[str]:
    real, fake, spread = (_of_late(run, name) for name in ("d_real", "d_fake", "spread"))
    if real is not None and fake is not None and real > WON and fake < 1 - WON:
        yield (
            f"The discriminator has won: of late D is {real:.3f} on the data and {fake:.3f} on samples, where 1 means real and 0 made up, "
            "and so it teaches the generator little. In a new --run, try a smaller --discriminator-learning-rate; for train.gan also "
            "a larger --r1, fewer --discriminator-steps or another --objective; or train.wgan_gp, whose critic may win."
        )
    if spread is not None and spread < ALIKE:
        yield (
            f"The samples are more alike than the data: of late their standard deviation is {charts.number(spread)} times the data's, "
            f"where 1 is right, so modes have collapsed. {REMEDY}"
        )


def _of_late(run: Run, name: str) -> float | None:
    """The mean over the last tenth of the rows, and over `LATE` at least; None if there are not so many."""
    values = run.metrics[name][1] if name in run.metrics else np.zeros(0)
    return float(values[-max(LATE, math.ceil(len(values) / 10)) :].mean()) if len(values) >= LATE else None


def _row(evaluation: Evaluation, names: list[str]) -> list[str]:
    counts = evaluation.num_images, evaluation.samples, evaluation.seed
    step, *counts = ("" if count is None else charts.number(count) for count in (evaluation.step, *counts))
    found = evaluation.estimates
    return [step, evaluation.split, *counts, *(with_error(*found[name]) if name in found else "" for name in names)]


def _line(name: str, steps: np.ndarray, values: np.ndarray, resumed: list[float]) -> str:
    now = charts.number(charts.smooth(values)[-1])
    return _chart(name, now, charts.line_chart(name, steps, values, resumed))


def _bars(name: str, values: np.ndarray) -> str:
    above = f"{np.sum(values > ACTIVE)} of {len(values)} above {ACTIVE}"
    return _chart(name, above, charts.bar_chart(name, values, ACTIVE))


def _tug(run: Run) -> str:
    steps, title = _tug_steps(run), "reconstruction against kl"
    x, y = (values[np.isin(at, steps)] for at, values in (run.metrics[name] for name in ("kl", "reconstruction")))
    now = charts.number((charts.smooth(x) + charts.smooth(y))[-1])
    return _chart(title, f"sum {now}", charts.path_chart(title, ("kl", "reconstruction"), steps, x, y))


def _tug_steps(run: Run) -> np.ndarray:
    if not {"kl", "reconstruction"} <= run.metrics.keys():
        return np.zeros(0)
    return np.intersect1d(run.metrics["kl"][0], run.metrics["reconstruction"][0])


def _chart(name: str, told: str, svg: str) -> str:
    caption = f"<figcaption><b>{page.escape(name)}</b><output>{page.escape(told)}</output></figcaption>"
    return f'<figure class="chart">{caption}{svg}</figure>'
