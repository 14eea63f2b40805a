"""The transformer between the residual blocks of the U-Net: pixels attend to each other and to the context.

Rombach et al. 2022 (arXiv 2112.10752) section 3.3 and appendix E.2.1.
"""

from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from jaxgen.models.layers import GroupNorm, zeros
from jaxgen.models.stable_diffusion.attention import attend_in_turns
from jaxgen.models.stable_diffusion.layers import Conv1x1


class Attention(nn.Module):
    """Tokens attend to the context: (b, tokens, c), (b, keys, e) -> (b, tokens, c). For self-attention the context is x.

    Scores and softmax are float32 in any precision: products of bfloat16 are exact there, so checkpoints whose
    configuration asks to up-cast attention need nothing more.
    """

    heads: int
    bias: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x, context):
        b, tokens, c = x.shape

        def heads(y, name):
            projected = nn.Dense(c, use_bias=self.bias, dtype=self.dtype, name=name)(y)
            return projected.reshape(b, -1, self.heads, c // self.heads)

        y = attend_in_turns(heads(x, "to_q"), heads(context, "to_k"), heads(context, "to_v"))
        return nn.Dense(c, dtype=self.dtype, name="to_out.0")(y.reshape(b, tokens, c))


class FeedForward(nn.Module):
    """A value times gelu(a gate), back to as many channels as came in: (b, tokens, c) -> (b, tokens, c).

    GEGLU of Shazeer 2020, arXiv 2002.05202, eq. 6, four times as wide inside.
    """

    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x):
        c = x.shape[-1]
        value, gate = jnp.split(nn.Dense(8 * c, dtype=self.dtype, name="net.0.proj")(x), 2, axis=-1)
        return nn.Dense(c, dtype=self.dtype, name="net.2")(value * nn.gelu(gate, approximate=False))


class TransformerBlock(nn.Module):
    """Attention among the tokens (or, with ``only_cross_attention``, to the context), to the context, and an MLP per token,
    each after a layer normalisation and added to what came in: (b, tokens, c), (b, keys, e) -> (b, tokens, c)."""

    heads: int
    only_cross_attention: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x, context):
        def norm(name):
            return nn.LayerNorm(epsilon=1e-5, dtype=self.dtype, use_fast_variance=False, name=name)

        y = norm("norm1")(x)
        x = x + Attention(self.heads, dtype=self.dtype, name="attn1")(y, context if self.only_cross_attention else y)
        x = x + Attention(self.heads, dtype=self.dtype, name="attn2")(norm("norm2")(x), context)
        return x + FeedForward(self.dtype, name="ff")(norm("norm3")(x))


class Transformer(nn.Module):
    """x + projection(blocks(projection(norm(x)))), the pixels being the tokens: (b, h, w, c), (b, keys, e) -> (b, h, w, c).

    ``linear`` says how a checkpoint stores the projections, as matrices or as 1x1 convolutions; the values are the same.
    """

    blocks: int
    heads: int
    groups: int
    linear: bool = False
    only_cross_attention: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x, context):
        b, h, w, c = x.shape
        projection = nn.Dense if self.linear else Conv1x1
        y = GroupNorm(self.groups, epsilon=1e-6, dtype=self.dtype, name="norm")(x)
        y = projection(c, dtype=self.dtype, name="proj_in")(y).reshape(b, h * w, c)
        for i in range(self.blocks):
            block = TransformerBlock(self.heads, self.only_cross_attention, self.dtype, name=f"transformer_blocks.{i}")
            y = block(y, context)
        return x + projection(c, kernel_init=zeros, dtype=self.dtype, name="proj_out")(y.reshape(b, h, w, c))
