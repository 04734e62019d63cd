"""Arguments of users that are numbers, flags or one of some names: each is checked in one way."""

from __future__ import annotations

from collections.abc import Collection
from difflib import get_close_matches
from numbers import Integral, Real
from typing import Any

import numpy as np


def is_number(value: Any) -> bool:
    """Whether a value is a real number, of Python or numpy; True and False are none."""
    return isinstance(value, Real) and not isinstance(value, bool)


def check_positive(**values: Any) -> None:
    """Raise a ``ValueError`` unless all are integers of at least 1."""
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, Integral) or value < 1:
            raise ValueError(f"{name}={value!r}: expected an integer of at least 1.")


def check_number(
    name: str,
    value: Any,
    expected: str,
    *,
    above: float = -np.inf,
    least: float = -np.inf,
    below: float = np.inf,
    most: float = np.inf,
) -> None:
    """Raise a ``ValueError`` unless a value is a number in a range; ``expected``: that in words."""
    if not (is_number(value) and above < value < below and least <= value <= most):
        raise ValueError(f"{name}={value!r}: expected {expected}.")


def check_choice(choices: Collection[str], **values: Any) -> None:
    """Raise a ``ValueError`` unless all are among the choices."""
    *first, last = map(repr, choices)
    for name, value in values.items():
        if not isinstance(value, str) or value not in choices:
            raise ValueError(f"{name}={value!r}: expected {', '.join(first)} or {last}.")


def check_flags(**values: Any) -> None:
    """Raise a ``ValueError`` unless all are True or False: other values are true by accident."""
    for name, value in values.items():
        if not isinstance(value, bool | np.bool_):
            raise ValueError(f"{name}={value!r}: expected True or False.")


def check_names(function: str, given: Collection[str], known: Collection[str]) -> None:
    """Raise a ``TypeError`` as Python does where a function gets an argument that it has not."""
    for name in given:
        if name not in known:
            meant = get_close_matches(name, known, n=1)
            hint = f" Did you mean {meant[0]!r}?" if meant else ""
            raise TypeError(f"{function}() has no argument {name!r}.{hint}")
