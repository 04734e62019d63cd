"""What is asked of a MuData and its matrices, and the kind words for what is refused.

Nothing here writes to the MuData. Matrices are read a few rows at a time; sparse ones stay sparse.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData
from mudata import MuData
from sklearn.preprocessing import StandardScaler

from scvenn.likelihoods import LIKELIHOODS, FeatureStats, inferred_likelihoods

# Rows of a matrix that are looked at in one go when it is checked: bounds the memory.
_CHUNK = 2048


def some(names: Iterable[Any], n: int = 5) -> str:
    """Quote the first ``n`` names, and how many there are."""
    every = list(names)
    shown = ", ".join(repr(str(name)) for name in every[:n])
    return shown if len(every) <= n else f"{shown}, … ({len(every)} in all)"


# --------------------------------------------------------------------------------------------
# The MuData as a whole
# --------------------------------------------------------------------------------------------


def check_mudata(mdata: object, *, may_be_view: bool) -> None:
    """Refuse what is not an in-memory MuData with unambiguous names.

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
        If it is a view, backed, not aligned along observations, or has repeated names.
    """
    if isinstance(mdata, AnnData):
        raise TypeError(
            "Expected a MuData, found an AnnData. Put the measurements of the same cells together "
            "first: mudata.MuData({'rna': adata, 'atac': other_adata})."
        )
    if not isinstance(mdata, MuData):
        raise TypeError(f"Expected a MuData, found {type(mdata).__name__}.")
    if mdata.is_view and not may_be_view:
        raise ValueError(
            "This MuData is a view of another one. Pass a copy instead: mdata = mdata.copy()."
        )
    if mdata.isbacked:
        raise ValueError(
            "This MuData is backed by a file; its matrices are not in memory. Read it with "
            "mudata.read_h5mu(path) (without backed=True)."
        )
    if mdata.axis != 0:
        raise ValueError(
            f"mdata.axis is {mdata.axis}, expected 0: scvenn needs modalities that share cells "
            "(observations)."
        )
    if not mdata.obs_names.is_unique:
        repeated = mdata.obs_names[mdata.obs_names.duplicated()].unique()
        raise ValueError(
            f"mdata.obs_names holds {some(repeated)} more than once; cells are aligned by name. "
            "Make the names unique in each modality and call mdata.update()."
        )


def choose_modalities(mdata: MuData, modalities: Sequence[str] | None) -> list[str]:
    """Modalities to model: those asked for, or all, in their stored order.

    Raises
    ------
    ValueError
        If one is unknown or repeated, there are fewer than two, one has fewer than two cells or no
        feature, names repeat, or one shares no cell with any other.
    """
    if isinstance(modalities, str):
        raise ValueError(f"modalities={modalities!r}: expected a list of two or more names.")
    names = list(mdata.mod) if modalities is None else list(modalities)
    if unknown := [m for m in names if m not in mdata.mod]:
        raise ValueError(
            f"modalities={names}: {some(unknown)} not found; mdata.mod has {list(mdata.mod)}."
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
            examples = ", ".join(f"{n!r}: {some(mdata.mod[n].obs_names, 2)}" for n in names)
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
    adata = mdata.mod[modality]
    for axis, names, remedy in (
        ("obs_names", adata.obs_names, "obs_names_make_unique() and then mdata.update()"),
        ("var_names", adata.var_names, "var_names_make_unique()"),
    ):
        if not names.is_unique:
            repeated = names[names.duplicated()].unique()
            raise ValueError(
                f"modality {modality!r}: {axis} holds {some(repeated)} more than once; "
                f"{'cells' if axis == 'obs_names' else 'features'} are found by name. Call "
                f"mdata[{modality!r}].{remedy}."
            )
    if missing := list(adata.obs_names[mdata.obs_names.get_indexer(adata.obs_names) < 0]):
        raise ValueError(
            f"modality {modality!r} holds cells that are not in mdata.obs_names: {some(missing)}. "
            "Call mdata.update() first."
        )


# --------------------------------------------------------------------------------------------
# Matrices
# --------------------------------------------------------------------------------------------


def expression(modality: str, layer: str | None) -> str:
    """How a user would write the matrix."""
    return f"mdata[{modality!r}]" + (".X" if layer is None else f".layers[{layer!r}]")


def stored_matrix(mdata: MuData, modality: str, layer: str | None) -> np.ndarray | sp.spmatrix:
    """The matrix of a modality as it is stored."""
    adata = mdata.mod[modality]
    where = expression(modality, layer)
    if layer is not None and layer not in adata.layers:
        raise ValueError(
            f"modality {modality!r}: layer {layer!r} not found; mdata[{modality!r}].layers has "
            f"{list(adata.layers)}."
        )
    matrix = adata.X if layer is None else adata.layers[layer]
    if matrix is None:
        raise ValueError(
            f"modality {modality!r}: {where} is None. Pass layers={{{modality!r}: <layer>}} with "
            f"one of {list(adata.layers)}."
        )
    if (
        not (isinstance(matrix, np.ndarray) or sp.issparse(matrix))
        or matrix.dtype.kind not in "biuf"
    ):
        kind = getattr(matrix, "dtype", "")
        raise TypeError(
            f"modality {modality!r}: {where} is a {type(matrix).__name__} {kind}; expected a "
            "numpy array or a scipy sparse matrix of numbers."
        )
    return matrix


def gather(matrix: Any, rows: np.ndarray, columns: np.ndarray) -> Any:
    """Rows and columns of a matrix in a new order; -1 in ``rows`` gives a row of zeros.

    Sparse matrices come back as CSR. The matrix itself is returned where nothing changes.
    """
    if sp.issparse(matrix) and matrix.format != "csr":
        matrix = matrix.tocsr()
    if not np.array_equal(columns, np.arange(matrix.shape[1])):
        matrix = matrix[:, columns]
    if np.array_equal(rows, np.arange(matrix.shape[0])):
        return matrix
    if (rows >= 0).all():
        return matrix[rows]
    if sp.issparse(matrix):
        empty = sp.csr_matrix((1, matrix.shape[1]), dtype=matrix.dtype)
        return sp.vstack([matrix, empty], format="csr")[rows]  # -1 is the row just added
    out = np.zeros((len(rows), matrix.shape[1]), dtype=matrix.dtype)
    out[rows >= 0] = matrix[rows[rows >= 0]]
    return out


def _chunks(matrix: Any, rows: np.ndarray) -> Iterator[Any]:
    """The given rows, a few at a time."""
    for start in range(0, len(rows), _CHUNK):
        yield matrix[rows[start : start + _CHUNK]]


def _stored(chunk: Any) -> np.ndarray:
    """All values of an array; those of a sparse matrix that are not implicit zeros."""
    return chunk.data if sp.issparse(chunk) else chunk


def check_values(
    matrix: Any, rows: np.ndarray, modality: str, where: str, likelihood: str | None
) -> str:
    """Check the observed values of a matrix against a likelihood, or infer one.

    Parameters
    ----------
    matrix
        Aligned values, (n_obs, D).
    rows
        Indices of the cells in which the modality was measured.
    modality, where
        For messages: the name, and the expression that gives the matrix.
    likelihood
        A name in ``LIKELIHOODS``, or None to choose the narrowest that fits.

    Returns
    -------
    The likelihood's name.

    Raises
    ------
    ValueError
        If a value is infinite, or outside the likelihood's domain, or missing where it must not be.
    """
    candidates = inferred_likelihoods() if likelihood is None else [likelihood]
    for chunk in _chunks(matrix, rows):
        values = _stored(chunk)
        missing = np.isnan(values)
        if np.isinf(values).any():
            raise ValueError(
                f"modality {modality!r}: found {values[np.isinf(values)][0]} in {where}; expected "
                "finite values (NaN where a value was not measured)."
            )
        for name in list(candidates):
            cls = LIKELIHOODS[name]
            bad = ~cls.in_domain(values) & ~missing
            wrong = values[bad][:1] if bad.any() else values[missing][:1]
            if bad.any() or (missing.any() and not cls.allows_missing):
                if likelihood is not None:
                    raise ValueError(
                        f"modality {modality!r}: likelihood {name!r} needs {cls.domain}, found "
                        f"{wrong[0]:g} in {where}. Pass layers={{{modality!r}: <layer>}} with a "
                        f"layer that has them, or likelihoods={{{modality!r}: 'normal'}}."
                    )
                candidates.remove(name)
    return candidates[0]


def feature_stats(matrix: Any, rows: np.ndarray, names: pd.Index, modality: str) -> FeatureStats:
    """Mean and scale of each feature and the median library size, over the measured cells.

    Raises
    ------
    ValueError
        If a feature has no observed value.
    """
    # scikit-learn's scaler streams, reads sparse chunks as they are, and leaves out NaN
    scaler = StandardScaler(with_mean=not sp.issparse(matrix))
    libraries = []
    for chunk in _chunks(matrix, rows):
        with np.errstate(invalid="ignore"):  # 0 / 0 where no value was seen yet
            scaler.partial_fit(chunk.astype(np.float64))
        libraries.append(np.asarray(chunk.sum(axis=1), dtype=np.float64).ravel())
    n_seen = np.broadcast_to(scaler.n_samples_seen_, len(names))
    if (n_seen == 0).any():
        raise ValueError(
            f"modality {modality!r}: features {some(names[n_seen == 0])} are NaN in every cell. "
            f"Remove them: mdata.mod[{modality!r}] = mdata[{modality!r}][:, keep].copy(); "
            "mdata.update()."
        )
    library = np.concatenate(libraries)
    positive = library[np.isfinite(library) & (library > 0)]
    return FeatureStats(
        mean=scaler.mean_.astype(np.float32),
        scale=scaler.scale_.astype(np.float32),
        library=float(np.median(positive)) if len(positive) else 1.0,
    )
