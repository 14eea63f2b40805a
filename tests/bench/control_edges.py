"""Whether a control branch draws what it is given: how well the edges of its images agree with the edges given.

    python -m train.ddpm --dataset mnist && python -m train.controlnet --base runs/ddpm-mnist --control edges
    python -m tests.bench.control_edges runs/controlnet-mnist --num 1000

Given are the edges of test images, one image drawn for each. F1 is 2 P R / (P + R) with P the share of the edge pixels of what was drawn
that lie on a given edge, and R that of the given ones that lie on an edge drawn, averaged over images; with a tolerance of one pixel
an edge pixel among the eight neighbours counts too. Chance is the base alone, which is given nothing: guidance 0, the same noise.
"""

import sys
from dataclasses import replace
from typing import Any

from tests.bench import drawing
from train import trained
from train.common import command
from train.common import config as configuration
from train.common.errors import UserError, check_counts


def agreement(drawn: Any, wanted: Any, tolerance: int) -> Any:
    """F1 of each image, (b,), for edges that are bool (b, h, w); 1 where there are none on both sides."""
    import numpy as np
    from scipy import ndimage

    square = np.ones((1, 1 + 2 * tolerance, 1 + 2 * tolerance), bool)
    near_drawn, near_wanted = (ndimage.binary_dilation(edges, square) for edges in (drawn, wanted))
    counts = [edges.sum((1, 2)) for edges in (drawn, wanted)]
    precision = (drawn & near_wanted).sum((1, 2)) / np.maximum(counts[0], 1)
    recall = (wanted & near_drawn).sum((1, 2)) / np.maximum(counts[1], 1)
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-9)
    return np.where(counts[0] + counts[1] == 0, 1.0, f1)


def main(options: drawing.Options) -> int:
    """Measure, and say what came out.

    Raises:
        UserError: if the run is not one of train.controlnet given edges, or has no sound checkpoint.
    """
    check_counts(options, "num")
    description = configuration.read(options.run)
    config = description["config"]
    if description["recipe"] != "controlnet" or config["control"] != "edges" or config["control_folder"]:
        raise UserError(f"{options.run} is no run of train.controlnet --control edges, and this is for such")
    from train.common import devices

    on = devices.select(options.accelerator, 1)
    devices.use_compilation_cache()

    import jax
    import numpy as np

    from jaxgen import controls
    from train.common import images

    find = jax.jit(lambda x: controls.edges(x)[..., 0] > 0)

    def draw(alone):
        def change(settings):
            how = options.wish.on(settings.drawing)
            return replace(settings, drawing=replace(how, guidance=0.0) if alone else how)

        recipe = trained.recipe(options.run, description, change)
        state, step = trained.restore(options.run, description, recipe, on)
        rows = trained.rows(description, recipe, options.num, options.data_dir)
        given = np.asarray(find(images.to_unit_range(rows["image"])))
        return given, np.asarray(find(trained.draw(recipe.sample, state, on, rows, seed=options.seed))), step

    given, chance, step = draw(alone=True)
    _, controlled, _ = draw(alone=False)
    print(
        f"{options.run} at step {step}, seed {options.seed}: mean F1 of the edges of {options.num:,} images, with standard errors"
    )
    for name, drawn in {"with control": controlled, "the base alone (chance)": chance}.items():
        scores = [agreement(drawn, given, tolerance) for tolerance in (0, 1)]
        said = (f"{f1.mean():.3f} +- {f1.std() / np.sqrt(len(f1)):.3f}" for f1 in scores)
        print(f"{name:24} tolerance 0: {next(said)}   tolerance 1 pixel: {next(said)}")
    return 0


if __name__ == "__main__":
    options = command.options(drawing.Options, __doc__)
    sys.exit(command.reporting_errors(lambda: main(options)))
