"""Fixtures: small data, complete and incomplete, and models trained on it once."""

import logging
import os
from collections import Counter

import h5py
import numpy as np
import pytest
import scanpy
import scipy.sparse as sp
from sklearn.neighbors import kneighbors_graph

import scvenn

MODELS = {
    "MVAE": scvenn.MVAE,
    "MMVAE": scvenn.MMVAE,
    "MoPoEVAE": scvenn.MoPoEVAE,
    "MMVAEpp": scvenn.MMVAEpp,
}

# of the loggers whose levels the command line sets
LEVELS = {
    logger: logger.level
    for logger in (logging.getLogger(f"scvi.scvenn{name}") for name in ("", ".interrupts"))
}

QUIET = {"enable_progress_bar": False}


@pytest.fixture(autouse=True)
def _levels_of_logs():
    """The command line and benchmarks set levels for their process, in which other tests run."""
    logging.getLogger("scvi").setLevel(logging.WARNING)
    for logger, level in LEVELS.items():
        logger.setLevel(level)


@pytest.fixture(autouse=True)
def _flags_of_xla(monkeypatch):
    """scvi-tools makes this variable longer whenever a seed is set; processes then cannot start."""
    monkeypatch.delenv("XLA_FLAGS", raising=False)


@pytest.fixture(params=list(MODELS))
def model_class(request):
    return MODELS[request.param]


def three_modalities(*, missing, n_obs=150, seed=0):
    """rna (nb), meth (normal, 5 % NaN where something is missing) and peaks (bernoulli)."""
    mdata = scvenn.datasets.simulate_counts(
        n_obs,
        modalities={"rna": "nb", "meth": "normal", "peaks": "bernoulli"},
        n_features=20,
        n_shared_features=10,
        n_types=3,
        missing=missing,
        n_batches=2,
        seed=seed,
    )
    if missing:
        x = mdata["meth"].X
        x[np.random.default_rng(seed).random(x.shape) < 0.05] = np.nan
    return mdata


def under_other_names(mdata):
    """A copy with "new_" before the name of each cell."""
    new = mdata.copy()
    for part in (*new.mod.values(), new):
        part.obs_names = "new_" + part.obs_names
    return new


@pytest.fixture
def _in_moments(monkeypatch):
    """Code of documents and notebooks with few steps of mapping, and what scanpy compiles."""

    def neighbors(cells, use_rep="X_pca", n_neighbors=15, **_):
        graph = kneighbors_graph(np.asarray(cells.obsm[use_rep]), n_neighbors)
        cells.obsp["connectivities"] = cells.obsp["distances"] = graph.maximum(graph.T).tocsr()
        keys = {f"{name}_key": name for name in ("connectivities", "distances")}
        cells.uns["neighbors"] = {**keys, "params": {"use_rep": use_rep, "method": "umap"}}

    def umap(cells, **_):
        rep = cells.uns["neighbors"]["params"]["use_rep"]
        cells.obsm["X_umap"] = np.asarray(cells.obsm[rep])[:, :2]

    monkeypatch.setattr(scanpy.pp, "neighbors", neighbors)
    monkeypatch.setattr(scanpy.tl, "umap", umap)
    monkeypatch.setattr("scvenn.models.mapping._STEPS", 10)


@pytest.fixture(params=[0.0, 0.3], ids=["complete", "incomplete"])
def mdata(request):
    """Three modalities, with and without missing cells and entries."""
    return three_modalities(missing=request.param)


@pytest.fixture
def incomplete():
    return three_modalities(missing=0.3)


@pytest.fixture
def small():
    """Two modalities of 60 cells, all paired: the cheapest data a model can be built on."""
    return scvenn.datasets.simulate_counts(60, n_features=12, n_shared_features=6, n_types=2)


@pytest.fixture
def reads(monkeypatch):
    """How often the whole matrix of each modality was read and checked."""
    from scvenn.data import fields

    counts = Counter()
    canonical = fields.canonical

    def counted(matrix, modality, where):
        counts[modality] += 1
        return canonical(matrix, modality, where)

    monkeypatch.setattr(fields, "canonical", counted)
    return counts


def data_file(name):
    """A file of the folder SCVENN_DATA; skip the test where there is none."""
    folder = os.environ.get("SCVENN_DATA", "")
    path = os.path.join(folder, name)
    if not folder or not os.path.isfile(path):
        pytest.skip(f"{name} is not in the folder named by SCVENN_DATA ({folder or 'not set'})")
    return path


def write_10x(path, counts, cells):
    """As Cell Ranger does: counts (cells by features) and names, by the type of features."""
    matrix = sp.vstack([x.T for x, _ in counts.values()]).tocsc()  # features by cells
    names = [name for _, names in counts.values() for name in names]
    columns = {"id": names, "name": names, "genome": ["GRCh38"] * len(names)}
    columns["feature_type"] = [kind for kind, (_, names) in counts.items() for _ in names]
    if "Peaks" in counts:
        columns["interval"] = [name if name.startswith("chr") else "chr1:1-2" for name in names]
    with h5py.File(path, "w") as file:
        group = file.create_group("matrix")
        for name in ("data", "indices", "indptr"):
            group[name] = getattr(matrix, name).astype(np.int64)
        group["shape"], group["barcodes"] = matrix.shape, np.array(cells, "S")
        for name, values in columns.items():
            group[f"features/{name}"] = np.array(values, "S")


def shuffled(mdata, modality, seed=1):
    """The same MuData, with the rows of one modality in another order."""
    new = mdata.copy()
    order = np.random.default_rng(seed).permutation(new[modality].n_obs)
    new.mod[modality] = new[modality][order].copy()
    return new
