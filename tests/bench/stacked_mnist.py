"""How many of the thousand kinds of stacked digits a run draws, and how evenly.

    python -m train.gan --dataset stacked_mnist && python -m tests.bench.stacked_mnist runs/gan-stacked_mnist

A classifier of MNIST, `train.classifier`, reads each colour of each sample; the three digits are a number of 0 to 999, its mode.
A mode is found if at least one sample shows it, and KL(shares of the modes || uniform) is in nats, as Lin et al. 2018 (PacGAN),
arXiv:1712.04086, count. Samples are drawn as ``train.sample`` draws them; 25,600 even draws of a thousand would have a divergence of
0.0195, and beside the samples stand as many stacked test images. The classifier is trained on MNIST, which takes minutes the first
time; it must be right on 99 % of the test images.
"""

import sys

import tyro

from tests.bench import drawing
from train import trained
from train.common import command, quality
from train.common import config as configuration
from train.common.errors import UserError, check_counts


def main(options: drawing.Options) -> int:
    """Measure, and say what came out.

    Raises:
        UserError: if the run is not one on stacked_mnist, or the classifier is not good enough to judge.
    """
    check_counts(options, "num")
    description = configuration.read(options.run)
    job = description["config"]["job"]
    if job["dataset"] != "stacked_mnist":
        raise UserError(f"{options.run} is a run on {job['dataset']}; this is for runs on stacked_mnist")
    draw, step = drawing.drawer(options, description)

    import numpy as np

    from tests.bench import judging
    from train.common import data, images, stacked

    where = {"data_dir": options.data_dir or job["data_dir"], "image_size": job["image_size"]}
    train, test = (data.load("mnist", split=split, **where) for split in ("train", "test"))
    labels = judging.good_enough(train, test)

    def numbers(x):
        """(n, h, w, 3) -> (n,)"""
        planes = x.transpose(0, 3, 1, 2).reshape(-1, *x.shape[1:3], 1)
        return labels(planes).reshape(-1, 3) @ np.array([100, 10, 1])

    real = stacked.stack(test)
    rows = real.rows(data.indices(0, 0, options.num, len(real)))
    samples = draw(trained.labels_in_turn(description, options.num))
    sets = {"samples": samples, "stacked test images": images.to_unit_range(rows["image"])}
    print(f"{options.run} at step {step}, seed {options.seed}\n")
    print(f"| {options.num:,} of each | modes of 1,000 | KL to uniform, nats |\n|---|---|---|")
    for name, x in sets.items():
        found, divergence = quality.modes(numbers(x), 1000)
        print(f"| {name} | {found:,} | {divergence:.4f} |", flush=True)
    return 0


if __name__ == "__main__":
    default = drawing.Options(tyro.MISSING, num=25_600)
    options = command.options(drawing.Options, __doc__, default=default)
    sys.exit(command.reporting_errors(lambda: main(options)))
