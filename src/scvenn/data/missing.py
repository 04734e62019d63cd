"""Missing labels that became text on their way into a MuData."""

from __future__ import annotations

from collections.abc import Collection

import pandas as pd

from scvenn._warnings import warn
from scvenn.data.checks import quoted
from scvenn.data.columns import spelled_missing


def warn_of_spelled_missing(
    values: pd.Series,
    argument: str,
    *,
    known: Collection[str] = (),
    in_setup: bool = False,
    complete: bool = False,
) -> None:
    """Warn of categories that look as if a missing value had been turned into text.

    Parameters
    ----------
    values
        The category of each cell as text; missing where not known.
    argument
        How the user named the column.
    known
        Categories of which a set-up warned.
    in_setup
        Whether ``unlabeled_category`` can be passed.
    complete
        Whether every cell needs a value, as of batches and covariates.
    """
    suspects = [name for name in spelled_missing(values.dropna().unique()) if name not in known]
    if suspects:
        # one category can be named, so several are better replaced
        names_it = in_setup and len(suspects) == 1
        remedy = f"pass unlabeled_category={suspects[0]!r} or " if names_it else ""
        remedy += "fill in the value or leave these cells out" if complete else "replace it by NaN"
        warn(
            f"{argument}: {quoted(suspects)} is read as a class of its own, with "
            f"{int(values.isin(suspects).sum())} cells. If it stands for an unknown value, "
            f"{remedy}."
        )
