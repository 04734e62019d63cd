"""Which errors are scvenn's own."""

import linecache
import traceback
from pathlib import Path

import scvenn

_PACKAGE = str(Path(scvenn.__file__).parent)


def is_ours(error):
    """Whether a statement of scvenn raised an error, with a message of some length."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    statement = linecache.getline(frame.filename, frame.lineno or 0).strip()
    return (
        isinstance(error, ValueError | TypeError | OSError)
        and frame.filename.startswith(_PACKAGE)
        and statement.startswith("raise ")
        and len(str(error)) > 40
    )
