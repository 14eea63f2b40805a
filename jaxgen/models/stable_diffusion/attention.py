"""Attention whose memory is bounded, whatever the size of the image. No parameters: `transformer.Attention` has them."""

import math
from functools import partial

from jax import lax

from jaxgen.models.attention import attend

SCORES = 2**25
"""The most scores computed at a time, 128 MiB in float32. All 4096^2 of the 8 heads of one 512x512 image would be 512 MiB."""

SCORES_IN_CACHE = 2**20
"""The most on a CPU, 4 MiB, which its caches hold."""


def turns(queries, scores_per_query, limit=SCORES):
    """Into how many parts to split the queries: the fewest, of one size, such that none has more than ``limit`` scores."""
    fewest = min(queries, math.ceil(queries * scores_per_query / limit))
    return next(n for n in range(max(fewest, 1), queries + 1) if queries % n == 0)


def attend_in_turns(q, k, v, limit=SCORES, in_cache=SCORES_IN_CACHE):
    """softmax(q k^T / sqrt(d)) v in each head: (b, queries, heads, d), (b, keys, heads, d) twice -> (b, queries, heads, d).

    Equal to `jaxgen.models.attention.attend`, of all queries at once if these are few, else of some after the others; on a CPU also of
    one head after the other if a head has many scores, which takes half the time. The gradient computes the scores again.
    """
    by_queries = partial(_queries_in_turns, limit=limit)
    if q.shape[1] * k.shape[1] < in_cache / 2:
        return by_queries(q, k, v)
    return lax.platform_dependent(q, k, v, cpu=partial(_heads_in_turns, limit=in_cache), default=by_queries)


def _queries_in_turns(q, k, v, limit):
    b, queries, heads, d = q.shape
    n = turns(queries, b * heads * k.shape[1], limit)
    if n == 1:
        return attend(q, k, v)
    parts = q.reshape(b, n, queries // n, heads, d).swapaxes(0, 1)
    return lax.map(lambda part: attend(part, k, v), parts).swapaxes(0, 1).reshape(q.shape)


def _heads_in_turns(q, k, v, limit):
    b, queries, heads, d = q.shape
    one_by_one = [x.swapaxes(1, 2).reshape(b * heads, 1, -1, 1, d) for x in (q, k, v)]
    y = lax.map(lambda head: _queries_in_turns(*head, limit), one_by_one)
    return y.reshape(b, heads, queries, d).swapaxes(1, 2)
