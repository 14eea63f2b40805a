"""CLIP's tokenizer from the files of a checkpoint: prompts to the token ids its text encoder was trained on.

A byte-level byte-pair encoding of the lower-cased text (Radford et al. 2021, arXiv 2103.00020, section 2.4), by the library
`tokenizers`; the ids are those of transformers' CLIPTokenizer.
"""

import json
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import models, normalizers, pre_tokenizers

from train.common.errors import UserError, one_line
from train.common.tokenizer import Tokenizer

WORDS = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
"""What is encoded as a unit: an English ending, a run of letters, one digit, a run of other signs."""

SPECIAL = {
    "bos_token": "<|startoftext|>",
    "eos_token": "<|endoftext|>",
    "unk_token": "<|endoftext|>",
    "pad_token": "<|endoftext|>",
}


def read(folder: Path) -> Tokenizer:
    """The tokenizer of a checkpoint's folder `tokenizer`: its vocab.json and merges.txt, or else tokenizer.json, and
    what tokenizer_config.json, special_tokens_map.json and added_tokens.json say about special tokens.

    Raises:
      UserError: no such files, or files that are not a tokenizer's.
    """
    try:
        return _read(folder)
    except UserError:
        raise
    except FileNotFoundError as error:
        raise UserError(f"{folder} has no tokenizer: {Path(error.filename).name} is missing") from error
    except Exception as error:  # the library raises Exception itself
        raise UserError(f"the files in {folder} are not those of CLIP's tokenizer: {one_line(error)}") from error


def _read(folder):
    vocabulary, merges, added = _vocabulary(folder)
    config = _json(folder / "tokenizer_config.json", {})
    if "added_tokens_decoder" in config:
        added = {int(i): token for i, token in config["added_tokens_decoder"].items()}
    else:
        config = config | _json(folder / "special_tokens_map.json", {})
        for content, i in _json(folder / "added_tokens.json", {}).items():
            added.setdefault(i, {"content": content, "normalized": True})
    special = {name: config.get(name) or content for name, content in SPECIAL.items()}

    backend = tokenizers.Tokenizer(
        models.BPE(vocabulary, merges, end_of_word_suffix="</w>", unk_token=_content(special["unk_token"]))
    )
    backend.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(tokenizers.Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    split = pre_tokenizers.Split(tokenizers.Regex(WORDS), behavior="removed", invert=True)
    backend.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    known = {_content(token) for token in added.values()}
    backend.add_tokens([_token(token) for _, token in sorted(added.items())])
    backend.add_tokens([_token(token) for token in special.values() if _content(token) not in known])

    begin, end, pad = (backend.token_to_id(_content(special[name])) for name in ("bos_token", "eos_token", "pad_token"))
    length = config.get("model_max_length", 77)
    return Tokenizer(backend, begin, end, pad, length if length <= 10**6 else 77)  # 10^30 means that nobody has said


def _vocabulary(folder):
    """Ids by token, pairs in the order they are merged in, and tokens added to these, by id."""
    if not (folder / "vocab.json").exists() and (folder / "tokenizer.json").exists():
        content = _json(folder / "tokenizer.json")
        model, added = content["model"], {token["id"]: token for token in content["added_tokens"]}
        pairs = [tuple(pair.split(" ") if isinstance(pair, str) else pair) for pair in model["merges"]]
        return model["vocab"], pairs, added
    lines = (folder / "merges.txt").read_text(encoding="utf-8").split("\n")
    pairs = [tuple(line.split(" ")) for line in lines if line and not line.startswith("#version")]
    return _json(folder / "vocab.json"), pairs, {}


def _json(file: Path, default: Any = None) -> Any:
    if default is not None and not file.exists():
        return default
    return json.loads(file.read_text(encoding="utf-8"))


def _content(token):
    return token if isinstance(token, str) else token["content"]


def _token(token):
    """A token that is looked for in the text before it is split; in the normalised text, if it says so."""
    if isinstance(token, str):
        return tokenizers.AddedToken(token, special=True)
    flags = {name: token.get(name, False) for name in ("lstrip", "rstrip", "single_word", "normalized")}
    return tokenizers.AddedToken(token["content"], special=True, **flags)
