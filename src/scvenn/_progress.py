"""Progress bars, and a way to hide them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from tqdm.auto import tqdm

from scvenn._processes import is_first_process

_shown: ContextVar[bool] = ContextVar("shown", default=True)


def progress(
    items: Iterable[Any] | None = None, *, description: str, total: int | None = None
) -> tqdm[Any]:
    """A bar that appears after two seconds and is gone at the end.

    Parameters
    ----------
    items
        What to go through; None for a bar that is moved by ``update()``.
    description
        What takes the time.
    total
        Number of steps, where ``items`` does not tell.
    """
    hidden = bars_are_off() or not (_shown.get() and is_first_process())
    return tqdm(items, desc=description, total=total, leave=False, delay=2, disable=hidden)


def bars_are_off() -> bool:
    """Whether the user turned off all of tqdm's bars, by ``TQDM_DISABLE=1``."""
    return os.environ.get("TQDM_DISABLE", "0") not in ("", "0")


@contextmanager
def no_progress(hidden: bool) -> Iterator[None]:
    """Show no bars inside, if ``hidden``; bars that are hidden outside stay so."""
    token = _shown.set(_shown.get() and not hidden)
    try:
        yield
    finally:
        _shown.reset(token)
