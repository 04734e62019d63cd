"""A MuData whose matrices stay in their file, of HDF5 or zarr."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import h5py
import zarr
from anndata import AnnData
from anndata.io import read_elem, sparse_dataset
from mudata import MuData


def read_lazy(path: str | os.PathLike) -> MuData:
    """Open a MuData and leave its matrices in their file.

    As ``mudata.read_h5mu(path, backed=True)``, which leaves ``.X`` in the file, but for layers as
    well and for zarr. Models train on it and read it without ever holding a whole matrix.

    Parameters
    ----------
    path
        A file ``.h5mu``, or a folder of zarr as ``MuData.write_zarr`` makes it.

    Returns
    -------
    The MuData, with everything but ``.X``, layers and ``.raw`` in memory. ``.raw`` is left out.

    Raises
    ------
    FileNotFoundError
        If there is nothing at the path.
    ValueError
        If it holds no MuData.

    Examples
    --------
    >>> import scvenn
    >>> mdata = scvenn.datasets.simulate_counts(n_obs=200, n_features=20)
    >>> mdata.write_zarr("cells.zarr")  # doctest: +SKIP
    >>> mdata = scvenn.read_lazy("cells.zarr")  # doctest: +SKIP
    >>> scvenn.MMVAEpp(mdata).train()  # doctest: +SKIP
    """
    place = Path(path)
    if not place.exists():
        raise FileNotFoundError(f"There is no file or folder {place}.")
    file: Any
    try:
        file = h5py.File(place, "r") if place.is_file() else zarr.open_group(place, mode="r")
    except (OSError, zarr.errors.GroupNotFoundError) as error:
        raise ValueError(
            f"{place} is neither a file of HDF5 nor a folder of zarr ({error})."
        ) from error
    if "mod" not in file:
        groups = sorted(file)
        if isinstance(file, h5py.File):
            file.close()  # an open file cannot be written anew
        raise ValueError(
            f"{place} holds no MuData: there is no group 'mod' in it, but {groups}. Put "
            "modalities together with mudata.MuData({'rna': ..., 'atac': ...}) and write that."
        )
    modalities = file["mod"]
    order = [str(m) for m in modalities.attrs.get("mod-order", list(modalities))]
    around = {key: read_elem(file[key]) for key in file if key != "mod"}
    axis = int(file.attrs.get("axis", 0))
    return MuData({m: _modality(modalities[m]) for m in order}, axis=axis, **around)


def _modality(group: Any) -> AnnData:
    parts = {key: read_elem(group[key]) for key in group if key not in ("X", "layers", "raw")}
    layers = {name: _matrix(group["layers"][name]) for name in group.get("layers", ())}
    return AnnData(_matrix(group["X"]) if "X" in group else None, layers=layers, **parts)


def _matrix(stored: Any) -> Any:
    """A matrix as anndata reads it from a file, row by row; None where the file says so."""
    if stored.attrs.get("encoding-type") == "null":
        return None
    return sparse_dataset(stored) if isinstance(stored, h5py.Group | zarr.Group) else stored
