"""CLIP's text encoder (Radford et al. 2021, arXiv 2103.00020): the prompt's token ids to the context of the U-Net's cross-attention."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxgen.models.stable_diffusion import options as config_options


@dataclass(frozen=True)
class TextConfig:
    """The defaults are those of Stable Diffusion 1.x: the text half of CLIP ViT-L/14.

    Stable Diffusion 2.x has the text half of OpenCLIP ViT-H and uses the output of its layer before the last; its checkpoints in
    diffusers' layout have no last layer, so ``layers`` is 23 there.
    """

    vocabulary: int = 49_408
    positions: int = 77
    """The most tokens of a prompt."""
    width: int = 768
    hidden: int = 3_072
    """Channels inside each layer's MLP."""
    layers: int = 12
    heads: int = 12
    quick_gelu: bool = True
    """x sigmoid(1.702 x) as in CLIP, instead of x Phi(x) as in OpenCLIP."""
    epsilon: float = 1e-5


def text_config(options: config_options.Options) -> TextConfig:
    """The configuration in a ``text_encoder/config.json``. Options that change nothing here, such as token numbers, are not looked at.

    Raises:
        ValueError: for another kind of model, or an option that is not supported.
    """
    model = "text encoder"
    config_options.check(
        model,
        options,
        understood=options,
        only={
            "model_type": ("clip_text_model",),
            "hidden_act": ("quick_gelu", "gelu"),
            "attention_dropout": (0.0,),
            "dropout": (0.0,),
        },
    )
    config = TextConfig(
        vocabulary=options.get("vocab_size", 49_408),
        positions=options.get("max_position_embeddings", 77),
        width=options.get("hidden_size", 512),
        hidden=options.get("intermediate_size", 2_048),
        layers=options.get("num_hidden_layers", 12),
        heads=options.get("num_attention_heads", 8),
        quick_gelu=options.get("hidden_act", "quick_gelu") == "quick_gelu",
        epsilon=options.get("layer_norm_eps", 1e-5),
    )
    if config.width % config.heads:
        raise ValueError(f"{model}: num_attention_heads={config.heads} does not divide hidden_size={config.width}")
    return config


def quick_gelu(x):
    """x sigmoid(1.702 x), near x Phi(x)."""
    return x * nn.sigmoid(1.702 * x)


def exact_gelu(x):
    """x Phi(x), Phi the standard normal distribution function: Hendrycks and Gimpel 2016, arXiv 1606.08415."""
    return nn.gelu(x, approximate=False)


class TextEncoder(nn.Module):
    """Token ids to the last layer's normalised output, float32: int32 (b, tokens) -> (b, tokens, width).

    A token sees itself and those before it. Padding is not masked: Stable Diffusion was trained so.

    Raises:
        ValueError: for more tokens than positions.
    """

    config: TextConfig
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, ids):
        config = self.config
        tokens = ids.shape[1]
        if tokens > config.positions:
            raise ValueError(
                f"a prompt of {tokens} tokens does not fit into {config.positions} positions; cut it short"
            )
        root = "text_model.embeddings"
        x = nn.Embed(config.vocabulary, config.width, dtype=self.dtype, name=f"{root}.token_embedding")(ids)
        position = nn.Embed(config.positions, config.width, dtype=self.dtype, name=f"{root}.position_embedding")
        x = x + position(jnp.arange(tokens))[None]
        for i in range(config.layers):
            x = TextLayer(config, self.dtype, name=f"text_model.encoder.layers.{i}")(x)
        return layer_norm("text_model.final_layer_norm", config.epsilon, self.dtype)(x).astype(jnp.float32)


class TextLayer(nn.Module):
    """x + attention(norm(x)), then x + MLP(norm(x)): (b, tokens, width) -> (b, tokens, width)."""

    config: TextConfig
    dtype: Any

    @nn.compact
    def __call__(self, x):
        config = self.config

        def dense(name, features):
            return nn.Dense(features, dtype=self.dtype, name=name)

        y = layer_norm("layer_norm1", config.epsilon, self.dtype)(x)
        q, k, v = (
            dense(f"self_attn.{name}_proj", config.width)(y).reshape(*x.shape[:2], config.heads, -1) for name in "qkv"
        )
        y = jax.nn.dot_product_attention(q, k, v, is_causal=True).reshape(x.shape)
        x = x + dense("self_attn.out_proj", config.width)(y)
        y = layer_norm("layer_norm2", config.epsilon, self.dtype)(x)
        activation = quick_gelu if config.quick_gelu else exact_gelu
        y = activation(dense("mlp.fc1", config.hidden)(y))
        return x + dense("mlp.fc2", config.width)(y)


def layer_norm(name, epsilon, dtype):
    """Layer normalisation of the last axis (Ba et al. 2016, arXiv 1607.06450) with statistics in two passes: CLIP has outliers."""
    return nn.LayerNorm(epsilon=epsilon, dtype=dtype, use_fast_variance=False, name=name)


def text_shapes(config: TextConfig):
    """Shape and dtype of each parameter of the `TextEncoder`, without computing any."""
    ids = jax.ShapeDtypeStruct((1, config.positions), jnp.int32)
    return jax.eval_shape(TextEncoder(config).init, jax.random.key(0), ids)["params"]
