"""What lies in a run folder in the end, whatever the data and however often the run was stopped."""

import json
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from train.common import config, loop, points
from train.common.config import Job
from train.common.recipe import Recipe, State
from train.common.sources import in_memory

IMAGES = in_memory("grey", np.full((20, 4, 4, 1), 128, np.uint8), np.zeros(20), "")


@dataclass(frozen=True)
class Config:
    job: Job


def init(key):
    return State(jnp.int32(0), jnp.float32(0), jnp.float32(0), (), key)


def step(state, batch, key):
    return state._replace(step=state.step + 1, params=state.params + 1), {"loss": state.params}


def sample(state, batch, key):
    examples = batch["point"] if "point" in batch else batch["image"].astype(jnp.float32)
    return jnp.ones(examples.shape) * (state.params / 10)


def train(folder, source, steps):
    settings = Config(Job(steps=steps, batch_size=4, sample_every=1, checkpoint_every=100, log_every=1, num_samples=4))
    about = {"name": source.name, "shape": source.shape}
    return loop.fit(
        settings, config.describe("toy", settings, about), Recipe(init, step, sample), source, folder, jax.devices()[:1]
    )


@pytest.mark.parametrize("source", [IMAGES, points.load("ring8")], ids=lambda source: source.name)
def test_the_animation_of_a_training_shows_all_of_it_though_the_run_was_stopped(tmp_path, source):
    for steps in (3, 4):
        assert train(tmp_path, source, steps) == 0
        with Image.open(tmp_path / "samples" / "training.gif") as film:
            assert film.n_frames == steps
    assert "The same noise while the model learns" in (tmp_path / "report.html").read_text()
    assert json.loads((tmp_path / "config.json").read_text())["data"]["shape"] == list(source.shape)


def test_a_run_too_short_for_an_animation_has_none(tmp_path):
    assert train(tmp_path, IMAGES, 2) == 0
    assert sorted(path.name for path in (tmp_path / "samples").iterdir()) == ["step_00000001.png", "step_00000002.png"]
