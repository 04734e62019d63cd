"""CITE-seq of 1,600 cells, of which 800 have both modalities: what users of mosaics need."""

import numpy as np
import pytest
import scvi
from sklearn.decomposition import PCA
from sklearn.linear_model import RidgeCV
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor, NearestNeighbors

import scvenn
from tests.conftest import QUIET, data_file

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def mosaic():
    """A trained model, which modalities each cell has, and held-out paired cells."""
    data_file("citeseq_mosaic.h5mu")
    mdata = scvenn.datasets.citeseq_mosaic()
    has = {m: mdata.obs_names.isin(mdata[m].obs_names) for m in mdata.mod}
    cells = np.random.default_rng(0).permutation(mdata.n_obs)
    test = cells[(has["rna"] & has["adt"])[cells]][:160]
    train = np.setdiff1d(cells, test)
    validation, train = train[::10], np.setdiff1d(train, train[::10])
    scvi.settings.seed = 0
    scvenn.MMVAEpp.setup_mudata(mdata, batch_key="batch")
    model = scvenn.MMVAEpp(mdata)
    split = {"external_indexing": [train, validation, test]}
    model.train(60, datasplitter_kwargs=split, **QUIET)
    return model, has, train, test


def test_a_probe_of_paired_cells_works_on_cells_with_one_modality(mosaic):
    model, has, train, _ = mosaic
    shared, label = model.adata.obsm["X_shared"], model.adata.obs["celltype"].astype(str).to_numpy()
    paired = np.intersect1d(train, np.flatnonzero(has["rna"] & has["adt"]))
    probe = KNeighborsClassifier(15).fit(shared[paired], label[paired])
    for m, other in (("rna", "adt"), ("adt", "rna")):
        alone = has[m] & ~has[other]
        assert probe.score(shared[alone], label[alone]) > 0.8, m


def share_of_neighbours(reference, kind, query):
    """How much of each kind the 15 nearest neighbours are, on average over the queries."""
    nearest = NearestNeighbors(n_neighbors=15).fit(reference)
    found = kind[nearest.kneighbors(query, return_distance=False)]
    return {k: (found == k).mean() for k in np.unique(kind)}


def test_readings_of_both_modalities_mix(mosaic):
    """Cells of one donor, read from one modality, among those of another read from either.

    A half is right. Of the neighbours of readings of RNA, .47 are readings of proteins; .21 the
    other way round.
    """
    model, *_ = mosaic
    donor = model.adata.obs["batch"].to_numpy(object)
    read = {m: model.get_shared_representation(from_modalities=m) for m in model.modalities}
    reference = np.vstack([z[donor == "p4_0"] for z in read.values()])
    kind = np.repeat(list(read), (donor == "p4_0").sum())
    for m, other in (("rna", "adt"), ("adt", "rna")):
        assert share_of_neighbours(reference, kind, read[m][donor == "p3_0"])[other] > 0.15, m


def test_cells_with_one_modality_lie_among_paired_ones(mosaic):
    """A half of all cells is paired, so would be a half of their neighbours.

    Of cells with proteins only it is .41, of those with RNA only .28: no cell of their donors is
    paired, and donors differ.
    """
    model, has, *_ = mosaic
    shared, paired = model.adata.obsm["X_shared"], has["rna"] & has["adt"]
    for m, least in (("rna", 0.15), ("adt", 0.3)):
        assert share_of_neighbours(shared, paired, shared[has[m] & ~paired])[True] > least, m


def test_new_cells_are_embedded_from_what_they_have(mosaic):
    model, *_ = mosaic
    new = model.adata[model.adata.obs["batch"] == "p3_0"][:40].copy()
    both = model.get_shared_representation(new)
    del new.mod["adt"]
    alone = model.get_shared_representation(new)
    assert np.isfinite(alone).all()
    agreement = [np.corrcoef(both[:, k], alone[:, k])[0, 1] for k in range(both.shape[1])]
    assert np.mean(agreement) > 0.8


@pytest.mark.parametrize(("source", "target"), [("rna", "adt"), ("adt", "rna")])
def test_a_missing_modality_is_predicted_as_well_as_by_regression(mosaic, source, target):
    """Correlation of each feature, on the scale of log1p of normalised counts.

    Ridge regression on components gets .43 and .26, neighbours .40 and .21, scvenn .44 and .27:
    with 576 paired cells, a little less or more is chance.
    """
    model, has, train, test = mosaic
    mdata = model.adata
    scaled = {}
    for m in mdata.mod:
        counts = np.zeros((mdata.n_obs, mdata[m].n_vars))
        counts[mdata.obs_names.get_indexer(mdata[m].obs_names)] = mdata[m].X.toarray()
        scaled[m] = np.log1p(1e3 * counts / counts.sum(1, keepdims=True).clip(min=1))
    predicted = model.predict(source, target, indices=test, library_size=1e3, return_numpy=True)
    paired = np.intersect1d(train, np.flatnonzero(has[source] & has[target]))
    pca = PCA(30, random_state=0).fit(scaled[source][paired])
    known, asked = (pca.transform(scaled[source][cells]) for cells in (paired, test))
    neighbours = KNeighborsRegressor(15).fit(known, scaled[target][paired])
    ridge = RidgeCV(np.logspace(-1, 5, 7), alpha_per_target=True).fit(known, scaled[target][paired])
    truth = scaled[target][test]
    varies = truth.std(0) > 0
    ours, by_neighbours, by_ridge = (
        np.median(scvenn.metrics.pearson(truth[:, varies], p[:, varies]))
        for p in (np.log1p(predicted), neighbours.predict(asked), ridge.predict(asked))
    )
    assert ours > max(by_neighbours, by_ridge) - 0.03
