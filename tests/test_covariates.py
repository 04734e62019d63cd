"""Batches and other covariates: where they are found, who sees them, and what they leave alone."""

import mudata
import numpy as np
import pandas as pd
import pytest
import scvi
import torch
from sklearn.metrics import balanced_accuracy_score
from sklearn.neighbors import KNeighborsClassifier

import scvenn
from scvenn.batches import BatchShifts
from scvenn.data import Keys
from tests.conftest import QUIET, data_file


def donors(n_obs=120, **kwargs):
    """Counts with a batch, a donor and an age."""
    mdata = scvenn.datasets.simulate_counts(n_obs, n_features=20, n_batches=2, **kwargs)
    rng = np.random.default_rng(0)
    mdata.obs["donor"] = rng.choice(["a", "b", "c"], size=mdata.n_obs)
    mdata.obs["age"] = rng.uniform(20, 80, mdata.n_obs)
    return mdata


SEEN = {
    "batch_key": "batch",
    "categorical_covariate_keys": ["donor"],
    "continuous_covariate_keys": ["age"],
}


@pytest.fixture
def model():
    mdata = donors()
    scvi.settings.seed = 0
    scvenn.MMVAEpp.setup_mudata(mdata, **SEEN)
    model = scvenn.MMVAEpp(mdata, n_shared=3, n_private=2, n_hidden=16)
    model.train(2, **QUIET)
    return model


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("MMVAEpp", {}),
        ("MMVAEpp", {"decoder": "linear"}),
        ("MMVAEpp", {"dispersion": "feature-batch", "n_layers": 2}),
        ("MMVAE", {"encode_covariates": True}),
    ],
)
@pytest.mark.filterwarnings("ignore:encode_covariates")
def test_a_batch_without_a_modality_is_predicted_as_the_mean_of_the_others(name, arguments, caplog):
    """Its parameters have no gradient, and would stay at their random start."""
    mdata = donors(150)
    mdata.obs["batch"] = np.resize(["a", "b", "c"], mdata.n_obs)
    lacks = (mdata.obs["batch"] == "c") | (mdata.obs["donor"] == "b")
    mdata = mudata.MuData(
        {"rna": mdata["rna"][~lacks].copy(), "atac": mdata["atac"]}, obs=mdata.obs
    )
    cls = getattr(scvenn, name)
    cls.setup_mudata(mdata, **SEEN)
    model = cls(mdata, n_shared=3, n_private=2, n_hidden=8, **arguments)
    with caplog.at_level("INFO", logger="scvi.scvenn"):
        model.train(2, **QUIET)
    assert "rna was measured in no training cell of batch='c', donor='b'." in caplog.text
    a, b, c = range(3)
    seen = list(model.module.branch("rna").of_covariates())
    assert len(seen) >= 2
    for rows in seen:  # of three batches, of three donors, and the age
        torch.testing.assert_close(rows[c], (rows[a] + rows[b]) / 2)
        torch.testing.assert_close(rows[3 + b], (rows[3 + a] + rows[3 + c]) / 2)
        assert not torch.equal(rows[a], rows[b])
    for rows in model.module.branch("atac").of_covariates():
        assert not torch.allclose(rows[c], (rows[a] + rows[b]) / 2)
    if arguments.get("dispersion"):
        theta = model.module.likelihood("rna").log_theta
        torch.testing.assert_close(theta[c], (theta[a] + theta[b]) / 2)


def changed(model, column, values):
    mdata = model.adata.copy()
    mdata.obs[column] = values
    return mdata


@pytest.mark.parametrize(("column", "value"), [("batch", "batch1"), ("donor", "c"), ("age", 200.0)])
def test_decoders_see_covariates_and_encoders_of_shared_do_not(model, column, value):
    mdata = changed(model, column, value)
    before, after = (
        model.get_shared_representation(d, batch_corrected=False) for d in (None, mdata)
    )
    np.testing.assert_allclose(after, before, atol=1e-5)
    ours, theirs = (model.predict("rna", "atac", d, return_numpy=True) for d in (None, mdata))
    assert np.abs(ours - theirs).max() > 1e-4


def test_encoders_see_covariates_on_request():
    mdata = donors()
    scvenn.MMVAEpp.setup_mudata(mdata, **SEEN)
    with pytest.warns(FutureWarning, match="encode_covariates=True is deprecated"):
        model = scvenn.MMVAEpp(mdata, encode_covariates=True)
    model.train(1, **QUIET)
    before = model.get_shared_representation(batch_corrected=False)
    for column, value in (("batch", "batch1"), ("donor", "c"), ("age", 200.0)):
        mdata = changed(model, column, value)
        after = model.get_shared_representation(mdata, batch_corrected=False)
        assert np.abs(after - before).max() > 1e-4


def test_numbers_are_read_as_in_training(model):
    """Standardised by the training data's mean and scale, whatever the new data's are."""
    mdata = model.adata[model.adata.obs["age"] > 60].copy()
    rows = model.adata.obs_names.get_indexer(mdata.obs_names)
    expected = model.predict("rna", "atac", indices=rows)
    pd.testing.assert_frame_equal(model.predict("rna", "atac", mdata), expected, atol=1e-5)


def test_covariates_are_saved(model):
    model.save("model")
    loaded = scvenn.MMVAEpp.load("model", model.adata)
    np.testing.assert_array_equal(
        loaded.predict("rna", "atac", return_numpy=True),
        model.predict("rna", "atac", return_numpy=True),
    )


@pytest.mark.parametrize("where", ["modalities", "prefixed"])
def test_covariates_are_found_in_the_modalities(model, where):
    mdata = model.adata.copy()
    for column in ("donor", "age"):
        values = mdata.obs[column]
        del mdata.obs[column]
        for m, adata in mdata.mod.items():
            if where == "modalities":
                adata.obs[column] = values[adata.obs_names].to_numpy()
            else:
                mdata.obs[f"{m}:{column}"] = values
    pd.testing.assert_frame_equal(
        model.predict("rna", "atac", mdata), model.predict("rna", "atac"), atol=1e-6
    )


def test_predictions_can_be_of_one_batch(model):
    as_one = model.predict("rna", "atac", transform_batch="batch1")
    own = model.predict("rna", "atac")
    inside = (model.adata.obs["batch"] == "batch1").to_numpy()
    pd.testing.assert_frame_equal(as_one[inside], own[inside], atol=1e-6)
    assert (as_one[~inside] - own[~inside]).abs().to_numpy().max() > 1e-4


def test_a_batch_that_is_not_known_is_refused(model):
    with pytest.raises(ValueError, match=r"transform_batch='x': expected one of .*'batch0', 'bat"):
        model.predict("rna", "atac", transform_batch="x")


def test_without_batches_there_is_none_to_predict():
    model = scvenn.MMVAEpp(donors())
    model.train(1, **QUIET)
    with pytest.raises(ValueError, match="set up without batch_key"):
        model.predict("rna", "atac", transform_batch="batch0")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"categorical_covariate_keys": "donor"}, "expected a list of names"),
        ({"continuous_covariate_keys": ["age", "age"]}, "each once"),
        ({"categorical_covariate_keys": ["site"]}, "'site' not found. Searched mdata.obs"),
        ({"continuous_covariate_keys": ["donor"]}, "expected numbers, found '[abc]' in cell"),
        ({"continuous_covariate_keys": ["hole"]}, "1 of 120 cells have no value"),
        ({"categorical_covariate_keys": ["hole"]}, "1 of 120 cells have no value"),
        ({"continuous_covariate_keys": ["infinite"]}, "found inf in cell 'cell0'; expected finite"),
    ],
)
def test_columns_that_cannot_be_used_are_refused(arguments, message):
    mdata = donors()
    mdata.obs["hole"] = [np.nan, *range(119)]
    mdata.obs["infinite"] = [np.inf, *range(119)]
    with pytest.raises(ValueError, match=message):
        scvenn.MMVAEpp.setup_mudata(mdata, **arguments)


RANGE = np.arange(120)
NUMBERS = {
    "integers": RANGE,
    "small integers": RANGE.astype(np.int8),
    "large integers": RANGE.astype(np.uint64) + 2**20,
    "bool": RANGE % 2 == 0,
    "half precision": (RANGE / 2).astype(np.float16),
    "longdouble": RANGE.astype(np.longdouble),
    "nullable integers": pd.array(RANGE, dtype="Int64"),
    "nullable floats": pd.array(RANGE / 3, dtype="Float64"),
    "nullable bool": pd.array(RANGE % 2 == 0, dtype="boolean"),
    "categories of integers": pd.Categorical(RANGE),
    "categories of text": pd.Categorical((RANGE / 4).astype(str)),
    "text": (RANGE / 3).astype(str),
    "string": pd.array((RANGE / 3).astype(str), dtype="string"),
    "objects": RANGE.astype(object),
}
NO_NUMBERS = {
    "nullable integers": (
        pd.array([None, *range(119)], dtype="Int64"),
        "1 of 120 cells have no va",
    ),
    "nullable floats": (pd.array([None, *range(119)], dtype="Float64"), "1 of 120 cells have no"),
    "nullable bool": (pd.array([None] + [True] * 119, dtype="boolean"), "1 of 120 cells have no"),
    "integer categories": (pd.Categorical([None, *range(119)]), "1 of 120 cells have no value"),
    "dates": (pd.date_range("2020", periods=120), "expected numbers, found datetime64"),
    "date categories": (pd.Categorical(pd.date_range("2020", periods=120)), "found datetime64"),
    "dates as objects": (np.array(pd.date_range("2020", periods=120), object), "found datetime64"),
    "durations": (pd.to_timedelta(RANGE, unit="D"), "found timedelta64.*such as days since the fi"),
    "complex": (RANGE * 1j, "expected numbers, found complex128"),
    "words": (["a"] * 120, "expected numbers, found 'a'.*belong to categorical_covariate_keys"),
    "infinite": (np.where(RANGE == 3, -np.inf, RANGE), "found -inf in cell 'cell3'; expected fi"),
    "large": (np.where(RANGE == 3, 1e39, RANGE), r"found 1e\+39 in cell 'cell3'.*at most 3.4e\+38"),
    "intervals": (pd.cut(RANGE, 3), "expected numbers, found Interval"),
}


@pytest.mark.parametrize("name", list(NUMBERS))
def test_numbers_of_any_type_are_standardised(name):
    mdata = donors()
    mdata.obs["x"] = pd.Series(NUMBERS[name], index=mdata.obs_names)
    scvenn.MMVAEpp.setup_mudata(mdata, continuous_covariate_keys=["x"])
    manager = scvenn.MMVAEpp._get_most_recent_anndata_manager(mdata)
    found = manager.get_from_registry("continuous_x").ravel()
    expected = np.asarray(NUMBERS[name]).astype(np.float64)
    np.testing.assert_allclose(found, (expected - expected.mean()) / expected.std(), rtol=1e-5)


@pytest.mark.parametrize("name", list(NO_NUMBERS))
def test_what_are_no_numbers_is_refused(name):
    values, message = NO_NUMBERS[name]
    mdata = donors()
    mdata.obs["x"] = values if name == "intervals" else pd.Series(values, index=mdata.obs_names)
    with pytest.raises(ValueError, match=f"continuous_covariate_keys='x': .*{message}"):
        scvenn.MMVAEpp.setup_mudata(mdata, continuous_covariate_keys=["x"])


@pytest.mark.parametrize("value", [1e39, np.inf])
def test_numbers_beyond_single_precision_are_refused_in_new_data(model, value):
    with pytest.raises(ValueError, match="'age': found .* in cell .*single precision"):
        model.predict("rna", "atac", changed(model, "age", value))


def test_numbers_beyond_single_precision_once_standardised_are_refused():
    mdata = donors(40)
    mdata.obs["x"] = np.linspace(0, 1e-30, 40)
    scvenn.MMVAEpp.setup_mudata(mdata, continuous_covariate_keys=["x"])
    model = scvenn.MMVAEpp(mdata, screen=False, n_hidden=8)
    model.train(1, **QUIET)
    assert np.isfinite(model.predict("rna", "atac", return_numpy=True)).all()
    mdata = mdata.copy()
    mdata.obs["x"] = 1e20
    with pytest.raises(ValueError, match=r"'x': found 1e\+20 in cell .*in training its mean was"):
        model.predict("rna", "atac", mdata)


@pytest.mark.parametrize(
    "constant",
    [0.1, 0, -3, 1e30, np.float32(0.1), 1 + 1e-9 * np.arange(60), True],
    ids=["0.1", "0", "-3", "1e30", "float32", "nearly", "bool"],
)
def test_a_constant_number_has_scale_one_and_no_effect_in_any_data(small, constant):
    small.obs["x"] = constant
    scvenn.MMVAEpp.setup_mudata(small, continuous_covariate_keys=["x"])
    model = scvenn.MMVAEpp(small, screen=False, n_hidden=8)
    model.train(1, **QUIET)
    assert model._found.state("continuous_x")["scale"] == 1
    new = small.copy()
    new.obs["x"] = 0.2
    expected = model.predict("rna", "atac")
    pd.testing.assert_frame_equal(model.predict("rna", "atac", new), expected)


def test_a_number_that_is_constant_in_training_cells_alone_has_no_effect(small):
    small.obs["x"] = np.where(np.arange(60) < 40, 0.1, 7)
    scvenn.MMVAEpp.setup_mudata(small, continuous_covariate_keys=["x"])
    model = scvenn.MMVAEpp(small, screen=False, n_hidden=8)
    split = {"external_indexing": [np.arange(40), np.arange(40, 60), np.arange(0)]}
    model.train(1, datasplitter_kwargs=split, **QUIET)
    new = small.copy()
    new.obs["x"] = 0.1
    expected = model.predict("rna", "atac")
    pd.testing.assert_frame_equal(model.predict("rna", "atac", new), expected)


def test_a_number_that_hardly_varies_is_named(small, caplog):
    small.obs["x"] = 1.7e9 + np.arange(60)
    with caplog.at_level("WARNING", "scvi.scvenn"):
        scvenn.MMVAEpp.setup_mudata(small, continuous_covariate_keys=["x"])
    (line,) = [r.getMessage() for r in caplog.records]
    assert "covariate 'x' varies by no more than a millionth of its mean" in line
    small.obs["x"] -= 1.7e9  # what the message says
    scvenn.MMVAEpp.setup_mudata(small, continuous_covariate_keys=["x"])
    state = scvenn.MMVAEpp._get_most_recent_anndata_manager(small).found.state("continuous_x")
    assert state["scale"] == pytest.approx(np.arange(60).std())


@pytest.mark.parametrize("given", [1, 1.0, "1", np.int8(1), np.float32(1)])
def test_categories_that_are_numbers_are_the_same_in_any_type(given):
    mdata = donors(40)
    mdata.obs["donor"] = [1, 2] * 20
    scvenn.MMVAEpp.setup_mudata(mdata, categorical_covariate_keys=["donor"], batch_key="batch")
    model = scvenn.MMVAEpp(mdata, screen=False, n_hidden=8)
    assert model._found.state("categorical_donor")["categories"].tolist() == ["1", "2"]
    new = mdata.copy()
    new.obs["donor"] = given
    model.train(1, **QUIET)
    expected = model.predict("rna", "atac")[::2]
    pd.testing.assert_frame_equal(model.predict("rna", "atac", new)[::2], expected, atol=1e-6)


def test_a_category_that_was_never_seen_is_refused(model):
    with pytest.raises(ValueError, match=r"donor.*trained on 'a', 'b', 'c', the new data has 'd'"):
        model.get_shared_representation(changed(model, "donor", "d"))


def test_a_covariate_with_one_category_changes_nothing():
    predicted = []
    for keys in ([], ["one"]):
        mdata = donors()
        mdata.obs["one"] = "same"
        scvi.settings.seed = 0
        scvenn.MMVAEpp.setup_mudata(mdata, categorical_covariate_keys=keys)
        model = scvenn.MMVAEpp(mdata)
        model.train(1, **QUIET)
        predicted.append(model.predict("rna", "atac", return_numpy=True))
    np.testing.assert_array_equal(*predicted)


def test_covariates_are_columns(model):
    tensors = {
        "observed": torch.ones(2, 2),
        "batch": torch.tensor([[0], [1]]),
        "categorical_donor": torch.tensor([[2], [0]]),
        "continuous_age": torch.tensor([[0.5], [-1.0]]),
    }
    expected = [[1, 0, 0, 0, 1, 0.5], [0, 1, 1, 0, 0, -1]]
    assert model.module.covariates(tensors).tolist() == expected


def test_a_noise_for_each_batch_is_found_where_batches_differ():
    """Proteins of a second batch are measured with five times the noise."""
    mdata = scvenn.datasets.simulate_counts(
        400, modalities={"rna": "nb", "adt": "normal"}, n_features=20, n_batches=2, seed=0
    )
    second = (mdata.obs["batch"] == "batch1").to_numpy()
    noise = np.random.default_rng(0).normal(size=mdata["adt"].shape)
    mdata["adt"].X = mdata["adt"].X + noise * np.where(second, 5, 1)[:, None]
    scvenn.MMVAEpp.setup_mudata(mdata, batch_key="batch")
    model = scvenn.MMVAEpp(mdata, dispersion="feature-batch")
    model.train(60, early_stopping=False, plan_kwargs={"lr": 1e-2}, **QUIET)
    found = model.module.likelihood("adt")
    scale = torch.nn.functional.softplus(found.raw_scale).detach()
    assert (scale[1] > 1.2 * scale[0]).float().mean() > 0.9
    assert (found.cross_view_variance[1] > found.cross_view_variance[0]).float().mean() > 0.9
    drawn = [model.sample_prior(500, batch=b)["adt"].std(0) for b in ("batch0", "batch1")]
    assert (drawn[1] > drawn[0]).mean() > 0.9
    residual = model.sample_posterior("adt", "adt", n_samples=20).std(0).mean(1)
    assert residual[second].mean() > 1.3 * residual[~second].mean()


def test_a_noise_for_each_batch_needs_batches():
    mdata = scvenn.datasets.simulate_counts(40, n_features=10)
    with pytest.raises(ValueError, match=r"needs two or more batches; found one.*batch_key"):
        scvenn.MMVAEpp(mdata, dispersion="feature-batch")
    with pytest.raises(ValueError, match="dispersion='gene'"):
        scvenn.MMVAEpp(mdata, dispersion="gene")


# ------------------------------------------------------------------------------------- correction


def told(latent, labels, model, among=None):
    """Balanced accuracy of the 15 nearest training cells of the validation cells.

    ``among``: which cells count, boolean; None for all.
    """
    train, test = model.train_indices, model.validation_indices
    if among is not None:
        train, test = train[among[train]], test[among[test]]
    labels = np.asarray(labels, dtype=str)
    nearest = KNeighborsClassifier(15).fit(latent[train], labels[train])
    return balanced_accuracy_score(labels[test], nearest.predict(latent[test]))


def trained_on(mdata, batch_key="batch", epochs=40, model_class=scvenn.MMVAEpp, **kwargs):
    scvi.settings.seed = 0
    model_class.setup_mudata(mdata, batch_key=batch_key)
    model = model_class(mdata, **kwargs)
    model.train(epochs, train_size=0.7, **QUIET)
    return model


@pytest.fixture(scope="module")
def of_three_batches():
    return trained_on(scvenn.datasets.simulate_counts(600, n_batches=3, seed=0))


@pytest.fixture
def told_batch(of_three_batches):
    return of_three_batches


@pytest.mark.slow
def test_a_planted_batch_effect_leaves_every_latent_and_cell_types_stay(told_batch):
    obs = told_batch.adata.obs
    before = told_batch.get_shared_representation(batch_corrected=False)
    assert told(before, obs["batch"], told_batch) > 0.45
    shared = told_batch.get_shared_representation()
    assert told(shared, obs["batch"], told_batch) < 0.42  # one third is right by chance
    assert told(shared, obs["cell_type"], told_batch) > 0.97
    for m in told_batch.modalities:
        assert told(told_batch.get_private_representation(m), obs["batch"], told_batch) < 0.45


@pytest.mark.slow
def test_types_that_depend_on_the_batch_stay_apart_when_batches_leave():
    mdata = scvenn.datasets.simulate_counts(900, n_batches=3, seed=2)
    obs, rng = mdata.obs, np.random.default_rng(0)
    lone = (obs["cell_type"] == "type0") & (obs["batch"] != "batch0")
    rare = (obs["cell_type"] == "type1") & (obs["batch"] == "batch2") & (rng.random(900) < 0.8)
    absent = (obs["cell_type"] == "type2") & (obs["batch"] == "batch1")
    mdata = mdata[~(lone | rare | absent).to_numpy()].copy()
    model = trained_on(mdata)
    shared, types = model.get_shared_representation(), mdata.obs["cell_type"].to_numpy(str)
    in_all_batches = ~np.isin(types, ["type0", "type1", "type2"])
    assert told(shared, mdata.obs["batch"], model, in_all_batches) < 0.42
    assert told(shared, types, model) > 0.97
    nearest = KNeighborsClassifier(15).fit(shared, types)
    of_lone = nearest.kneighbors(shared[types == "type0"], return_distance=False)
    assert (types[of_lone] == "type0").mean() > 0.97


@pytest.mark.slow
def test_a_batch_without_a_modality_mixes_with_the_others():
    mdata = scvenn.datasets.simulate_counts(900, n_batches=3, seed=3)
    measured = mdata["atac"].obs_names.isin(mdata.obs_names[mdata.obs["batch"] != "batch2"])
    obs = mdata.obs[["batch", "cell_type"]]
    mdata = mudata.MuData({"rna": mdata["rna"], "atac": mdata["atac"][measured].copy()})
    for column in obs:
        mdata.obs[column] = obs.loc[mdata.obs_names, column]
    model = trained_on(mdata)
    before = model.get_shared_representation(batch_corrected=False)
    assert told(before, mdata.obs["batch"], model) > 0.6
    shared = model.get_shared_representation()
    assert told(shared, mdata.obs["batch"], model) < 0.5
    assert told(shared, mdata.obs["cell_type"], model) > 0.95


@pytest.mark.slow
def test_predictions_do_not_depend_on_the_correction(told_batch):
    before = told_batch.predict("rna", "atac", return_numpy=True)
    explained, loadings = told_batch.variance_explained(), told_batch.loadings("rna")
    net = told_batch.module
    kept = {part: part.found for part in corrections(net)}
    try:
        for part, found in kept.items():
            part.found = BatchShifts.none(found.centres.shape[1])
        np.testing.assert_array_equal(told_batch.predict("rna", "atac", return_numpy=True), before)
        pd.testing.assert_frame_equal(told_batch.variance_explained(), explained)
        pd.testing.assert_frame_equal(told_batch.loadings("rna"), loadings)
    finally:
        for part, found in kept.items():
            part.found = found


@pytest.mark.slow
def test_new_cells_of_known_batches_are_corrected_alike(told_batch):
    """Alone or with others, in any order, and of one batch only."""
    mdata, whole = told_batch.adata, told_batch.get_shared_representation()
    rows = np.flatnonzero(mdata.obs["batch"] == "batch2")[::-1]
    new = mdata[rows].copy()
    new.obs["batch"] = new.obs["batch"].cat.remove_unused_categories()
    found = told_batch.get_shared_representation(new)
    np.testing.assert_allclose(found, whole[rows], atol=1e-4)


@pytest.mark.slow
def test_what_is_written_is_corrected_and_says_so(told_batch):
    mdata = told_batch.adata
    np.testing.assert_array_equal(mdata.obsm["X_shared"], told_batch.get_shared_representation())
    assert mdata.uns["scvenn"]["batch_corrected"]
    told_batch.embed(mdata, key_prefix="X_raw", batch_corrected=False)
    before = told_batch.get_shared_representation(batch_corrected=False)
    np.testing.assert_array_equal(mdata.obsm["X_raw_shared"], before)
    assert not mdata.uns["scvenn"]["batch_corrected"]


@pytest.mark.slow
def test_all_latents_side_by_side_are_corrected_alike(told_batch):
    for corrected in (True, False):
        options = {"batch_corrected": corrected}
        parts = [told_batch.get_shared_representation(**options)]
        parts += [
            told_batch.get_private_representation(m, **options) for m in told_batch.modalities
        ]
        whole = told_batch.get_latent_representation(**options)
        np.testing.assert_allclose(whole, np.hstack(parts), atol=1e-5)


def corrections(net):
    return [net.shared_correction, *(branch.private_correction for branch in net.branches)]


def test_the_correction_is_saved(model):
    model.save("model")
    loaded = scvenn.MMVAEpp.load("model", model.adata)
    assert loaded.module.corrects_batches
    np.testing.assert_array_equal(
        loaded.get_latent_representation(), model.get_latent_representation()
    )


@pytest.mark.parametrize("model_class", ["MVAE", "MMVAE", "MoPoEVAE"])
def test_every_model_corrects_for_the_batch_that_it_is_told(model_class):
    model = trained_on(donors(), model_class=getattr(scvenn, model_class), epochs=1, n_hidden=8)
    assert model.module.corrects_batches
    differs = model.get_shared_representation() - model.get_shared_representation(
        batch_corrected=False
    )
    assert np.abs(differs).max() > 0


def test_without_a_batch_there_is_nothing_to_correct():
    model = trained_on(donors(), batch_key=None, epochs=1, n_hidden=8)
    assert not model.module.corrects_batches
    assert not model.adata.uns["scvenn"]["batch_corrected"]
    np.testing.assert_array_equal(
        model.get_latent_representation(), model.get_latent_representation(batch_corrected=False)
    )


def test_a_second_training_corrects_anew(model):
    before = model.module.shared_correction.found
    model.train(1, **QUIET)
    after = model.module.shared_correction.found
    assert model.module.corrects_batches
    assert not torch.equal(after.centres, before.centres)


def test_an_interrupted_end_leaves_latents_uncorrected(model, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("scvenn.models.training.learn_batch_correction", interrupt)
    with pytest.raises(KeyboardInterrupt):
        model.train(1, **QUIET)
    assert not model.module.corrects_batches


@pytest.mark.slow
def test_batches_of_real_cells_mix():
    """SNARE-seq: 12 batches, of which 1 in 12 is right by chance; few features, to be quick.

    That of this set they hardly differ to begin with is why nothing is compared.
    """
    mdata = mudata.read_h5mu(data_file("snareseq_cortex.h5mu"))[::8].copy()
    for m in mdata.mod:
        widest = np.argsort(-np.asarray(mdata[m].X.sum(0)).ravel())[:800]
        mdata.mod[m] = mdata[m][:, np.sort(widest)].copy()
    mdata.update()
    scvi.settings.seed = 0
    scvenn.MMVAEpp.setup_mudata(mdata, batch_key="batch")
    model = scvenn.MMVAEpp(mdata)
    model.train(10, train_size=0.7, **QUIET)
    assert told(mdata.obsm["X_shared"], mdata.obs["batch"], model) < 0.15


def test_columns_of_the_same_name_are_told_apart_by_their_modality(small):
    for m in ("rna", "atac"):
        small[m].obs["total_counts"] = np.asarray(small[m].X.sum(1)).ravel()
    setup = scvenn.MMVAE.setup_mudata
    with pytest.raises(ValueError, match="name the one you mean: 'rna:total_counts'"):
        setup(small, continuous_covariate_keys=["total_counts"])
    setup(small, continuous_covariate_keys=["rna:total_counts", "atac:total_counts"])
    model = scvenn.MMVAE(small)
    for m in ("rna", "atac"):
        column = model.adata_manager.get_from_registry(Keys.continuous(f"{m}:total_counts"))
        totals = small[m].obs["total_counts"].to_numpy()
        np.testing.assert_allclose(column[:, 0], (totals - totals.mean()) / totals.std(), rtol=1e-4)


@pytest.mark.parametrize("key", ["batch_key", "categorical_covariate_keys"])
def test_a_missing_category_that_became_text_is_named(small, key):
    small.obs["donor"] = pd.Series(["a", "b", None] * 20, index=small.obs_names).astype(str)
    column = "donor" if key == "batch_key" else ["donor"]
    message = f"{key}='donor': 'None' is read as a class of its own, with 20 cells.*fill in"
    with pytest.warns(UserWarning, match=message):
        scvenn.MMVAEpp.setup_mudata(small, **{key: column})


def test_a_missing_group_that_became_text_is_named(small):
    small.obs["kind"] = pd.Series(["a", "b", None] * 20, index=small.obs_names).astype(str)
    with pytest.warns(UserWarning, match="given='kind': 'None' is read as a class of its own"):
        scvenn.pp.shared_features(small, given="kind", inplace=False)
