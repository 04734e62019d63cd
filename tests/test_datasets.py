"""Simulations tell the truth about themselves; loaders find, fetch and explain."""

import mudata
import numpy as np
import pooch
import pytest
import scipy.sparse as sp
from sklearn.ensemble import ExtraTreesRegressor
from sklearn.metrics import r2_score

from scvenn import datasets
from tests.conftest import data_file, write_10x

# ------------------------------------------------------------------------------- simulations


def test_gp_has_the_shape_asked_for():
    mdata = datasets.simulate_gp(
        60, n_shared_features=(3, 4), n_private_features=(5, 6), n_shared=2, n_private=4
    )
    assert mdata["view1"].shape == (60, 8)
    assert mdata["view2"].shape == (60, 10)
    assert mdata["view1"].var["shared"].tolist() == [True] * 3 + [False] * 5
    assert mdata.obsm["z_shared"].shape == (60, 2)
    assert mdata.obsm["z_private_view1"].shape == (60, 4)
    assert mdata.obsm["z_private_view2"].shape == (60, 4)
    assert np.abs(mdata.obsm["z_shared"]).max() <= 2


def test_gp_signal_has_variance_one_and_the_noise_asked_for():
    quiet, loud = (datasets.simulate_gp(400, noise=noise)["view1"].X for noise in (0.0, 0.15))
    np.testing.assert_allclose(quiet.std(0), 1, rtol=1e-5)
    np.testing.assert_allclose((loud - quiet).std(), 0.15, rtol=0.05)


def test_gp_features_depend_on_their_own_latent_only():
    mdata = datasets.simulate_gp(600, n_private_features=(10, 10))
    for m in ("view1", "view2"):
        x, shared = mdata[m].X, mdata[m].var["shared"].to_numpy()
        for z, explained in (
            (mdata.obsm["z_shared"], shared),
            (mdata.obsm[f"z_private_{m}"], ~shared),
        ):
            trees = ExtraTreesRegressor(50, random_state=0).fit(z[:500], x[:500])
            r2 = r2_score(x[500:], trees.predict(z[500:]), multioutput="raw_values")
            assert r2[explained].min() > 0.7
            assert r2[~explained].max() < 0.1


@pytest.mark.parametrize(
    "simulate",
    [
        lambda seed: datasets.simulate_gp(40, seed=seed),
        lambda seed: datasets.simulate_counts(40, missing=0.2, seed=seed),
    ],
)
def test_a_seed_gives_the_same_data(simulate):
    one, two, other = simulate(1), simulate(1), simulate(2)
    m = next(iter(one.mod))
    dense = [x.toarray() if sp.issparse(x) else x for x in (d[m].X for d in (one, two, other))]
    np.testing.assert_array_equal(dense[0], dense[1])
    assert dense[0].shape != dense[2].shape or not np.array_equal(dense[0], dense[2])
    np.testing.assert_array_equal(one.obsm["z_shared"], two.obsm["z_shared"])


def test_counts_have_the_values_of_their_likelihood():
    kinds = {"a": "nb", "b": "poisson", "c": "bernoulli", "d": "normal"}
    mdata = datasets.simulate_counts(300, modalities=kinds, depth=4)
    for m in "ab":
        x = mdata[m].X
        assert sp.issparse(x)
        assert (x.data == np.floor(x.data)).all()
        assert x.mean() == pytest.approx(4, rel=0.1)
    assert set(np.unique(mdata["c"].X.data)) == {1.0}
    assert 0.2 < mdata["c"].X.mean() < 0.5
    assert (mdata["d"].X < 0).any()


def test_nb_varies_more_than_poisson():
    rate = np.zeros((2000, 50))
    excess = {}
    for name in ("nb", "poisson"):
        x = datasets._DRAWS[name](rate, 5.0, np.random.default_rng(0)).toarray()
        excess[name] = np.median(x.var(0) / x.mean(0))
    assert excess["nb"] > excess["poisson"] + 0.7


def test_missing_cells_keep_one_modality():
    mdata = datasets.simulate_counts(400, missing=0.4)
    assert mdata.n_obs == 400
    counts = [mdata.obs_names.isin(mdata[m].obs_names).mean() for m in mdata.mod]
    assert all(0.6 < share < 0.9 for share in counts)


def test_the_truth_follows_the_cells():
    """Cells that lack a modality reorder the MuData; its truth must come along."""
    whole, part = (datasets.simulate_counts(100, missing=missing) for missing in (0.0, 0.4))
    rows = whole.obs_names.get_indexer(part.obs_names)
    assert list(rows) != list(range(100))
    np.testing.assert_array_equal(whole.obsm["z_shared"][rows], part.obsm["z_shared"])
    assert list(whole.obs["cell_type"].iloc[rows]) == list(part.obs["cell_type"])


@pytest.mark.parametrize(
    ("simulate", "arguments", "message"),
    [
        (datasets.simulate_gp, {"n_shared_features": (0, 1)}, "n_shared_features=0: expected"),
        (datasets.simulate_gp, {"n_private_features": (3,)}, "two numbers"),
        (datasets.simulate_gp, {"noise": -1}, "noise=-1"),
        (datasets.simulate_gp, {"noise": "1"}, "noise='1': expected a number"),
        (datasets.simulate_counts, {"modalities": {"a": "zinb"}}, "expected likelihoods among"),
        (datasets.simulate_counts, {"missing": 1}, "missing=1"),
        (datasets.simulate_counts, {"n_shared_features": 500}, "n_shared_features=500"),
        (datasets.simulate_counts, {"n_types": 0}, "n_types=0"),
    ],
)
def test_numbers_out_of_range_are_refused(simulate, arguments, message):
    with pytest.raises(ValueError, match=message):
        simulate(**arguments)


# ------------------------------------------------------------------------------- real data

LOADERS = {
    "cll": (datasets.cll, "cll.h5mu"),
    "citeseq_mosaic": (datasets.citeseq_mosaic, "citeseq_mosaic.h5mu"),
    "pbmc_citeseq": (datasets.pbmc_citeseq, "citeseq_pbmc1k.h5mu"),
    "pbmc_multiome": (datasets.pbmc_multiome, "pbmc10k_multiome_small.h5mu"),
}


@pytest.mark.parametrize("name", list(LOADERS))
def test_a_file_in_the_data_folder_is_taken(name):
    load, file = LOADERS[name]
    path = data_file(file)
    expected = mudata.read_h5mu(path)
    assert load().shape == expected.shape
    assert list(load().mod) == list(expected.mod)


@pytest.mark.parametrize("name", list(LOADERS))
def test_without_a_network_the_error_says_what_to_do(name, monkeypatch, tmp_path):
    monkeypatch.delenv("SCVENN_DATA", raising=False)
    monkeypatch.setattr(pooch, "os_cache", lambda project: tmp_path / project)

    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    with pytest.raises(ConnectionError) as error:
        LOADERS[name][0]()
    message = str(error.value)
    assert "Could not download https://" in message
    assert str(tmp_path / "scvenn") in message
    assert "SCVENN_DATA" in message


def test_a_data_folder_that_is_none_is_refused(monkeypatch, tmp_path):
    monkeypatch.setenv("SCVENN_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(NotADirectoryError, match="SCVENN_DATA="):
        datasets.cll()


def downloaded(load, monkeypatch):
    """What a loader gives from the network or the cache; skip where there is neither."""
    monkeypatch.delenv("SCVENN_DATA", raising=False)
    try:
        return load()
    except ConnectionError as error:
        pytest.skip(str(error))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cll", "citeseq_mosaic"])
def test_a_download_is_read_whatever_mudata_is_told_of_columns(name, monkeypatch):
    load, _ = LOADERS[name]
    with mudata.set_options(pull_on_update=False):
        assert downloaded(load, monkeypatch).n_obs > 0


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cll", "citeseq_mosaic"])
def test_a_download_equals_the_file_in_the_data_folder(name, monkeypatch):
    load, file = LOADERS[name]
    local = mudata.read_h5mu(data_file(file))
    fetched = downloaded(load, monkeypatch)
    assert list(fetched.mod) == list(local.mod)
    for m in local.mod:
        np.testing.assert_array_equal(
            fetched[m].obs_names.sort_values(), local[m].obs_names.sort_values()
        )
        a, b = fetched[m].X, local[m][fetched[m].obs_names, fetched[m].var_names].X
        a, b = (x.toarray() if sp.issparse(x) else x for x in (a, b))
        np.testing.assert_allclose(a, b, rtol=1e-5)
    label = "IGHV" if name == "cll" else "celltype"
    ours, theirs = fetched.obs[label], local.obs[label].reindex(fetched.obs_names)
    np.testing.assert_array_equal(ours.isna(), theirs.isna())
    assert (ours.dropna() == theirs.dropna()).all()


def test_citeseq_is_read_from_a_file_of_cell_ranger(monkeypatch, tmp_path):
    """Genes that no cell has are left out; antibodies are ``adt``."""
    monkeypatch.delenv("SCVENN_DATA", raising=False)
    genes, proteins = sp.csr_matrix([[0, 1, 2], [0, 0, 3.0]]), sp.csr_matrix([[4, 5], [0, 6.0]])
    counts = {
        "Gene Expression": (genes, "ABC"),
        "Antibody Capture": (proteins, ["CD3", "CD4_TotalSeqC"]),
    }
    write_10x(tmp_path / "1k.h5", counts, ["c0", "c1"])
    monkeypatch.setattr(datasets, "_fetch", lambda remote: tmp_path / "1k.h5")
    mdata = datasets.pbmc_citeseq()
    assert list(mdata.mod) == ["rna", "adt"]
    assert list(mdata["rna"].var_names) == ["B", "C"]
    assert list(mdata["adt"].var_names) == ["CD3_protein", "CD4_protein"]
    np.testing.assert_array_equal(mdata["rna"].X.toarray(), [[1, 2], [0, 3]])
    np.testing.assert_array_equal(mdata["adt"].X.toarray(), [[4, 5], [0, 6]])


def test_cll_labels():
    data_file("cll.h5mu")
    mdata = datasets.cll()
    both = mdata.obs_names.isin(mdata["rna"].obs_names) & mdata.obs_names.isin(
        mdata["meth"].obs_names
    )
    assert (both & mdata.obs["IGHV"].notna()).sum() == 126


def test_features_of_one_cell_cannot_be_scaled():
    with pytest.raises(ValueError, match="n_obs=1: expected 2 or more"):
        datasets.simulate_gp(1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"depth": 0}, "depth=0: expected a number above 0"),
        ({"depth": np.nan}, "depth=nan: expected a number above 0"),
        ({"depth": "5"}, "depth='5': expected a number above 0"),
        ({"missing": "0.1"}, "missing='0.1': expected a number of at least 0 and below 1"),
        ({"n_latent": 1}, "more than two types need two dimensions"),
        ({"modalities": ["rna", "atac"]}, "expected likelihoods by modality"),
    ],
)
def test_counts_that_cannot_be_simulated_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        datasets.simulate_counts(20, **arguments)


def test_noise_of_a_simulation_is_a_number():
    with pytest.raises(ValueError, match="noise=nan: expected a number of at least 0"):
        datasets.simulate_gp(20, noise=np.nan)


@pytest.mark.parametrize(
    "arguments",
    [
        {"modalities": {}},
        {"modalities": {1: "nb", 2: "normal"}},
        {"modalities": {"rna": ["nb"]}},
        {"n_shared_features": 2.5},
        {"n_features": 20.0},
        {"n_obs": 50.0},
        {"n_types": 2.5},
        {"depth": 1e30},
    ],
)
def test_arguments_of_simulated_counts_are_checked(arguments):
    with pytest.raises(ValueError, match=f"{next(iter(arguments))}=.*expected"):
        datasets.simulate_counts(**{"n_obs": 20, "n_features": 8} | arguments)


@pytest.mark.parametrize(
    "arguments", [{"noise": 1e38}, {"n_shared_features": 5}, {"n_private_features": (2.5, 3)}]
)
def test_arguments_of_simulated_processes_are_checked(arguments):
    with pytest.raises(ValueError, match=f"{next(iter(arguments))}="):
        datasets.simulate_gp(**{"n_obs": 10} | arguments)
