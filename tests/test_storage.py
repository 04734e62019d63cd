"""How data is stored changes nothing: models of the same values are the same, from end to end."""

import anndata
import mudata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import scvi
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mudata import MuData

import scvenn
from scvenn.data.matrices import canonical
from scvenn.data.stored import stored_matrix
from tests.conftest import QUIET

pytestmark = pytest.mark.filterwarnings("ignore:No feature of modality")

N, D = 80, 12
# of likelihoods that set-up does not infer, those that ask for the same values as another
LIKELIHOODS = ["nb", "normal", "bernoulli", "poisson", "zinb", "nb_mixture", "beta"]
NAMES = np.array([f"c{i}" for i in range(N)])

STORAGE = {
    "dense": np.asarray,
    "F-ordered": np.asfortranarray,
    "half precision": lambda x: x.astype(np.float16),
    "double precision": lambda x: x.astype(np.float64),
    "CSR": sp.csr_matrix,
    "CSC": sp.csc_matrix,
    "CSR array": sp.csr_array,
    "repeated entries": lambda x: split_entries(sp.csr_matrix(x)),
}


def split_entries(csr):
    """The same values, each stored as two entries, unsorted, with zeros among them."""
    halves = np.where(np.isnan(csr.data), np.nan, np.floor(csr.data))
    data = np.concatenate([halves, csr.data - halves])
    rows = np.tile(np.repeat(np.arange(csr.shape[0]), np.diff(csr.indptr)), 2)
    order = np.random.default_rng(0).permutation(len(data))
    order = order[np.argsort(rows[order], kind="stable")]
    ends = np.concatenate([[0], np.cumsum(2 * np.diff(csr.indptr))])
    indices = np.tile(csr.indices, 2)
    return sp.csr_matrix((data[order], indices[order], ends), shape=csr.shape)


def values(likelihood, rng, factor, *, holes, width=D):
    """Values (N, width), exact in half precision; some are missing where they may be."""
    strength = factor[:, None] * rng.normal(size=width)
    x = rng.poisson(np.exp(0.5 + strength)).clip(0, 50).astype(np.float32)
    if likelihood == "bernoulli":
        x = (x > 1).astype(np.float32)
    if likelihood == "normal":
        x = np.where(x > 0, np.round(8 * (strength + rng.normal(size=x.shape))) / 8, 0)
    if likelihood == "beta":
        x = np.where(x > 1, np.round(16 / (1 + np.exp(-strength))) / 16, 0)
    if holes and likelihood in ("bernoulli", "normal", "beta", "nb_mixture"):
        x[rng.random(x.shape) < 0.05] = np.nan
    return x.astype(np.float32)


def make(likelihoods, form, *, seed, missing):
    """A MuData of modalities m0, m1, …; a third of the cells lacks all but the first, or none."""
    rng = np.random.default_rng(seed)
    factor = rng.normal(size=N)
    mod = {}
    for i, likelihood in enumerate(likelihoods):
        x = values(likelihood, rng, factor, holes=missing)
        rows = rng.permutation(N)[: 2 * N // 3] if missing and i else np.arange(N)
        mod[f"m{i}"] = anndata.AnnData(
            form(x[rows]),
            obs=pd.DataFrame(index=NAMES[rows]),
            var=pd.DataFrame(index=[f"m{i}_{j}" for j in range(D)]),
        )
    return MuData(mod)


def trained(mdata, likelihoods, *, model_class=scvenn.MMVAEpp, **training):
    scvi.settings.seed = 0
    model_class.setup_mudata(mdata, likelihoods={f"m{i}": x for i, x in enumerate(likelihoods)})
    model = model_class(mdata, n_shared=3, n_private=2, n_hidden=8)
    model.train(1, train_size=0.8, **training, **QUIET)
    return model


def assert_same(one, other):
    found, expected = other.get_shared_scores(), one.get_shared_scores()
    assert list(found["shared"]) == list(expected["shared"])
    np.testing.assert_allclose(found["score"], expected["score"], atol=1e-4)
    names = one.adata.obs_names
    rows = other.adata.obs_names.get_indexer(names)
    for key in ["X_shared", *(f"X_private_{m}" for m in one.modalities)]:
        np.testing.assert_allclose(
            other.adata.obsm[key][rows], one.adata.obsm[key], atol=1e-3, err_msg=key
        )


def check_storage(likelihoods, storage, *, seed, missing):
    one, other = (
        trained(make(likelihoods, form, seed=seed, missing=missing), likelihoods)
        for form in (np.asarray, STORAGE[storage])
    )
    assert_same(one, other)


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
@pytest.mark.parametrize("storage", ["CSR", "CSC"])
def test_sparse_data_gives_the_model_that_dense_data_gives(likelihood, storage):
    check_storage([likelihood, "nb"], storage, seed=1, missing=True)


@pytest.mark.parametrize("storage", list(STORAGE)[1:])
def test_every_storage_gives_the_same_model(storage):
    check_storage(["nb", "normal", "bernoulli"], storage, seed=2, missing=True)


@pytest.mark.slow
@settings(max_examples=5, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.lists(st.sampled_from(LIKELIHOODS), min_size=2, max_size=4),
    st.sampled_from(list(STORAGE)[1:]),
    st.integers(0, 99),
    st.booleans(),
)
def test_storage_changes_nothing_for_any_modalities(likelihoods, storage, seed, missing):
    check_storage(likelihoods, storage, seed=seed, missing=missing)


# ------------------------------------------------------------------------------- missing entries


@pytest.mark.parametrize("layer", [None, "masked"])
@pytest.mark.parametrize(
    "view", [lambda x: x[::-1], lambda x: x[5:][[3, 1, 2], 2:], lambda x: x[x.obs_names[:9], ::2]]
)
def test_a_view_of_a_masked_array_hides_what_the_array_hides(view, layer):
    rng = np.random.default_rng(0)
    x = np.ma.array(rng.normal(size=(N, D)), mask=rng.random((N, D)) < 0.2)
    plain = anndata.AnnData(np.ma.filled(x, np.nan))
    masked = anndata.AnnData(x, layers={"masked": x})
    read = canonical(stored_matrix(MuData({"m0": view(masked)}), "m0", layer), "m0", "")
    np.testing.assert_array_equal(read, view(plain).X.astype(np.float32))


@pytest.mark.parametrize("likelihood", ["normal", "bernoulli", "beta", "nb_mixture"])
def test_nan_among_stored_values_is_unobserved_as_in_dense_data(likelihood):
    models = []
    for form in (np.asarray, sp.csr_matrix):
        x = values(likelihood, np.random.default_rng(0), np.zeros(N), holes=True)
        assert np.isnan(x).any()
        mdata = make([likelihood, "nb"], np.asarray, seed=0, missing=False)
        mdata["m0"].X = form(x)
        models.append(trained(mdata, [likelihood, "nb"]))
        assert np.isfinite(mdata.obsm["X_shared"]).all()
    assert_same(*models)


@pytest.mark.parametrize("form", [np.asarray, sp.csr_matrix])
@pytest.mark.parametrize("n_modalities", [2, 3])
def test_a_modality_that_is_absent_at_a_site_shares_nothing_for_that(form, n_modalities):
    """Genes differ between the sites, of which one lacks a modality; nothing else is common."""
    rng = np.random.default_rng(0)
    n = 400
    site = np.arange(n) < n // 2
    names = np.array([f"c{i}" for i in range(n)])
    rates = np.exp(1 + np.outer(site, rng.normal(size=40)))
    matrices = {
        "rna": (rng.poisson(rates), names),
        "atac": ((rng.random((n, 40)) < 0.3)[site], names[site]),
        "adt": (rng.poisson(3, (n, 20)), names),
    }
    mdata = MuData(
        {
            m: anndata.AnnData(form(x.astype(np.float32)), obs=pd.DataFrame(index=cells))
            for m, (x, cells) in list(matrices.items())[:n_modalities]
        }
    )
    scvi.settings.seed = 0
    model = scvenn.MMVAEpp(mdata, n_hidden=8)
    model.train(1, **QUIET)
    assert model.get_shared_scores().groupby("modality")["shared"].sum().max() <= 2


# ------------------------------------------------------------------------------- what is left alone


@pytest.mark.parametrize("storage", ["repeated entries", "CSC", "F-ordered", "half precision"])
def test_training_and_readouts_leave_the_stored_values_as_they_are(storage):
    mdata = make(["nb", "normal"], STORAGE[storage], seed=0, missing=True)

    def stored():
        for adata in mdata.mod.values():
            x = adata.X
            for array in (x.data, x.indices, x.indptr) if sp.issparse(x) else (x,):
                yield array.dtype, np.asarray(array).tobytes()

    before = list(stored())
    model = trained(mdata, ["nb", "normal"])
    model.evaluate()
    model.predict("m0", "m1")
    assert list(stored()) == before


# ------------------------------------------------------------------------------- orders


@pytest.fixture(scope="module")
def model():
    return trained(make(["nb", "normal", "bernoulli"], sp.csr_matrix, seed=3, missing=True), [])


def in_another_order(mdata, what):
    new = mdata.copy()
    rng = np.random.default_rng(0)
    if what == "modalities":
        return MuData({m: new[m].copy() for m in reversed(list(new.mod))})
    for m, adata in list(new.mod.items()):
        cells = rng.permutation(adata.n_obs) if what == "cells" else slice(None)
        features = rng.permutation(adata.n_vars) if what == "features" else slice(None)
        new.mod[m] = adata[cells, features].copy()
    if what == "cells":
        return MuData({m: new[m].copy() for m in new.mod})
    new.update()
    return new


@pytest.mark.parametrize("what", ["cells", "features", "modalities"])
@pytest.mark.parametrize("form", list(STORAGE))
def test_orders_and_storage_of_new_data_change_no_prediction(model, what, form):
    new = in_another_order(model.adata, what)
    for adata in new.mod.values():
        adata.X = STORAGE[form](adata.X.toarray())
    rows = new.obs_names.get_indexer(model.adata.obs_names)
    np.testing.assert_allclose(
        model.get_latent_representation(new)[rows], model.get_latent_representation(), atol=1e-3
    )
    expected = model.predict("m0", "m1")
    found = model.predict("m0", "m1", new)
    pd.testing.assert_frame_equal(found.loc[expected.index, expected.columns], expected, atol=1e-3)


def test_cells_are_read_alike_in_parts_and_as_a_whole(model):
    whole = model.predict(["m0", "m2"], "m1")
    for part in (slice(0, 7), slice(7, N)):
        found = model.predict(["m0", "m2"], "m1", model.adata[part])
        pd.testing.assert_frame_equal(found, whole.loc[found.index], atol=1e-3)
    some = model.predict(["m0", "m2"], "m1", indices=np.arange(N)[::-3], batch_size=5)
    pd.testing.assert_frame_equal(some, whole.loc[some.index], atol=1e-3)


@pytest.mark.parametrize("view", [lambda x: x[:, ::-1], lambda x: x[:60][:, 1:][5:]])
def test_views_and_views_of_views_are_read_and_trained_on(view):
    whole = make(["nb", "normal"], sp.csr_matrix, seed=0, missing=False)
    views = MuData({m: view(adata) for m, adata in whole.mod.items()})
    copies = MuData({m: view(adata).copy() for m, adata in whole.mod.items()})
    assert views["m0"].is_view
    one, other = (trained(mdata, ["nb", "normal"]) for mdata in (copies, views))
    assert_same(one, other)
    np.testing.assert_allclose(
        one.get_latent_representation(MuData({m: view(a) for m, a in whole.mod.items()})),
        one.get_latent_representation(),
        atol=1e-5,
    )


def test_a_file_that_was_read_gives_the_same_model():
    mdata = make(["nb", "normal"], sp.csc_matrix, seed=0, missing=True)
    mdata.write("x.h5mu")
    one, other = (trained(x, ["nb", "normal"]) for x in (mdata, mudata.read_h5mu("x.h5mu")))
    assert_same(one, other)


# ------------------------------------------------------------------------------- held-out cells

SPLIT = {"external_indexing": [np.arange(50), np.arange(50, 60), np.arange(60, N)]}


def with_columns(mdata):
    rng = np.random.default_rng(0)
    mdata.obs["batch"] = [*"ab"] * (mdata.n_obs // 2)
    mdata.obs["donor"] = [*"xyyx"] * (mdata.n_obs // 4)
    mdata.obs["age"] = rng.normal(50, 10, mdata.n_obs)
    mdata.obs["type"] = [*"uv"] * (mdata.n_obs // 2)
    return mdata


@pytest.mark.parametrize("form", [np.asarray, sp.csr_matrix])
def test_held_out_cells_have_no_influence_on_any_weight(form, model_class):
    states = []
    for mutate in (False, True):
        mdata = with_columns(make(["nb", "normal", "bernoulli"], form, seed=0, missing=False))
        if mutate:
            test = mdata.obs_names[60:]
            for adata in mdata.mod.values():
                x = adata.X.toarray() if sp.issparse(adata.X) else adata.X
                x[60:] = x[60:][::-1, ::-1] * (1 if adata is mdata["m2"] else 9)
                adata.X = form(x)
            mdata.obs.loc[test, "batch"] = "a"
            mdata.obs.loc[test, "donor"] = "y"
            mdata.obs.loc[test, "type"] = "u"
            mdata.obs.loc[test, "age"] = np.arange(20) * 1e6
        scvi.settings.seed = 0
        model_class.setup_mudata(
            mdata,
            batch_key="batch",
            categorical_covariate_keys=["donor"],
            continuous_covariate_keys=["age"],
            labels_key="type",
        )
        model = model_class(mdata, n_hidden=8, dispersion="feature-batch", encode_covariates=True)
        model.train(2, datasplitter_kwargs=SPLIT, **QUIET)
        states.append(model.module.state_dict() | {"age": model._found.state("continuous_age")})
    one, other = states
    assert one.pop("age") == other.pop("age")
    assert one.keys() == other.keys()
    differ = [key for key in one if one[key].numpy().tobytes() != other[key].numpy().tobytes()]
    assert differ == []


def test_statistics_are_those_of_the_training_cells():
    mdata = make(["nb", "normal"], sp.csr_matrix, seed=0, missing=True)
    scvi.settings.seed = 0
    model = scvenn.MMVAEpp(mdata, n_hidden=8)
    before = {m: model._found.stats(m) for m in mdata.mod}
    model.train(1, datasplitter_kwargs=SPLIT, **QUIET)
    names = mdata.obs_names[:50]
    for m, adata in mdata.mod.items():
        x = adata[adata.obs_names.isin(names)].X.toarray()
        found = model._found.stats(m)
        np.testing.assert_allclose(found.mean, np.nanmean(x, 0), rtol=1e-5)
        assert not np.array_equal(found.mean, before[m].mean)
        whole = adata.X.toarray()
        np.testing.assert_allclose(before[m].mean, np.nanmean(whole, 0), rtol=1e-5)
