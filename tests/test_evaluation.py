"""The table of `evaluate`: what is in it, what its numbers are, what is refused."""

import tracemalloc

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import scvi
from mudata import MuData

import scvenn
from scvenn import metrics
from scvenn.data import Cells
from scvenn.models import saving
from scvenn.readouts import embeddings, evaluation
from tests.conftest import QUIET, three_modalities, under_other_names

# few cells, some of whose features are constant
pytestmark = pytest.mark.filterwarnings("ignore:evaluate")


@pytest.fixture(scope="module")
def model():
    """MMVAE++ on three modalities with missing cells and entries, half of the cells held out."""
    scvi.settings.seed = 0
    mdata = three_modalities(missing=0.3, n_obs=300)
    scvenn.MMVAEpp.setup_mudata(mdata, batch_key="batch")
    model = scvenn.MMVAEpp(mdata, n_shared=3, n_private=2)
    model.train(5, train_size=0.5, **QUIET)
    return model


@pytest.fixture(scope="module")
def table(model):
    return model.evaluate(labels_key="cell_type")


def rows(table, **values):
    for column, value in values.items():
        table = table[table[column] == value]
    return table


def test_every_source_and_target_is_there(model, table):
    for target in model.modalities:
        names = {"r2", "pearson"} | ({"auroc"} if target == "peaks" else set())
        assert set(rows(table, target=target, view="same")["metric"]) == names
        found = rows(table, target=target, metric="r2")
        assert set(zip(found["view"], found["source"], strict=True)) == {
            ("same", target),
            ("joint", "all"),
            *(("cross", m) for m in model.modalities if m != target),
        }
        assert list(rows(found, view="joint")["feature"]) == list(model.adata[target].var_names)


def test_predictions_are_scored_on_the_held_out_cells(model, table):
    cells = model.validation_indices
    measured = model.adata.obs_names[cells].isin(model.adata["meth"].obs_names)
    truth = model.adata["meth"][model.adata.obs_names[cells][measured]].X
    predicted = model.predict("rna", "meth", indices=cells, return_numpy=True)[measured]
    expected = metrics.r2(truth, predicted)
    found = rows(table, metric="r2", source="rna", target="meth")["value"]
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_blocks_of_features_change_nothing(model, table, monkeypatch):
    monkeypatch.setattr("scvenn.readouts.evaluation._BLOCK", 700)
    again = model.evaluate(labels_key="cell_type")
    key = ["metric", "view", "source", "target", "feature"]
    both = table.merge(again, on=key)
    assert len(both) == len(table)
    np.testing.assert_allclose(both["value_x"], both["value_y"], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(both["by_chance_x"], both["by_chance_y"], rtol=1e-4, atol=1e-6)


def test_cells_without_a_label_are_not_probed_for_it():
    """A value that means 'not known' is no class, with the name it was set up under."""
    mdata = scvenn.datasets.simulate_counts(n_obs=200, n_features=20, n_types=3)
    mdata.obs["cell_type"] = mdata.obs["cell_type"].astype(str)
    mdata.obs["with_unknown"] = mdata.obs["cell_type"].where(np.arange(200) % 5 > 0, "unknown")
    mdata.obs["with_nan"] = mdata.obs["cell_type"].where(np.arange(200) % 5 > 0)
    scvenn.MMVAEpp.setup_mudata(mdata, labels_key="with_unknown", unlabeled_category="unknown")
    model = scvenn.MMVAEpp(mdata)
    model.train(1, train_size=0.5, **QUIET)
    unknown, nan = (
        rows(model.evaluate(labels_key=key), metric="auc")["value"].to_numpy()
        for key in ("with_unknown", "with_nan")
    )
    np.testing.assert_array_equal(unknown, nan)


def test_every_latent_is_probed_for_labels(model, table):
    for metric in ("auc", "balanced_accuracy"):
        found = rows(table, metric=metric, target="cell_type")
        assert set(found["source"]) == {"shared", *(f"private_{m}" for m in model.modalities)}
        assert found["value"].between(0, 1).all()
        assert not len(rows(model.evaluate(), metric=metric))


def test_leakage_is_measured_both_ways_and_to_other_modalities(model, table):
    found = rows(table, metric="leakage_r2")
    pairs = set(zip(found["source"], found["target"], strict=True))
    latents = {f"private_{m}" for m in model.modalities}
    assert pairs == {
        *(("shared", p) for p in latents),
        *((p, "shared") for p in latents),
        *((f"private_{a}", b) for a in model.modalities for b in model.modalities if a != b),
    }
    assert len(rows(found, source="private_rna", target="shared")) == 3
    assert len(rows(found, source="private_rna", target="peaks")) == 20


def test_planted_leakage_shows(model, monkeypatch):
    """A private latent that predicts the shared one has a leakage of nearly 1."""
    private = model.get_private_representation("rna")
    rng = np.random.default_rng(0)
    embed = evaluation.embed
    planted = private[:, :1] + 0.01 * rng.normal(size=(len(private), 3)).astype(np.float32)

    def leaking(net, cells, sources, **options):
        _, privates = embed(net, cells, sources, **options)
        return planted[cells.rows], privates

    monkeypatch.setattr(evaluation, "embed", leaking)
    found = rows(model.evaluate(), metric="leakage_r2", source="private_rna", target="shared")
    assert (found["value"] > 0.95).all()


def test_what_is_planted_is_above_chance_and_what_is_not_is_not(model, table):
    recovered = rows(table, metric="recovery_linear_r2", source="shared", target="z_shared")
    assert recovered["value"].item() > recovered["by_chance"].item() + 0.05
    leaks = rows(table, metric="leakage_r2", source="private_meth", target="rna")
    assert abs(leaks["value"].median() - leaks["by_chance"].median()) < 0.1


def test_labels_are_guessed_by_chance(table, model):
    n_types = model.adata.obs["cell_type"].nunique()
    assert (rows(table, metric="auc")["by_chance"] == 0.5).all()
    accuracy = rows(table, metric="balanced_accuracy")["by_chance"]
    np.testing.assert_allclose(accuracy, 1 / n_types)


def test_by_chance_cells_keep_their_depth():
    """Counts that only the depth of a cell explains are predicted as well by chance."""
    rng = np.random.default_rng(0)
    depth = rng.lognormal(sigma=1.0, size=(200, 1))
    parts = {
        m: anndata.AnnData(rng.poisson(20 * depth * rng.dirichlet(np.ones(15))).astype("f4"))
        for m in ("a", "b")
    }
    for m, adata in parts.items():
        adata.var_names = [f"{m}{j}" for j in range(15)]
    scvi.settings.seed = 0
    model = scvenn.MMVAEpp(MuData(parts))
    model.train(3, train_size=0.5, **QUIET)
    medians = metrics.medians(model.evaluate()).query("metric == 'pearson' and view == 'cross'")
    assert (medians["by_chance"] > 0.5).all()
    np.testing.assert_allclose(medians["median"], medians["by_chance"], atol=0.05)


def test_the_order_of_cells_does_not_change_scores(model, table):
    order = np.random.default_rng(0).permutation(model.validation_indices)
    again = model.evaluate(labels_key="cell_type", indices=order)
    numbers, of_ranks = ["value", "by_chance"], table["metric"] == "auroc"
    np.testing.assert_allclose(again[numbers], table[numbers], rtol=1e-4, atol=0.01)
    # rounding may exchange the ranks of two cells, which is one of some hundred pairs
    rest = table.loc[~of_ranks, numbers]
    np.testing.assert_allclose(again.loc[~of_ranks, numbers], rest, rtol=1e-4, atol=1e-5)


def test_features_that_screening_calls_shared_are_marked(model, table):
    screening = model.get_shared_scores().set_index(["modality", "feature"])["shared"]
    of_features = table[table["feature"].notna() & table["target"].isin(model.modalities)]
    expected = screening.loc[zip(of_features["target"], of_features["feature"], strict=True)]
    np.testing.assert_array_equal(of_features["screened"].astype(bool), expected)
    assert table.loc[table["metric"] == "auc", "screened"].isna().all()


def test_a_dimension_that_varies_by_rounding_alone_does_not_count(model, monkeypatch):
    """It would count as much as the others, and depend on how data is stored."""

    def with_rounding(seed):
        def embedded(net, cells, sources, **how):
            noise = 1e-8 * np.random.default_rng(seed).standard_normal((len(cells), 1))
            shared, private = embeddings.embed(net, cells, sources, **how)
            shared = np.hstack([shared[:, :2], noise])
            return shared, {m: np.hstack([z[:, :1], noise]) for m, z in private.items()}

        monkeypatch.setattr(evaluation, "embed", embedded)
        table = model.evaluate(labels_key="cell_type")
        return table[table["view"] == "latent"].reset_index(drop=True)

    one, other = with_rounding(0), with_rounding(1)
    pd.testing.assert_frame_equal(one, other, atol=1e-5)
    dimensions = one[one["target"].isin(["shared", "private_rna"])]["feature"].dropna()
    assert set(dimensions) == {"shared_0", "shared_1", "private_rna_0"}


def test_medians_are_over_features_and_over_shared_ones(table):
    medians = metrics.medians(table)
    row = rows(medians, metric="r2", view="cross", source="rna", target="meth").iloc[0]
    found = rows(table, metric="r2", view="cross", source="rna", target="meth").dropna(
        subset="value"
    )
    shared = found[found["screened"].astype(bool)]
    assert (row["n"], row["n_screened"]) == (len(found), len(shared))
    assert row["median"] == found["value"].median()
    assert row["by_chance"] == found["by_chance"].median()
    assert row["median_screened"] == shared["value"].median()
    assert row["by_chance_screened"] == shared["by_chance"].median()


def test_models_that_screen_and_models_that_do_not_have_medians_in_one_table(table):
    unscreened = table.drop(columns="screened")
    both = pd.concat([table.assign(model="a"), unscreened.assign(model="b")], ignore_index=True)
    medians = metrics.medians(both)
    n_screened = medians.groupby("model")["n_screened"].sum()
    assert n_screened["a"] > 0 == n_screened["b"]
    values = medians.pivot_table("median", ["metric", "view", "source", "target"], "model")
    np.testing.assert_array_equal(values["a"], values["b"])


def test_medians_are_of_a_table_and_not_of_a_model(model):
    with pytest.raises(ValueError, match=r"the table of model.evaluate\(\); found MMVAEpp"):
        metrics.medians(model)


def test_medians_need_the_whole_table(table):
    with pytest.raises(ValueError, match=r"found one without \['by_chance'\]"):
        metrics.medians(table.drop(columns="by_chance"))


def test_planted_latents_are_recovered_or_not(model, table):
    found = table[table["metric"].str.startswith("recovery")]
    assert set(found["metric"]) == {"recovery_linear_r2", "recovery_knn_r2"}
    assert set(found["target"]) == {"z_shared", *(f"z_private_{m}" for m in model.modalities)}
    own = rows(found, metric="recovery_linear_r2", source="private_rna", target="z_private_rna")
    other = rows(found, metric="recovery_linear_r2", source="private_peaks", target="z_private_rna")
    assert own["value"].item() > other["value"].item()


@pytest.fixture
def planted(model):
    """The data, whose planted latent a test may change."""
    before = model.adata.obsm["z_shared"].copy()
    yield model.adata
    model.adata.obsm["z_shared"] = before


def recovery(table):
    return rows(table, target="z_shared").set_index(["metric", "source"])["value"]


@pytest.mark.parametrize(
    "form", [sp.csr_matrix, sp.csr_array, lambda z: pd.DataFrame(z)], ids=["csr", "array", "frame"]
)
def test_planted_latents_are_read_however_they_are_stored(model, planted, table, form):
    stored = form(planted.obsm["z_shared"])
    if isinstance(stored, pd.DataFrame):
        stored = stored.set_index(planted.obs_names).rename(columns=str)
    planted.obsm["z_shared"] = stored
    pd.testing.assert_series_equal(recovery(model.evaluate()), recovery(table))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_cells_whose_planted_latents_are_not_known_are_left_out(model, planted, value):
    known = np.r_[model.train_indices[:5], model.validation_indices[:40]]
    unknown = np.setdiff1d(np.arange(planted.n_obs), known)
    planted.obsm["z_shared"][unknown] = value
    found = recovery(model.evaluate())
    own = model.evaluate(indices=model.validation_indices[:40])
    assert found.notna().all()
    pd.testing.assert_series_equal(found, recovery(own))


def test_planted_latents_of_no_cell_are_scored_nan_with_one_warning(model, planted, table):
    planted.obsm["z_shared"][:] = np.nan
    with pytest.warns(UserWarning, match="scores of recovery are NaN, of 'z_shared'") as caught:
        found = model.evaluate(labels_key="cell_type")
    assert sum("recovery" in str(one.message) for one in caught) == 1
    assert recovery(found).isna().all()
    others = found["target"] != "z_shared"
    pd.testing.assert_frame_equal(found[others], table[others])


def test_cells_to_score_can_be_chosen(model):
    cells = model.validation_indices[:40]
    mask = np.zeros(model.adata.n_obs, dtype=bool)
    mask[cells] = True
    one, two = model.evaluate(indices=np.sort(cells)), model.evaluate(indices=mask)
    np.testing.assert_array_equal(one["value"], two["value"])


def test_new_data_is_scored_with_probes_of_the_training_cells(model):
    new = three_modalities(missing=0.0, n_obs=80, seed=1)
    new.obs_names = [f"new{i}" for i in range(80)]
    for m in new.mod:
        new.mod[m].obs_names = new.obs_names
    table = model.evaluate(new, labels_key="cell_type")
    assert rows(table, metric="auc")["value"].notna().all()
    assert set(rows(table, metric="r2")["target"]) == set(model.modalities)


def test_new_data_may_lack_a_modality(model):
    from mudata import MuData

    new = three_modalities(missing=0.0, n_obs=80, seed=1)
    part = MuData({m: new[m].copy() for m in ("rna", "meth")})
    part.obs_names = [f"new{i}" for i in range(80)]
    for m in part.mod:
        part.mod[m].obs_names = part.obs_names
    part.obs["batch"] = "batch0"
    found = model.evaluate(part)
    assert set(rows(found, metric="r2")["target"]) == {"rna", "meth"}
    assert not found["source"].str.contains("peaks").any()
    assert not found["target"].str.contains("peaks").any()


def test_cells_that_were_trained_on_are_refused(model):
    with pytest.raises(ValueError, match="150 of the 300 cells to score were trained on"):
        model.evaluate(indices=np.arange(300))
    with pytest.raises(ValueError, match="150 of the 300 cells to score were trained on"):
        model.evaluate(model.adata.copy())


def test_a_model_trained_on_all_cells_says_what_to_do(small):
    model = scvenn.MMVAEpp(small)
    model.train(1, train_size=1.0, **QUIET)
    with pytest.raises(ValueError, match="two or more cells that were not trained on"):
        model.evaluate()


def test_a_model_without_data_says_what_to_do(model):
    model.save("model")
    with pytest.raises(ValueError, match="loaded without data"):
        scvenn.MMVAEpp.load("model").evaluate(three_modalities(missing=0.0))


def held_out_names(model):
    return set(model.adata.obs_names[model.validation_indices])


@pytest.mark.parametrize("n_left", [300, 200])
def test_held_out_cells_of_a_loaded_model_are_found_by_name(model, n_left):
    model.save("model")
    moved = model.adata[np.random.default_rng(0).permutation(300)[:n_left]].copy()
    loaded = scvenn.MMVAEpp.load("model", moved)
    expected = held_out_names(model) & set(moved.obs_names)
    assert held_out_names(loaded) == expected
    loaded.train(1, **QUIET)
    assert held_out_names(loaded) == expected


def test_a_model_loaded_with_the_cells_in_another_order_scores_the_same_ones(model):
    model.save("model")
    loaded = scvenn.MMVAEpp.load("model", model.adata[::-1].copy())
    columns = ["metric", "view", "source", "target", "feature"]
    found, expected = (
        m.evaluate().query("metric == 'r2'").set_index(columns) for m in (loaded, model)
    )
    pd.testing.assert_frame_equal(found, expected.loc[found.index], rtol=1e-3, atol=1e-4)


def test_ties_between_neighbours_do_not_depend_on_the_order_of_the_data():
    mdata = scvenn.datasets.simulate_counts(160, n_features=20)
    scvi.settings.seed = 0
    model = scvenn.MMVAEpp(mdata, n_shared=4, n_private=3, n_hidden=16)
    model.train(2, train_size=0.6, **QUIET)
    model.save("model")
    found = []
    for seed in range(3):
        moved = mdata[np.random.default_rng(seed).permutation(160)].copy()
        scores = scvenn.MMVAEpp.load("model", moved).evaluate()
        found.append(scores.query("metric == 'recovery_knn_r2'")["value"].to_numpy())
    for one in found:
        np.testing.assert_allclose(one, found[0], rtol=1e-6, atol=1e-9)


def test_a_model_loaded_with_new_cells_alone_has_no_held_out_ones(model):
    model.save("model")
    loaded = scvenn.MMVAEpp.load("model", under_other_names(model.adata))
    with pytest.raises(ValueError, match="of which this model has none"):
        loaded.evaluate()


def test_files_of_0_1_tell_which_cells_any_training_was_on(model):
    model.save("model")
    old = scvenn.MMVAEpp.load("model", model.adata)
    # as 0.1 kept them: positions, and one hash of all names
    seen = old.validation_indices[:4]
    old.cells_, old.trained_cells_ = None, np.zeros(0, dtype=np.uint64)
    old.trained_on_, old.earlier_train_indices_ = saving._hash_of_all(old.adata), seen
    old.save("old")
    loaded = scvenn.MMVAEpp.load("old", model.adata)
    assert held_out_names(loaded) == held_out_names(model)
    with pytest.raises(ValueError, match="4 of the 4 cells to score were trained on"):
        loaded.evaluate(indices=seen)


def test_a_model_without_data_knows_the_cells_it_was_trained_on(model):
    model.save("model")
    loaded = scvenn.MMVAEpp.load("model", False)
    with pytest.raises(ValueError, match="150 of the 300 cells to score were trained on"):
        loaded.variance_explained(model.adata)
    assert len(loaded.variance_explained(model.adata, indices=model.validation_indices))


def test_scores_that_are_not_defined_are_named_once(model):
    mdata = model.adata.copy()
    mdata["peaks"].X = mdata["peaks"].X.toarray()
    mdata["peaks"].X[:, 3] = 1
    with pytest.warns(
        UserWarning, match=r"evaluate\(\): some scores are NaN.*'peaks': .*'peaks_3'"
    ):
        table = model.evaluate(mdata, indices=model.validation_indices)
    constant = rows(table, target="peaks", feature="peaks_3")
    assert constant["value"].isna().all()
    assert {"r2", "pearson", "auroc", "leakage_r2"} == set(constant["metric"])


@pytest.fixture
def labelled():
    """A model whose data has a column of three labels that a test may change."""
    scvi.settings.seed = 0
    mdata = scvenn.datasets.simulate_counts(n_obs=120, n_features=12, n_types=3)
    mdata.obs["kind"] = mdata.obs["cell_type"].astype(object)
    model = scvenn.MMVAEpp(mdata, n_shared=2, n_private=2, n_hidden=8)
    model.train(1, train_size=0.6, **QUIET)
    return model


def give(model, label, *cells):
    mdata = model.adata
    mdata.obs.loc[mdata.obs_names[list(cells)], "kind"] = label


def label_scores(table):
    return table[table["metric"].isin(["auc", "balanced_accuracy"])]


def test_a_label_that_only_a_scored_cell_has_leaves_it_out_and_is_named(labelled):
    held_out = labelled.validation_indices
    give(labelled, "rare", held_out[0])
    with pytest.warns(UserWarning, match=r"1 of the scored cells are left out, .*'rare'") as caught:
        table = labelled.evaluate(labels_key="kind")
    assert sum("labels_key" in str(one.message) for one in caught) == 1
    give(labelled, None, held_out[0])
    expected = labelled.evaluate(labels_key="kind")
    pd.testing.assert_frame_equal(table, expected)
    assert label_scores(table)["value"].notna().all()


@pytest.mark.filterwarnings("error:evaluate.labels_key")
@pytest.mark.parametrize("where", ["train", "both", "missing"])
def test_rare_and_missing_labels_that_can_be_scored_are(labelled, where):
    train, held_out = labelled.train_indices, labelled.validation_indices
    give(labelled, None if where == "missing" else "rare", train[0])
    if where != "train":
        give(labelled, np.nan if where == "missing" else "rare", held_out[0])
    assert label_scores(labelled.evaluate(labels_key="kind"))["value"].between(0, 1).all()


@pytest.mark.parametrize("cells", ["train", "validation"])
@pytest.mark.parametrize("label", [None, "one", "unseen"])
def test_labels_that_cannot_be_scored_leave_all_other_scores(labelled, cells, label):
    give(labelled, label, *getattr(labelled, f"{cells}_indices"))
    with pytest.warns(UserWarning, match="there are no scores, as a probe needs two") as caught:
        table = labelled.evaluate(labels_key="kind")
    assert sum("labels_key" in str(one.message) for one in caught) == 1
    assert label_scores(table)["value"].isna().all()
    others = table.drop(label_scores(table).index).reset_index(drop=True)
    pd.testing.assert_frame_equal(others, labelled.evaluate())
    compared = metrics.compare({"a": labelled}, labels_key="kind")
    assert len(compared) == len(table)


def test_a_label_may_be_rare_in_one_modality_only(model):
    """Of cells that have the modality, the one training cell with the label lacks it."""
    mdata, held_out = model.adata, model.validation_indices
    has = mdata.obs_names.isin(mdata["rna"].obs_names)
    mdata.obs["rare"] = mdata.obs["cell_type"].astype(object)
    mdata.obs.loc[mdata.obs_names[model.train_indices[~has[model.train_indices]][:3]], "rare"] = "r"
    mdata.obs.loc[mdata.obs_names[held_out[has[held_out]][:2]], "rare"] = "r"
    with pytest.warns(UserWarning, match=r"of 'private_rna', 2 of the scored cells are left out"):
        table = model.evaluate(labels_key="rare")
    assert label_scores(table)["value"].notna().all()


def test_warnings_name_the_line_of_the_user(labelled):
    give(labelled, "rare", labelled.validation_indices[0])
    with pytest.warns(UserWarning, match="labels_key") as caught:
        metrics.compare({"a": labelled}, labels_key="kind")
    assert {one.filename for one in caught if "labels_key" in str(one.message)} == {__file__}


def test_a_modality_that_one_cell_has_is_scored_as_far_as_that_goes(model):
    rna, meth = (model.adata[m].obs_names for m in ("rna", "meth"))
    held_out = model.adata.obs_names[model.validation_indices]
    both, without = held_out[held_out.isin(rna) & held_out.isin(meth)], held_out.difference(rna)
    cells = [*both[:1], *without.intersection(meth)[:9]]
    table = model.evaluate(indices=cells)
    assert "private_rna" not in set(table["source"])
    assert rows(table, metric="leakage_r2", source="private_meth")["value"].notna().any()


def test_each_matrix_is_read_once(model, reads):
    model.evaluate(labels_key="cell_type")
    assert reads == dict.fromkeys(model.modalities, 1)


def test_new_data_and_training_data_are_read_once_each(model, reads):
    new = model.adata[model.validation_indices].copy()
    model.evaluate(new)
    assert reads == dict.fromkeys(model.modalities, 2)


def test_cells_filtered_in_place_are_no_reason_to_take_others_for_trained():
    """Positions of training cells mean what they meant when the data was last read."""
    mdata = scvenn.datasets.simulate_counts(n_obs=100, n_features=12)
    model = scvenn.MMVAEpp(mdata, n_shared=2, n_private=2, n_hidden=8)
    model.train(1, train_size=0.5, **QUIET)
    new = mdata[model.validation_indices].copy()
    expected = model.variance_explained(new)
    for adata in mdata.mod.values():
        adata._inplace_subset_obs(adata.obs_names[50:])
    mdata.update()
    pd.testing.assert_frame_equal(model.variance_explained(new), expected)


def test_unknown_labels_are_refused(model):
    with pytest.raises(ValueError, match="labels_key='kind' not found. Searched"):
        model.evaluate(labels_key="kind")


def test_models_are_compared_in_one_table(model):
    table = metrics.compare({"a": model, "b": model}, labels_key="cell_type")
    assert list(table.columns) == ["model", *metrics.EVALUATION_COLUMNS, "by_chance", "screened"]
    one, two = (rows(table, model=name)["value"].to_numpy() for name in "ab")
    np.testing.assert_array_equal(one, two)


def test_cells_of_which_no_two_have_a_modality_are_refused(model):
    new = under_other_names(model.adata[:2].copy())
    one, other, *_ = new.mod
    parts = {one: new[one][[0]].copy(), other: new[other][[-1]].copy()}
    parts[other].obs_names = ["another"]
    two = MuData(parts)
    two.obs["batch"] = model.batches[0]
    with pytest.raises(ValueError, match="found no modality of .* that two or more of the 2 cells"):
        model.evaluate(two)


@pytest.mark.parametrize(
    ("models", "found"), [({}, "dict, which is empty"), ([1, 2], "found list")]
)
def test_models_are_compared_by_name(models, found):
    with pytest.raises(ValueError, match=rf"compare\(models\): expected trained models .*{found}"):
        scvenn.metrics.compare(models)


def test_modalities_that_no_scored_cell_has_together_are_named():
    scvi.settings.seed = 0
    kinds = dict.fromkeys("abc", "nb")
    mdata = scvenn.datasets.simulate_counts(120, modalities=kinds, n_features=12)
    first = np.arange(120) < 60
    parts = {"a": mdata["a"][first].copy(), "b": mdata["b"].copy(), "c": mdata["c"][~first].copy()}
    model = scvenn.MMVAE(MuData(parts), n_hidden=8)
    model.train(1, train_size=0.6, **QUIET)
    message = "scores of 'c' from 'a', 'a' from 'c' are NaN, as fewer than two"
    with pytest.warns(UserWarning, match=message) as caught:
        model.evaluate()
    texts = [str(one.message) for one in caught]
    assert not any("'a0'" in text or "features that are constant" in text for text in texts)


def _damaged(latent):
    stored = sp.csr_matrix(latent)
    stored.indptr[5] += 10**7
    return stored


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_damaged, r"the sparse matrix mdata\.obsm\['z_shared'\] is damaged"),
        (lambda z: z.astype(complex), "complex128 with 2 dimensions; expected the numbers"),
        (lambda z: z.astype(str), "expected the numbers of a latent"),
        (lambda z: np.stack([z, z], axis=1), "with 3 dimensions; expected the numbers"),
    ],
    ids=["damaged", "complex", "text", "three dimensions"],
)
def test_what_is_no_planted_latent_is_an_error_and_no_crash(small, change, message):
    model = scvenn.MMVAE(small, n_hidden=8)
    model.train(1, train_size=0.5, **QUIET)
    small.obsm["z_shared"] = change(np.asarray(small.obsm["z_shared"]))
    with pytest.raises(ValueError, match=message):
        model.evaluate()


def test_planted_latents_of_other_sizes_are_refused(small):
    model = scvenn.MMVAE(small, n_hidden=8)
    model.train(1, **QUIET)
    new = under_other_names(small)
    new.obsm["z_shared"] = new.obsm["z_shared"][:, :1]
    with pytest.raises(ValueError, match=r"has \d and 1 dimensions in training cells and in cells"):
        model.evaluate(new)


def test_a_label_that_cannot_be_scored_has_no_value_by_chance(small):
    model = scvenn.MMVAE(small, n_hidden=8)
    model.train(1, train_size=0.5, **QUIET)
    small.obs["one"] = "a"
    with pytest.warns(UserWarning, match="there are no scores"):
        table = model.evaluate(labels_key="one")
    of_labels = table[table["metric"].isin(["auc", "balanced_accuracy"])]
    assert len(of_labels)
    assert of_labels[["value", "by_chance"]].isna().all(axis=None)


def test_blocks_of_features_hold_no_array_of_all_cells_by_all_features(monkeypatch):
    monkeypatch.setattr(evaluation, "_BLOCK", 50_000)
    rng, n, n_features = np.random.default_rng(0), 500, 4000
    data = {
        m: anndata.AnnData(sp.random(n, n_features, 0.01, "csr", np.float32, rng=rng))
        for m in ("rna", "atac")
    }
    for m, adata in data.items():
        adata.X.data[:] = 1
        adata.var_names = [f"{m}{j}" for j in range(n_features)]
    model = scvenn.MMVAEpp(MuData(data), n_hidden=2)
    cells = Cells(model.adata_manager.snapshot(), np.arange(n))
    tracemalloc.start()
    for _ in evaluation._blocks(model.module, [cells, cells], "rna"):
        pass
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < n * n_features  # of booleans, a byte each
