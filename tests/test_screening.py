"""Which features are shared: known answers, and nothing read that must not be."""

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import scvi
import torch
from anndata import AnnData
from hypothesis import given
from hypothesis import strategies as st
from mudata import MuData
from sklearn.metrics import r2_score

import scvenn
from scvenn.screening.features import (
    _PENALTIES,
    _basis,
    _operators,
    _principal_components,
    gram,
    least_squares_r2,
    ridge_r2,
    screen,
    threshold,
)
from tests.conftest import MODELS, QUIET, three_modalities


def left_out_in_turn(fit_and_predict, covariates, y):
    """R² of predictions of each cell by a fit to the others, against one on covariates alone."""
    n = len(y)
    columns = np.hstack([np.ones((n, 1)), covariates])
    residual, reference = np.empty_like(y), np.empty_like(y)
    for i in range(n):
        rest = np.arange(n) != i
        residual[i] = y[i] - fit_and_predict(rest, i, columns)
        reference[i] = y[i] - columns[i] @ np.linalg.lstsq(columns[rest], y[rest], rcond=None)[0]
    return 1 - np.square(residual).sum(0) / np.square(reference).sum(0)


@pytest.fixture
def few_cells():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(25, 4)), rng.normal(size=(25, 2))
    y[:, 0] += x[:, 0]
    batch = np.eye(3)[rng.integers(3, size=25)]
    return x, y + batch @ rng.normal(size=(3, 2)), batch


def test_the_short_cut_of_ridge_regression_equals_leaving_out_each_cell(few_cells):
    x, y, batch = few_cells
    kernel = gram(x)
    scores = []
    for penalty in _PENALTIES:

        def fit_and_predict(rest, i, columns, penalty=penalty):
            # kernel ridge regression with free covariates: a linear system in both
            n, v = rest.sum(), columns.shape[1]
            system = np.zeros((n + v, n + v))
            system[:n, :n] = kernel[np.ix_(rest, rest)] + penalty * np.eye(n)
            system[:n, n:], system[n:, :n] = columns[rest], columns[rest].T
            right = np.vstack([y[rest], np.zeros((v, y.shape[1]))])
            solved = np.linalg.lstsq(system, right, rcond=None)[0]
            return kernel[i, rest] @ solved[:n] + columns[i] @ solved[n:]

        scores.append(left_out_in_turn(fit_and_predict, batch, y))
    basis = _basis(25, batch, slice(25))
    found = ridge_r2(_operators([kernel], basis), basis, y)
    np.testing.assert_allclose(found, np.max(scores, axis=0), rtol=1e-3)


@pytest.mark.parametrize("matrix", [np.asarray, sp.csr_matrix])
def test_the_short_cut_of_least_squares_equals_leaving_out_each_cell(few_cells, matrix):
    x, y, batch = few_cells
    y = np.round(y * 2)  # with zeros

    def fit_and_predict(rest, i, columns):
        both = np.hstack([columns, x])
        return both[i] @ np.linalg.lstsq(both[rest], y[rest], rcond=None)[0]

    expected = left_out_in_turn(fit_and_predict, batch, y)
    basis = _basis(25, batch, slice(25))
    whole = np.linalg.qr(np.hstack([basis, x]))[0]
    np.testing.assert_allclose(least_squares_r2([whole], basis, matrix(y)), expected, rtol=1e-6)


def test_a_cell_alone_in_its_batch_is_left_out():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 5))
    y = x + 0.1 * rng.normal(size=x.shape)
    batch = np.eye(2)[[0] * 59 + [1]]
    y[59] = 1e3
    found = screen(y, [x], np.random.default_rng(0), covariates=batch)
    assert (found.score > 0.9).all()


@given(seed=st.integers(0, 100))
def test_inner_products_are_those_of_standardised_features(seed):
    rng = np.random.default_rng(seed)
    x = rng.poisson(0.7, (12, 8)).astype(float)
    x[:, 0] = 3  # constant: counts for nothing
    x[:, 1] = np.arange(12)
    varying = x[:, x.std(0) > 0]
    z = (varying - varying.mean(0)) / varying.std(0)
    expected = z @ z.T / z.shape[1]
    np.testing.assert_allclose(gram(x), expected, atol=1e-5)
    np.testing.assert_allclose(gram(sp.csr_matrix(x)), expected, atol=1e-5)
    assert np.diag(gram(x)).mean() == pytest.approx(1, rel=1e-5)


@pytest.mark.parametrize("matrix", [np.asarray, sp.csr_matrix])
def test_principal_components_are_those_of_what_covariates_leave(matrix):
    rng = np.random.default_rng(0)
    x = rng.poisson(1, (40, 12)).astype(float)
    batch = np.eye(2)[rng.integers(2, size=40)]
    basis = _basis(40, batch, slice(40))
    found = _principal_components(matrix(x), basis, 3, rng)
    z = x if matrix is sp.csr_matrix else (x - x.mean(0)) / x.std(0)
    left = np.linalg.svd(z - basis @ basis.T @ z, full_matrices=False)[0][:, :3]
    np.testing.assert_allclose(np.abs(found.T @ left), np.eye(3), atol=1e-6)


def test_what_many_sparse_features_tell_a_little_of_is_found():
    """A programme that shifts the rate of every peak by little; no peak alone tells much."""
    rng = np.random.default_rng(0)
    z = rng.normal(size=(4000, 1))
    genes = rng.poisson(np.exp(0.5 * z * rng.normal(size=20)))
    peaks = rng.random((4000, 600)) < 0.03 * np.exp(0.5 * z * rng.normal(size=600))
    genes, peaks = (sp.csr_matrix(x.astype(np.float32)) for x in (genes, peaks))
    assert screen(peaks, [genes], np.random.default_rng(0)).shared.mean() > 0.3
    other = peaks[rng.permutation(4000)]
    assert screen(other, [genes], np.random.default_rng(0)).shared.mean() < 0.05


def test_missing_entries_count_as_the_mean():
    x = np.random.default_rng(0).normal(size=(10, 3))
    x[2, 1] = np.nan
    filled = x.copy()
    filled[2, 1] = np.nanmean(x[:, 1])
    np.testing.assert_allclose(gram(x), gram(filled), atol=1e-5)


@pytest.mark.parametrize("n_private", [20, 300])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_shared_features_are_found_and_private_ones_are_not(n_private, seed):
    mdata = scvenn.datasets.simulate_gp(400, n_private_features=(n_private, 50), seed=seed)
    for target, source in (("view1", "view2"), ("view2", "view1")):
        found = screen(mdata[target].X, [mdata[source].X], np.random.default_rng(0))
        shared = mdata[target].var["shared"].to_numpy()
        assert found.shared[shared].all()
        # the private ones hang together: a chance relation of their latent is one of them all
        assert found.shared[~shared].mean() < 0.3
        assert np.nanmax(found.score) <= 1


@pytest.mark.parametrize("likelihood", ["nb", "poisson", "bernoulli"])
def test_shared_features_are_found_in_counts_and_peaks(likelihood):
    mdata = scvenn.datasets.simulate_counts(
        800, modalities={"rna": "nb", "other": likelihood}, n_features=100
    )
    x = {m: sp.csr_matrix(mdata[m].X).log1p() for m in mdata.mod}
    for target, source in (("rna", "other"), ("other", "rna")):
        found = screen(x[target], [x[source]], np.random.default_rng(0))
        shared = mdata[target].var["shared"].to_numpy()
        assert found.shared[shared].mean() > 0.7
        assert found.shared[~shared].mean() < 0.15


def test_a_relation_without_a_linear_part_is_found():
    """One view knows z, the other z² and |z|: no feature is correlated with any other's."""
    rng = np.random.default_rng(0)
    z = rng.uniform(-2, 2, (800, 2))
    odd = np.hstack([z, np.sin(z), z**3]) + 0.1 * rng.normal(size=(800, 6))
    even = np.hstack([z**2, np.abs(z), np.cos(z)]) + 0.1 * rng.normal(size=(800, 6))
    noise = rng.normal(size=(2, 800, 30))
    source, target = np.hstack([odd, noise[0]]), np.hstack([even, noise[1]])
    found = screen(target, [source], np.random.default_rng(0))
    assert found.shared[:6].all()
    assert found.shared[6:].mean() < 0.1
    back = screen(source, [target], np.random.default_rng(0))
    assert not back.shared[:6].any()  # z² does not tell the sign of z
    assert back.related[:6].all()
    assert back.related[6:].mean() < 0.1


def test_among_unrelated_modalities_next_to_nothing_is_called_shared():
    called = []
    for seed in range(10):
        x, y = np.random.default_rng(seed).normal(size=(2, 200, 40))
        called.append(screen(y, [x], np.random.default_rng(seed)).shared.sum())
    assert np.mean(called) < 1


def test_a_feature_is_shared_if_any_of_the_others_predicts_it():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 300, 5))
    target = np.hstack([x[:, :2], y[:, :2], rng.normal(size=(300, 6))])
    target += 0.3 * rng.normal(size=target.shape)
    found = screen(target, [x, y], np.random.default_rng(0))
    assert found.shared[:4].all()
    assert not found.shared[4:].any()


def test_what_covariates_explain_is_not_shared():
    """Batches shift all features of both modalities, and nothing else is common to them."""
    rng = np.random.default_rng(0)
    batch = np.eye(3)[rng.integers(3, size=400)]
    x, y = (batch @ rng.normal(size=(3, 20)) + rng.normal(size=(400, 20)) for _ in range(2))
    y[:, 0] += x[:, 0] - batch @ batch.T @ x[:, 0] / batch.sum(0).mean()
    assert screen(y, [x], np.random.default_rng(0)).shared.mean() > 0.8
    found = screen(y, [x], np.random.default_rng(0), covariates=batch)
    assert found.shared[0]
    assert found.shared[1:].mean() < 0.1


def test_missing_values_of_the_target_do_not_matter():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 5))
    y = x + 0.3 * rng.normal(size=x.shape)
    whole = screen(y, [x], np.random.default_rng(0)).score
    y[rng.random(y.shape) < 0.2] = np.nan
    np.testing.assert_allclose(screen(y, [x], np.random.default_rng(0)).score, whole, atol=0.1)


def test_a_constant_feature_has_no_score_and_is_not_shared():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(50, 3))
    y = np.hstack([x, np.ones((50, 1))])
    found = screen(y, [x], rng)
    assert np.isnan(found.score[3])
    assert not found.shared[3]


@pytest.mark.parametrize(
    ("score", "null", "n_above"),
    [
        ([0.5, 0.6, 0.7], [-0.1, -0.1, -0.1], 3),
        ([0.5, 0.6, 0.7], [0.9, 0.9, 0.9], 0),
        ([-0.3, -0.2, 0.7], [-0.4, -0.4, -0.4], 1),  # never below 0
        ([0.1, *np.full(20, 0.5)], [0.3, *np.full(20, -0.1)], 20),  # 1 accident among 21
        ([0.4, *np.full(19, 0.5)], [0.45, *np.full(19, -0.1)], 19),
    ],
)
def test_thresholds(score, null, n_above):
    score = np.array(score)
    assert (score > threshold(score, np.array(null), fdr=0.04)).sum() == n_above


# ------------------------------------------------------------------------------- in a model


@pytest.fixture
def trained():
    scvi.settings.seed = 0
    mdata = scvenn.datasets.simulate_counts(400, n_features=40, missing=0.1)
    model = scvenn.MMVAEpp(mdata, screen=True, n_shared=3, n_private=2, n_hidden=16)
    model.train(3, **QUIET)
    return model


def test_scores_are_told_and_written(trained):
    table = trained.get_shared_scores()
    assert len(table) == 80
    for m, part in table.groupby("modality"):
        planted = trained.adata[m].var["shared"].to_numpy()
        assert part["shared"][planted].mean() > 0.7
        np.testing.assert_array_equal(
            trained.adata[m].var["scvenn_shared_score"].to_numpy(), part["score"].to_numpy()
        )


def test_scores_follow_the_features_of_new_data(trained):
    new = trained.adata.copy()
    new.mod["rna"] = new["rna"][:, ::-1].copy()
    del new["rna"].var["scvenn_shared_score"]
    trained.embed(new)
    np.testing.assert_array_equal(
        new["rna"].var["scvenn_shared_score"][::-1],
        trained.adata["rna"].var["scvenn_shared_score"],
    )


def test_only_training_cells_are_screened():
    """Values of other cells, however wild, change no score."""
    found, library = [], None
    for garble in (False, True):
        mdata = scvenn.datasets.simulate_counts(300, n_features=30)
        cells = np.random.default_rng(0).permutation(300)
        split = [cells[:200], cells[200:250], cells[250:]]
        if garble:
            for m in mdata.mod:
                x = mdata[m].X.toarray()
                x[cells[200:]] = np.random.default_rng(1).integers(0, 2, x[cells[200:]].shape)
                mdata[m].X = sp.csr_matrix(x)
        scvi.settings.seed = 0
        scvenn.MMVAEpp.setup_mudata(mdata, likelihoods={"rna": "nb", "atac": "bernoulli"})
        model = scvenn.MMVAEpp(mdata, screen=True)
        if library is not None:  # set-up knows all cells: the median library of counts
            model.module.likelihood("rna").library_.copy_(library)
        library = model.module.likelihood("rna").library_.clone()
        model.train(1, datasplitter_kwargs={"external_indexing": split}, **QUIET)
        found.append(model.get_shared_scores())
    np.testing.assert_array_equal(found[0]["score"], found[1]["score"])
    np.testing.assert_array_equal(found[0]["shared"], found[1]["shared"])


def test_a_seed_gives_the_same_scores():
    tables = []
    for _ in range(2):
        scvi.settings.seed = 3
        model = scvenn.MMVAEpp(three_modalities(missing=0.3), screen=True)
        model.train(1, **QUIET)
        tables.append(model.get_shared_scores())
    np.testing.assert_array_equal(tables[0]["score"], tables[1]["score"])


def test_scores_and_networks_are_saved(trained):
    trained.save("model")
    loaded = scvenn.MMVAEpp.load("model", trained.adata)
    np.testing.assert_array_equal(
        loaded.get_shared_scores()["score"], trained.get_shared_scores()["score"]
    )
    np.testing.assert_array_equal(
        loaded.predict("rna", "atac", return_numpy=True),
        trained.predict("rna", "atac", return_numpy=True),
    )


def test_training_further_keeps_what_was_screened(trained):
    """Other training cells find other features; the networks of those learned stay."""
    table = trained.get_shared_scores()
    weight = trained.module.branches[0].cross_decoder.out.weight.clone()
    trained.train(1, shuffle_set_split=False, **QUIET)
    pd.testing.assert_frame_equal(trained.get_shared_scores(), table)
    torch.testing.assert_close(
        trained.module.branches[0].cross_decoder.out.weight, weight, atol=0.1, rtol=0
    )


def test_a_feature_that_is_not_shared_is_predicted_by_its_mean(trained):
    table = trained.get_shared_scores()
    private = table["feature"][(table["modality"] == "atac") & ~table["shared"]]
    without = {"atac": (np.zeros(3), np.zeros((3, 40)))}  # learned after training, if at all
    trained.module.set_learned_after_training(weak_effects=without)
    predicted = trained.predict("rna", "atac", features=list(private)).dropna()
    np.testing.assert_allclose(predicted - predicted.iloc[0], 0, atol=1e-6)


def test_rare_features_are_predicted_by_their_mean_from_the_start():
    """An epoch of five steps moves no logit from 0 to that of a peak of one cell in twenty."""
    mdata = scvenn.datasets.simulate_counts(600, n_features=60)
    rng = np.random.default_rng(0)
    mdata["atac"].X[:, 30:] = rng.random((600, 30)) < 0.05
    scvi.settings.seed = 0
    model = scvenn.MMVAEpp(mdata)
    model.train(1, train_size=0.8, **QUIET)
    predicted = model.predict("rna", "atac", return_numpy=True)[:, 30:]
    np.testing.assert_allclose(predicted, np.full_like(predicted, 0.05), atol=0.05)


def test_features_that_labels_predict_are_read_but_not_predicted():
    """A label that only the private programme of rna knows."""
    mdata = scvenn.datasets.simulate_counts(400, n_features=40)
    side = mdata.obsm["z_private_rna"][:, 0] > 0
    mdata.obs["side"] = np.where(side, "right", "left")
    n_related = {}
    for key in (None, "side"):
        scvenn.MMVAEpp.setup_mudata(mdata, labels_key=key)
        scvi.settings.seed = 0
        model = scvenn.MMVAEpp(mdata)
        model.train(1, **QUIET)
        table = model.get_shared_scores()
        private = ~mdata["rna"].var["shared"].to_numpy()
        rna = table[table["modality"] == "rna"][private]
        n_related[key] = rna["related"].sum()
        assert rna["shared"].mean() < 0.4
    assert n_related["side"] > n_related[None] + 5


def test_nothing_in_common_warns():
    mdata = scvenn.datasets.simulate_counts(200, n_features=20, n_shared_features=0)
    with pytest.warns(UserWarning, match="No feature of modality '.*' is predicted by"):
        scvenn.MMVAEpp(mdata, screen=True).train(1, **QUIET)


def test_a_model_that_does_not_screen_has_no_scores(small):
    model = scvenn.MMVAEpp(small, screen=False)
    model.train(1, **QUIET)
    with pytest.raises(ValueError, match="screen=True"):
        model.get_shared_scores()
    assert "scvenn_shared_score" not in small["rna"].var


def test_an_objective_without_cross_view_terms_cannot_screen(small):
    with pytest.raises(ValueError, match="nothing to screen for"):
        scvenn.MVAE(small, screen=True)


@pytest.mark.parametrize("name", [n for n in MODELS if n != "MVAE"])
def test_every_objective_with_cross_view_terms_can_screen(name):
    mdata = three_modalities(missing=0.3)
    scvi.settings.seed = 0
    model = MODELS[name](mdata, screen=True, n_shared=3, n_private=2, n_hidden=16)
    model.train(3, **QUIET)
    assert np.isfinite(mdata.obsm["X_shared"]).all()
    assert np.isfinite(model.history["elbo_validation"].to_numpy(float)).all()


@pytest.mark.slow
def test_a_relation_without_a_linear_part_is_learned():
    """No worse than without screening, where one view knows z and the other even functions."""
    rng = np.random.default_rng(0)
    z = rng.uniform(-2, 2, (1000, 2))
    odd = np.hstack([z, np.sin(z), z**3])
    even = np.hstack([z**2, np.abs(z), np.cos(z)])
    views = {}
    for m, signal in (("odd", odd), ("even", even)):
        private = rng.uniform(-2, 2, (1000, 2)) @ rng.normal(size=(2, 20))
        x = np.hstack([signal / signal.std(0), private]) + 0.15 * rng.normal(size=(1000, 26))
        views[m] = AnnData(x.astype(np.float32), obs=pd.DataFrame(index=map(str, range(1000))))
    r2 = {}
    for kwargs in ({"screen": True}, {"screen": False}):
        mdata = MuData({m: view.copy() for m, view in views.items()})
        scvi.settings.seed = 0
        model = scvenn.MMVAEpp(mdata, **kwargs)
        model.train(100, train_size=0.8, **QUIET)
        rows = model.validation_indices
        predicted = model.predict("odd", "even", indices=rows, return_numpy=True)[:, :6]
        r2[kwargs["screen"]] = r2_score(mdata["even"].X[rows][:, :6], predicted)
    assert r2[True] > 0.8
    assert r2[True] > r2[False] - 0.02


@pytest.mark.slow
@pytest.mark.parametrize("n_private", [20, 300])
def test_cross_view_predictions_keep_up_with_trees(n_private):
    """The published model has R² of 0.7 and 0 here; its private features fall below 0."""
    mdata = scvenn.datasets.simulate_gp(1000, n_private_features=(n_private, 50))
    scvi.settings.seed = 0
    model = scvenn.MMVAEpp(mdata, screen=True)
    model.train(150, train_size=0.8, **QUIET)
    rows = model.validation_indices
    for source, target in (("view1", "view2"), ("view2", "view1")):
        r2 = r2_score(
            mdata[target].X[rows],
            model.predict(source, target, indices=rows, return_numpy=True),
            multioutput="raw_values",
        )
        shared = mdata[target].var["shared"].to_numpy()
        assert np.median(r2[shared]) > 0.85
        assert np.median(r2[~shared]) > -0.05
    one, two = (model.get_shared_representation(from_modalities=m, indices=rows) for m in mdata.mod)
    agreement = [np.corrcoef(one[:, k], two[:, k])[0, 1] for k in range(one.shape[1])]
    assert np.mean(agreement) > 0.9
