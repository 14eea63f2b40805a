"""The one exception that a person's mistake raises."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any


class UserError(ValueError):
    """Something the person at the keyboard can mend: the message says what is wrong and what to do.

    Commands print it as one line, without a traceback, and exit with status 1.
    """


class NoSuchSplit(UserError):
    """The data set has no such part."""


def one_line(error: BaseException) -> str:
    """What an exception says, on one line and not too long, or its kind if it says nothing."""
    return " ".join(str(error).split())[:300] or type(error).__name__


def first_few(names: Sequence[str]) -> str:
    """The first five of them, and how many more there are."""
    return ", ".join(names[:5]) + (f" and {len(names) - 5:,} more" if len(names) > 5 else "")


@contextmanager
def in_words() -> Iterator[None]:
    """Inside, a ValueError of the pure library is the fault of the flags it was called with: it becomes a UserError."""
    try:
        yield
    except ValueError as error:
        raise UserError(str(error)) from error


def check_counts(options: Any, *names: str) -> None:
    """Nothing, if each of these fields of the options is at least 1, or None.

    Raises:
        UserError: for the first that is not.
    """
    for name in names:
        value = getattr(options, name)
        if value is not None and value < 1:
            raise UserError(f"--{name.replace('_', '-')} must be at least 1; got {value}")


def check_ranges(*ranges: tuple[str, float, float, float]) -> None:
    """Nothing, if for each (flag, value, low, high) the value is finite and lies between low and high, which may be infinite.

    Raises:
        UserError: for the first that does not.
    """
    for flag, value, low, high in ranges:
        if not (low <= value <= high and math.isfinite(value)):
            rule = f"lie between {low} and {high}" if math.isfinite(high) else f"be at least {low}, and finite"
            raise UserError(f"--{flag} must {rule}; got {value}")


def check_seed(seed: int) -> None:
    """Nothing, if the seed is one of the 2**32 that JAX tells apart.

    Raises:
        UserError: if it is not.
    """
    check_ranges(("seed", seed, 0, 2**32 - 1))


def check_levels(network: Any) -> None:
    """Nothing, if the network's width and multipliers are those of one level at least.

    Raises:
        UserError: if they are not.
    """
    if not network.multipliers:
        raise UserError("--multipliers must name at least one level, such as 1 2 2")
    check_ranges(
        ("width", network.width, 1, math.inf),
        *(("multipliers", multiplier, 1, math.inf) for multiplier in network.multipliers),
    )


def check_classes(asking: str, num_classes: int, dataset: str, instead: str) -> None:
    """Nothing, if there are the labels of at least two classes that something asks for.

    Raises:
        UserError: if there are not; it also says what to do instead.
    """
    if num_classes < 2:
        raise UserError(
            f"{asking} needs labels of at least 2 classes, and {dataset} has {num_classes}: sort a folder's pictures into one subfolder "
            f"per class, or {instead}"
        )
