"""Attention whose memory is bounded, whatever the size of the image. No parameters: `transformer.Attention` has them."""

import math

from jax import lax

from jaxgen.models.attention import attend

SCORES = 2**25
"""The most scores computed at a time, 128 MiB in float32. All 4096^2 of the 8 heads of one 512x512 image would be 512 MiB."""


def turns(queries, scores_per_query, limit=SCORES):
    """Into how many parts to split the queries: the fewest, of one size, such that none has more than ``limit`` scores."""
    fewest = min(queries, math.ceil(queries * scores_per_query / limit))
    return next(n for n in range(max(fewest, 1), queries + 1) if queries % n == 0)


def attend_in_turns(q, k, v, limit=SCORES):
    """softmax(q k^T / sqrt(d)) v in each head: (b, queries, heads, d), (b, keys, heads, d) twice -> (b, queries, heads, d).

    Equal to `jaxgen.models.attention.attend`, of all queries at once if these are few, else of some after the others. The gradient
    computes the scores again.
    """
    b, queries, heads, d = q.shape
    n = turns(queries, b * heads * k.shape[1], limit)
    if n == 1:
        return attend(q, k, v)
    parts = q.reshape(b, n, queries // n, heads, d).swapaxes(0, 1)
    return lax.map(lambda part: attend(part, k, v), parts).swapaxes(0, 1).reshape(q.shape)
