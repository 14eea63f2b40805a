"""Attention as two matrix products, with its gradient written out for speed. No parameters: `layers.SelfAttention` has them."""

import jax
import jax.numpy as jnp
from jax import lax


@jax.custom_vjp
def attend(q, k, v):
    """softmax(q k^T / sqrt(d)) v of Vaswani et al. 2017 (arXiv 1706.03762) eq. 1 in each head: (b, tokens, heads, d) three
    times -> (b, tokens, heads, d).

    The tokens^2 weights are the largest arrays of the network by far; they are divided by their sum after the product with v, and the
    gradient is written out for the sake of the order of its products and, on a CPU, of its memory: see _attend_backward.
    """
    return _attend_forward(q, k, v)[0]


def _heads_first(x):
    """(b, tokens, heads, d) -> (b, heads, tokens, d): every head is then one contiguous matrix. Also the way back."""
    return jnp.transpose(x, (0, 2, 1, 3))


def _product(equation, x, y):
    return jnp.einsum(equation, x, y, preferred_element_type=jnp.float32)


def _attention_weights(q, k):
    """exp(q k^T / sqrt(d) - maximum) and its sum over the keys, float32: (b, heads, tokens, tokens), (b, heads, tokens, 1)."""
    scores = _product("bhqd,bhkd->bhqk", q * q.shape[-1] ** -0.5, k)
    weights = jnp.exp(scores - scores.max(-1, keepdims=True))
    return weights, weights.sum(-1, keepdims=True)


def _attend_forward(q, k, v):
    weights, total = _attention_weights(_heads_first(q), _heads_first(k))
    y = _heads_first(_product("bhqk,bhkd->bhqd", weights.astype(v.dtype), _heads_first(v)) / total).astype(v.dtype)
    return y, (q, k, v, y)


def _attend_backward(residuals, dy):
    """On a CPU, weights of all images that overflow its caches are computed again, one image at a time."""
    b, tokens, heads, _ = dy.shape
    if b * heads * tokens**2 < 2**21:  # 8 MiB
        return _attention_gradient(*residuals, dy)
    return lax.platform_dependent(*residuals, dy, cpu=_attention_gradient_by_image, default=_attention_gradient)


def _attention_gradient_by_image(*operands):
    gradients = lax.map(lambda image: _attention_gradient(*(x[None] for x in image)), operands)
    return tuple(x[:, 0] for x in gradients)


def _attention_gradient(q, k, v, y, dy):
    dtype, scale = q.dtype, q.shape[-1] ** -0.5
    q, k, v, y, dy = (_heads_first(x) for x in (q, k, v, y, dy))
    weights, total = _attention_weights(q, k)
    dy = dy.astype(jnp.float32) / total
    along_y = (dy * y.astype(jnp.float32)).sum(-1, keepdims=True)  # the weights' sum is 1: no gradient along it
    dy = dy.astype(dtype)
    dscores = (weights * (_product("bhqd,bhkd->bhqk", dy, v) - along_y)).astype(dtype)
    # Products over queries come out as (d, tokens): rows as long as this are what the CPU's matrix product is quick at.
    dq = _product("bhqk,bhkd->bhqd", dscores, k).transpose(0, 2, 1, 3)
    dk = _product("bhqd,bhqk->bhdk", q, dscores).transpose(0, 3, 1, 2)
    dv = _product("bhqd,bhqk->bhdk", dy, weights.astype(dtype)).transpose(0, 3, 1, 2)
    return (scale * dq).astype(dtype), (scale * dk).astype(dtype), dv.astype(dtype)


attend.defvjp(_attend_forward, _attend_backward)
