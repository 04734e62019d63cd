"""Predictions that are too large for memory, written to a file cell by cell."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import scvi
import zarr
from anndata import AnnData
from anndata.io import write_elem
from mudata import MuData

from scvenn._whole_files import draft
from scvenn.data import Keys
from scvenn.readouts.predictions import ReadoutsMixin


class WritingMixin(ReadoutsMixin):
    """Files of predictions of :class:`~scvenn.SharedPrivateModel`."""

    def write_predictions(
        self,
        path: str | os.PathLike,
        source: str | Sequence[str],
        target: str,
        mdata: MuData | None = None,
        *,
        features: Sequence[str] | None = None,
        indices: Sequence[int] | np.ndarray | None = None,
        transform_batch: str | None = None,
        library_size: float | None = None,
        batch_size: int | None = None,
    ) -> None:
        """Write what :meth:`predict` returns, one minibatch after the other.

        For modalities with many features, of which cells times features would not fit into memory:
        no more than the predictions of a minibatch are held at a time. The file is an AnnData in
        the zarr format, which :func:`anndata.read_zarr` reads whole; of large files,
        ``zarr.open(path)["X"][rows]`` reads some cells.

        Parameters
        ----------
        path
            File to create, by custom ending in ``.zarr``. Where writing stops half-way, none is
            left.
        source, target, mdata, features, indices, transform_batch, library_size
            As in :meth:`predict`.
        batch_size
            Cells per forward pass, and per chunk of the file; None for
            ``scvi.settings.batch_size``.

        Raises
        ------
        FileExistsError
            If there is something at the path.
        ValueError
            As :meth:`predict`.

        Examples
        --------
        >>> import anndata, scvenn
        >>> mdata = scvenn.datasets.simulate_counts(n_obs=200, n_features=20)
        >>> model = scvenn.MMVAEpp(mdata)
        >>> model.train(1, enable_progress_bar=False)
        >>> model.write_predictions("imputed.zarr", "rna", "atac")
        >>> anndata.read_zarr("imputed.zarr").shape
        (200, 20)

        Notes
        -----
        ``X`` is dense, as predictions are: float32, compressed, with NaN where no source was
        measured. ``obs`` is that of the MuData, ``var`` that of the target if the MuData has it,
        and ``uns["scvenn"]`` says what was predicted from what.
        """
        path = Path(path)
        if path.exists():
            raise FileExistsError(f"{path} already exists. Remove it or choose another name.")
        mdata = self._given(mdata)
        chunk = batch_size or scvi.settings.batch_size
        rows, columns, predicted = self._predicting(
            source,
            target,
            mdata,
            features=features,
            indices=indices,
            transform_batch=transform_batch,
            library_size=library_size,
            batch_size=chunk,
        )
        var = pd.DataFrame(index=pd.Index(self._feature_names(target)[columns], dtype=object))
        if target in mdata.mod:
            var = mdata.mod[target].var.reindex(var.index)
        said = {"model": type(self).__name__, "source": self._known(source), "target": target}
        around = AnnData(obs=mdata.obs.iloc[rows], var=var, uns={Keys.UNS: said})
        path.parent.mkdir(parents=True, exist_ok=True)
        with draft(path) as unfinished:
            # format 2, which every reader knows
            group = zarr.open_group(unfinished, mode="w", zarr_format=2)
            write_elem(group, "/", around)
            width = max(1, len(columns))
            x = group.create_array("X", shape=around.shape, chunks=(chunk, width), dtype="float32")
            # as anndata marks arrays
            x.attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
            for part, block in predicted:
                x[part] = block
            zarr.consolidate_metadata(group.store)
