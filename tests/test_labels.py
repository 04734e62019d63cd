"""Labels of cells that have none, and the weight of each modality."""

import numpy as np
import pandas as pd
import pytest
import scvi
import torch

import scvenn
from scvenn._warnings import ScvennWarning
from tests.conftest import QUIET, data_file


def half_labelled(n_obs=400):
    """Cell types of every second cell; the others are "unknown"."""
    mdata = scvenn.datasets.simulate_counts(n_obs, n_features=60, n_types=4, missing=0.2)
    known = np.arange(mdata.n_obs) % 2 == 0
    mdata.obs["type"] = mdata.obs["cell_type"].astype(str).where(known, "unknown")
    return mdata, ~known


@pytest.fixture(scope="module")
def model():
    mdata, _ = half_labelled()
    scvi.settings.seed = 0
    scvenn.MMVAEpp.setup_mudata(mdata, labels_key="type", unlabeled_category="unknown")
    model = scvenn.MMVAEpp(mdata, n_shared=5, n_private=3, n_hidden=32)
    model.train(60, **QUIET)
    return model


@pytest.mark.parametrize(
    "read",
    [
        lambda m, key: m.differential(key, modality="rna", n_samples=5),
        lambda m, key: m.get_shared_scores(given=key),
        lambda m, key: m.evaluate(given=key),
    ],
    ids=["differential", "get_shared_scores", "evaluate"],
)
def test_the_category_that_means_unknown_is_no_group(model, read):
    obs = model.adata.obs
    obs["or missing"] = obs["type"].where(obs["type"] != "unknown")
    found = []
    for key in ("type", "or missing"):
        scvi.settings.seed = 0
        found.append(read(model, key))
    pd.testing.assert_frame_equal(*found)
    assert "unknown" not in found[0].astype(str).to_numpy()


def test_cells_without_a_label_get_one(model):
    mdata, unknown = half_labelled()
    probabilities = model.predict_labels()
    assert list(probabilities.columns) == sorted(set(mdata.obs["cell_type"].astype(str)))
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-5)
    right = probabilities.idxmax(axis=1) == mdata.obs["cell_type"].astype(str)
    assert right[unknown].mean() > 0.85


@pytest.mark.parametrize("m", ["rna", "atac"])
def test_one_modality_is_enough(model, m):
    mdata, _ = half_labelled()
    probabilities = model.predict_labels(from_modalities=m)
    measured = mdata.obs_names.isin(mdata[m].obs_names)
    assert probabilities[~measured].isna().all(axis=None)
    right = probabilities[measured].idxmax(axis=1) == mdata.obs["cell_type"][measured]
    assert right.mean() > 0.6


def test_new_cells_need_no_labels(model):
    new = model.adata[:30].copy()
    del new.obs["type"]
    expected = model.predict_labels(indices=np.arange(30))
    pd.testing.assert_frame_equal(model.predict_labels(new), expected, atol=1e-5)


def test_the_accuracy_in_held_out_cells_is_recorded(model):
    accuracy = model.history["accuracy_labels_validation"].to_numpy(float).ravel()
    assert accuracy[-1] > accuracy[0]
    assert accuracy.max() > 0.8


def test_a_model_without_labels_predicts_none(small):
    model = scvenn.MMVAEpp(small)
    model.train(1, **QUIET)
    with pytest.raises(ValueError, match=r"trained without labels.*labels_key"):
        model.predict_labels()


@pytest.mark.slow
def test_labels_of_paired_cells_are_transferred_to_the_others():
    """CITE-seq: of 1,600 cells only the paired ones have a label in training."""
    data_file("citeseq_mosaic.h5mu")
    mdata = scvenn.datasets.citeseq_mosaic()
    truth = mdata.obs["celltype"].astype(str)
    paired = mdata.obs_names.isin(mdata["rna"].obs_names)
    paired &= mdata.obs_names.isin(mdata["adt"].obs_names)
    mdata.obs["known"] = truth.where(paired)
    scvi.settings.seed = 0
    scvenn.MMVAEpp.setup_mudata(mdata, labels_key="known")
    model = scvenn.MMVAEpp(mdata)
    model.train(12, **QUIET)
    right = model.predict_labels().idxmax(axis=1) == truth
    for m in ("rna", "adt"):
        alone = mdata.obs_names.isin(mdata[m].obs_names) & ~paired
        assert right[alone].mean() > 0.75, m


# ------------------------------------------------------------------------------- how they are read


def classes(mdata, **arguments):
    scvenn.MMVAEpp.setup_mudata(mdata, labels_key="kind", **arguments)
    return scvenn.MMVAEpp._get_most_recent_anndata_manager(mdata).found.classes


@pytest.mark.parametrize(
    "text", ["nan", "NaN", "None", "none", "NA", "<NA>", "N/A", "NaT", "null", "", " "]
)
def test_labels_that_look_missing_get_a_warning_that_names_them(small, text):
    small.obs["kind"] = ["a", "b", text] * 20
    with pytest.warns(
        UserWarning, match=rf"labels_key='kind': '{text}' is read as a class .* 20 c"
    ):
        assert classes(small) == sorted(["a", "b", text])
    assert classes(small, unlabeled_category=text) == ["a", "b"]  # without a warning


def test_missing_labels_turned_into_text_get_a_warning(small):
    small.obs["kind"] = pd.Series(["a", "b", np.nan] * 20, index=small.obs_names).map(str)
    with pytest.warns(UserWarning, match="'nan' is read as a class"):
        classes(small)


READOUTS = {
    "evaluate": lambda m: m.evaluate(labels_key="kind"),
    "report": lambda m: m.report("report.html", labels_key="kind"),
    "differential": lambda m: m.differential("kind", modality="rna", group1="a", n_samples=3),
}


@pytest.mark.filterwarnings("ignore:evaluate")
@pytest.mark.parametrize("readout", READOUTS)
def test_readouts_warn_once_of_labels_that_look_missing(small, readout):
    small.obs["kind"] = pd.Series(["a", "b", np.nan] * 20, index=small.obs_names).map(str)
    model = scvenn.MMVAE(small, n_hidden=8)
    model.train(1, train_size=0.5, **QUIET)
    with pytest.warns(ScvennWarning) as caught:
        READOUTS[readout](model)
    (message,) = [str(w.message) for w in caught if "is read as a class" in str(w.message)]
    assert "='kind': 'nan' is read as a class of its own, with 20 cells." in message


@pytest.mark.filterwarnings("error:.*is read as a class")
def test_labels_of_which_the_set_up_warned_get_no_second_warning(small):
    small.obs["kind"] = ["a", "b", "nan"] * 20
    with pytest.warns(ScvennWarning, match="is read as a class"):
        scvenn.MMVAE.setup_mudata(small, labels_key="kind")
    model = scvenn.MMVAE(small, n_hidden=8)
    model.train(1, train_size=0.5, **QUIET)
    model.evaluate(labels_key="kind")


@pytest.mark.filterwarnings("error:.*is read as a class")
def test_groups_that_are_named_may_be_called_anything(small):
    small.obs["kind"] = ["a", "b", "NA"] * 20
    model = scvenn.MMVAE(small, n_hidden=8)
    model.train(1, **QUIET)
    model.differential("kind", modality="rna", group1="a", group2="NA", n_samples=3)


def test_batches_may_be_called_anything(small):
    small.obs["kind"] = ["a", "NA"] * 30
    scvenn.MMVAEpp.setup_mudata(small, batch_key="kind")


def test_the_classes_that_were_read_are_logged(small, caplog):
    small.obs["kind"] = [f"t{i}" for i in range(12)] * 4 + [None] * 12
    with caplog.at_level("INFO", "scvi.scvenn"):
        classes(small)
    (line,) = [r.getMessage() for r in caplog.records if "labels" in r.getMessage()]
    assert line.startswith("labels 'kind': 12 classes ('t0', 't1', 't10', 't11', 't2',")
    assert line.endswith("'t9'), 48 of 60 cells labelled")


COLUMNS = {
    "bool": [True, False] * 30,
    "nullable bool": pd.array([True, False, None] * 20, dtype="boolean"),
    "nullable integers": pd.array([1, 2, None] * 20, dtype="Int64"),
    "integers": [1, 2] * 30,
    "floats": [1.0, 2.0, np.nan] * 20,
    "text": ["x", "y", None] * 20,
    "string": pd.array(["x", "y", None] * 20, dtype="string"),
    "categories": pd.Categorical(["x", "y", None] * 20, categories=["y", "unused", "x"]),
    "dates": pd.to_datetime(["2020-01-01", "2021-01-01"] * 30),
    "mixed": [1, "x", None] * 20,
}


@pytest.mark.parametrize("name", list(COLUMNS))
def test_labels_of_any_type_are_classes_by_their_text(small, name):
    values = COLUMNS[name]
    small.obs["kind"] = pd.Series(values, index=small.obs_names)
    expected = {
        "bool": ["False", "True"],
        "integers": ["1", "2"],
        "floats": ["1", "2"],
        "dates": ["2020-01-01 00:00:00", "2021-01-01 00:00:00"],
        "mixed": ["1", "x"],
    }.get(name.removeprefix("nullable "), ["x", "y"])
    assert classes(small) == expected
    codes = scvenn.MMVAEpp._get_most_recent_anndata_manager(small).get_from_registry("labels")
    assert ((codes.ravel() < 0) == small.obs["kind"].isna()).all()


@pytest.mark.parametrize(
    ("values", "unlabeled"),
    [([1, 2, -1], "-1"), ([1.0, 2.0, -1.0], -1), (["1", "2", "-1"], -1), ([1, 2, -1], -1.0)],
)
def test_the_unlabeled_category_may_be_of_another_type(small, values, unlabeled):
    small.obs["kind"] = values * 20
    assert classes(small, unlabeled_category=unlabeled) == ["1", "2"]


@pytest.mark.parametrize(
    ("unlabeled", "remedy"),
    [
        ("unknown", "Did you mean 'Unknown'"),
        ("Unknwon ", "Did you mean 'Unknown'"),
        ("x", "Pass one of these, or leave it out"),
    ],
)
def test_an_unlabeled_category_that_no_cell_has_gets_a_warning(small, unlabeled, remedy):
    small.obs["kind"] = ["a", "b", "Unknown"] * 20
    message = f"={unlabeled!r} is the label of no cell, .* 'Unknown', 'a', 'b'. {remedy}"
    with pytest.warns(UserWarning, match=message):
        assert classes(small, unlabeled_category=unlabeled) == ["Unknown", "a", "b"]


def test_nan_in_the_mudata_is_not_filled_from_the_modalities(small):
    labels = pd.Series(["a", "b", None] * 20, index=small.obs_names)
    small.obs["kind"] = labels
    small["rna"].obs["kind"] = labels.fillna("a")
    scvenn.MMVAEpp.setup_mudata(small, labels_key="kind")
    codes = scvenn.MMVAEpp._get_most_recent_anndata_manager(small).get_from_registry("labels")
    assert list(codes.ravel()) == [0, 1, -1] * 20


def contradicting(small):
    small.obs["kind"] = ["a", "b"] * 30
    small["atac"].obs["kind"] = ["a", "b"] * 29 + ["b", "a"]
    return small


@pytest.mark.parametrize(
    "arguments",
    [
        {"labels_key": "kind"},
        {"batch_key": "kind"},
        {"categorical_covariate_keys": ["kind"]},
    ],
)
def test_a_contradiction_between_the_mudata_and_a_modality_is_refused(small, arguments):
    match = (
        r"'kind' differs between mdata.obs\['kind'\] and mdata\['atac'\].obs\['kind'\] in "
        r"2 cells: of 'cell58' they have 'a' and 'b'. Keep the right values in mdata.obs\['kind'\]"
    )
    with pytest.raises(ValueError, match=match):
        scvenn.MMVAEpp.setup_mudata(contradicting(small), **arguments)


@pytest.mark.parametrize("argument", ["labels_key", "batch_key"])
@pytest.mark.parametrize(
    ("key", "places"),
    [
        ("kind", ("mdata['rna'].obs['kind']", "mdata.obs['rna:kind']")),
        ("rna:kind", ("mdata.obs['rna:kind']", "mdata['rna'].obs['kind']")),
    ],
)
def test_a_copy_in_the_mudata_that_differs_is_refused(small, argument, key, places):
    small["rna"].obs["kind"] = ["a", "b"] * 30
    small.obs["rna:kind"] = ["a", "b"] * 29 + ["b", "a"]
    with pytest.raises(ValueError, match="obs column") as error:
        scvenn.MMVAEpp.setup_mudata(small, **{argument: key})
    assert "between {} and {} in 2 cells".format(*places) in str(error.value)
    exec(str(error.value).rpartition(": ")[2].removesuffix("."), {"mdata": small})  # what it says
    scvenn.MMVAEpp.setup_mudata(small, **{argument: key})


def test_a_label_removed_from_a_modality_is_not_taken_from_its_copy_in_the_mudata(small):
    small["rna"].obs["kind"] = ["a", "b", None] * 20
    small.obs["rna:kind"] = ["a", "b", "c"] * 20
    assert classes(small) == ["a", "b"]


def test_a_contradiction_between_numbers_is_refused(small):
    small.obs["x"] = np.arange(60.0)
    small["rna"].obs["x"] = np.arange(60.0) + np.r_[np.zeros(59), 0.5]
    with pytest.raises(
        ValueError, match=r"'x' differs between mdata.obs\['x'\] and mdata\['rna'\]"
    ):
        scvenn.MMVAEpp.setup_mudata(small, continuous_covariate_keys=["x"])


def test_a_contradiction_is_refused_by_readouts_and_plots(small):
    model = scvenn.MMVAEpp(small, screen=False, n_hidden=8)
    model.train(1, train_size=0.7, **QUIET)
    contradicting(small)
    for call in (
        lambda: model.evaluate(labels_key="kind"),
        lambda: model.differential("kind", modality="rna"),
        lambda: scvenn.pl.embeddings(small, color="kind"),
    ):
        with pytest.raises(
            ValueError, match=r"obs column 'kind' differs between mdata.obs\['kind'"
        ):
            call()


@pytest.mark.parametrize(
    "other",
    [
        lambda x: x.astype(np.float32),
        lambda x: x.astype(object),
        lambda x: x.astype("Float64"),
        lambda x: x.where(x > 3),
        lambda x: x[::-1],
        lambda x: x.astype("category"),
    ],
)
def test_the_same_numbers_in_another_type_are_no_contradiction(small, other):
    x = pd.Series(np.linspace(0, 1, 60) * 7.3, index=small.obs_names)
    small.obs["x"] = x
    small["rna"].obs["x"] = other(x)
    scvenn.MMVAEpp.setup_mudata(small, continuous_covariate_keys=["x"])


def test_a_column_there_twice_is_refused(small):
    small.obs["kind"] = ["a", "b"] * 30
    small.obs = pd.concat([small.obs, small.obs[["kind"]]], axis=1)
    with pytest.raises(ValueError, match="mdata.obs has 2 columns named 'kind'"):
        scvenn.MMVAEpp.setup_mudata(small, labels_key="kind")


# ------------------------------------------------------------------------------- weights


def weights(mdata, choice):
    return scvenn.MMVAE(mdata, modality_weights=choice).module.modality_weights


def test_weights_by_size_make_modalities_count_alike(small):
    small.mod["atac"] = small["atac"][:, :6].copy()
    small.update()
    found = weights(small, "auto")
    n_features = {m: small[m].n_vars for m in small.mod}
    assert found["rna"] * n_features["rna"] == found["atac"] * n_features["atac"]
    assert np.mean([*n_features.values()]) == found["rna"] * n_features["rna"]


def test_weights_default_to_one(small):
    assert weights(small, None) == {"rna": 1, "atac": 1}
    assert weights(small, {"atac": 3}) == {"rna": 1, "atac": 3}


@pytest.mark.parametrize("choice", ["equal", {"adt": 1}, {"rna": 0}, {"rna": np.nan}, 2])
def test_weights_that_make_no_sense_are_refused(small, choice):
    with pytest.raises(ValueError, match="modality_weights="):
        weights(small, choice)


def test_a_weight_multiplies_the_likelihood_of_its_modality(small):
    losses = {}
    for weight in (1.0, 3.0):
        scvi.settings.seed = 0
        model = scvenn.MMVAE(small, modality_weights={"atac": weight}, n_hidden=8)
        module = model.module.eval()
        loader = model._make_data_loader(adata=small, batch_size=60)
        scvi.settings.seed = 0
        losses[weight] = module(next(iter(loader)))[2]
    (light,), (heavy,) = (loss.reconstruction_loss.values() for loss in losses.values())
    records = losses[1.0].extra_metrics
    of_atac = sum(records[f"log_likelihood_{a}->atac"] for a in small.mod) / 2  # mean over terms
    torch.testing.assert_close(heavy - light, -2 * of_atac, rtol=1e-4, atol=1e-3)


@pytest.mark.slow
def test_weights_give_a_small_modality_its_say():
    """20 features beside 1,000: what the small one predicts of itself gains."""
    r2 = {}
    for choice in (None, "auto"):
        mdata = scvenn.datasets.simulate_gp(600, n_private_features=(10, 990))
        scvi.settings.seed = 0
        model = scvenn.MMVAE(mdata, modality_weights=choice, n_shared=2, n_private=2)
        model.train(25, train_size=0.8, **QUIET)
        table = model.evaluate()
        same = table[(table["metric"] == "r2") & (table["view"] == "same")]
        r2[choice] = same.groupby("target")["value"].median()
    assert r2["auto"]["view1"] > r2[None]["view1"] + 0.05


@pytest.fixture
def supervised(small, tmp_path):
    """Where a supervised model was saved, and its data."""
    small.obs["kind"] = ["a", "b"] * 30
    scvenn.MMVAE.setup_mudata(small, labels_key="kind")
    model = scvenn.MMVAE(small, n_hidden=8)
    model.train(1, **QUIET)
    model.save(tmp_path / "model")
    return tmp_path / "model", small.copy()


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (["A", "B"] * 30, "none of the 60 cells has one of the labels .* 'a', 'b'; found 'A', 'B'"),
        ([np.nan] * 60, "none of the 60 cells has .* found no label"),
        (None, "labels_key='kind' not found in the data: the model was set up with these labels"),
    ],
    ids=["other_names", "unknown", "no_column"],
)
def test_a_model_that_was_loaded_does_not_train_without_its_labels(supervised, labels, message):
    folder, mdata = supervised
    mdata.obs["kind"] = labels
    if labels is None:
        del mdata.obs["kind"]
    model = scvenn.MMVAE.load(folder, mdata)
    assert np.isfinite(model.predict("rna", "atac", return_numpy=True)).all()
    with pytest.raises(ValueError, match=message):
        model.train(1, **QUIET)


def test_labels_that_a_loaded_model_does_not_know_are_named(supervised):
    folder, mdata = supervised
    mdata.obs["kind"] = ["a", "b", "c"] * 20
    model = scvenn.MMVAE.load(folder, mdata)
    with pytest.warns(UserWarning, match="'c' is not among the labels .* not known in 20 cells"):
        model.train(1, **QUIET)


def test_a_value_that_means_unknown_needs_a_column_of_labels(small):
    with pytest.raises(ValueError, match="unlabeled_category='x' is a value of the column of labe"):
        scvenn.MMVAEpp.setup_mudata(small, unlabeled_category="x")
