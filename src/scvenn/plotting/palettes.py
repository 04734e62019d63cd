"""Colours of categories, kept in ``uns`` where scanpy and muon look for them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.colors import is_color_like
from mudata import MuData
from natsort import natsorted

from scvenn.data import as_text
from scvenn.plotting.drawing import PALETTE, distinct


def as_categories(column: pd.Series) -> pd.Categorical | None:
    """A column as categories; None for numbers, unless all are 0 or 1.

    Strings are in the order that scanpy gives them: type2 comes before type10.
    """
    column = column.infer_objects()
    if isinstance(column.dtype, pd.CategoricalDtype):
        names = column.cat.categories.map(as_text)
        if names.is_unique:
            return column.array
        # 1 and "1" are one category, as in a set-up
        return pd.Categorical(
            column.astype(object).map(as_text, na_action="ignore"), names.unique()
        )
    if pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column):
        is_flag = column.dropna().isin([0, 1]).all()
        return pd.Categorical(column.astype("Int8")) if is_flag else None
    if pd.api.types.infer_dtype(column, skipna=True).startswith("mixed"):
        column = column.map(as_text, na_action="ignore")
    values = pd.Categorical(column)
    return values.reorder_categories(natsorted(values.categories, key=str))


def names_of(values: pd.Categorical) -> list[str]:
    """Categories as a legend names them."""
    return [str(name) for name in values.categories]


def default_palette(names: Sequence[str]) -> dict[str, str]:
    """A colour for each name."""
    if len(names) <= len(PALETTE):
        return dict(zip(names, PALETTE, strict=False))
    from scanpy.plotting import palettes  # here, as it takes seconds that few figures need

    sizes = (palettes.default_20, palettes.default_28, palettes.default_102)
    largest = next((some for some in sizes if len(names) <= len(some)), palettes.default_102)
    return dict(zip(names, cycle(largest), strict=False))


def palette_in_uns(mdata: MuData, color: str, values: pd.Categorical) -> dict[str, str]:
    """The colours that the data has for a column; they are written there if it has none.

    A palette is found beside the column, in ``uns["<color>_colors"]`` of the MuData or of a
    modality, and written where the column is first found. A view is not written to: that would
    make a copy of its data.
    """
    places = [(mdata, color)]
    for m, adata in mdata.mod.items():
        places += [(adata, color.removeprefix(f"{m}:")), (mdata, f"{m}:{color}")]
    found = []
    for data, key in places:
        if key in data.obs and (own := as_categories(data.obs[key])) is not None:
            found.append((data, f"{key}_colors", names_of(own)))
    used = set(names_of(values.remove_unused_categories()))
    kept = [_kept(data.uns.get(key), names) for data, key, names in found]
    fitting: dict[str, str] = next((colours for colours in kept if used <= set(colours)), {})

    home, key, names = found[0]
    palette = default_palette(distinct([*names, *names_of(values)])) | fitting
    if not kept[0] and not home.is_view:
        home.uns[key] = [palette[name] for name in names]
    return palette


def _kept(colours: Any, names: Sequence[str]) -> dict[str, str]:
    """Colours by the names of the categories; none where they are too few or are not colours."""
    if isinstance(colours, np.ndarray):  # as files give them back
        colours = colours.tolist()
    if not isinstance(colours, list | tuple) or len(colours) < len(names):
        return {}
    by_name = dict(zip(names, colours, strict=False))  # as scanpy, which lets more be
    return by_name if all(map(is_color_like, by_name.values())) else {}
