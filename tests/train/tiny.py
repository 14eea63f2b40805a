"""Recipes small enough to compile and train in seconds; every recipe's contract is tested on these."""

from contextlib import closing
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
from scipy import special

from train import (
    ae,
    controlnet,
    cvae,
    cvae_gan,
    ddpm,
    first_stage,
    gan,
    latent_diffusion,
    super_resolution,
    vae,
    wgan_gp,
)
from train.common import captions, config, data, gallery, parallel, tokenizer
from train.common.checkpoint import Checkpoints
from train.common.config import Job
from train.common.recipe import Recipe, State
from train.common.sources import Source

JOB = Job(dataset="digits", steps=8, batch_size=16, checkpoint_every=3, sample_every=100, log_every=2, num_samples=4)


def change(config: Any, **values: Any) -> Any:
    """The configuration with other values in the fields of these names, however deep they are in it."""
    here = {field.name for field in fields(config)}
    parts = {name: getattr(config, name) for name in here if is_dataclass(getattr(config, name))}
    inner = {
        name: change(part, **known)
        for name, part in parts.items()
        if (known := {key: value for key, value in values.items() if key not in here and _has(part, key)})
    }
    unknown = [key for key in values if key not in here and not any(_has(part, key) for part in parts.values())]
    assert not unknown, unknown
    return replace(config, **inner, **{key: value for key, value in values.items() if key in here})


def _has(config, name):
    return any(
        field.name == name or (is_dataclass(part := getattr(config, field.name)) and _has(part, name))
        for field in fields(config)
    )


DDPM = change(
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
    sampler="ddim",
    sample_steps=4,
)
GUIDED_DDPM = change(
    DDPM,
    conditional=True,
    predicts="v",
    learn_variance=True,
    timesteps="importance",
    zero_terminal_snr=True,
    sampler="ancestral",
    guidance=2.0,
    rescale=0.5,
)
"""With everything that the other does without."""
SUPER_RESOLUTION = change(
    super_resolution.DIGITS,
    job=JOB,
    width=8,
    multipliers=(1,),
    attention=(),
    groups=4,
    num_timesteps=20,
    schedule="cosine",
    warmup_steps=4,
    predicts="x0",  # what so small a network learns soonest
    learning_rate=5e-3,
    noise_levels=5,
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

NETWORK = vae.Network(latent_dim=2, hidden=(16,))
CONVOLUTIONS = vae.Network(architecture="conv", latent_dim=3, width=4, multipliers=(1, 2), blocks=0, groups=2)
ADAM = vae.Optimizer(learning_rate=5e-3, warmup_steps=4)
AE = ae.Config(job=JOB, network=NETWORK, optimizer=ADAM)
VAE = vae.Config(job=JOB, network=NETWORK, optimizer=ADAM)
VAE_FLAGS = [
    *("--latent-dim", "2", "--hidden", "16", "--learning-rate", "5e-3", "--warmup-steps", "4"),
    *("--batch-size", "16", "--log-every", "2", "--num-samples", "4", "--accelerator", "cpu"),
]
CONV_VAE = vae.Config(job=JOB, network=CONVOLUTIONS, likelihood="gaussian", optimizer=ADAM)
CVAE = cvae.Config(job=JOB, network=NETWORK, optimizer=ADAM)

POOLED = gan.Network(architecture="plain", width=2, multipliers=(1, 2))
PERCEPTRONS = gan.Network(architecture="mlp", latent_dim=3, hidden=(16,))
GAN = gan.Config(
    job=JOB,
    network=POOLED,
    discriminator_steps=2,
    r1=0.1,
    optimizer=gan.Optimizer(learning_rate=1e-4, discriminator_learning_rate=1e-2),
)
# Adam's first steps have the size of the rate however small a gradient is, and so enlarge what rounding leaves of one that is 0.
PLAIN_DESCENT = gan.Optimizer("sgd", learning_rate=5e-3, momentum=0.0)
WGAN_GP = wgan_gp.Config(job=JOB, network=PERCEPTRONS, critic_steps=2, optimizer=PLAIN_DESCENT)
CVAE_GAN = cvae_gan.Config(job=JOB, network=PERCEPTRONS, optimizer=gan.Optimizer(learning_rate=2e-3))

CONTROLNET = controlnet.Config(
    job=JOB,
    base="runs/ddpm-digits",
    hint=(4,),
    optimizer=replace(DDPM.optimizer, learning_rate=1e-2),  # of the branch alone, beside a base of noise
    drawing=DDPM.drawing,
)
GUIDED_CONTROLNET = replace(CONTROLNET, control="mask", drawing=GUIDED_DDPM.drawing)

LATENT_DIFFUSION = change(
    latent_diffusion.DIGITS,
    job=JOB,
    first_stage=first_stage.FirstStage(
        autoencoder_steps=6, autoencoder_width=8, autoencoder_multipliers=(1, 2), latent_channels=2
    ),
    text_width=8,
    text_layers=1,
    text_heads=2,
    tokens=8,
    vocabulary=300,
    width=8,
    multipliers=(1,),
    head_dim=4,
    groups=4,
    num_timesteps=20,
    schedule="cosine",
    optimizer=ADAM,
    sampler="ddim",
    sample_steps=4,
)
FIRST_STAGE = first_stage.config(LATENT_DIFFUSION.first_stage, JOB, Path("runs/latent"))

RECIPES = {
    "ddpm": (DDPM, ddpm.recipe),
    "guided_ddpm": (GUIDED_DDPM, ddpm.recipe),
    "super_resolution": (SUPER_RESOLUTION, super_resolution.recipe),
    "ae": (AE, ae.recipe),
    "vae": (VAE, vae.recipe),
    "conv_vae": (CONV_VAE, vae.recipe),
    "cvae": (CVAE, cvae.recipe),
    "gan": (GAN, gan.recipe),
    "wgan_gp": (WGAN_GP, wgan_gp.recipe),
    "cvae_gan": (CVAE_GAN, cvae_gan.recipe),
    "latent_diffusion": (LATENT_DIFFUSION, latent_diffusion.recipe),
    "controlnet": (CONTROLNET, controlnet.recipe),
    "guided_controlnet": (GUIDED_CONTROLNET, controlnet.recipe),
}
"""Name -> configuration, recipe(config, image_shape, num_classes)."""

STOOD_ON = {"first_stage": (FIRST_STAGE, vae.recipe)}
"""Further recipes, for others to stand on."""

BASES = {"controlnet": "ddpm", "guided_controlnet": "guided_ddpm", "latent_diffusion": "first_stage"}
"""Name -> that of the recipe whose run it stands on; its recipe then also takes a description of what it stands on."""


SHAPE = (2, 3, 1)
"""Images small enough to compute by hand what a model of them does."""


def batch_of(num, shape=SHAPE, seed=0):
    image = np.random.default_rng(seed).integers(0, 256, (num, *shape), dtype=np.uint8)
    image[0].flat[:2] = 0, 255  # the outermost levels are special
    return {"image": image, "label": np.zeros(num, np.int32)}


def state_of(recipe, seed, scale=0.4):
    """A state with parameters of this size, nowhere zero, its moving average the same."""
    shapes, rng = jax.eval_shape(recipe.init, jax.random.key(0)), np.random.default_rng(seed)
    params, frozen = jax.tree.map(
        lambda leaf: (scale * rng.normal(size=leaf.shape)).astype(np.float32), (shapes.params, shapes.frozen)
    )
    opt = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes.opt)
    of_all = shapes.ema.keys() <= params.keys()
    ema = {name: params[name] for name in shapes.ema} if of_all else params["generator"]
    return State(np.int32(0), params, ema, opt, jax.random.key(seed), frozen)


def step(recipe, state, batch, key, devices=1, wanted=lambda state, metrics: metrics):
    """What is wanted of the state and the metrics after a step."""
    on = jax.devices()[:devices]
    program = parallel.parallelize(
        lambda *arguments: wanted(*recipe.step(*arguments)), on, rows=(False, True, False), convolutions=False
    )
    return jax.device_get(program(parallel.place(state, on), batch, parallel.place(key, on)))


def draw(function, state, batch, key, devices=1):
    on = jax.devices()[:devices]
    return gallery.drawer(function, on)(parallel.place(state, on), batch, key)


def dense(params, x):
    return x @ np.asarray(params["kernel"], np.float64) + np.asarray(params["bias"], np.float64)


def perceptron(params, last, x):
    """The network with one hidden layer, in float64."""
    h = dense(params["hidden"]["dense0"], x)
    return dense(params[last], h * special.expit(h))


def described(name: str, source: Source) -> dict:
    """What config.json says of a run of this recipe on this data set."""
    settings, make = {**RECIPES, **STOOD_ON}[name]
    return config.describe(make.__module__.removeprefix("train."), settings, source.describe(), basis(name, source))


def basis(name: str, source: Source) -> dict | None:
    """What is known of what the recipe stands on; None if it stands on nothing."""
    if name == "super_resolution":
        return {"deviation": 0.4}
    if name not in BASES:
        return None
    run = {**described(BASES[name], source), "step": 7, "sha256": "0"}
    if name != "latent_diffusion":
        return run
    learnt = tokenizer.learn(captions.of(source).texts, LATENT_DIFFUSION.text.vocabulary, LATENT_DIFFUSION.text.tokens)
    return {"autoencoder": run, "text": {"tokenizer": learnt.describe(), "frozen": None}}


def build(name: str, source: Source) -> Recipe:
    """The recipe, for this data set."""
    settings, make = {**RECIPES, **STOOD_ON}[name]
    description = described(name, source)
    stands = [description["basis"]] if "basis" in description else []
    return make(settings, source.shape, source.num_classes, *stands)


def furnished(name: str, source: Source) -> Source:
    """The data set with what columns the recipe needs."""
    if name != "latent_diffusion":
        return source
    return latent_diffusion.furnish(LATENT_DIFFUSION, source, basis(name, source))


def given(name: str, source: Source) -> Any:
    """Parameters of what the recipe stands on, nowhere zero; None if it stands on nothing."""
    if name not in BASES:
        return None
    parameters = state_of(build(BASES[name], source), seed=5, scale=0.2).ema
    if name != "latent_diffusion":
        return parameters
    return {"autoencoder": parameters, "scale": np.float32(0.7), "text": None}


def save_run(folder: Path, name: str, seed: int = 0, number: int = 7) -> State:
    """Make the folder a run of this recipe on digits, with a checkpoint of this step, whose parameters are noise; returns its state."""
    source = data.load("digits")
    state = state_of(build(name, source), seed)._replace(step=np.int32(number))
    config.write(folder, described(name, source))
    with closing(Checkpoints(folder / "checkpoints")) as checkpoints:
        checkpoints.save(number, state, {"pending": []})
    return state
