"""The data sets, each with its split, and the scale on which predictions are compared."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

import mudata
import numpy as np
import scipy.sparse as sp
from mudata import MuData
from sklearn.model_selection import train_test_split

TEST_SIZE = 0.2
FILES = {
    "snareseq": "snareseq_cortex.h5mu",
    "citeseq": "citeseq_mosaic.h5mu",
    "pbmc": "pbmc10k_multiome_small.h5mu",
}


class Unavailable(Exception):
    """The data of an experiment is not to be had here."""


@dataclass
class Problem:
    """Paired cells of two modalities, and which of them are for training and for testing."""

    mdata: MuData
    train: np.ndarray
    test: np.ndarray
    # median depth of the training cells, of modalities that hold counts
    depth: dict[str, float] = field(init=False)

    def __post_init__(self) -> None:
        training = self.mdata.obs_names[self.train]
        self.depth = {
            m: float(np.median(np.asarray(adata.X[adata.obs_names.isin(training)].sum(1))))
            for m, adata in self.mdata.mod.items()
            if _holds_counts(adata.X)
        }

    @property
    def batch_key(self) -> str | None:
        """Column of the batch, if there is one."""
        return "batch" if "batch" in self.mdata.obs else None

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """Source and target of the cross-modal predictions."""
        first, second = self.mdata.mod
        return [(first, second), (second, first)]

    def part(self, cells: np.ndarray) -> MuData:
        """Some of the cells as data of their own."""
        return self.mdata[cells].copy()

    def of_features(self, features: dict[str, np.ndarray]) -> Problem:
        """The same cells with some features of each modality, by boolean arrays."""
        mdata = MuData({m: self.mdata[m][:, kept].copy() for m, kept in features.items()})
        for column in self.mdata.obs.columns.intersection(["celltype", "batch"]):
            mdata.obs[column] = self.mdata.obs[column]
        return Problem(mdata, self.train, self.test)

    def scaled(self, modality: str, values: np.ndarray | sp.csr_matrix) -> np.ndarray:
        """log1p of counts, or of their expectations, at the training cells' median depth.

        A cell's own depth is divided out of both truth and prediction, so that no method gains by
        knowing it. What is not counts stays as it is.
        """
        values = np.asarray(values.toarray() if sp.issparse(values) else values, np.float32)
        if modality not in self.depth:
            return values
        depth = values.sum(1, keepdims=True)
        return np.log1p(values * (self.depth[modality] / np.where(depth > 0, depth, 1)))


def load(name: str, seed: int, *, smoke: bool) -> Problem:
    """A data set, split by the seed and stratified by cell type."""
    folder = os.environ.get("SCVENN_DATA", "")
    path = Path(folder) / FILES[name]
    if not folder or not path.is_file():
        raise Unavailable(f"{path.name} is not in the folder named by SCVENN_DATA")
    whole = mudata.read_h5mu(path)
    cells = whole.obs_names
    for adata in whole.mod.values():
        cells = cells[cells.isin(adata.obs_names)]
    if smoke:
        largest = whole.obs["celltype"].value_counts().index[:3]
        cells = cells[whole.obs.loc[cells, "celltype"].isin(largest)][:400]
    modalities = {m: adata[cells].copy() for m, adata in whole.mod.items()}
    if smoke:
        for m, adata in modalities.items():
            common = np.argsort(-np.asarray((adata.X > 0).sum(0)).ravel(), kind="stable")
            modalities[m] = adata[:, np.sort(common[:60])].copy()
    mdata = MuData(modalities)
    for column in whole.obs.columns.intersection(["celltype", "batch"]):
        # as text: categories that no cell is left of would be batches to some methods
        mdata.obs[column] = whole.obs.loc[mdata.obs_names, column].astype(str)
    return split(mdata, seed)


def split(mdata: MuData, seed: int) -> Problem:
    """Data with a fifth of the cells for testing, stratified by cell type."""
    train, test = train_test_split(
        np.arange(mdata.n_obs),
        test_size=TEST_SIZE,
        stratify=mdata.obs["celltype"],
        random_state=seed,
    )
    return Problem(mdata, np.sort(train), np.sort(test))


def _holds_counts(x: np.ndarray | sp.csr_matrix) -> bool:
    values = x.data if sp.issparse(x) else x
    return bool((values >= 0).all() and (values == np.floor(values)).all())
