"""Texts to the tokens that a text encoder reads: a tokenizer of the library `tokenizers`, learnt or read from files."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import tokenizers
from tokenizers import models, normalizers, pre_tokenizers, trainers

SPECIAL = ("<begin>", "<end>", "<pad>")


class Tokenizer(NamedTuple):
    """Prompts to ids: call `encode`."""

    backend: tokenizers.Tokenizer
    begin: int
    end: int
    pad: int
    length: int
    """Ids per prompt, begin and end included."""

    def encode(self, prompts: Sequence[str]) -> np.ndarray:
        """Begin, the prompt's tokens, end, padding: int32 (number of prompts, length). What does not fit is cut, before the end."""
        rows = [[self.begin, *self._tokens(prompt)[: self.length - 2], self.end] for prompt in prompts]
        return np.array([row + [self.pad] * (self.length - len(row)) for row in rows], np.int32).reshape(
            -1, self.length
        )

    def cut(self, prompt: str) -> int:
        """How many tokens of the prompt do not fit."""
        return max(0, len(self._tokens(prompt)) - (self.length - 2))

    def rest(self, prompt: str) -> str:
        """The end of the prompt that does not fit, "" if all of it does."""
        offsets = self.backend.encode(prompt, add_special_tokens=False).offsets[self.length - 2 :]
        return prompt[offsets[0][0] :] if offsets else ""

    def _tokens(self, prompt):
        return self.backend.encode(prompt, add_special_tokens=False).ids

    def describe(self) -> dict[str, Any]:
        """Itself, as JSON; `tokenizer` makes it again."""
        return {**self._asdict(), "backend": self.backend.to_str()}


def tokenizer(described: dict[str, Any]) -> Tokenizer:
    """The tokenizer that described itself so."""
    return Tokenizer(**{**described, "backend": tokenizers.Tokenizer.from_str(described["backend"])})


def learn(texts: Sequence[str], vocabulary: int, length: int) -> Tokenizer:
    """A byte-level byte-pair encoding (Sennrich et al. 2016, arXiv 1508.07909) of so many tokens at most, learnt from these texts in
    lower case. Any text can be encoded: what was not seen comes as bytes."""
    backend = tokenizers.Tokenizer(models.BPE())
    backend.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=list(SPECIAL),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    backend.train_from_iterator(sorted(set(texts)), trainer)
    return Tokenizer(backend, *(backend.token_to_id(token) for token in SPECIAL), length)
