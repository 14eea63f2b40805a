"""The pipelines of Stable Diffusion as pure functions: noise, embedded prompts, pictures and keys to images.

A `Model` and a `Drawing` are static. All else is data: one compiled program serves every prompt, seed, guidance scale, strength (as
timesteps), picture and parameter of the same shapes. Here the networks, which know no schedule, meet samplers, guidance and editing,
which know no networks.

b images are drawn, of factor h times factor w pixels. Whatever else has rows may have one for all of them. Pictures are in [-1, 1].
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from jaxgen import diffusion, editing, guidance
from jaxgen.diffusion import Images, Quantity, Timesteps
from jaxgen.models.stable_diffusion.autoencoder import Autoencoder
from jaxgen.models.stable_diffusion.controlnet import ControlNet
from jaxgen.models.stable_diffusion.unet import UNet
from jaxgen.samplers import Denoiser
from jaxgen.schedules import Schedule
from train import denoising
from train.denoising import Drawing

INPAINTING = 9
"""Channels that a U-Net takes which was trained to inpaint: the latent image, where to make up, what is known."""


class Model(NamedTuple):
    """Networks without their parameters, and the process they were trained for."""

    unet: UNet
    autoencoder: Autoencoder
    schedule: Schedule
    predicts: Quantity = "eps"
    controls: tuple[ControlNet, ...] = ()
    low_resolution: Schedule | None = None
    """Of the noise on small images that are to be enlarged."""


class Control(NamedTuple):
    """What one ControlNet looks at."""

    image: Float[Array, "b H W c"]
    """In [0, 1], of the size of the images that are drawn."""
    scale: float | Float[Array, ""] = 1.0
    """How much it has to say."""


class Wish(NamedTuple):
    """What the images should show."""

    context: Float[Array, "b tokens d"]
    """The embedded prompt."""
    negative: Float[Array, "b tokens d"] | None = None
    """The embedded prompt to get away from; without one there is no guidance, at half the cost."""
    guidance: float | Float[Array, ""] = 1.0
    """Scale of classifier-free guidance, away from the negative prompt."""
    controls: Sequence[Control] = ()
    """One for each of the model's."""


def text_to_image(
    model: Model,
    drawing: Drawing,
    params: dict,
    keys: Key[Array, " b"],
    noise: Float[Array, "b h w c"],
    wish: Wish,
    timesteps: Timesteps,
) -> Images:
    """Images from noise (b, h, w, latent channels): (b, factor h, factor w, 3), in [-1, 1] but for overshoot.

    Rombach et al. 2022, arXiv:2112.10752; with controls, Zhang et al. 2023, arXiv:2302.05543.

    Args:
        drawing: its sampler, order, eta and rescale; the rest is in ``wish`` and ``timesteps``.
        params: "unet", "autoencoder" and, a list, "controls".
        keys: of noise that the sampler adds, if it does.
        timesteps: decreasing.
    """
    predict = denoiser(model, drawing, params, wish)
    return decode(model.autoencoder, params["autoencoder"], _drawn(model, drawing, keys, predict, noise, timesteps))


def image_to_image(
    model: Model,
    drawing: Drawing,
    params: dict,
    keys: Key[Array, " b"],
    noise: Float[Array, "b h w c"],
    wish: Wish,
    timesteps: Timesteps,
    pictures: Float[Array, "b H W 3"],
) -> Images:
    """Images like the pictures: from these, with the noise of the first timestep on them (SDEdit, Meng et al. 2022, arXiv:2108.01073)."""
    xt = _noised(model, encode(model, params, pictures), timesteps, noise)
    predict = denoiser(model, drawing, params, wish)
    return decode(model.autoencoder, params["autoencoder"], _drawn(model, drawing, keys, predict, xt, timesteps))


def inpaint(
    model: Model,
    drawing: Drawing,
    params: dict,
    keys: Key[Array, " b"],
    noise: Float[Array, "b h w c"],
    wish: Wish,
    timesteps: Timesteps,
    pictures: Float[Array, "b H W 3"],
    mask: Float[Array, "b H W 1"],
    anew: bool | Bool[Array, ""],
) -> Images:
    """Images with what of the pictures is known, where the mask is 1, and the rest, where it is 0, made up.

    A U-Net that was trained for it is told the mask and the known part; with any other, `editing.replace_known`. The decoder has its
    own idea of the known part too, so near, but not to the bit.

    Args:
        anew: whether what is made up begins as noise alone; else as the pictures with noise on them.
    """
    factor, b = model.autoencoder.config.factor, len(noise)
    known = mask[:, ::factor, ::factor]
    latents = encode(model, params, pictures)
    xt = _noised(model, latents, timesteps, noise)
    beginning = jnp.where(anew, noise, xt)
    if model.unet.config.trunk.in_channels == INPAINTING:
        beside = jnp.concatenate([1 - known, encode(model, params, mask * pictures)], axis=-1)
        predict = denoiser(model, drawing, params, wish, beside=beside)
        xt = beginning
    else:
        predict = denoiser(model, drawing, params, wish)
        latents, known = _rows(latents, b), _rows(denoising.where_all_is_known(mask, latents.shape[1:3]), b)
        predict = editing.replace_known(predict, model.schedule, latents, known, predicts=model.predicts)
        xt = known * xt + (1 - known) * beginning
    return decode(model.autoencoder, params["autoencoder"], _drawn(model, drawing, keys, predict, xt, timesteps))


def upscale(
    model: Model,
    drawing: Drawing,
    params: dict,
    keys: Key[Array, " b"],
    noise: Float[Array, "b h w c"],
    wish: Wish,
    timesteps: Timesteps,
    pictures: Float[Array, "b h w 3"],
    picture_noise: Float[Array, "b h w 3"],
    level: int | Int[Array, ""],
) -> Images:
    """The pictures enlarged, by the autoencoder's factor.

    The U-Net sees them beside its latent image, with noise of a level it is told on them, 0 or more: the more, the more it makes up
    (Ho et al. 2022, "Cascaded Diffusion Models", arXiv:2106.15282, section 4.2).
    """
    level = jnp.full(len(noise), level)
    beside = diffusion.q_sample(model.low_resolution, _rows(pictures, len(noise)), level, picture_noise)
    predict = denoiser(model, drawing, params, wish, beside=beside, labels=level)
    return decode(model.autoencoder, params["autoencoder"], _drawn(model, drawing, keys, predict, noise, timesteps))


def encode(model: Model, params: dict, pictures: Float[Array, "b H W 3"]) -> Float[Array, "b h w c"]:
    """Latent images as the U-Net knows them: the mean of q(z | x), whose spread is small, times the autoencoder's scale."""
    mean, _ = model.autoencoder.apply({"params": params["autoencoder"]}, pictures, method="encode")
    return model.autoencoder.config.scale * mean


def decode(autoencoder: Autoencoder, params: dict, latents: Float[Array, "b h w c"]) -> Images:
    """Images of latent images as the U-Net knows them. One at a time: a decoder needs more memory than a U-Net."""

    def one(z):
        return autoencoder.apply({"params": params}, z[None], method="decode")[0]

    return jax.lax.map(one, latents / autoencoder.config.scale)


def denoiser(
    model: Model,
    drawing: Drawing,
    params: dict,
    wish: Wish,
    *,
    beside: Float[Array, "b h w c"] | None = None,
    labels: Int[Array, " b"] | None = None,
) -> Denoiser:
    """The U-Net, guided, as what samplers take: one call of it for both prompts.

    Args:
        beside: further channels of what it sees.
        labels: where it has classes.
    """

    def predict(xt, t):
        b = len(xt)
        if wish.negative is None:
            return network(xt, t, _rows(wish.context, b), 1.0)
        both = jnp.concatenate([_rows(wish.context, b), _rows(wish.negative, b)])
        with_prompt = jnp.repeat(jnp.array([1.0, 0.0]), b).reshape(-1, 1, 1, 1)
        conditional, unconditional = jnp.split(network(_rows(xt, 2 * b), _rows(t, 2 * b), both, with_prompt), 2)
        said = (lambda xt, t: conditional), (lambda xt, t: unconditional)
        if drawing.rescale:
            return guidance.rescaled(*said, wish.guidance, drawing.rescale)(xt, t)
        return guidance.classifier_free(*said, wish.guidance)(xt, t)

    def network(xt, t, context, with_prompt):
        n = len(xt)
        residuals = _residuals(model, params, wish.controls, xt, t, context, with_prompt)
        x = xt if beside is None else jnp.concatenate([xt, _rows(beside, n)], axis=-1)
        classes = None if labels is None else _rows(labels, n)
        return model.unet.apply({"params": params["unet"]}, x, t, context, classes, residuals)

    return predict


def _residuals(model, params, controls, xt, t, context, with_prompt):
    """What the ControlNets say, summed, or None without any; of those that speak of whole images, nothing where with_prompt is 0."""
    total = None
    for module, weights, control in zip(model.controls, params.get("controls", ()), controls, strict=True):
        image = _rows(control.image, len(xt))
        said = module.apply({"params": weights}, xt, t, context, image, scale=control.scale)
        if module.config.pooled:
            said = jax.tree.map(lambda y: y * with_prompt, said)
        total = said if total is None else jax.tree.map(jnp.add, total, said)
    return total


def _drawn(model, drawing, keys, predict, xt, timesteps):
    return denoising.draw(drawing, keys, predict, model.schedule, xt, timesteps, predicts=model.predicts, clip_x0=False)


def _noised(model, latents, timesteps, noise):
    """The latent images at the first timestep."""
    b = len(noise)
    return diffusion.q_sample(model.schedule, _rows(latents, b), jnp.broadcast_to(timesteps[0], b), noise)


def _rows(x, n):
    """All rows of x in turn, until there are n."""
    return jnp.tile(x, (n // len(x), *[1] * (x.ndim - 1)))
