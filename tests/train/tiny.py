"""Recipes small enough to compile and train in seconds; every recipe's contract is tested on these."""

from dataclasses import replace

from train import ddpm
from train.common.config import Job

JOB = Job(dataset="digits", steps=8, batch_size=16, checkpoint_every=3, sample_every=100, log_every=2, num_samples=4)

DDPM = replace(
    ddpm.DIGITS,
    job=JOB,
    width=8,
    multipliers=(1,),
    attention=(),
    groups=4,
    dropout=0.1,
    num_timesteps=20,
    schedule="cosine",
    warmup_steps=4,
    flip=True,
    sample_steps=4,
)
DDPM_FLAGS = [
    *(
        "--width",
        "8",
        "--multipliers",
        "1",
        "--attention",
        "--groups",
        "4",
        "--dropout",
        "0.1",
        "--num-timesteps",
        "20",
    ),
    *("--schedule", "cosine"),
    *("--warmup-steps", "4", "--sample-steps", "4", "--batch-size", "16", "--log-every", "2", "--num-samples", "4"),
    *("--accelerator", "cpu"),
]

RECIPES = {"ddpm": (DDPM, ddpm.recipe)}
"""Name -> configuration, recipe(config, image_shape)."""
