"""What reads captions for a text-to-image model: a tokenizer and a transformer that are learnt, or CLIP's of a checkpoint."""

import math
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from train.common.config import free
from train.common.errors import UserError, check_ranges


@dataclass(frozen=True)
class Text:
    """What reads captions."""

    text_encoder: Path | None = free(None)
    """A checkpoint of Stable Diffusion in diffusers' layout, whose tokenizer and text encoder are used as they are. Default: both
    are learnt."""
    tokens: int = 32
    """Tokens of a caption, at most."""
    vocabulary: int = 512
    """Different tokens, at most; learnt from the captions. Words that are not among them come as bytes."""
    text_width: int = 64
    """Channels of a token."""
    text_layers: int = 2
    """Layers of the transformer."""
    text_heads: int = 4
    """Heads of each attention in it."""


def basis(text: Text, captions: Sequence[str], begun: dict | None) -> Any:
    """The `Basis` that reads these captions: its tokenizer and, if the text encoder is not to be trained, that encoder.

    Args:
        begun: of the run that has begun, if one has; it is that of the run from then on.

    Raises:
        UserError: if a number is out of range, or the checkpoint cannot be read or is not that of the run that has begun.
    """
    from train import pretrained
    from train.common import tokenizer
    from train.common.recipe import Basis

    check_ranges(("tokens", text.tokens, 3, math.inf), ("vocabulary", text.vocabulary, 300, math.inf))
    if begun is not None:
        if begun["frozen"] is None and text.text_encoder is not None:
            raise UserError(
                "this run learns its text encoder itself: leave --text-encoder out, or begin another run with --run"
            )
        pretrained.check_unchanged(text.text_encoder, begun.get("sha256"), ["text"])
        made = Basis(begun)
    elif text.text_encoder is not None:
        made = _clip(text.text_encoder)
    else:
        learnt = tokenizer.learn(captions, text.vocabulary, text.tokens)
        made = Basis({"tokenizer": learnt.describe(), "frozen": None})
    reader = tokenizer.tokenizer(made.about["tokenizer"])
    if long := [caption for caption in captions if reader.cut(caption)]:
        print(f"{len(long)} captions are cut after {reader.length} tokens, among them {long[0]!r}", file=sys.stderr)
    return made


def ids(about: dict, texts: Sequence[str]) -> Any:
    """The tokens of these texts, int32 (number of texts, tokens)."""
    from train.common import tokenizer

    return tokenizer.tokenizer(about["tokenizer"]).encode(texts)


def prompt(about: dict, text: str) -> Any:
    """The tokens of a prompt, int32 (tokens,).

    Raises:
        UserError: if it is empty or too long.
    """
    from train.common import tokenizer

    if not text.strip():
        raise UserError("--prompt is empty; say what the image should show, or leave it out")
    reader = tokenizer.tokenizer(about["tokenizer"])
    if reader.cut(text):
        raise UserError(
            f"--prompt is {reader.cut(text)} tokens too long for this run, which reads {reader.length - 2}; from here on: "
            f"{reader.rest(text)!r}"
        )
    return reader.encode([text])[0]


def encoder(text: Text, about: dict) -> Any:
    """The text encoder.

    Raises:
        UserError: if a number is out of range.
    """
    from jaxgen.models.stable_diffusion.text import TextConfig, TextEncoder
    from train.common import tokenizer

    if about["frozen"] is not None:
        return TextEncoder(TextConfig(**about["frozen"]))
    check_ranges(
        ("text-width", text.text_width, 1, math.inf),
        ("text-layers", text.text_layers, 0, math.inf),
        ("text-heads", text.text_heads, 1, math.inf),
    )
    if text.text_width % text.text_heads:
        raise UserError(f"--text-heads {text.text_heads} do not divide --text-width {text.text_width}")
    reader = tokenizer.tokenizer(about["tokenizer"])
    return TextEncoder(
        TextConfig(
            vocabulary=reader.backend.get_vocab_size(),
            positions=reader.length,
            width=text.text_width,
            hidden=4 * text.text_width,
            layers=text.text_layers,
            heads=text.text_heads,
            quick_gelu=False,
        )
    )


def _clip(folder):
    """The text encoder in this folder."""
    import jax.numpy as jnp

    from train import pretrained
    from train.common.recipe import Basis

    checkpoint = pretrained.read(folder, jnp.float32)
    about = {
        "tokenizer": checkpoint.tokenizer.describe(),
        "frozen": asdict(checkpoint.text.config),
        "sha256": pretrained.digest(folder, ["text"]),
    }
    return Basis(about, lambda: pretrained.read_params(folder, checkpoint, "text"))
