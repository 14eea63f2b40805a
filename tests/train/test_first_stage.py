"""What is asked of the first stage by its own flags is refused by their names."""

from dataclasses import replace
from pathlib import Path

import pytest

from tests.train.tiny import JOB
from train import first_stage
from train.common.errors import UserError


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"autoencoder_steps": 0}, "--autoencoder-steps must be at least 1"),
        ({"autoencoder_width": 0}, "--autoencoder-width must be at least 1"),
        ({"autoencoder_multipliers": ()}, "--autoencoder-multipliers must name at least one level"),
        ({"autoencoder_multipliers": (1, 0)}, "--autoencoder-multipliers must name at least one level"),
        ({"latent_channels": 0}, "--latent-channels must be at least 1"),
        ({"pixel_variance": 0.0}, "--pixel-variance must be at least"),
    ],
)
def test_settings_that_cannot_work_are_refused_in_words(values, said):
    with pytest.raises(UserError, match=said):
        first_stage.config(replace(first_stage.FirstStage(), **values), JOB, Path("run"))


@pytest.mark.parametrize(("width", "groups"), [(16, 8), (12, 4), (5, 1)])
def test_the_groups_divide_any_width(width, groups):
    made = first_stage.config(first_stage.FirstStage(autoencoder_width=width), JOB, Path("run"))
    assert made.network.groups == groups
    assert made.job.run == "run/autoencoder"
