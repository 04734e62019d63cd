"""Columns of ``obs``: where they are found, and what their values are taken for."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from typing import Any

import numpy as np
import pandas as pd
from mudata import MuData
from pandas.api.types import is_list_like

from scvenn.data.checks import plain, quoted

# Categories that any data may have.
_FEW_CATEGORIES = 10
# What a missing label becomes when a column is turned into text, in small letters.
_SPELLED_MISSING = ("nan", "none", "na", "<na>", "n/a", "nat", "null", "")


def find_column(mdata: MuData, key: str, argument: str) -> pd.Series:
    """A column of ``obs``, one value for each of ``mdata.obs_names``.

    It is looked for in ``mdata.obs[key]``, else put together from ``mdata.obs["<mod>:<key>"]`` and
    ``mdata[<mod>].obs[key]`` of all modalities, in which a cell may be known in one only.

    Parameters
    ----------
    mdata
        Where to look.
    key
        Name of the column.
    argument
        How the user named it, for messages.

    Raises
    ------
    ValueError
        If it is nowhere, or two of these contradict each other.
    """
    check_column_name(key, argument.partition("=")[0])
    found = find_column_or_none(mdata, key)
    if found is None:
        raise ValueError(
            f"{argument} not found. Searched mdata.obs ({quoted(list(mdata.obs.columns), 20)}) and "
            f"the obs of { {m: list(adata.obs.columns) for m, adata in mdata.mod.items()} }."
        )
    return found


def check_column_name(key: Any, argument: str) -> None:
    """Refuse several names, or values, in place of the name of a column.

    Raises
    ------
    ValueError
        If the key is a list or a column itself.
    """
    if is_list_like(key):
        raise ValueError(
            f"{argument}: expected the name of one column, found {type(key).__name__}. Pass a "
            "name; values go into mdata.obs first."
        )


def has_column(mdata: MuData, key: str | None) -> bool:
    """Whether there is such a column."""
    return key is not None and find_column_or_none(mdata, key) is not None


def find_column_or_none(mdata: MuData, key: str) -> pd.Series | None:
    """A column of the cells, as :func:`find_column` finds it; None if no table has it."""
    in_mdata = _column_of(mdata.obs, key, "mdata.obs")
    found: pd.Series | None = None
    places: dict[str, pd.Series] = {}
    for where, values, completes in _places(mdata, key):
        if found is None:
            found = values
        else:
            _refuse_contradiction(mdata, found, values, key, places, where)
            # NaN in mdata.obs is meant: what modalities hold completes each other alone
            if in_mdata is None and completes:
                found = found.where(found.notna(), values)
        places[where] = values
    return found if in_mdata is None else in_mdata


def _places(mdata: MuData, key: str) -> Iterator[tuple[str, pd.Series, bool]]:
    """Columns that a key stands for: as a user writes them, and their values by ``obs_names``.

    The last of each is whether it says more than those before: a copy in ``mdata.obs`` of what a
    modality has does not.
    """
    tables = [("mdata.obs", mdata.obs, key, True)]
    for m, adata in mdata.mod.items():
        column = str(key).removeprefix(f"{m}:")
        tables.append((f"mdata[{m!r}].obs", adata.obs, column, True))
        if (pulled := f"{m}:{column}") != key:
            tables.append(("mdata.obs", mdata.obs, pulled, column not in adata.obs))
    for owner, obs, column, completes in tables:
        if (values := _column_of(obs, column, owner)) is not None:
            by_name = values.astype(object).reindex(mdata.obs_names)
            yield f"{owner}[{column!r}]", by_name, completes


def _column_of(obs: pd.DataFrame, key: str, where: str) -> pd.Series | None:
    found = obs.get(key)
    if isinstance(found, pd.DataFrame):
        raise ValueError(
            f"{where} has {found.shape[1]} columns named {key!r}; expected one. Rename the others."
        )
    if found is not None and pd.api.types.infer_dtype(found) == "mixed":
        for cell, value in found.items():
            if not isinstance(value, Hashable):
                raise ValueError(
                    f"{where}[{key!r}] has {value!r:.40} ({type(value).__name__}) in cell "
                    f"{str(cell)!r}; expected one text or number in each cell. Choose one of the "
                    "values, or write them as one text."
                )
    return found


def _refuse_contradiction(
    mdata: MuData,
    found: pd.Series,
    values: pd.Series,
    key: str,
    places: dict[str, pd.Series],
    where: str,
) -> None:
    """Raise where values of a place are not those that were found in places before."""
    if values.equals(found):
        return
    both = found.notna() & values.notna()
    differ = both & (found.map(_in_single_precision) != values.map(_in_single_precision))
    if differ.any():
        cell = differ.index[differ][0]
        first = next(place for place, known in places.items() if pd.notna(known[cell]))
        named = [f"{m}:{key}" for m, adata in mdata.mod.items() if key in adata.obs]
        two = ""
        if len(named) > 1:
            two = f" If they are different columns, name the one you mean: {named[0]!r}."
        raise ValueError(
            f"obs column {key!r} differs between {first} and {where} in {int(differ.sum())} cells: "
            f"of {str(cell)!r} they have {plain(found[cell])!r} and {plain(values[cell])!r}. Keep "
            f"the right values in {first} and remove the other: del {where}." + two
        )


def _in_single_precision(value: Any) -> str:
    """A value as text, the same for a fraction in either precision; whole numbers as they are.

    Single precision has no 20230115, which a date can be.
    """
    is_fraction = isinstance(value, float | np.floating) and not float(value).is_integer()
    return as_text(np.float32(value) if is_fraction else value)


def find_categories(mdata: MuData, key: str, argument: str, unknown: Any = None) -> pd.Series:
    """A column as text, so that categories survive files; missing where not known.

    ``unknown``: the value that means so besides missing ones; None for no such value.
    """
    text = find_column(mdata, key, argument).astype(object).map(as_text, na_action="ignore")
    return text if unknown is None else text.where(text != as_text(unknown))


def check_groups(values: pd.Series, argument: str) -> None:
    """Refuse a column in which nearly every cell has a value of its own, as numbers or names have.

    Raises
    ------
    ValueError
        If there are more than 10 categories, with less than two cells each on average.
    """
    n_categories = values.nunique()
    if n_categories > max(_FEW_CATEGORIES, len(values) / 2):
        raise ValueError(
            f"{argument}: found {n_categories:,} different values in {len(values):,} cells, such "
            f"as {quoted(values.dropna().unique(), 3)}; expected categories that several cells "
            "have, such as samples or cell types. Numbers can be continuous_covariate_keys, or be "
            "binned with pandas.cut."
        )


def find_numbers(mdata: MuData, key: str, argument: str) -> np.ndarray:
    """A column as numbers, (n_obs,), in double precision.

    Raises
    ------
    ValueError
        If the column is not there, holds something else than numbers, has no value for some cell,
        or a number beyond what single precision holds.
    """
    column = find_column(mdata, key, argument)
    if isinstance(column.dtype, pd.CategoricalDtype):
        column = column.astype(object)
    column = column.infer_objects()
    if column.dtype.kind in "mMc":
        raise ValueError(
            f"{argument}: expected numbers, found {column.dtype}. Turn them into numbers first, "
            "such as days since the first one."
        )
    values = pd.to_numeric(column, errors="coerce").astype("Float64")
    if (text := values.isna() & column.notna()).any():
        raise ValueError(
            f"{argument}: expected numbers, found {plain(column[text].iloc[0])!r} in cell "
            f"{quoted(column.index[text])}. Categories belong to categorical_covariate_keys."
        )
    numbers = pd.Series(values.to_numpy(np.float64, na_value=np.nan), index=column.index)
    check_complete(numbers, argument)
    if (large := numbers.abs() > np.finfo(np.float32).max).any():
        raise ValueError(
            f"{argument}: found {numbers[large].iloc[0]:g} in cell {quoted(numbers.index[large])}; "
            f"expected finite values of at most {np.finfo(np.float32).max:.3g}, which single "
            "precision holds. Correct or rescale the column."
        )
    return numbers.to_numpy()


def check_complete(values: pd.Series, argument: str) -> None:
    """Raise a ``ValueError`` unless every cell has a value."""
    if (missing := values.isna()).any():
        raise ValueError(
            f"{argument}: {int(missing.sum())} of {len(values)} cells have no value, for example "
            f"{quoted(values.index[missing])}. Fill them in."
        )


def spelled_missing(categories: np.ndarray) -> list[str]:
    """Categories that look as if a missing value had been turned into text."""
    return [name for name in categories if name.strip().lower() in _SPELLED_MISSING]


def as_text(value: Any) -> str:
    """A category's name; 1 and 1.0 are the same, as files do not keep them apart.

    So is 0.1 in either precision: pandas hands a number in single precision on as 0.10000000149.
    """
    if isinstance(value, float | np.floating):
        if float(value).is_integer():
            value = int(value)
        elif np.float32(value) == value:
            value = np.float32(value)
    return str(value)
