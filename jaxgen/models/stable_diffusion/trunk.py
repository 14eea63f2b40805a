"""The way down and the middle of the U-Net, which a ControlNet has too: its configuration, and the computation."""

from dataclasses import dataclass
from typing import Any

from flax import linen as nn

from jaxgen.models.layers import Conv3x3
from jaxgen.models.stable_diffusion import options as config_options
from jaxgen.models.stable_diffusion.layers import Downsample, ResidualBlock, timestep_embedding
from jaxgen.models.stable_diffusion.transformer import Transformer


@dataclass(frozen=True)
class TrunkConfig:
    """The defaults are those of Stable Diffusion 1.x. Tuples have one value per level, the finest first."""

    in_channels: int = 4
    """4 of the latent image; with its mask and masked image, as for inpainting, 9; with an RGB image to be enlarged, 7."""
    channels: tuple[int, ...] = (320, 640, 1280, 1280)
    residual_blocks: tuple[int, ...] = (2, 2, 2, 2)
    transformers: tuple[int, ...] = (1, 1, 1, 0)
    """Transformer blocks after each residual block on the way down."""
    middle_transformers: int = 1
    heads: tuple[int, ...] = (8, 8, 8, 8)
    """Heads of each attention; a diffusers configuration calls it attention_head_dim, by an old mistake."""
    only_cross_attention: tuple[bool, ...] = (False, False, False, False)
    """Whether pixels attend to the context alone, not to each other; never in the middle."""
    linear_projection: bool = False
    context_dim: int = 768
    classes: int | None = None
    """Classes, such as noise levels, of which one goes with each image."""
    groups: int = 32
    epsilon: float = 1e-5
    cosines_first: bool = True
    frequency_shift: float = 0.0


UNDERSTOOD = frozenset(
    {
        "attention_head_dim",
        "block_out_channels",
        "cross_attention_dim",
        "down_block_types",
        "flip_sin_to_cos",
        "freq_shift",
        "in_channels",
        "layers_per_block",
        "norm_eps",
        "norm_num_groups",
        "num_class_embeds",
        "only_cross_attention",
        "transformer_layers_per_block",
        "use_linear_projection",
        # Nothing depends on these: there is no embedding to have such heads, the size is the input's, scores are float32 always.
        "addition_embed_type_num_heads",
        "sample_size",
        "upcast_attention",
    }
)
ONLY = {
    "act_fn": ("silu", "swish"),
    "class_embed_type": (None,),
    "downsample_padding": (1,),
    "dropout": (0.0,),
    "mid_block_scale_factor": (1,),
    "mid_block_type": ("UNetMidBlock2DCrossAttn",),
    "num_attention_heads": (None,),
    "resnet_time_scale_shift": ("default",),
}


def trunk_config(model: str, options: config_options.Options) -> TrunkConfig:
    """The configuration of the trunk in a ``config.json`` of a U-Net or a ControlNet.

    Raises:
        ValueError: for an option that is not supported, or heads or groups that do not divide the channels.
    """
    channels = tuple(options.get("block_out_channels", (320, 640, 1280, 1280)))
    levels = len(channels)

    def each(name, default):
        return config_options.per_level(model, options, name, default, levels)

    transformers = each("transformer_layers_per_block", 1)
    with_attention = attending(
        model,
        options,
        "down_block_types",
        "CrossAttnDownBlock2D",
        "DownBlock2D",
        levels,
        default=(True, True, True, False),
    )
    config = TrunkConfig(
        in_channels=options.get("in_channels", 4),
        channels=channels,
        residual_blocks=each("layers_per_block", 2),
        transformers=tuple(n if attends else 0 for n, attends in zip(transformers, with_attention, strict=True)),
        middle_transformers=transformers[-1],
        heads=each("attention_head_dim", 8),
        only_cross_attention=each("only_cross_attention", False),
        linear_projection=options.get("use_linear_projection", False),
        context_dim=config_options.same_for_all(model, options, "cross_attention_dim", 1280),
        classes=options.get("num_class_embeds"),
        groups=options.get("norm_num_groups", 32),
        epsilon=options.get("norm_eps", 1e-5),
        cosines_first=options.get("flip_sin_to_cos", True),
        frequency_shift=options.get("freq_shift", 0),
    )
    for name, divisors in (("attention_head_dim", config.heads), ("norm_num_groups", (config.groups,) * levels)):
        for c, n in zip(channels, divisors, strict=True):
            if not isinstance(n, int) or c % n:
                raise ValueError(f"{model}: {name}={n} does not divide {c} channels")
    return config


def attending(model, options, name, cross, plain, levels, default):
    """For each of the blocks in the option ``name`` whether it attends to the context: its type is ``cross``, else ``plain``.

    Raises:
        ValueError: for another type, or another number of blocks than levels.
    """
    types = options.get(name, [cross if attends else plain for attends in default])
    for kind in types:
        if kind not in (cross, plain):
            raise ValueError(f"{model}: {name} has {kind!r}; only {cross!r} and {plain!r} are supported")
    if len(types) != levels:
        raise ValueError(f"{model}: the option {name} needs {levels} values, one for each level; got {len(types)}")
    return tuple(kind == cross for kind in types)


def stage(config: TrunkConfig, dtype: Any, h, embedding, context, block: str, i: int, level: int, transformers: int):
    """The residual block number ``i`` of the block of layers named ``block``, and the transformer after it if it has any."""
    h = ResidualBlock(config.channels[level], config.groups, config.epsilon, dtype, name=f"{block}.resnets.{i}")(
        h, embedding
    )
    if transformers:
        h = Transformer(
            transformers,
            config.heads[level],
            config.groups,
            config.linear_projection,
            config.only_cross_attention[level] and block != "mid_block",
            dtype,
            name=f"{block}.attentions.{i}",
        )(h, context)
    return h


def trunk(config: TrunkConfig, dtype: Any, x, t, context, labels=None, hint=None):
    """All that the way up needs: the middle's output, those of the layers before it, and the embedding of the timestep.

    (b, h, w, in_channels), (b,), (b, keys, context_dim), labels (b,) if there are classes, and ``hint`` (b, h, w, channels[0]) to be
    added to the first layer's output -> h, [skip connections, the first layer's first], (b, 4 channels[0]). To be called inside
    a module, whose submodules it makes.

    Raises:
        ValueError: for another number of channels, or labels without classes or the other way round.
    """
    if x.shape[-1] != config.in_channels:
        raise ValueError(f"this checkpoint takes {config.in_channels} channels; got {x.shape[-1]}")
    if (labels is None) != (config.classes is None):
        needed = f"a class from 0 to {config.classes - 1} with each image" if config.classes else "no classes"
        raise ValueError(f"this checkpoint takes {needed}")
    width = 4 * config.channels[0]
    embedding = timestep_embedding(t, config.channels[0], config.cosines_first, config.frequency_shift)
    embedding = nn.Dense(width, dtype=dtype, name="time_embedding.linear_1")(embedding)
    embedding = nn.Dense(width, dtype=dtype, name="time_embedding.linear_2")(nn.silu(embedding))
    if labels is not None:
        embedding = embedding + nn.Embed(config.classes, width, dtype=dtype, name="class_embedding")(labels)

    h = Conv3x3(config.channels[0], dtype=dtype, name="conv_in")(x)
    if hint is not None:
        h = h + hint
    skips = [h]
    last = len(config.channels) - 1
    for level, features in enumerate(config.channels):
        block = f"down_blocks.{level}"
        for i in range(config.residual_blocks[level]):
            h = stage(config, dtype, h, embedding, context, block, i, level, config.transformers[level])
            skips.append(h)
        if level < last:
            h = Downsample(features, dtype, name=f"{block}.downsamplers.0.conv")(h)
            skips.append(h)
    h = stage(config, dtype, h, embedding, context, "mid_block", 0, last, config.middle_transformers)
    h = stage(config, dtype, h, embedding, context, "mid_block", 1, last, 0)
    return h, skips, embedding
