"""Real data: training, embeddings, and what axes mean."""

import mudata
import numpy as np
import pytest
import scipy.sparse as sp
import scvi

import scvenn
from tests.conftest import QUIET, data_file


@pytest.mark.slow
def test_cll():
    """Patients that lack one of the two modalities are used and embedded."""
    data_file("cll.h5mu")
    mdata = scvenn.datasets.cll()
    scvi.settings.seed = 0
    scvenn.MMVAEpp.setup_mudata(mdata, modalities=["rna", "meth"], labels_key="IGHV")
    model = scvenn.MMVAEpp(mdata)
    assert model.module.n_classes == 2
    model.train(12, **QUIET)
    measured = mdata.obs_names.isin(mdata["rna"].obs_names)
    measured |= mdata.obs_names.isin(mdata["meth"].obs_names)
    shared = mdata.obsm["X_shared"]
    np.testing.assert_array_equal(np.isfinite(shared).all(1), measured)
    elbo = model.history["elbo_validation"].to_numpy(float).ravel()
    assert elbo[-1] < elbo[0]


@pytest.mark.slow
def test_cll_with_nan_in_the_mutations():
    data_file("cll.h5mu")
    mdata = scvenn.datasets.cll()
    assert np.isnan(mdata["mutations"].X).any()
    scvi.settings.seed = 0
    model = scvenn.MMVAEpp(mdata, n_hidden=32)
    assert [model.module.likelihood(m).name for m in model.modalities] == [
        "normal",
        "normal",
        "normal",
        "bernoulli",
    ]
    model.train(3, **QUIET)
    assert np.isfinite(mdata.obsm["X_shared"]).all()


@pytest.mark.slow
def test_pbmc_multiome():
    data_file("pbmc10k_multiome_small.h5mu")
    mdata = scvenn.datasets.pbmc_multiome()[::5].copy()
    scvi.settings.seed = 0
    model = scvenn.MMVAEpp(mdata)
    assert [model.module.likelihood(m).name for m in model.modalities] == ["normal", "nb"]
    model.train(2, **QUIET)
    elbo = model.history["elbo_validation"].to_numpy(float).ravel()
    assert elbo[-1] < elbo[0]


@pytest.mark.slow
def test_a_mosaic_trains_as_it_is():
    """800 paired cells, 400 with RNA only, 400 with ADT only: all have a shared embedding."""
    data_file("citeseq_mosaic.h5mu")
    mdata = scvenn.datasets.citeseq_mosaic()
    scvi.settings.seed = 0
    scvenn.MMVAEpp.setup_mudata(mdata, batch_key="batch")
    model = scvenn.MMVAEpp(mdata)
    model.train(4, **QUIET)
    assert mdata.obsm["X_shared"].shape == (1600, 10)
    assert np.isfinite(mdata.obsm["X_shared"]).all()
    for m in ("rna", "adt"):
        measured = mdata.obs_names.isin(mdata[m].obs_names)
        assert measured.sum() == 1200
        private = mdata.obsm[f"X_private_{m}"]
        np.testing.assert_array_equal(np.isfinite(private).all(1), measured)
        assert np.isnan(private[~measured]).all()


# --------------------------------------------------------------------------------------------
# What axes mean
# --------------------------------------------------------------------------------------------


def top_features(model, modality, n=10):
    """The features of the largest loadings on each of the first three axes of `shared`."""
    table = model.loadings(modality)
    table["size"] = table.loading.abs()
    first = table[table.dimension.isin(["shared_0", "shared_1", "shared_2"])]
    return [set(of.nlargest(n, "size").feature) for _, of in first.groupby("dimension")]


def share_screened(model, modality):
    """The share of screened features among the top ones of the first three axes."""
    table = model.get_shared_scores()
    screened = set(table[(table.modality == modality) & table.shared].feature)
    return np.mean([len(top & screened) / len(top) for top in top_features(model, modality)])


def most_variable(adata, n):
    """Its n features whose logarithms vary most."""
    logs = adata.X.copy().log1p() if sp.issparse(adata.X) else np.log1p(adata.X)
    mean, squares = (np.asarray(of.mean(0)).ravel() for of in (logs, logs.power(2)))
    return adata[:, np.sort(np.argsort(squares - mean**2)[-n:])].copy()


@pytest.mark.slow
def test_axes_of_citeseq_name_cell_types():
    mdata = mudata.read_h5mu(data_file("citeseq_pbmc1k.h5mu"))
    genes = most_variable(mdata["rna"], 1000)
    scvi.settings.seed = 0
    model = scvenn.MMVAEpp(mudata.MuData({"rna": genes, "adt": mdata["adt"].copy()}))
    model.train(40, **QUIET)
    assert share_screened(model, "rna") >= 0.8
    named = set().union(*top_features(model, "rna"))
    assert named & {"LYZ", "S100A9"}  # monocytes
    assert any(gene.startswith(("IGH", "IGK", "IGL")) for gene in named)  # B cells
    assert named & {"NKG7", "GNLY", "CD3D", "CD3E", "CD3G"}  # NK and T cells


@pytest.mark.slow
@pytest.mark.parametrize(
    ("values", "every", "n_genes", "epochs", "least"),
    [
        ("counts", 1, 500, 8, 0.8),
        ("0 and 1", 2, 500, 12, 0.7),
        pytest.param("0 and 1", 1, 1000, 8, 0.8, marks=pytest.mark.soak),
    ],
)
def test_axes_of_snareseq_are_of_screened_features(values, every, n_genes, epochs, least):
    mdata = mudata.read_h5mu(data_file("snareseq_cortex.h5mu"))
    mdata = mdata[::every].copy()
    genes = most_variable(mdata["rna"], n_genes)
    peaks = most_variable(mdata["atac"], 3 * n_genes)
    if values == "0 and 1":
        peaks.X = (peaks.X > 0).astype(np.float32)
    scvi.settings.seed = 0
    model = scvenn.MMVAEpp(mudata.MuData({"rna": genes, "atac": peaks}))
    model.train(epochs, **QUIET)
    assert model.n_shared_effective_ >= 3
    assert share_screened(model, "rna") >= least
    assert share_screened(model, "atac") >= least
