"""Columns of ``obs``: where they are found, and what their values are taken for."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import pandas as pd
from mudata import MuData

from scvenn.data.checks import plain, quoted

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
        If it is nowhere, or ``mdata.obs`` and modalities contradict each other.
    """
    found = find_column_or_none(mdata, key)
    if found is None:
        raise ValueError(
            f"{argument} not found. Searched mdata.obs ({quoted(list(mdata.obs.columns), 20)}) and "
            f"the obs of { {m: list(adata.obs.columns) for m, adata in mdata.mod.items()} }."
        )
    return found


def find_column_or_none(mdata: MuData, key: str) -> pd.Series | None:
    """The same; None where it is nowhere."""
    in_mdata = _column_of(mdata.obs, key, "mdata.obs")
    # NaN in mdata.obs is meant: what modalities hold completes each other, and not mdata.obs
    found = None if in_mdata is None else in_mdata.astype(object)
    first = "mdata.obs"
    for m, adata in mdata.mod.items():
        column = str(key).removeprefix(f"{m}:") if str(key).startswith(f"{m}:") else key
        if column in adata.obs:
            where = f"mdata[{m!r}].obs"
            values = cast(pd.Series, _column_of(adata.obs, column, where))
            values = values.astype(object).reindex(mdata.obs_names)
        elif in_mdata is None and f"{m}:{key}" in mdata.obs:
            values, where = mdata.obs[f"{m}:{key}"].astype(object), "mdata.obs"
        else:
            continue
        if found is None:
            found, first = values, where
            continue
        _refuse_contradiction(found, values, key, (first, where))
        if in_mdata is None:
            found = found.where(found.notna(), values)
    return found if in_mdata is None else in_mdata


def _column_of(obs: pd.DataFrame, key: str, where: str) -> pd.Series | None:
    found = obs.get(key)
    if isinstance(found, pd.DataFrame):
        raise ValueError(
            f"{where} has {found.shape[1]} columns named {key!r}; expected one. Rename the others."
        )
    return found


def _refuse_contradiction(
    one: pd.Series, other: pd.Series, key: str, where: tuple[str, str]
) -> None:
    both = one.notna() & other.notna()
    differ = both & (one.map(_in_single_precision) != other.map(_in_single_precision))
    if differ.any():
        cell = differ.index[differ][0]
        raise ValueError(
            f"obs column {key!r} differs between {where[0]} and {where[1]} in {int(differ.sum())} "
            f"cells: of {str(cell)!r} they have {plain(one[cell])!r} and "
            f"{plain(other[cell])!r}. Keep the right values in mdata.obs[{key!r}] and remove the "
            f"column {key!r} from {where[1]}."
        )


def _in_single_precision(value: Any) -> str:
    """A value as text, the same for numbers in either precision."""
    return as_text(np.float32(value) if isinstance(value, float | np.floating) else value)


def find_categories(mdata: MuData, key: str, argument: str) -> pd.Series:
    """A column as text, so that categories survive files; missing values stay missing."""
    return find_column(mdata, key, argument).astype(object).map(as_text, na_action="ignore")


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
    """A category's name; 1 and 1.0 are the same, as files do not keep them apart."""
    if isinstance(value, float | np.floating) and float(value).is_integer():
        value = int(value)
    return str(value)
