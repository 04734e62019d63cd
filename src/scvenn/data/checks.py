"""What is asked of a MuData as a whole, and the messages for what is refused."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from mudata import MuData

from scvenn._warnings import warn


def quoted(names: Iterable[Any], n: int = 5) -> str:
    """Quote the first ``n`` names, and how many there are."""
    every = list(names)
    shown = ", ".join(repr(str(name)) for name in every[:n])
    return shown if len(every) <= n else f"{shown}, … ({len(every)} in all)"


def plain(value: Any) -> Any:
    """A value as Python writes it, without numpy's name for its type."""
    return value.item() if isinstance(value, np.generic) else value


def as_list(names: Any, argument: str) -> list[Any]:
    """Names that a user passed as a plain list, in their order, which holds on to nothing else.

    Raises
    ------
    ValueError
        If they have no order, or are not several names at all.
    """
    if isinstance(names, str | set | frozenset) or not isinstance(names, Iterable):
        found = "a set, which has no order" if isinstance(names, set | frozenset) else repr(names)
        raise ValueError(f"{argument}: expected a list of names, found {found}.")
    return [plain(name) for name in names]


def check_mudata(mdata: object, *, may_be_view: bool) -> None:
    """Refuse what is not a MuData with unambiguous names.

    Parameters
    ----------
    mdata
        What a user passed.
    may_be_view
        Whether a view will do, as where data is only read.

    Raises
    ------
    TypeError
        If ``mdata`` is not a MuData.
    ValueError
        If it is a view, not aligned along observations, or has repeated names or names
        of different types.
    """
    if isinstance(mdata, AnnData):
        raise TypeError(
            "Expected a MuData, found an AnnData. Put the measurements of the same cells together "
            "first: mudata.MuData({'rna': adata, 'atac': other_adata})."
        )
    if isinstance(mdata, str | os.PathLike):
        raise TypeError(
            f"Expected a MuData, found the path {str(mdata)!r}. Read the file first: "
            "mudata.read_h5mu(path)."
        )
    if isinstance(getattr(mdata, "adata", None), MuData):
        raise TypeError(
            f"Expected a MuData, found {type(mdata).__name__}. Pass the data of the model, "
            "model.adata."
        )
    if not isinstance(mdata, MuData):
        raise TypeError(
            f"Expected a MuData, found {type(mdata).__name__}. Put the measurements together "
            "first: mudata.MuData({'rna': adata, 'atac': other_adata})."
        )
    if nested := [m for m, adata in mdata.mod.items() if isinstance(adata, MuData)]:
        m = nested[0]
        raise TypeError(
            f"modality {m!r} is itself a MuData, expected an AnnData. Put its modalities side by "
            f"side: mudata.MuData({{**mdata[{m!r}].mod, 'other': ...}})."
        )
    if mdata.is_view and not may_be_view:
        raise ValueError(
            "This MuData is a view of another one. Pass a copy instead: mdata = mdata.copy()."
        )
    if mdata.axis != 0:
        raise ValueError(
            f"mdata.axis is {mdata.axis}, expected 0: scvenn needs modalities that share cells "
            "(observations)."
        )
    names = {repr(m): adata.obs_names for m, adata in mdata.mod.items()}
    if found := _text_and_other({**names, "mdata.obs": mdata.obs_names}):
        raise ValueError(
            f"obs_names are not all text: {found}; cells are matched by "
            "name, and 1 is not '1'. Make all of them text, for each modality: adata.obs_names = "
            "adata.obs_names.astype(str), and then mdata.update()."
        )
    if not mdata.obs_names.is_unique:
        repeated = mdata.obs_names[mdata.obs_names.duplicated()].unique()
        raise ValueError(
            f"mdata.obs_names holds {quoted(repeated)} more than once; cells are aligned by name. "
            "Make the names unique in each modality and call mdata.update()."
        )


def warn_of_renamed(mdata: MuData, modalities: Sequence[str]) -> None:
    """Warn of modalities of a model that new data seems to have under another name."""
    others = {str(m).casefold(): m for m in mdata.mod if m not in modalities}
    for m in modalities:
        if m not in mdata.mod and (other := others.get(m.casefold())):
            warn(
                f"modality {m!r} of the model counts as not measured: the data does not have it, "
                f"but {other!r}. If this is the same, build the MuData with the name of the model: "
                f"MuData({{{m!r}: mdata[{other!r}], ...}})."
            )


def _text_and_other(names: Mapping[str, pd.Index]) -> str:
    """Where some names are text and some are not: the first of each, for a message; else ''."""
    first: dict[str, list[Any]] = {}
    for owner, index in names.items():
        every = index.astype(object)
        if pd.api.types.infer_dtype(every, skipna=False).startswith("mixed"):
            text = np.array([isinstance(name, str) for name in every])
            first[owner] = [every[which][0] for which in (text, ~text) if which.any()]
        else:
            first[owner] = list(every[:1])
    if len({isinstance(name, str) for some in first.values() for name in some}) < 2:
        return ""
    return ", ".join(
        f"{owner} has "
        + " and ".join(f"{name!r} ({type(name).__name__})" for name in map(plain, some))
        for owner, some in first.items()
        if some
    )


def choose_modalities(mdata: MuData, modalities: Sequence[str] | None) -> list[str]:
    """Modalities to model: those asked for, or all, in their stored order.

    Raises
    ------
    ValueError
        If one is unknown or repeated, there are fewer than two, one has fewer than two cells or no
        feature, names repeat, or one shares no cell with any other.
    """
    names = list(mdata.mod) if modalities is None else list(modalities)
    if unknown := [m for m in names if m not in mdata.mod]:
        raise ValueError(
            f"modalities={names}: {quoted(unknown)} not found; mdata.mod has {list(mdata.mod)}."
        )
    if len(set(names)) < len(names):
        raise ValueError(f"modalities={names} names one more than once.")
    if len(names) < 2:
        raise ValueError(
            f"Expected two or more modalities, found {names}. What is shared can only be learned "
            "from two measurements of the same cells."
        )
    for m in names:
        _check_modality(mdata, m)
    for m in names:
        others = [mdata.mod[other].obs_names for other in names if other != m]
        if not any(mdata.mod[m].obs_names.isin(other).any() for other in others):
            examples = ", ".join(f"{n!r}: {quoted(mdata.mod[n].obs_names, 2)}" for n in names)
            raise ValueError(
                f"modality {m!r} has no cell in common with any other modality; cells are matched "
                f"by obs_names ({examples}). Give the same cell the same name, or leave it out "
                "with modalities=[...]."
            )
    return names


def _check_modality(mdata: MuData, modality: str) -> None:
    """Shape and names of one modality."""
    adata = mdata.mod[modality]
    if adata.n_obs < 2:
        raise ValueError(
            f"modality {modality!r} has {adata.n_obs} cells; at least 2 are needed. Leave it out "
            "with modalities=[...]."
        )
    if adata.n_vars < 1:
        raise ValueError(
            f"modality {modality!r} has no features. Leave it out with modalities=[...]."
        )
    check_names(mdata, modality)


def check_names(mdata: MuData, modality: str) -> None:
    """Refuse a modality whose names cannot be matched one to one."""
    check_unique(mdata, modality)
    adata = mdata.mod[modality]
    if missing := list(adata.obs_names[mdata.obs_names.get_indexer(adata.obs_names) < 0]):
        raise ValueError(
            f"modality {modality!r} holds cells that are not in mdata.obs_names: "
            f"{quoted(missing)}. Call mdata.update() first."
        )


def check_unique(mdata: MuData, modality: str) -> None:
    """Refuse a modality in which names of cells or features repeat."""
    adata = mdata.mod[modality]
    if found := _text_and_other({"var_names": adata.var_names}):
        raise ValueError(
            f"modality {modality!r}: {found}; features are found by name, as text. Make all of "
            f"them text: mdata[{modality!r}].var_names = mdata[{modality!r}].var_names.astype(str)."
        )
    for axis, names, remedy in (
        ("obs_names", adata.obs_names, "obs_names_make_unique() and then mdata.update()"),
        ("var_names", adata.var_names, "var_names_make_unique()"),
    ):
        if not names.is_unique:
            repeated = names[names.duplicated()].unique()
            raise ValueError(
                f"modality {modality!r}: {axis} holds {quoted(repeated)} more than once; "
                f"{'cells' if axis == 'obs_names' else 'features'} are found by name. Call "
                f"mdata[{modality!r}].{remedy}."
            )
