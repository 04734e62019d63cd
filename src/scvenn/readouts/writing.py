"""Predictions that are too large for memory, written to a file cell by cell."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import h5py
import pandas as pd
import scvi
import zarr
from anndata import AnnData
from anndata.io import write_elem

from scvenn import network
from scvenn._whole_files import draft, make_folder, reserve
from scvenn.data import Cells, Keys, errors_of_writing, size_of
from scvenn.readouts.predictions import Prediction

# below scvi-tools' logger: shown by default, and quiet when scvi.settings.verbosity says so
logger = logging.getLogger("scvi.scvenn")


def write_prediction(
    path: Path,
    net: network.SharedPrivateVAE,
    cells: Cells,
    prediction: Prediction,
    *,
    written_by: dict[str, Any],
) -> None:
    """Write a prediction as an AnnData, one minibatch after the other.

    Parameters
    ----------
    path
        File to create, which ends in ``.h5ad`` or ``.zarr``.
    net, cells, prediction
        What is predicted of which cells.
    written_by
        Which model wrote this.

    Raises
    ------
    FileExistsError
        If there is something at the path.
    ValueError
        If the path ends otherwise, or a column of ``obs`` cannot be written.
    """
    if path.suffix.lower() not in (".h5ad", ".zarr"):
        raise ValueError(
            f"path={str(path)!r}: expected a name that ends in .h5ad or .zarr, the formats of "
            "predictions."
        )
    if path.exists():
        raise FileExistsError(f"{path} already exists. Remove it or choose another name.")
    target = prediction.target
    names = cells.found.features(target)[prediction.columns]
    var = pd.DataFrame(index=pd.Index(names, dtype=object))
    if target in cells.mdata.mod:
        var = _with_missing_rows(cells.mdata.mod[target].var, var.index)

    def fill(x: h5py.Dataset | zarr.Array) -> None:
        # as anndata marks arrays
        x.attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
        for part, block in prediction.blocks(net, cells):
            x[part] = block

    uns = {**written_by, "source": prediction.sources, "target": target}
    around = AnnData(obs=cells.mdata.obs.iloc[cells.rows], var=var, uns={Keys.UNS: uns})
    make_folder(path.parent)
    logger.info(
        "%s: %d cells x %d features to write, %.1f MB before compression",
        target,
        *around.shape,
        4e-6 * around.n_obs * around.n_vars,
    )
    with draft(path) as unfinished:
        if path.suffix.lower() == ".h5ad":
            reserve(unfinished, size_of(around) + 4 * around.n_obs * around.n_vars)
            with h5py.File(unfinished, "w") as file:
                with errors_of_writing():
                    write_elem(file, "/", around)
                fill(file.create_dataset("X", around.shape, "float32"))
        else:
            # format 2, which every reader supports
            group = zarr.open_group(unfinished, mode="w", zarr_format=2)
            with errors_of_writing():
                write_elem(group, "/", around)
            chunk = (cells.batch_size or scvi.settings.batch_size, max(1, len(names)))
            fill(group.create_array("X", shape=around.shape, chunks=chunk, dtype="float32"))
            zarr.consolidate_metadata(group.store)


def _with_missing_rows(table: pd.DataFrame, names: pd.Index) -> pd.DataFrame:
    """A table of features by name; columns keep their kind where features are not in it."""
    if not names.isin(table.index).all():
        # without values missing in them, pandas would make these texts and fractions
        kinds = {"b": "boolean", "i": "Int64", "u": "UInt64"}
        kept = {
            c: kinds[d.kind] for c, d in table.dtypes.items() if getattr(d, "kind", "") in kinds
        }
        table = table.astype(kept)
    return table.reindex(names)
