"""What latents mean: known answers on planted data, and arithmetic that can be done by hand."""

import copy
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import scvi
import torch
from mudata import MuData

import scvenn
from scvenn import metrics, network
from scvenn.readouts import interpretation
from tests.conftest import QUIET, data_file, three_modalities, under_other_names

# brisk training on few cells
BRISK = {**QUIET, "early_stopping": False, "plan_kwargs": {"lr": 5e-3}}


def planted():
    """Ten shared and ten private features in counts and in real values."""
    return scvenn.datasets.simulate_counts(
        400,
        modalities={"rna": "nb", "meth": "normal"},
        n_features=20,
        n_shared_features=10,
        n_types=4,
        n_latent=2,
    )


@pytest.fixture(scope="module")
def model():
    """MMVAE++ that has learned what is planted, with linear decoders."""
    scvi.settings.seed = 0
    model = scvenn.MMVAEpp(planted(), n_shared=3, n_private=4, n_hidden=32, decoder="linear")
    model.train(100, train_size=0.7, **BRISK)
    return model


@pytest.fixture(scope="module")
def incomplete():
    """MMVAE, hardly trained, on three modalities with missing cells, entries and batches."""
    scvi.settings.seed = 0
    mdata = three_modalities(missing=0.3, n_obs=200)
    scvenn.MMVAE.setup_mudata(mdata, batch_key="batch")
    model = scvenn.MMVAE(mdata, n_shared=3, n_private=2, n_hidden=16)
    model.train(3, train_size=0.5, **QUIET)
    return model


def r2_of(table, modality):
    return table[table["modality"] == modality].set_index("latent")["r2"]


def new_cells(mdata, *modalities):
    """The same values, of cells with other names, in some modalities only."""
    new = MuData({m: mdata[m].copy() for m in modalities})
    new.obs["batch"] = mdata.obs["batch"]
    return under_other_names(new)


# ------------------------------------------------------------------------ variance explained


def test_shared_and_private_explain_what_is_planted(model):
    table = model.variance_explained()
    assert list(table.columns) == ["modality", "latent", "r2"]
    values = model.adata["meth"].X[model.validation_indices]
    planted = values[:, :10].var(0).sum() / values.var(0).sum()  # shared features come first
    meth = r2_of(table, "meth")
    assert meth["shared"] == pytest.approx(planted, abs=0.1)
    assert meth["private"] == pytest.approx(1 - planted, abs=0.1)
    assert meth["both"] > 0.85
    for m in model.modalities:
        assert r2_of(table, m)["overlap"] == pytest.approx(0, abs=0.05)


@pytest.mark.slow
def test_the_parts_of_the_papers_simulation_are_found():
    scvi.settings.seed = 0
    mdata = scvenn.datasets.simulate_gp(400, n_private_features=(10, 10))
    model = scvenn.MMVAEpp(mdata, n_shared=3, n_private=3)
    model.train(80, train_size=0.7, **BRISK)
    table = model.variance_explained()
    for m in model.modalities:  # half of the features are shared; noise is 2 % of the variance
        r2 = r2_of(table, m)
        assert r2[["shared", "private"]].between(0.35, 0.55).all()
        assert r2["both"] > 0.8
        assert abs(r2["overlap"]) < 0.05


def test_overlap_is_what_the_parts_have_in_common(incomplete):
    table = incomplete.variance_explained()
    for m in incomplete.modalities:
        r2 = r2_of(table, m)
        assert r2["overlap"] == pytest.approx(r2["shared"] + r2["private"] - r2["both"])
        assert len(r2) == 4 + 3 + 2


def test_both_is_the_r2_of_the_prediction(model):
    """By hand: predictions minus their offset, against the values of the held-out cells."""
    cells = model.validation_indices
    truth = model.adata["meth"].X[cells]
    predicted = model.predict(model.modalities, "meth", indices=cells, return_numpy=True)
    residual = (truth - predicted).var(0).sum() / truth.var(0).sum()
    assert r2_of(model.variance_explained(), "meth")["both"] == pytest.approx(
        1 - residual, abs=1e-5
    )


def test_dimensions_of_a_linear_decoder_lose_what_they_hold(model):
    """Without a dimension that no prediction moves with, nothing is lost."""
    r2 = r2_of(model.variance_explained(), "meth")
    loading = model.loadings("meth", "private").groupby("dimension")["loading"]
    weight = loading.apply(lambda values: np.square(values).sum())
    assert (r2[weight.index][weight < 1e-4 * weight.sum()].abs() < 1e-3).all()
    assert r2[weight.idxmax()] > 0


def test_cells_fit_into_any_minibatch(incomplete):
    whole, parts = (incomplete.variance_explained(batch_size=size) for size in (512, 7))
    np.testing.assert_allclose(whole["r2"], parts["r2"], atol=1e-5)


def test_new_data_may_lack_a_modality(incomplete):
    new = new_cells(incomplete.adata, "rna", "meth")
    table = incomplete.variance_explained(new)
    assert set(table["modality"]) == {"rna", "meth"}
    assert table["r2"].notna().all()
    assert len(incomplete.shared_features("rna", mdata=new)) == 20
    assert len(incomplete.loadings("rna", mdata=new)) == 20 * 3


def test_modalities_of_fewer_than_two_cells_are_left_out(incomplete):
    mdata, cells = incomplete.adata, incomplete.validation_indices
    without = cells[~mdata.obs_names[cells].isin(mdata["peaks"].obs_names)]
    assert set(incomplete.variance_explained(indices=without)["modality"]) == {"rna", "meth"}


def test_cells_that_were_trained_on_are_not_scored(model, small):
    seen = model.train_indices[:10]
    with pytest.raises(ValueError, match=r"variance_explained\(\) needs.*10 of the 10 cells"):
        model.variance_explained(indices=seen)
    with pytest.raises(ValueError, match=r"shared_features\(\) needs.*10 of the 10 cells"):
        model.shared_features("rna", indices=seen)
    everything = scvenn.MMVAE(small)
    everything.train(1, train_size=1.0, **QUIET)
    with pytest.raises(ValueError, match="0 of the 0 cells"):
        everything.variance_explained()


def test_a_model_without_data_reads_new_data(incomplete, tmp_path):
    incomplete.save(tmp_path / "model")
    loaded = scvenn.MMVAE.load(tmp_path / "model", False)
    new = new_cells(incomplete.adata, *incomplete.modalities)
    pd.testing.assert_frame_equal(
        loaded.variance_explained(new), incomplete.variance_explained(new)
    )
    with pytest.raises(ValueError, match="loaded without data"):
        loaded.variance_explained()


# ------------------------------------------------------------------------ loadings


def wide(table):
    return table.pivot_table("loading", "feature", "dimension", sort=False)


@pytest.mark.parametrize("latent", ["shared", "private"])
def test_loadings_of_a_linear_decoder_are_its_weights(model, latent):
    """Exactly: weight times the standard deviation of the dimension in the held-out cells."""
    branch, cells = model.module.branch("meth"), model.validation_indices
    if latent == "shared":
        decoder = branch.cross_decoder
        weight = decoder.slope.numpy().T.copy()  # of features that are not called shared
        weight[decoder.predicted.numpy()] = decoder.out.weight.detach().numpy()
        weight = weight @ model.module.shared_axes.numpy()
        z = model.get_shared_representation(indices=cells)
    else:  # the decoder reads three shared dimensions first
        weight = branch.decoder.out.weight.detach().numpy()[:, 3:] @ branch.private_axes.numpy()
        z = model.get_private_representation("meth", indices=cells)
    found = wide(model.loadings("meth", latent))
    assert list(found.columns) == [f"{latent}_{k}" for k in range(z.shape[1])]
    assert list(found.index) == list(model.adata["meth"].var_names)
    np.testing.assert_allclose(found, weight * z.std(0, ddof=1), rtol=1e-5, atol=1e-7)


def test_loadings_of_counts_are_weights_less_their_mean(model):
    """The logarithm of a softmax: the weights but for a constant of each dimension."""
    cells = model.validation_indices
    branch = model.module.branch("rna")
    weight = branch.decoder.out.weight.detach().numpy()[:, 3:] @ branch.private_axes.numpy()
    z = model.get_private_representation("rna", indices=cells)
    found = wide(model.loadings("rna", "private", scale="log"))
    expected = weight * z.std(0, ddof=1)
    np.testing.assert_allclose(
        found - found.mean(), expected - expected.mean(0), rtol=1e-4, atol=1e-6
    )


def test_a_linear_decoder_has_no_hidden_layer_and_heeds_covariates(tmp_path):
    mdata = three_modalities(missing=0.3)
    scvenn.MMVAEpp.setup_mudata(mdata, batch_key="batch")
    model = scvenn.MMVAEpp(mdata, n_shared=3, n_private=2, decoder="linear")
    model.train(1, **QUIET)
    for branch in model.module.branches:
        assert [tuple(p.shape) for p in branch.decoder.parameters()] == [(20, 3 + 2 + 2), (20,)]
    one, two = (model.predict("rna", "meth", transform_batch=b) for b in ("batch0", "batch1"))
    difference = (one - two).dropna()
    assert len(difference)
    np.testing.assert_allclose(
        difference, difference.iloc[[0]].to_numpy().repeat(len(difference), 0), atol=1e-4
    )
    model.save(tmp_path / "model")
    again = scvenn.MMVAEpp.load(tmp_path / "model", mdata).predict("rna", "meth")
    pd.testing.assert_frame_equal(again, model.predict("rna", "meth"))


@pytest.mark.parametrize("scale", ["data", "log"])
@pytest.mark.parametrize("modality", ["rna", "meth", "peaks"])
@pytest.mark.parametrize("latent", ["shared", "private"])
def test_loadings_equal_finite_differences(incomplete, modality, latent, scale):
    """Of the decoder with hidden layers, in double precision, cell by cell."""
    module = copy.deepcopy(incomplete.module).double()
    rng = np.random.default_rng(0)
    shared, private = (torch.as_tensor(rng.normal(size=(5, k))) for k in (3, 2))
    tensors = {"observed": torch.ones(5, 3), "batch": torch.tensor([[0.0], [1], [1], [0], [1]])}
    step = 1e-6

    likelihood = module.likelihood(modality)

    def scaled(mean):
        if modality == "meth":
            return mean / likelihood.scale_
        if scale == "data":
            return (mean * likelihood.library_).log1p() if modality == "rna" else mean
        return mean.log() if modality == "rna" else mean.logit()

    def predicted(z):
        latents = (z, None) if latent == "shared" else (shared, z)
        return scaled(network.decode(module, tensors, modality, *latents))

    z = shared if latent == "shared" else private
    expected = torch.stack(
        [
            (predicted(z + step * e) - predicted(z - step * e)).sum(0) / (2 * step)
            for e in torch.eye(z.shape[1], dtype=torch.float64)
        ]
    )
    latents = (shared, private if latent == "private" else None)
    found = network.slopes(module, tensors, modality, *latents, scale=scale)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("likelihood", ["beta", "poisson", "zinb", "nb_mixture"])
def test_every_likelihood_has_loadings(small, likelihood):
    if likelihood == "beta":
        small["atac"].X = small["atac"].X.toarray() * 0.8
    scvenn.MMVAE.setup_mudata(small, likelihoods={"atac": likelihood})
    model = scvenn.MMVAE(small, n_shared=2, n_private=2)
    model.train(1, train_size=0.5, **QUIET)
    for latent in ("shared", "private"):
        loading = model.loadings("atac", latent)["loading"]
        assert np.isfinite(loading).all()
        assert (loading != 0).any()
    assert model.variance_explained()["r2"].notna().all()


def test_features_and_cells_can_be_chosen(incomplete):
    whole, cells = incomplete.loadings("meth"), incomplete.train_indices
    part = incomplete.loadings("meth", features=["meth_7", "meth_2"])
    pd.testing.assert_frame_equal(
        wide(part), wide(whole).loc[["meth_7", "meth_2"]], check_names=False
    )
    other = incomplete.loadings("meth", indices=cells, batch_size=11)
    np.testing.assert_allclose(
        other["loading"], incomplete.loadings("meth", indices=cells)["loading"], atol=1e-6
    )
    assert not np.allclose(other["loading"], whole["loading"])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: m.loadings("adt"), "modality='adt': expected"),
        (lambda m: m.loadings("rna", "both"), "latent='both': expected 'shared' or 'private'"),
        (lambda m: m.loadings("rna", features=["x"]), "features: 'x' not found"),
        (lambda m: m.loadings("rna", indices=[0]), r"needs two or more cells in which 'rna' was"),
        (lambda m: m.shared_features("adt"), "modality='adt': expected"),
        (lambda m: m.private_features("rna", n=0), "n=0: expected an integer of at least 1"),
        (lambda m: m.write_contributions(m.adata[:10]), r"write_contributions.*mdata.copy\(\)"),
        (lambda m: scvenn.MMVAE(m.adata, decoder="none"), "decoder='none': expected 'mlp'"),
    ],
)
def test_what_cannot_be_is_refused(incomplete, call, message):
    with pytest.raises(ValueError, match=message):
        call(incomplete)


def test_features_are_ranked_only_where_another_modality_was_measured(incomplete):
    new = new_cells(incomplete.adata, "rna")
    with pytest.raises(ValueError, match="'rna' and another modality were measured; found 0"):
        incomplete.shared_features("rna", mdata=new)


# ------------------------------------------------------------------------ rankings


COLUMNS = ["feature", "score", "gain", "error", "n_cells", "listed"]


@pytest.mark.parametrize("modality", ["rna", "meth"])
def test_planted_shared_features_rank_first(model, modality):
    shared = model.adata[modality].var["shared"]
    table = model.shared_features(modality)
    assert list(table.columns) == [*COLUMNS, "screening_score"]
    assert table["score"].is_monotonic_decreasing
    assert shared[table["feature"][:9]].all()
    listed = table[table["listed"]].reset_index(drop=True)
    pd.testing.assert_frame_equal(model.shared_features(modality, n=3), listed[:3])
    screening = model.get_shared_scores().set_index(["modality", "feature"])["score"]
    np.testing.assert_array_equal(table["screening_score"], screening[modality][table["feature"]])


def test_planted_private_features_rank_first(model):
    shared = model.adata["meth"].var["shared"]
    assert not shared[model.private_features("meth", n=9)["feature"]].any()


@pytest.mark.parametrize("modality", ["rna", "meth"])
def test_features_are_listed_where_they_were_planted(model, modality):
    planted = model.adata[modality].var["shared"]
    shared, private = model.shared_features(modality, n=20), model.private_features(modality, n=20)
    # a count is a share of the cell's sum, which shared features move
    assert planted[shared["feature"]].mean() >= {"rna": 0.8, "meth": 0.9}[modality]
    assert not planted[private["feature"]].any()
    assert len(shared) >= 8
    assert len(private) >= {"rna": 2, "meth": 8}[modality]  # of ten; counts are noisy


def gains_of(table):
    return table.set_index("feature").sort_index()


def test_the_gain_of_shared_is_the_r2_across_views(model):
    cells = model.validation_indices
    truth = model.adata["meth"].X[cells]
    predicted = model.predict("rna", "meth", indices=cells, return_numpy=True)
    predicted = predicted + (truth - predicted).mean(0)  # offsets do not count
    gain = model.shared_features("meth").set_index("feature")["gain"]
    expected = metrics.r2(truth, predicted)
    np.testing.assert_allclose(gain[model.adata["meth"].var_names], expected, atol=1e-5)


def test_the_gain_of_private_is_what_both_latents_predict_better_than_shared_alone(model):
    cells = model.validation_indices
    truth = model.adata["meth"].X[cells]
    names = model.adata["meth"].var_names
    both = model.predict(model.modalities, "meth", indices=cells, return_numpy=True)
    both = metrics.r2(truth, both + (truth - both).mean(0))
    gain = model.private_features("meth").set_index("feature")["gain"][names]
    of_shared = both - gain
    assert (gain <= both + 1e-5).all()  # shared alone counts for 0 where it is worse than the mean
    planted = model.adata["meth"].var["shared"].to_numpy()
    assert (of_shared[planted] > 0.3).all()
    assert (of_shared[~planted] < 0.1).all()


def test_a_bad_prediction_by_shared_is_no_gain_of_private(model):
    """Of a feature that shared predicts worse than its mean, private gains what both explain."""
    net, mdata = model.module, model.adata[model.validation_indices].copy()
    before = gains_of(model.private_features("meth", mdata=mdata))
    slope = net.branch("meth").cross_decoder.slope
    kept = slope.clone()
    try:
        slope[:, -1] += 50.0  # meth_19, which is not shared
        blown_up = gains_of(model.shared_features("meth", mdata=mdata)).loc["meth_19", "gain"]
        after = gains_of(model.private_features("meth", mdata=mdata))
    finally:
        slope.copy_(kept)
    assert blown_up < -100
    assert after.loc["meth_19", "gain"] == pytest.approx(before.loc["meth_19", "gain"], abs=0.05)


def test_no_feature_is_in_both_lists(incomplete, model):
    for of in (incomplete, model):
        for m in of.modalities:
            listed = [set(f(m, n=50)["feature"]) for f in (of.shared_features, of.private_features)]
            assert not listed[0] & listed[1]


def test_errors_are_those_of_other_cells_of_the_same_kind(model):
    """The spread of gains over many draws of the held-out cells, with replacement."""
    cells, names = model.validation_indices, model.adata["meth"].var_names
    truth = model.adata["meth"].X[cells]
    predicted = model.predict("rna", "meth", indices=cells, return_numpy=True)
    rng = np.random.default_rng(0)
    drawn = []
    for _ in range(200):
        rows = rng.integers(len(cells), size=len(cells))
        x, y = truth[rows], predicted[rows]
        drawn.append(metrics.r2(x, y + (x - y).mean(0)))
    error = model.shared_features("meth").set_index("feature")["error"][names]
    ratio = error.to_numpy() / np.std(drawn, axis=0)
    assert 0.7 < np.median(ratio) < 1.4


def test_shrunken_gains_are_nearer_to_the_truth():
    """Of features most of which gain nothing, as sparse ones do."""
    rng = np.random.default_rng(0)
    truth = np.where(rng.random(500) < 0.1, 0.3 * rng.random(500), 0.0)
    error = rng.choice([0.01, 0.1], 500)
    gain = truth + error * rng.standard_normal(500)
    score = interpretation._shrunken(gain, error)
    assert np.square(score - truth).mean() < 0.5 * np.square(gain - truth).mean()
    assert (np.abs(score) <= np.abs(gain)).all()


def test_of_equal_gains_the_uncertain_one_is_shrunken_most():
    rng = np.random.default_rng(0)
    error = np.append(np.full(100, 0.02), [0.01, 0.05, 0.1])
    gain = np.append(0.05 * rng.standard_normal(100), [0.2, 0.2, 0.2])
    score = interpretation._shrunken(gain, error)[-3:]
    assert score[0] > score[1] > score[2] > 0
    assert score[0] > 0.19


def test_gains_without_errors_stay_as_they_are():
    gain = np.array([0.3, 0.0])
    np.testing.assert_array_equal(interpretation._shrunken(gain, np.zeros(2)), gain)


def test_the_order_of_cells_does_not_change_gains(model):
    mdata = model.adata[model.validation_indices].copy()
    other = mdata[np.random.default_rng(0).permutation(mdata.n_obs)].copy()
    tables = [gains_of(model.private_features("rna", mdata=of)) for of in (mdata, other)]
    pd.testing.assert_frame_equal(*tables, rtol=1e-5, atol=1e-7)


def test_features_of_few_cells_have_no_score(model):
    mdata = model.adata[model.validation_indices].copy()
    counts = mdata["rna"].X.toarray()
    counts[:9, 4], counts[9:, 4] = 3, 0
    mdata["rna"].X = sp.csr_matrix(counts)
    last = model.shared_features("rna", mdata=mdata).iloc[-1]
    assert (last["feature"], last["n_cells"], last["listed"]) == ("rna_4", 9, False)
    assert np.isnan(last["score"])
    assert np.isfinite(last["gain"])


def test_constant_features_have_no_score(model):
    mdata = model.adata[model.validation_indices].copy()
    mdata["meth"].X[:, 4] = 0.1
    assert "screening_score" in model.shared_features("meth", mdata=mdata)
    last = model.shared_features("meth", mdata=mdata).iloc[-1]
    assert last["feature"] == "meth_4"
    assert np.isnan(last["score"])


def test_a_model_that_does_not_screen_has_no_screening_score(incomplete):
    table = incomplete.private_features("peaks")
    assert list(table.columns) == COLUMNS
    assert set(table["feature"]) == set(incomplete.adata["peaks"].var_names)


# ------------------------------------------------------------------------ contributions


def test_contributions_sum_to_one_where_measured(incomplete):
    mdata = incomplete.adata
    written = incomplete.write_contributions()
    assert list(written.index) == list(mdata.obs_names)
    for m in incomplete.modalities:
        names = [f"scvenn_shared_{m}", f"scvenn_private_{m}"]
        np.testing.assert_array_equal(mdata.obs[names], written[names])
        measured = mdata.obs_names.isin(mdata[m].obs_names)
        assert written.loc[~measured, names].isna().all(axis=None)
        parts = written.loc[measured, names]
        assert (parts >= 0).all(axis=None)
        np.testing.assert_allclose(parts.sum(axis=1), 1)


def test_contributions_are_those_of_the_predictions(model):
    """By hand, for real values: distances of predictions across views and from all."""
    cross = model.module.branch("meth").cross_decoder
    # as the networks have it
    shared = torch.as_tensor(model.get_shared_representation()) @ model.module.shared_axes.T
    nothing = torch.zeros(len(shared), 0)
    scale = model.adata["meth"].X[model.train_indices].std(0)
    with torch.no_grad():
        centre = shared[model.train_indices].mean(0, keepdim=True)
        alone = (cross(shared, nothing) + cross.of_baselines(shared)).numpy() * scale
        baseline = (cross(centre, nothing[:1]) + cross.of_baselines(centre)).numpy() * scale
    both = model.predict(model.modalities, "meth", return_numpy=True)
    mean = model.module.likelihood("meth").mean_.numpy()
    a = np.square(alone - baseline).sum(1)
    b = np.square(both - mean - alone).sum(1)
    written = model.write_contributions(model.adata.copy())
    np.testing.assert_allclose(written["scvenn_shared_meth"], a / (a + b), atol=0.01)


def test_contributions_of_a_cell_do_not_depend_on_other_cells(incomplete):
    every = incomplete.write_contributions(incomplete.adata.copy())
    some = incomplete.write_contributions(incomplete.adata[7:9].copy())
    pd.testing.assert_frame_equal(some, every.loc[some.index], rtol=1e-4)


def test_where_nothing_moves_each_latent_contributes_half(small):
    model = scvenn.MMVAE(small, n_shared=2, n_private=2, decoder="linear")
    model.train(1, **QUIET)
    with torch.no_grad():
        for branch in model.module.branches:
            for parameter in branch.parameters():
                parameter.zero_()
    assert (model.write_contributions() == 0.5).all(axis=None)


def test_contributions_of_new_data_leave_out_what_it_lacks(incomplete):
    new = new_cells(incomplete.adata, "rna", "meth")
    written = incomplete.write_contributions(new)
    assert [name for name in new.obs if name.startswith("scvenn")] == list(written.columns)
    assert not written.columns.str.contains("peaks").any()


# ------------------------------------------------------------------------ real data


@pytest.mark.slow
def test_ighv_is_among_what_expression_and_methylation_share():
    """IGHV, the main axis of CLL, is in a dimension that explains both modalities."""
    data_file("cll.h5mu")
    mdata = scvenn.datasets.cll()
    scvi.settings.seed = 0
    scvenn.MMVAEpp.setup_mudata(mdata, modalities=["rna", "meth"])
    model = scvenn.MMVAEpp(mdata, n_shared=3, n_private=3)
    model.train(40, train_size=0.7, **QUIET)
    shared = pd.DataFrame(model.get_shared_representation()).add_prefix("shared_")
    correlation = shared.corrwith(mdata.obs["IGHV"].reset_index(drop=True)).abs()
    table = model.variance_explained()
    for m in ("rna", "meth"):
        assert r2_of(table, m)["shared"] > 0.02
        assert r2_of(table, m)[correlation.idxmax()] > 0
    assert correlation.max() > 0.5
    markers = model.loadings("rna").pivot_table("loading", "feature", "dimension").abs()
    first = model.shared_features("rna")["feature"][:50]
    assert markers.loc[first].max(axis=1).median() > markers.max(axis=1).median()


def test_loadings_are_the_same_from_several_threads():
    model = scvenn.MMVAE(scvenn.datasets.simulate_counts(60, n_features=12), n_hidden=8)
    model.train(1, **QUIET)
    alone = model.loadings("rna")
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(lambda _: model.loadings("rna"), range(8)):
            pd.testing.assert_frame_equal(found, alone)
