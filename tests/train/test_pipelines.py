"""Images are those of diffusers' pipelines with the same weights, noise and timesteps, to one grey level; one program serves all data."""

import functools
from types import SimpleNamespace
from unittest import mock

import jax
import numpy as np
import pytest

from jaxgen import schedules
from jaxgen.models.stable_diffusion import autoencoder, controlnet, unet
from tests.jaxgen.models.stable_diffusion import peers
from tests.jaxgen.models.stable_diffusion.peers import channels_first
from tests.train import checkpoints
from tests.train.checkpoints import FACTOR, SIDE, WIDTH, diffusers
from train import pipelines
from train.denoising import Drawing
from train.pipelines import Control, Model, Wish

torch = peers.torch
STEPS = 4
LATENT = SIDE // FACTOR
TRAILING = {n: np.round(1000 * (1 - np.arange(n) / n)).astype(np.int32) - 1 for n in (STEPS, STEPS + 1)}
PREDICTS = {"eps": "epsilon", "v": "v_prediction"}
LOW = {"beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "scaled_linear"}

solved = pytest.mark.parametrize("sampler", ["ddim", "dpm_solver"])


@functools.cache
def their(in_channels):
    """Their U-Net and autoencoder."""
    return checkpoints.unet(in_channels, 1000 if in_channels == 7 else None), checkpoints.autoencoder()


def ours(in_channels, predicts="eps", controls=()):
    """Our model, and the weights of theirs."""
    their_unet, their_vae = their(in_channels)
    unet_config, vae_config = unet.unet_config(their_unet.config), autoencoder.autoencoder_config(their_vae.config)
    configs = [controlnet.controlnet_config(control.config) for control in controls]
    model = Model(
        unet.UNet(unet_config),
        autoencoder.Autoencoder(vae_config),
        schedules.scaled_linear(),
        predicts,
        tuple(controlnet.ControlNet(config) for config in configs),
        schedules.scaled_linear(1000, 1e-4, 0.02),
    )
    shapes = [controlnet.controlnet_shapes(config) for config in configs]
    return model, {
        "unet": peers.params(their_unet, unet.unet_shapes(unet_config)),
        "autoencoder": peers.params(their_vae, autoencoder.autoencoder_shapes(vae_config)),
        "controls": [peers.params(*pair) for pair in zip(controls, shapes, strict=True)],
    }


WITHOUT_CHECKER = {"requires_safety_checker": False}


def pipe(kind, in_channels, sampler, predicts="eps", **more):
    """Their pipeline, on their networks."""
    scheduler = checkpoints.ddim(timestep_spacing="trailing", prediction_type=PREDICTS[predicts])
    their_unet, their_vae = their(in_channels)
    made = kind(
        vae=their_vae,
        unet=their_unet,
        scheduler=scheduler if sampler == "ddim" else checkpoints.dpm_solver(scheduler),
        text_encoder=None,
        tokenizer=None,
        safety_checker=None,
        feature_extractor=None,
        **more,
    )
    made.set_progress_bar_config(disable=True)
    return made


PROMPT, NEGATIVE = peers.normal(1, 2, 7, WIDTH), peers.normal(2, 2, 7, WIDTH)
NOISE = peers.normal(0, 2, LATENT, LATENT, 4)
PICTURE = np.tanh(peers.normal(3, 2, SIDE, SIDE, 3))
KNOWN = np.broadcast_to((np.arange(SIDE) < SIDE // 2)[None, None, :, None], (1, SIDE, SIDE, 1)).astype(np.float32)


def their_images(pipeline, draws=(), guidance=3.0, steps=STEPS, **options):
    """Images of their pipeline, (2, h, w, 3) in [0, 1]; it draws these, and takes the encoder's mean."""
    encode = pipeline.vae.__class__.encode
    options = {name: channels_first(x) if isinstance(x, np.ndarray) else x for name, x in options.items()}
    with (
        mock.patch.object(
            pipeline.vae, "encode", lambda x: SimpleNamespace(latents=encode(pipeline.vae, x).latent_dist.mean)
        ),
        mock.patch(f"{type(pipeline).__module__}.randn_tensor", side_effect=map(channels_first, draws)),
        mock.patch.object(pipeline, "check_inputs"),
    ):
        return pipeline(
            prompt_embeds=torch.from_numpy(PROMPT),
            negative_prompt_embeds=torch.from_numpy(NEGATIVE),
            guidance_scale=guidance,
            num_inference_steps=steps,
            output_type="np",
            **options,
        ).images


def in_unit_range(x):
    return (np.asarray(x) + 1) / 2


def assert_same_images(images, theirs):
    """Within one grey level of 256, and not for being all black or white."""
    assert theirs.std() > 0.05
    assert np.mean((theirs > 0) & (theirs < 1)) > 0.3
    np.testing.assert_allclose(np.clip(in_unit_range(images), 0, 1), theirs, rtol=0, atol=1 / 255)


@functools.cache
def program(pipeline, in_channels, drawing, predicts="eps", controls=()):
    """Our pipeline compiled, as a function of (wish, timesteps, *further data), and a list that grows when it is traced."""
    model, params = ours(in_channels, predicts, controls)
    traces = []

    @jax.jit
    def traced(params, *data):
        traces.append(pipeline)
        return pipeline(model, drawing, params, *data)

    def draw(wish, timesteps, *further, noise=NOISE, seed=0):
        return traced(params, jax.random.split(jax.random.key(seed), len(noise)), noise, wish, timesteps, *further)

    return draw, traces


def wish(*controls, guidance=3.0):
    return Wish(PROMPT, NEGATIVE, np.float32(guidance), controls)


@pytest.mark.parametrize(
    ("sampler", "rescale"), [("ddim", 0.0), pytest.param("dpm_solver", 0.7, marks=pytest.mark.slow)]
)
def test_text_to_image(sampler, rescale):
    theirs = their_images(
        pipe(diffusers.StableDiffusionPipeline, 4, sampler, **WITHOUT_CHECKER),
        latents=NOISE,
        height=SIDE,
        width=SIDE,
        guidance_rescale=rescale,
    )
    draw, _ = program(pipelines.text_to_image, 4, Drawing(sampler, rescale=rescale))
    assert_same_images(draw(wish(), TRAILING[STEPS]), theirs)


def test_another_prompt_seed_guidance_and_strength_are_the_same_program_and_other_images():
    draw, traces = program(pipelines.text_to_image, 4, Drawing("ddim"))
    first = draw(wish(), TRAILING[STEPS])
    others = [
        draw(Wish(NEGATIVE, PROMPT, np.float32(3)), TRAILING[STEPS]),
        draw(wish(guidance=5.0), TRAILING[STEPS]),
        draw(wish(), TRAILING[STEPS + 1][1:]),
        draw(wish(), TRAILING[STEPS], noise=NOISE[::-1]),
    ]
    assert len(traces) == 1
    assert all(np.abs(first - other).max() > 0.01 for other in others)
    np.testing.assert_array_equal(first, draw(wish(), TRAILING[STEPS], seed=1))  # this sampler adds no noise
    np.testing.assert_allclose(first, draw(Wish(PROMPT, NEGATIVE, np.float32(3)), TRAILING[STEPS], noise=NOISE))


@pytest.mark.slow
@solved
def test_image_to_image(sampler):
    theirs = their_images(
        pipe(diffusers.StableDiffusionImg2ImgPipeline, 4, sampler, "v", **WITHOUT_CHECKER),
        [NOISE],
        image=in_unit_range(PICTURE),
        strength=0.8,
        steps=STEPS + 1,
    )
    draw, _ = program(pipelines.image_to_image, 4, Drawing(sampler), "v")
    assert_same_images(draw(wish(), TRAILING[STEPS + 1][1:], PICTURE), theirs)


INPAINT = {"image": in_unit_range(PICTURE[:1]), "mask_image": 1 - KNOWN, "height": SIDE, "width": SIDE}


@pytest.mark.slow
@solved
def test_inpainting_by_replacement(sampler):
    pipeline = pipe(diffusers.StableDiffusionInpaintPipeline, 4, sampler, **WITHOUT_CHECKER)
    theirs = their_images(pipeline, [NOISE], strength=0.8, steps=STEPS + 1, **INPAINT)
    draw, _ = program(pipelines.inpaint, 4, Drawing(sampler))
    ours = draw(wish(), TRAILING[STEPS + 1][1:], PICTURE[:1], KNOWN, np.asarray(False))
    assert_same_images(ours, theirs)


@pytest.mark.slow
def test_inpainting_anew_begins_with_noise_where_something_is_made_up():
    pipeline = pipe(diffusers.StableDiffusionInpaintPipeline, 4, "ddim", **WITHOUT_CHECKER)
    prepare, known = pipeline.prepare_latents, channels_first(KNOWN[:, ::FACTOR, ::FACTOR])

    def as_ours(*arguments, **options):
        _, noise, latents = prepare(*arguments, **options)
        noised = pipeline.scheduler.add_noise(latents, noise, torch.tensor([TRAILING[STEPS][0]]))
        return known * noised + (1 - known) * noise, noise, latents

    with mock.patch.object(pipeline, "prepare_latents", as_ours):
        theirs = their_images(pipeline, [NOISE], strength=1.0, **INPAINT)
    draw, _ = program(pipelines.inpaint, 4, Drawing("ddim"))
    assert_same_images(draw(wish(), TRAILING[STEPS], PICTURE[:1], KNOWN, np.asarray(True)), theirs)


@pytest.mark.slow
@solved
def test_inpainting_by_a_model_for_it(sampler):
    pipeline = pipe(diffusers.StableDiffusionInpaintPipeline, 9, sampler, "v", **WITHOUT_CHECKER)
    theirs = their_images(pipeline, [NOISE], strength=1.0, **INPAINT)
    draw, _ = program(pipelines.inpaint, 9, Drawing(sampler), "v")
    assert_same_images(draw(wish(), TRAILING[STEPS], PICTURE[:1], KNOWN, np.asarray(True)), theirs)


@pytest.mark.slow
@pytest.mark.parametrize(("sampler", "pooled"), [("ddim", False), ("dpm_solver", True)])
def test_control(sampler, pooled):
    control = checkpoints.control(global_pool_conditions=pooled)
    pipeline = pipe(diffusers.StableDiffusionControlNetPipeline, 4, sampler, controlnet=control, **WITHOUT_CHECKER)
    seen, scale = in_unit_range(PICTURE[:1]), 0.6
    theirs = their_images(
        pipeline, latents=NOISE, image=seen, height=SIDE, width=SIDE, controlnet_conditioning_scale=scale
    )
    draw, _ = program(pipelines.text_to_image, 4, Drawing(sampler), controls=(control,))
    assert_same_images(draw(wish(Control(seen, np.float32(scale))), TRAILING[STEPS]), theirs)


@pytest.mark.slow
def test_several_controls():
    controls = tuple(checkpoints.control(seed) for seed in (1, 2))
    pipeline = pipe(
        diffusers.StableDiffusionControlNetPipeline, 4, "dpm_solver", controlnet=list(controls), **WITHOUT_CHECKER
    )
    seen, scales = [in_unit_range(PICTURE[i : i + 1]) for i in range(2)], [0.6, 1.5]
    theirs = their_images(
        pipeline,
        latents=NOISE,
        image=[channels_first(x) for x in seen],
        height=SIDE,
        width=SIDE,
        controlnet_conditioning_scale=scales,
    )
    draw, _ = program(pipelines.text_to_image, 4, Drawing("dpm_solver"), controls=controls)
    both = [Control(x, np.float32(scale)) for x, scale in zip(seen, scales, strict=True)]
    assert_same_images(draw(wish(*both), TRAILING[STEPS]), theirs)


@pytest.mark.slow
@solved
def test_upscale(sampler):
    low = diffusers.DDPMScheduler(**LOW)
    pipeline = pipe(diffusers.StableDiffusionUpscalePipeline, 7, sampler, "v", low_res_scheduler=low)
    pipeline.vae.register_to_config(scaling_factor=0.18215)  # the pipeline has put the published upscaler's there
    small, noise = PICTURE[:, :LATENT, :LATENT], peers.normal(4, 2, LATENT, LATENT, 3)
    theirs = their_images(pipeline, [noise], latents=NOISE, image=in_unit_range(small), noise_level=20)
    draw, _ = program(pipelines.upscale, 7, Drawing(sampler), "v")
    assert_same_images(draw(wish(), TRAILING[STEPS], small, noise, np.int32(20)), theirs)


@pytest.mark.slow
def test_without_a_negative_prompt_there_is_no_guidance():
    draw, _ = program(pipelines.text_to_image, 4, Drawing("ddim"))
    alone = draw(Wish(PROMPT), TRAILING[STEPS])
    np.testing.assert_allclose(alone, draw(wish(guidance=1.0), TRAILING[STEPS]), atol=1e-3)
