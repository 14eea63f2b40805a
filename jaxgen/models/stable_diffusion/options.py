"""Reading the options of a ``config.json``: what is understood, what is refused."""

from collections.abc import Collection, Mapping
from typing import Any

Options = Mapping[str, Any]
"""The content of a config.json."""


def check(model: str, options: Options, understood: Collection[str], only: Mapping[str, tuple]) -> None:
    """Nothing, if every option is understood, has the only values it may have, or is switched off.

    ``only`` has the values that are supported of options that have one meaning here, the default first. An option unknown here is
    harmless if it is null or false: a library newer than this writes such.

    Raises:
        ValueError: for the first option that asks for what we do not have.
    """
    for name, allowed in only.items():
        value = options.get(name, allowed[0])
        if value not in allowed:
            known = " or ".join(repr(a) for a in allowed)
            raise ValueError(f"{model}: the option {name}={value!r} is not supported, only {known}")
    for name, value in options.items():
        if name not in understood and name not in only and not name.startswith("_") and value not in (None, False):
            raise ValueError(f"{model}: the option {name}={value!r} is not known here, so it cannot be honoured")


def per_level(model: str, options: Options, name: str, default: Any, levels: int) -> tuple:
    """The option as one value for each level: it may be one value for all, or a list.

    Raises:
        ValueError: if it is a list of another length.
    """
    value = options.get(name, default)
    values = tuple(value) if isinstance(value, list | tuple) else (value,) * levels
    if len(values) != levels:
        raise ValueError(f"{model}: the option {name}={value!r} needs {levels} values, one for each level")
    return values


def same_for_all(model: str, options: Options, name: str, default: Any) -> Any:
    """The option as one value: it may be a list, whose values agree.

    Raises:
        ValueError: if they do not agree.
    """
    value = options.get(name, default)
    if not isinstance(value, list | tuple):
        return value
    if len(set(value)) != 1:
        raise ValueError(f"{model}: the option {name}={value!r} is not supported, only one value for all levels")
    return value[0]
