"""Metrics with known answers."""

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import sklearn.metrics
from hypothesis import given
from hypothesis import strategies as st

from scvenn import metrics

TRAIN, TEST = np.arange(100), np.arange(100, 200)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


# ------------------------------------------------------------------------------- predictions


def test_a_perfect_prediction_has_r2_1(rng):
    x = rng.normal(size=(50, 3))
    np.testing.assert_array_equal(metrics.r2(x, x), 1)
    np.testing.assert_allclose(metrics.pearson(x, x), 1)


def test_the_mean_as_prediction_has_r2_0(rng):
    x = rng.normal(size=(50, 3))
    np.testing.assert_allclose(metrics.r2(x, np.broadcast_to(x.mean(0), x.shape)), 0, atol=1e-12)


def test_a_random_prediction_has_negative_r2_and_no_correlation(rng):
    x, y = rng.normal(size=(2, 5000, 3))
    np.testing.assert_allclose(metrics.r2(x, y), -1, atol=0.1)
    np.testing.assert_allclose(metrics.pearson(x, y), 0, atol=0.05)


@given(seed=st.integers(0, 1000), scale=st.sampled_from([1e-3, 1.0, 1e4]))
def test_r2_equals_scikit_learns(seed, scale):
    x, y = scale * np.random.default_rng(seed).normal(size=(2, 20, 4)) + 3
    expected = sklearn.metrics.r2_score(x, y, multioutput="raw_values")
    np.testing.assert_allclose(metrics.r2(x, y), expected, rtol=1e-6)


@given(seed=st.integers(0, 1000))
def test_pearson_equals_numpys(seed):
    x, y = np.random.default_rng(seed).normal(size=(2, 20, 4))
    expected = [np.corrcoef(x[:, j], y[:, j])[0, 1] for j in range(4)]
    np.testing.assert_allclose(metrics.pearson(x, y), expected, rtol=1e-6, atol=1e-9)


def test_values_that_were_not_observed_are_left_out(rng):
    x, y = rng.normal(size=(2, 30, 2))
    x[:5, 0] = np.nan
    y[20:, 1] = np.nan
    for score in (metrics.r2, metrics.pearson):
        expected = [score(x[5:, :1], y[5:, :1])[0], score(x[:20, 1:], y[:20, 1:])[0]]
        np.testing.assert_allclose(score(x, y), expected)


def test_a_constant_feature_is_nan_and_a_warning_says_why(rng):
    x, y = rng.normal(size=(2, 10, 3))
    x[:, 1] = 4
    with pytest.warns(UserWarning, match=r"R² is not defined.*1 of 3 features \(columns 1\)"):
        assert np.isnan(metrics.r2(x, y)).tolist() == [False, True, False]
    with pytest.warns(UserWarning, match="correlation is not defined"):
        assert np.isnan(metrics.pearson(x, y)).tolist() == [False, True, False]


@pytest.mark.parametrize("constant", [0.1, 1e9, -0.3])
def test_a_constant_is_constant_whatever_its_rounding(constant):
    x = np.full((7, 1), constant)
    with pytest.warns(UserWarning, match="constant"):
        assert np.isnan(metrics.r2(x, x + 1)).all()


def test_a_constant_prediction_has_no_correlation(rng):
    assert metrics.pearson(rng.normal(size=(10, 1)), np.ones((10, 1)))[0] == 0


@pytest.mark.parametrize("n", [0, 1])
def test_fewer_than_two_cells_define_nothing(n):
    with pytest.warns(UserWarning, match="fewer than two"):
        assert np.isnan(metrics.r2(np.ones((n, 2)), np.ones((n, 2)))).all()


def test_auroc_of_perfect_reversed_and_constant_scores():
    truth = np.array([[0, 1, 1, 0]]).T
    for score, expected in (([0, 1, 1, 0], 1), ([1, 0, 0, 1], 0), ([3, 3, 3, 3], 0.5)):
        assert metrics.auroc(truth, np.array([score]).T)[0] == expected


@given(seed=st.integers(0, 1000))
def test_auroc_equals_scikit_learns(seed):
    rng = np.random.default_rng(seed)
    x, y = rng.integers(2, size=(30, 3)).astype(float), rng.normal(size=(30, 3)).round(1)  # ties
    x[:5, 0] = np.nan
    expected = [sklearn.metrics.roc_auc_score(x[i:, j], y[i:, j]) for j, i in enumerate((5, 0, 0))]
    np.testing.assert_allclose(metrics.auroc(x, y), expected)


def test_auroc_of_one_class_is_nan_and_a_warning_says_why():
    with pytest.warns(UserWarning, match="only 0 or only 1"):
        assert np.isnan(metrics.auroc(np.zeros((5, 1)), np.ones((5, 1)))).all()


def test_auroc_of_other_values_is_refused():
    with pytest.raises(ValueError, match="truth of 0 and 1, found 2"):
        metrics.auroc([[0], [2]], [[0], [1]])


@pytest.mark.parametrize("score", [metrics.r2, metrics.pearson, metrics.auroc])
def test_shapes_must_agree(score):
    with pytest.raises(ValueError, match=r"found \(3, 2\) and \(3, 1\)"):
        score(np.zeros((3, 2)), np.zeros((3, 1)))


# ------------------------------------------------------------------------------- probes


def test_a_label_that_a_plane_separates_has_auc_1(rng):
    z = rng.normal(size=(200, 3))
    assert metrics.probe_scores(z, z[:, 0] > 0, train=TRAIN, test=TEST)["auc"] > 0.99


def test_a_label_that_the_embedding_does_not_know_has_auc_one_half(rng):
    z = rng.normal(size=(2000, 3))
    auc = metrics.probe_scores(
        z, rng.integers(2, size=2000), train=np.arange(1000), test=np.arange(1000, 2000)
    )["auc"]
    assert auc == pytest.approx(0.5, abs=0.05)


def test_more_than_two_classes_are_averaged_one_against_the_rest(rng):
    kind = rng.integers(3, size=200)
    z = np.eye(3)[kind] + 0.01 * rng.normal(size=(200, 3))
    assert metrics.probe_scores(z, kind.astype(str), train=TRAIN, test=TEST)["auc"] == 1
    z[kind == 2] = z[kind == 1][rng.integers((kind == 1).sum(), size=(kind == 2).sum())]
    # class 0 is found; 1 and 2 look the same: (1 + 0.75 + 0.75) / 3
    auc = metrics.probe_scores(z, kind, train=TRAIN, test=TEST)["auc"]
    assert auc == pytest.approx(2.5 / 3, abs=0.06)


def test_accuracy_counts_a_rare_class_as_much_as_a_common_one(rng):
    kind = np.where(np.arange(200) % 10 == 0, "rare", "common")
    z = (kind == "rare")[:, None] + 0.01 * rng.normal(size=(200, 1))
    assert metrics.probe_scores(z, kind, train=TRAIN, test=TEST)["balanced_accuracy"] == 1
    nothing = rng.normal(size=(200, 1))  # all are called common: half of the classes are right
    assert metrics.probe_scores(nothing, kind, train=TRAIN, test=TEST)["balanced_accuracy"] == 0.5


@pytest.mark.filterwarnings("error")
def test_accuracy_is_that_of_the_labels_among_the_test_cells():
    """The third training label does not occur there, but is given to one of the two cells."""
    z = np.array([[0.0], [1.0], [2.0], [0.0], [2.0]])
    kind = ["a", "b", "c", "a", "b"]
    assert metrics.probe_scores(z, kind, train=[0, 1, 2], test=[3, 4])["balanced_accuracy"] == 0.5


def test_cells_without_label_or_embedding_are_left_out(rng):
    z, label = rng.normal(size=(200, 2)), rng.integers(2, size=200)
    kept = np.arange(200) % 4 != 0
    known = {"train": TRAIN[kept[TRAIN]], "test": TEST[kept[TEST]]}
    expected = metrics.probe_scores(z, label, **known)
    some = pd.Series(label.astype(float)).where(kept)
    z_part = np.where((np.arange(200) % 8 == 0)[:, None], np.nan, z)
    assert metrics.probe_scores(z, some, train=TRAIN, test=TEST) == expected
    assert metrics.probe_scores(z_part, some, train=TRAIN, test=TEST) == expected


@pytest.mark.parametrize(("part", "rows"), [("train", TRAIN), ("test", TEST)])
def test_one_class_among_the_cells_is_refused(rng, part, rows):
    label = rng.integers(2, size=200)
    label[rows] = 1
    with pytest.raises(ValueError, match=rf"100 labelled {part} cells have one label only, '1'"):
        metrics.probe_scores(rng.normal(size=(200, 2)), label, train=TRAIN, test=TEST)


def test_a_class_that_was_never_fitted_is_refused(rng):
    label = rng.integers(2, size=200).astype(str)
    label[150] = "new"
    with pytest.raises(ValueError, match="No training cell has the label 'new'"):
        metrics.probe_scores(rng.normal(size=(200, 2)), label, train=TRAIN, test=TEST)


@pytest.mark.parametrize(
    "score",
    [
        lambda z, **split: metrics.probe_scores(z, z[:, 0] > 0, **split)["auc"],
        lambda z, **split: metrics.ridge_r2(z, z, **split),
        lambda z, **split: metrics.recovery_r2(z, z, **split),
    ],
)
def test_cells_that_were_fitted_are_not_scored(rng, score):
    with pytest.raises(ValueError, match="10 cells are in train and in test.*position 90"):
        score(rng.normal(size=(200, 2)), train=TRAIN, test=np.arange(90, 200))


# ------------------------------------------------------------------------------- leakage


@pytest.mark.parametrize("share", [0.0, 0.5, 0.9])
def test_planted_leakage_is_measured(share):
    """A target of which a known share of the variance is read off the source."""
    rng = np.random.default_rng(1)
    z, noise = rng.normal(size=(2, 4000, 2))
    target = np.sqrt(share) * z + np.sqrt(1 - share) * noise
    split = {"train": np.arange(2000), "test": np.arange(2000, 4000)}
    np.testing.assert_allclose(metrics.ridge_r2(z, target, **split), share, atol=0.04)
    np.testing.assert_allclose(metrics.ridge_r2(target, z, **split), share, atol=0.04)


def test_leakage_is_blind_to_units(rng):
    z = rng.normal(size=(200, 2))
    target = z @ rng.normal(size=(2, 3)) + rng.normal(size=(200, 3))
    one = metrics.ridge_r2(z, target, train=TRAIN, test=TEST)
    two = metrics.ridge_r2(1000 * z + 5, target / 1000 - 3, train=TRAIN, test=TEST)
    np.testing.assert_allclose(one, two, rtol=1e-6)


def test_missing_values_of_a_target_are_not_scored(rng):
    z = rng.normal(size=(200, 1))
    target = np.hstack([z, 2 * z])
    target[rng.random(target.shape) < 0.2] = np.nan
    assert (metrics.ridge_r2(z, target, train=TRAIN, test=TEST) > 0.8).all()


def test_too_few_cells_are_refused(rng):
    z = rng.normal(size=(5, 1))
    with pytest.raises(ValueError, match="1 training and 2 test cells have both"):
        metrics.ridge_r2(z, z, train=[0], test=[1, 2])


# ------------------------------------------------------------------------------- recovery


def test_a_linear_map_of_the_truth_is_recovered(rng):
    truth = rng.normal(size=(200, 2))
    scores = metrics.recovery_r2(truth @ rng.normal(size=(2, 5)), truth, train=TRAIN, test=TEST)
    assert scores["linear"] == pytest.approx(1)
    assert scores["knn"] > 0.8


def test_a_bent_map_of_the_truth_is_recovered_by_neighbours_only(rng):
    truth = rng.uniform(-2, 2, (2000, 1))
    bent = np.hstack([np.cos(6 * truth), np.sin(6 * truth), truth**2, truth**4])
    split = {"train": np.arange(1000), "test": np.arange(1000, 2000)}
    scores = metrics.recovery_r2(bent[:, 2:], truth**3, **split)
    assert scores["linear"] < 0.1
    scores = metrics.recovery_r2(bent, truth, **split)
    assert scores["linear"] < 0.3 < 0.8 < scores["knn"]


def test_noise_recovers_nothing(rng):
    scores = metrics.recovery_r2(
        rng.normal(size=(200, 2)), rng.normal(size=(200, 2)), train=TRAIN, test=TEST
    )
    assert max(scores.values()) < 0.1


# ------------------------------------------------------------------------------- scib-metrics


def test_without_scib_metrics_the_error_says_what_to_install(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "scib_metrics", None)
    monkeypatch.setitem(sys.modules, "scib_metrics.benchmark", None)
    with pytest.raises(ImportError, match=r"pip install 'scvenn\[scib\]'"):
        metrics.scib({"z": np.zeros((5, 2))}, list("abaab"))


def test_masked_values_are_missing():
    truth = np.ma.masked_array([[1.0], [2.0], [3.0], [99.0]], mask=[[0], [0], [0], [1]])
    predicted = np.array([[1.0], [2.0], [2.0], [0.0]])
    assert metrics.r2(truth, predicted) == metrics.r2(truth[:3], predicted[:3])


def test_columns_of_tables_are_found_by_name():
    truth = pd.DataFrame({"a": [1.0, 2.0, 4.0], "b": [5.0, 1.0, 0.0]})
    predicted = truth[["b", "a"]] + 0.1
    by_name = metrics.r2(truth, predicted)
    np.testing.assert_allclose(by_name, metrics.r2(truth, truth + 0.1))


@pytest.mark.parametrize("score", [metrics.r2, metrics.pearson])
def test_infinite_predictions_are_refused(score):
    with pytest.raises(ValueError, match="found infinite ones"):
        score([[1.0], [2.0]], [[1.0], [np.inf]])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([1.0, 2.0, 3.0, 4.0], "abab"), r"embedding: expected an array .* shape \(4,\)"),
        (([[1.0], [2.0], [3.0], [4.0]], "aba"), "labels: expected a value for each of 4 cells"),
    ],
)
def test_probes_need_arrays_of_the_same_cells(arguments, message):
    embedding, labels = arguments
    with pytest.raises(ValueError, match=message):
        metrics.probe_scores(embedding, list(labels), train=[0, 1], test=[2, 3])


def test_a_probe_takes_lists_and_tables():
    embedding = [[0.0], [1.0], [0.1], [0.9]]
    for form in (embedding, pd.DataFrame(embedding)):
        found = metrics.probe_scores(form, list("abab"), train=[0, 1], test=[2, 3])
        assert found["auc"] == 1


def test_regressions_need_training_cells():
    z = np.linspace(-1, 1, 6)[:, None]
    with pytest.raises(ValueError, match="0 training and 3 test cells have both"):
        metrics.ridge_r2(z, z, train=[], test=[0, 1, 2])


def test_medians_of_categorical_columns_have_no_rows_of_nothing():
    score = {"metric": "r2", "view": "cross", "source": "rna", "target": "atac"}
    table = pd.DataFrame({"feature": ["a", "b"], "value": [0.0, 0.6], "by_chance": 0.0}).assign(
        **score
    )
    other = table.assign(metric="pearson", source="atac", target="rna")
    both = pd.concat([table, other], ignore_index=True)
    chosen = both.astype(dict.fromkeys(["metric", "source", "target"], "category"))
    assert len(metrics.medians(chosen)) == 2


def test_recovery_needs_training_cells():
    z = np.linspace(-1, 1, 6)[:, None]
    with pytest.raises(ValueError, match="0 training and 3 test cells have both"):
        metrics.recovery_r2(z, z, train=[], test=[0, 1, 2])


FORMS = {
    "CSR": sp.csr_matrix,
    "CSC": sp.csc_array,
    "np.matrix": np.matrix,
    "table": pd.DataFrame,
    "half precision": lambda values: values.astype(np.float16),
    "nullable": lambda values: pd.DataFrame(values).convert_dtypes(),
    "masked": lambda values: np.ma.masked_array(np.nan_to_num(values), np.isnan(values)),
}


@pytest.mark.parametrize("form", list(FORMS))
@pytest.mark.parametrize(
    "score", ["r2", "pearson", "auroc", "ridge_r2", "recovery_r2", "probe_scores"]
)
def test_scores_do_not_depend_on_storage(rng, form, score):
    truth = rng.integers(0, 2, (40, 3)).astype(float)
    other = truth + rng.integers(0, 3, (40, 3))
    if form == "masked":
        truth[:4, 0] = np.nan
    rows = {"train": np.arange(20), "test": np.arange(20, 40)}
    of = {
        "r2": lambda x: metrics.r2(x, other),
        "pearson": lambda x: metrics.pearson(x, other),
        "auroc": lambda x: metrics.auroc(x, other),
        "ridge_r2": lambda x: metrics.ridge_r2(other, x, **rows),
        "recovery_r2": lambda x: [*metrics.recovery_r2(other, x, **rows).values()],
        "probe_scores": lambda x: [
            *metrics.probe_scores(x, (other[:, 0] > 1).tolist(), **rows).values()
        ],
    }[score]
    np.testing.assert_allclose(of(FORMS[form](truth)), of(truth), rtol=1e-6)


def test_cells_of_tables_are_found_by_name(rng):
    cells = [f"cell{i}" for i in range(20)]
    truth = pd.DataFrame(rng.normal(size=(20, 2)), index=cells)
    predicted = truth + rng.normal(size=(20, 2))
    for score in (metrics.r2, metrics.pearson):
        np.testing.assert_array_equal(
            score(truth[::-1], predicted), score(truth[::-1], predicted[::-1])
        )


@pytest.mark.parametrize("axis", [0, 1])
def test_tables_that_have_some_names_in_common_are_refused(rng, axis):
    truth = pd.DataFrame(rng.normal(size=(5, 5)))
    shifted = truth.rename(lambda name: name + 1, axis=axis)
    np.testing.assert_array_equal(metrics.r2(truth, shifted), 1)  # numbers are no names
    truth, shifted = (table.rename(str, axis=axis) for table in (truth, shifted))
    with pytest.raises(ValueError, match="5 and 5 of them have 4 names in common"):
        metrics.r2(truth, shifted)
    strangers = truth.rename(lambda name: name + "0", axis=axis)
    np.testing.assert_array_equal(metrics.r2(truth, strangers), 1)


@pytest.mark.parametrize("score", [metrics.r2, metrics.pearson])
@pytest.mark.parametrize("form", ["categories", "levels"])
def test_names_of_any_form_are_matched(rng, score, form):
    names = [f"cell{i}" for i in range(20)]
    index = {
        "categories": pd.CategoricalIndex(names),
        "levels": pd.MultiIndex.from_arrays([np.resize(["a", "b"], 20), names]),
    }[form]
    truth = pd.DataFrame(rng.normal(size=(20, 2)), index, ["x", "y"])
    predicted = truth + 0.1 * rng.normal(size=(20, 2))
    np.testing.assert_array_equal(score(truth, predicted.iloc[::-1]), score(truth, predicted))


def test_tables_of_cells_in_another_order_are_refused(rng):
    names = [f"cell{i}" for i in range(30)]
    z = pd.DataFrame(rng.normal(size=(30, 2)), names)
    split = {"train": np.arange(20), "test": np.arange(20, 30)}
    label = pd.Series(np.resize(["a", "b"], 30), names)
    other = z.index[::-1]
    with pytest.raises(ValueError, match="source and target of the same cells in the same order"):
        metrics.ridge_r2(z, z.loc[other], **split)
    with pytest.raises(ValueError, match="learned and truth"):
        metrics.recovery_r2(z, z.loc[other], **split)
    with pytest.raises(ValueError, match="embedding and labels"):
        metrics.probe_scores(z, label.loc[other], **split)
    mask = pd.Series(np.arange(30) < 20, names)
    with pytest.raises(ValueError, match="source and train"):
        metrics.ridge_r2(z, z, train=mask.loc[other], test=~mask)
    np.testing.assert_array_equal(
        metrics.ridge_r2(z, z, train=mask, test=~mask), metrics.ridge_r2(z, z, **split)
    )
    # tables without names, and positions, have no order of cells
    metrics.probe_scores(z, label.reset_index(drop=True), **split)
    metrics.probe_scores(z, label, train=pd.Series(range(20)), test=pd.Series(range(20, 30)))


@pytest.mark.parametrize(
    ("train", "message"),
    [
        (["cell0", "cell1"], "expected positions of cells, or a mask of 30"),
        ([0.0, 1.0], "expected positions"),
        (np.ones(29, bool), "bool of shape"),
        ([[0, 1]], "of shape"),
        (0, "of shape"),
        ([0, 30], "among 30 cells, found 0 to 30"),
    ],
)
def test_cells_that_are_no_positions_are_refused(rng, train, message):
    z = rng.normal(size=(30, 2))
    with pytest.raises(ValueError, match=f"train: .*{message}"):
        metrics.ridge_r2(z, z, train=train, test=[2, 3])


def test_labels_of_many_columns_are_refused(rng):
    with pytest.raises(ValueError, match="labels: expected one for each cell"):
        metrics.probe_scores(rng.normal(size=(4, 1)), np.zeros((4, 2)), train=[0, 1], test=[2, 3])


@pytest.mark.parametrize("values", [pd.DataFrame({"x": [1 + 2j, 1]}), "text", [[1], [1, 2]], None])
def test_what_is_no_table_of_numbers_is_refused(values):
    with pytest.raises(ValueError, match="Expected"):
        metrics.r2(values, np.zeros((2, 1)))


def test_sparse_values_in_a_file_are_read(rng, tmp_path):
    adata = anndata.AnnData(sp.csr_matrix(rng.poisson(1, (20, 3)).astype(np.float32)))
    adata.write(tmp_path / "data.h5ad")
    backed = anndata.read_h5ad(tmp_path / "data.h5ad", backed="r")
    predicted = rng.random((20, 3))
    np.testing.assert_array_equal(
        metrics.pearson(backed.X, predicted), metrics.pearson(adata.X, predicted)
    )


@pytest.mark.parametrize(
    ("embeddings", "labels", "batch", "message"),
    [
        ({}, ["a", "b"], None, "expected arrays"),
        (np.zeros((2, 1)), ["a", "b"], None, "expected arrays"),
        ({"z": np.zeros((2, 1))}, ["a"], None, "labels: expected a value for each of 2 cells"),
        ({"z": np.zeros((2, 1)), "y": np.zeros((3, 1))}, ["a", "b"], None, "y: expected"),
        ({"z": np.zeros((2, 1))}, ["a", None], None, "two or more cell types, found 1"),
        ({"z": np.zeros((2, 1))}, ["a", "b"], ["x", "x"], "two or more batches, found 1"),
        (
            {"z": pd.DataFrame(np.zeros((2, 1)), ["c0", "c1"])},
            pd.Series(["a", "b"], ["c1", "c0"]),
            None,
            r"embeddings\['z'\] and labels of the same cells in the same order",
        ),
    ],
)
def test_what_scib_cannot_score_is_refused(embeddings, labels, batch, message):
    pytest.importorskip("scib_metrics", reason="needs pip install scvenn[scib]")
    with pytest.raises(ValueError, match=message):
        metrics.scib(embeddings, labels, batch=batch)
