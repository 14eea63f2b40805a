"""How far samples are from the real digits: the Frechet distance in their 64 pixels, over that of two halves of the real ones.

    python -m train.ddpm && python -m tests.bench.digits_quality runs/ddpm-digits

Pixels are in [0, 1]. Halves of 898 pictures are noisier than 1,797, so a ratio below 1 is possible for a perfect model.
"""

import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from train.common import command, data
from train.common.quality import frechet_distance
from train.sample import Options, sample

NUM = 1797


def main(run: Path) -> int:
    source = data.load("digits")
    real = flat(source.rows(np.arange(len(source)))["image"])
    with tempfile.TemporaryDirectory() as folder:
        sample(Options(run, num=NUM, separate=True, out=Path(folder)))
        drawn = flat(np.stack([np.asarray(Image.open(path)) for path in sorted(Path(folder).glob("sample_*.png"))]))
    distance = frechet_distance(drawn, real)
    floor = np.mean([frechet_distance(*np.array_split(shuffled(real, seed), 2)) for seed in range(20)])
    print(f"samples against real: {distance:.4f}   half against half: {floor:.4f}   ratio: {distance / floor:.2f}")
    return 0


def flat(images: np.ndarray) -> np.ndarray:
    return images.reshape(len(images), -1) / 255.0


def shuffled(rows: np.ndarray, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).permutation(rows)


if __name__ == "__main__":
    sys.exit(command.reporting_errors(lambda: main(Path(sys.argv[1]))))
