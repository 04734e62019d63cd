"""Which errors are scvenn's own."""

import linecache
import traceback
from pathlib import Path

import scvenn

_PACKAGE = str(Path(scvenn.__file__).parent)


def is_ours(error):
    """Whether a statement of scvenn raised an error, with a message of some length."""
    *_, (frame, line) = traceback.walk_tb(error.__traceback__)
    path = frame.f_code.co_filename
    statement = linecache.getline(path, line).strip()
    return (
        isinstance(error, ValueError | TypeError | OSError)
        and path.startswith(_PACKAGE)
        and statement.startswith("raise ")
        and len(str(error)) > 40
    )
