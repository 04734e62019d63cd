"""A set-up that fits further data as well: of new batches, and with features missing."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import numpy as np
from mudata import MuData

from scvenn.data.keys import Keys
from scvenn.data.registry import Registry
from scvenn.data.setup import fields_of

# What the cells are called that were there before, where no column names their batch.
REFERENCE = "reference"


def extended_for(registry: dict[str, Any], mdata: MuData, batch_key: str | None) -> dict[str, Any]:
    """A registry that fits further data as well.

    Parameters
    ----------
    registry
        Of a model.
    mdata
        The data: checked, but not against the registry.
    batch_key
        Column of its batches, where the model was set up without one.

    Raises
    ------
    ValueError
        If the data cannot be matched, or the model has another column of batches.
    """
    new = deepcopy(registry)
    found = Registry(new)
    known = found.arguments["batch_key"]
    if batch_key is not None and known is None:
        found.arguments["batch_key"] = batch_key
        found.state(Keys.BATCH)[Keys.CATEGORIES] = np.array([REFERENCE], dtype=object)
        found.state(Keys.BATCH)[Keys.SOURCE] = batch_key
    elif batch_key not in (None, known):
        raise ValueError(
            f"batch_key={batch_key!r}: the model was set up with batch_key={known!r}, and reads "
            f"the batches of new cells there as well. Put them into that column: "
            f"mdata.obs[{known!r}] = mdata.obs[{batch_key!r}]."
        )
    for field in fields_of(found.modalities, **found.arguments):
        entry = new["field_registries"][field.registry_key]
        entry["state_registry"] = field.extended(entry["state_registry"], mdata)
        entry["data_registry"] = field.get_data_registry()
        entry["summary_stats"] = field.get_summary_stats(entry["state_registry"])
    return new
