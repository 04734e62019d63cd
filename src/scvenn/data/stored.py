"""Where the matrix of a modality is: in memory, or in a file."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData
from mudata import MuData

from scvenn.data.matrices import check_numbers, sound
from scvenn.data.minified import refuse_minified
from scvenn.data.on_disk import DiskMatrix, is_on_disk


def expression(modality: str, layer: str | None) -> str:
    """How a user would write the matrix."""
    return f"mdata[{modality!r}]" + (".X" if layer is None else f".layers[{layer!r}]")


def stays_on_disk(mdata: MuData, modality: str, layer: str | None) -> bool:
    """Whether the matrix of a modality is in a file; False where there is none."""
    if modality not in mdata.mod:
        return False
    source = _source(mdata.mod[modality])
    return is_on_disk(source.X if layer is None else source.layers.get(layer))


def _source(adata: AnnData) -> AnnData:
    """What an AnnData is a view of, or itself."""
    return adata._adata_ref if adata.is_view else adata


def stored_matrix(
    mdata: MuData, modality: str, layer: str | None, *, new_data: bool = False
) -> Any:
    """The matrix of a modality as it is stored; a :class:`DiskMatrix` of one in a file.

    Parameters
    ----------
    mdata, modality, layer
        Where it is.
    new_data
        Whether a model that was set up is to read it: no other layer can be named any more.

    Raises
    ------
    ValueError
        If the layer or ``.X`` is not there or was left out of minified data, the modality is a view
        of a sparse matrix whose index is damaged, or a file holds the matrix by columns.
    TypeError
        If it is a view of a sparse matrix of something else than real numbers.
    """
    adata: AnnData = mdata.mod[modality]
    where = expression(modality, layer)
    refuse_minified(mdata, modality, where)
    # A view would follow the index of what it is of before that was checked, and lose its mask.
    source = _source(adata)
    if layer is not None and layer not in adata.layers:
        raise ValueError(
            f"modality {modality!r}: layer {layer!r} not found; "
            f"{_put_there(source, where, new_data)}."
        )
    matrix = source.X if layer is None else source.layers[layer]
    if matrix is None:
        raise ValueError(
            f"modality {modality!r}: {where} is None; {_put_there(source, where, new_data)}."
        )
    if is_on_disk(matrix):
        matrix = DiskMatrix(matrix, modality, where)
        if source is adata:
            return matrix
        rows, columns = (np.arange(n) for n in matrix.shape)
        return matrix.aligned(rows[adata._oidx], columns[adata._vidx])
    if source is adata:
        return matrix
    if sp.issparse(matrix):
        check_numbers(matrix, modality, where)
        matrix = sound(matrix, modality, where)
    elif not isinstance(matrix, np.ndarray):
        return adata.X if layer is None else adata.layers[layer]
    return matrix[adata._oidx][:, adata._vidx]


def _put_there(adata: AnnData, where: str, new_data: bool) -> str:
    """What there is instead of a matrix, and what to do."""
    others = [f".layers[{name!r}]" for name in adata.layers]
    if adata.X is not None:
        others.insert(0, ".X")
    found = f"the modality has {', '.join(others) or 'no matrix'}. Put the values into {where}"
    if new_data:
        return f"{found} of the data given, from where the model reads them"
    return f"{found}, or choose another with setup_mudata(layers=...)" if others else found


def stored_latent(mdata: MuData, key: str) -> np.ndarray:
    """A latent in ``mdata.obsm``, (n_obs, K), however it is stored; NaN where it is not finite.

    Raises
    ------
    ValueError
        If it is something else, or a sparse matrix that is damaged.
    """
    stored, where = mdata.obsm[key], f"mdata.obsm[{key!r}]"
    if sp.issparse(stored):
        stored = sound(stored, None, where).toarray()
    values = np.asarray(stored)
    if isinstance(stored, pd.DataFrame) and values.dtype == object:  # columns of several types
        with suppress(TypeError, ValueError):
            values = stored.to_numpy(np.float64, na_value=np.nan)
    if values.dtype.kind not in "biuf" or values.ndim != 2:
        raise ValueError(
            f"{where} is of {values.dtype} with {values.ndim} dimensions; expected the numbers of "
            "a latent, (cells, dimensions). Store other data under another key."
        )
    values = values.astype(np.float32 if values.dtype == np.float32 else np.float64)
    # what single precision does not hold is no latent, and other packages refuse it
    return np.where(np.abs(values) <= np.finfo(np.float32).max, values, np.nan)
