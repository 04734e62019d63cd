"""Warnings that name the line of the user, however deep in the package they arise."""

from __future__ import annotations

import sys
import warnings


class ScvennWarning(UserWarning):
    """A warning of scvenn. The line that it names is outside the package."""


def warn(message: str, category: type[Warning] = ScvennWarning) -> None:
    """Issue a warning for the line that called the package.

    What other packages run on the way, such as the training loop of Lightning, is passed over: the
    line is the caller of the outermost function of this package.
    """
    package = __name__.partition(".")[0]
    depth, level, frame = 1, 1, sys._getframe()
    while frame.f_back is not None:
        if frame.f_globals.get("__name__", "").partition(".")[0] == package:
            level = depth + 1
        depth, frame = depth + 1, frame.f_back
    warnings.warn(message, category, stacklevel=level)
