"""Captions of pictures, from their labels or from files beside them."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from train.common import folder, sources
from train.common.errors import UserError, first_few, one_line
from train.common.files import expanded

TEMPLATES = {
    "digits": ("a handwritten {name}", "the digit {name}", "{name}"),
    "mnist": ("a handwritten {name}", "the digit {name}", "{name}"),
    "kmnist": ("a handwritten {name}", "the character {name}", "{name}"),
    "*": ("a photo of {a} {name}", "{a} {name}", "a picture of {a} {name}"),
}
"""What pictures of a class are called, by data set."""

WORDS = {
    "0": "zero",
    "1": "one",
    "2": "two",
    "3": "three",
    "4": "four",
    "5": "five",
    "6": "six",
    "7": "seven",
    "8": "eight",
    "9": "nine",
}


class Captions(NamedTuple):
    """What the pictures of a data set show, in words."""

    texts: Sequence[str]
    number: sources.Column
    """Which of the texts is that of a picture: indices (b,), labels (b,) -> (b,)."""


def of(source: sources.Source) -> Captions:
    """The captions of the data set: from files if it has them, else from its labels.

    Raises:
        UserError: if it has neither, or only some pictures have captions; which have none.
    """
    if source.name.startswith("folder:"):
        texts = of_folder(source.name.removeprefix("folder:"))
        if texts is not None:
            return Captions(texts, lambda indices, labels: indices)
    return of_labels(source.name, source.class_names)


def of_labels(name: str, class_names: Sequence[str]) -> Captions:
    """Captions by templates: what the classes are called, in turn.

    Raises:
        UserError: if the data set has no labels.
    """
    if not class_names:
        raise UserError(
            f"{name} has neither captions nor labels: put a captions.jsonl or a .txt file for each picture into the folder, or "
            "sort the pictures into one subfolder per class"
        )
    templates = TEMPLATES.get(name, TEMPLATES["*"])
    names = [WORDS.get(word, word.replace("_", " ")) for word in class_names]
    articles = ["an" if word[0] in "aeiouAEIOU" else "a" for word in names]
    texts = [t.format(name=word, a=article) for word, article in zip(names, articles, strict=True) for t in templates]
    return Captions(texts, lambda indices, labels: labels * len(templates) + indices % len(templates))


def of_folder(path: str) -> list[str] | None:
    """The caption of each picture under the folder, in the order of `folder.load`; None if there are no captions.

    They are in captions.jsonl, a line {"file": "a/b.png", "caption": "..."} for each picture ("file_name" and "text" will do too), or
    in a file of the picture's name ending in .txt.

    Raises:
        UserError: if some pictures have none, or a file cannot be read; which.
    """
    root = expanded(path)
    files = folder.pictures(root)
    listed = root / "captions.jsonl"
    if listed.exists():
        known = dict(_lines(listed))
    else:
        texts = {file: (root / file).with_suffix(".txt") for file in files}
        known = {file: _text(text) for file, text in texts.items() if text.exists()}
        if not known:
            return None
    missing = [file for file in files if not known.get(file)]
    if missing:
        where = f"in {listed}" if listed.exists() else "in a .txt file beside it"
        raise UserError(
            f"{len(missing)} of {len(files)} pictures in {path!r} have no caption {where}: {first_few(missing)}"
        )
    return [known[file] for file in files]


def _lines(path: Path) -> Iterator[tuple[str, str]]:
    for number, line in enumerate(_read(path).splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            yield row.get("file", row.get("file_name")), row.get("caption", row.get("text", "")).strip()
        except (ValueError, AttributeError) as error:
            raise UserError(
                f'line {number} of {path} is not like {{"file": "a.png", "caption": "..."}} ({one_line(error)})'
            ) from error


def _text(path: Path) -> str:
    return " ".join(_read(path).split())


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as text in UTF-8 ({one_line(error)})") from error
