"""Tiny checkpoints of Stable Diffusion with random weights, made and written by diffusers and transformers."""

import json

import pytest

from tests.jaxgen.models.stable_diffusion.peers import randomised

diffusers = pytest.importorskip("diffusers", reason="pip install -r tests/bench/requirements.txt")
transformers = pytest.importorskip("transformers", reason="pip install -r tests/bench/requirements.txt")

FACTOR = 2
"""Pixels of an image to one of its latent image, along a side."""
SIDE = 16
"""Pixels along the sides of an image."""
WIDTH = 12
"""Of the embedded prompt."""
CROSS = {"attention_head_dim": 2, "norm_num_groups": 4, "cross_attention_dim": WIDTH, "layers_per_block": 1}
DOWN = {"block_out_channels": (8, 16), "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D")}
UP = {"up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"), "sample_size": SIDE // FACTOR}
VAE = {"block_out_channels": (8, 8), "norm_num_groups": 4}
VAE |= {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
NOISE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}
BEGIN, END = "<|startoftext|>", "<|endoftext|>"


def unet(in_channels=4, classes=None, seed=0):
    options = CROSS | DOWN | UP | {"in_channels": in_channels, "num_class_embeds": classes}
    return randomised(diffusers.UNet2DConditionModel(**options), seed)


def autoencoder(**options):
    return randomised(diffusers.AutoencoderKL(**VAE | options))


def control(seed=1, **options):
    options = CROSS | DOWN | {"conditioning_embedding_out_channels": (4, 8)} | options
    return randomised(diffusers.ControlNetModel(**options), seed)


def ddim(**options):
    """With the last step to the image, and without clipping, as all samplers of ours are."""
    return diffusers.DDIMScheduler(**NOISE | {"clip_sample": False, "set_alpha_to_one": True} | options)


def dpm_solver(scheduler):
    """DPM-Solver++ of order 2 on the same chain."""
    keys = ("beta_start", "beta_end", "beta_schedule", "steps_offset", "prediction_type", "timestep_spacing")
    return diffusers.DPMSolverMultistepScheduler(**{key: scheduler.config[key] for key in keys})


def text(vocabulary):
    config = transformers.CLIPTextConfig(
        vocab_size=vocabulary,
        hidden_size=WIDTH,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        bos_token_id=vocabulary - 2,
        eos_token_id=vocabulary - 1,
    )
    return randomised(transformers.CLIPTextModel(config))


def save(folder, in_channels=4, scheduler=None):
    """A checkpoint of the kind that takes so many channels: 4, 9 to inpaint, 7 to enlarge. Returns diffusers' pipeline of its parts."""
    signs = [chr(i) for i in [*range(33, 127), *range(161, 173), *range(174, 256)]]
    signs += [chr(256 + i) for i in range(256 - len(signs))]
    tokens = {token: i for i, token in enumerate([*signs, *(sign + "</w>" for sign in signs), BEGIN, END])}
    (folder / "tokenizer").mkdir(parents=True)
    (folder / "tokenizer" / "vocab.json").write_text(json.dumps(tokens), encoding="utf-8")
    (folder / "tokenizer" / "merges.txt").write_text("#version: 0.2\n", encoding="utf-8")
    special = {"model_max_length": 77, "tokenizer_class": "CLIPTokenizer", "pad_token": END}
    (folder / "tokenizer" / "tokenizer_config.json").write_text(json.dumps(special))
    parts = {
        "vae": autoencoder(scaling_factor=0.08333 if in_channels == 7 else 0.18215),
        "text_encoder": text(len(tokens)),
        "tokenizer": transformers.CLIPTokenizer.from_pretrained(folder / "tokenizer"),
        "unet": unet(in_channels, classes=1000 if in_channels == 7 else None),
        "scheduler": scheduler or ddim(),
    }
    without = {"safety_checker": None, "feature_extractor": None}
    if in_channels == 7:
        low = diffusers.DDPMScheduler(beta_schedule="scaled_linear", beta_start=1e-4, beta_end=0.02)
        pipeline = diffusers.StableDiffusionUpscalePipeline(**parts, low_res_scheduler=low, **without)
    else:
        kind = diffusers.StableDiffusionInpaintPipeline if in_channels == 9 else diffusers.StableDiffusionPipeline
        pipeline = kind(**parts, **without, requires_safety_checker=False)
    pipeline.save_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
