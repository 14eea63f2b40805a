"""The pictures of a run, as a section of its report."""

from pathlib import Path

from train.common import history, page
from train.common.history import Run
from train.common.pictures import evenly

HISTORY = 12
"""Sample grids shown at most beside the newest one."""

WIDE = 1.5
"""A picture whose width is at least so many heights has a row of its own."""

CAPTIONS = {
    "reconstructions": "Reconstructions: each image, and beside it what is left of it after coding",
    "interpolation": "Interpolation: from one image's code to the next one's; one way per row",
    "classes": "The same noise as every class in turn, side by side",
    "enlarged": "Low resolution, bicubic interpolation, what the model makes of it, and the original, side by side",
    "edited": "Each image, and beside it its code decoded as every class",
    "controls": "What the model was told of an image, what it drew of that, and the image, side by side",
    "neighbours": "Samples, and beside each the training image nearest to it by a classifier's features",
    "manifold": "What all codes in two dimensions mean; along each, equal steps of probability under N(0, 1)",
}
"""By file name, without its ending; other pictures are called as their file is."""


def samples(run: Run) -> str:
    """The newest samples, those of the run beside it, the model at work, earlier samples, and all other pictures."""
    others = dict(run.pictures)
    final, film, strip, training = (
        others.pop(name, None) for name in ("final.png", "denoising.gif", "denoising.png", "training.gif")
    )
    grids = list(run.grids.items())
    large, body = [], ""
    if final:
        large.append(_figure(final, "Final samples"))
    elif grids:
        step, newest = grids.pop()
        large.append(_figure(newest, f"Samples at step {step:,}"))
    if large and run.beside:
        if (compared := _newest(run.beside)) is not None:
            large.append(compared)
        else:
            body = f"Samples of {run.beside} would be shown beside these for comparison; that folder has none yet."
            body = f'<p class="note">{page.escape(body)}</p>'
    if film:
        large.append(_figure(film, "The same model at work: from noise to pictures"))
    if training:
        large.append(_figure(training, "The same noise while the model learns", "smooth"))
    body = (f'<div class="pair">{"".join(large)}</div>' if large else page.missing("There are no samples yet.")) + body
    if large and run.is_points:
        body += '<p class="note">Strong: samples. Faint: data. Behind them, where the model rates every place: the lighter, the more it '
        body += "takes a point there for one of the data.</p>"
    if strip:
        body += f'<div class="wide">{_figure(strip, "Denoising, from left to right; one example per row")}</div>'
    if grids:
        chosen = (grids[i] for i in evenly(len(grids), HISTORY))
        body += f'<div class="film">{"".join(_thumbnail(step, path) for step, path in chosen)}</div>'
        body += '<p class="note">Samples as training went on; a click enlarges one.</p>'
    return page.section("samples", "Samples", body + _others(others))


def _newest(folder: Path) -> str | None:
    try:
        run = history.read(folder)
    except (OSError, ValueError):  # not even a name that a folder may have
        return None
    if not run.grids:
        return None
    step, path = list(run.grids.items())[-1]
    whose = f"{folder} (train.{run.recipe})" if run.recipe else str(folder)
    return _figure(path, f"For comparison: samples of {whose} at step {step:,}")


def _others(pictures: dict[str, Path]) -> str:
    # Of what is there as a strip too, the animation shows nothing more.
    chosen = [path for path in pictures.values() if path.suffix != ".gif" or f"{path.stem}.png" not in pictures]
    order = list(CAPTIONS)
    chosen.sort(key=lambda path: order.index(path.stem) if path.stem in order else len(order))
    figures = [
        (page.aspect(path), _figure(path, CAPTIONS.get(path.stem, path.stem.replace("_", " ")))) for path in chosen
    ]
    body = "".join(f'<div class="wide">{figure}</div>' for aspect, figure in figures if aspect >= WIDE)
    if narrow := "".join(figure for aspect, figure in figures if aspect < WIDE):
        body += f'<div class="pair wide">{narrow}</div>'
    return body


def _figure(path: Path, caption: str, style: str = "plain") -> str:
    shown = page.picture(path, caption) or _unshown(path)
    return f'<figure class="{style}">{shown}<figcaption>{page.escape(caption)}</figcaption></figure>'


def _thumbnail(step: int, path: Path) -> str:
    shown = page.picture(path, f"Samples at step {step:,}") or _unshown(path)
    return (
        f'<figure id="step-{step}"><a href="#step-{step}">{shown}</a><figcaption>step {step:,}</figcaption>'
        f'<a class="close" href="#samples" aria-label="back"></a></figure>'
    )


def _unshown(path: Path) -> str:
    return page.missing(f"{path.parent.name}/{path.name} is unreadable, or too large to embed here.")
