"""What mudata does with columns of the modalities' tables, an option of some of its releases."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any


def pull_on_update(value: bool | None) -> AbstractContextManager[Any]:
    """Whether mudata copies columns of the modalities' tables to its own, inside.

    Parameters
    ----------
    value
        False for columns as they are, which mudata 0.4 always does. None for the default of 0.3,
        with which alone it reads files whose tables of cells have a named index.
    """
    import mudata

    options = getattr(mudata, "set_options", None)
    return options(pull_on_update=value) if options else nullcontext()
