"""The one exception that a person's mistake raises."""

from collections.abc import Iterator
from contextlib import contextmanager


class UserError(ValueError):
    """Something the person at the keyboard can mend: the message says what is wrong and what to do.

    Commands print it as one line, without a traceback, and exit with status 1.
    """


def one_line(error: BaseException) -> str:
    """The first line of what an exception says, or its kind if it says nothing."""
    text = str(error).strip()
    return text.splitlines()[0][:200] if text else type(error).__name__


@contextmanager
def in_words() -> Iterator[None]:
    """Inside, a ValueError of the pure library is the fault of the flags it was called with: it becomes a UserError."""
    try:
        yield
    except ValueError as error:
        raise UserError(str(error)) from error
