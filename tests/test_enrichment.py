"""Which sets of features dimensions of latents move, through decoupler."""

import sys

import numpy as np
import pandas as pd
import pytest
import scvi

import scvenn
from tests.conftest import QUIET

pytest.importorskip("decoupler", reason="needs pip install scvenn[enrichment]")


@pytest.fixture(scope="module")
def model():
    scvi.settings.seed = 0
    model = scvenn.MMVAEpp(scvenn.datasets.simulate_counts(200, n_features=40), n_shared=3)
    model.train(2, train_size=0.7, **QUIET)
    return model


def planted(loadings):
    """Loadings of three dimensions; features of set A go up along the second, of B down."""
    rng = np.random.default_rng(0)
    names = [f"g{j}" for j in range(60)]
    rows = []
    for k in range(3):
        loading = 0.1 * rng.standard_normal(60)
        if k == 1:
            loading[:10] += 1.0
            loading[10:20] -= 0.5
        rows.append(
            pd.DataFrame({"feature": names, "dimension": f"shared_{k}", "loading": loading})
        )
    table = pd.concat(rows, ignore_index=True)
    return table if loadings is None else table.assign(loading=loadings)


SETS = {
    "A": [f"g{j}" for j in range(10)],
    "B": [f"g{j}" for j in range(10, 20)],
    "other": [f"g{j}" for j in range(30, 40)],
    "unknown": ["x1", "x2", "g1"],
}


def test_planted_sets_come_first_with_their_sign():
    table = scvenn.readouts.enrichment.enrichment(planted(None), SETS)
    of_second = table[table["dimension"] == "shared_1"]
    assert of_second["set"].tolist()[:2] == ["A", "B"]
    assert of_second["score"].iloc[0] > 0 > of_second["score"].iloc[1]
    assert (of_second["p_adjusted"].iloc[:2] < 1e-3).all()
    assert (table.loc[table["dimension"] != "shared_1", "p_adjusted"] > 0.01).all()


def test_scores_are_the_t_values_of_a_regression_on_membership():
    from scipy.stats import linregress

    loadings = planted(None)
    table = scvenn.readouts.enrichment.enrichment(loadings, SETS).set_index(["dimension", "set"])
    of_first = loadings[loadings["dimension"] == "shared_0"]
    found = linregress(of_first["feature"].isin(SETS["B"]).astype(float), of_first["loading"])
    score = table.loc[("shared_0", "B"), "score"]
    assert score == pytest.approx(found.slope / found.stderr, rel=1e-3)


def test_lists_and_decouplers_tables_of_sets_give_the_same():
    network = pd.DataFrame(
        [(name, feature) for name, of in SETS.items() for feature in of],
        columns=["source", "target"],
    )
    tables = [scvenn.readouts.enrichment.enrichment(planted(None), of) for of in (SETS, network)]
    pd.testing.assert_frame_equal(*tables)


def test_small_sets_and_dimensions_that_move_nothing_are_left_out():
    loadings = planted(None)
    loadings.loc[loadings["dimension"] == "shared_2", "loading"] = 0.0
    table = scvenn.readouts.enrichment.enrichment(loadings, SETS)
    assert set(table["set"]) == {"A", "B", "other"}
    assert list(dict.fromkeys(table["dimension"])) == ["shared_0", "shared_1"]
    assert (table["n_features"] == 10).all()


def test_a_set_of_all_features_is_left_out_and_names_of_sets_are_free():
    sets = {"all": [f"g{j}" for j in range(60)], "dimension": SETS["A"], "value": SETS["B"]}
    with pytest.warns(
        UserWarning, match="sets that have all 60 features, with one weight, are left.*'all'"
    ):
        table = scvenn.readouts.enrichment.enrichment(planted(None), sets)
    assert set(table["set"]) == {"dimension", "value"}
    expected = scvenn.readouts.enrichment.enrichment(
        planted(None), {"dimension": SETS["A"], "value": SETS["B"]}
    )
    pd.testing.assert_frame_equal(table, expected)


def test_where_no_dimension_moves_anything_the_table_is_empty():
    table = scvenn.readouts.enrichment.enrichment(planted(None).assign(loading=0.0), SETS)
    assert table.empty
    assert list(table.columns) == ["dimension", "set", "score", "p_adjusted", "n_features"]


@pytest.mark.parametrize("latent", ["shared", "private"])
def test_a_model_scores_sets_by_its_loadings(model, latent):
    sets = {"first": [f"rna_{j}" for j in range(10)], "last": [f"rna_{j}" for j in range(30, 40)]}
    table = model.enrichment("rna", sets, latent)
    assert list(table.columns) == ["dimension", "set", "score", "p_adjusted", "n_features"]
    expected = scvenn.readouts.enrichment.enrichment(model.loadings("rna", latent), sets)
    pd.testing.assert_frame_equal(table, expected)


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        ({"A": ["CD3D", "CD3E"]}, "none of the 1 sets has 5 of the 40 features.*'CD3D'.*'rna_0'"),
        ({"A": "rna_1"}, "lists of features by the name of the set; found str for 'A'"),
        ({"A": None}, "lists of features by the name of the set; found NoneType for 'A'"),
        ([["rna_1"]], "found list"),
        (pd.DataFrame({"set": ["A"], "target": ["rna_0"]}), r"without \['source'\]"),
    ],
)
def test_sets_that_cannot_be_used_are_refused(model, sets, message):
    with pytest.raises(ValueError, match=message):
        model.enrichment("rna", sets)


def test_sets_of_another_kind_are_refused_before_loadings_are_computed(model, monkeypatch):
    monkeypatch.setattr(scvenn.MMVAEpp, "loadings", None)  # to call it would be an error
    with pytest.raises(ValueError, match="found list"):
        model.enrichment("rna", [["rna_1"]])


def test_without_decoupler_the_error_says_what_to_install(model, monkeypatch):
    monkeypatch.setitem(sys.modules, "decoupler", None)
    with pytest.raises(ImportError, match=r"pip install 'scvenn\[enrichment\]'"):
        model.enrichment("rna", {"A": [f"rna_{j}" for j in range(10)]})


def test_sets_may_be_named_by_numbers_and_rows_repeat(model):
    features = list(model.get_var_names()["rna"])
    by_name = model.enrichment("rna", {"5": features[:6], "x": features[6:12]})
    by_number = model.enrichment("rna", {5: features[:6], "x": features[6:12]})
    pd.testing.assert_frame_equal(by_number, by_name)
    rows = pd.DataFrame({"source": [5] * 7, "target": features[:6] + features[:1]})
    of_table = model.enrichment("rna", rows)
    assert set(of_table["set"]) == {"5"}
    assert set(of_table["n_features"]) == {6}


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([0.0] * 6, "expected finite weights, not all 0"),
        ([1.0] * 5 + [np.nan], "expected finite weights"),
    ],
)
def test_weights_of_a_set_are_checked(model, weights, message):
    features = model.get_var_names()["rna"][:6]
    sets = pd.DataFrame({"source": "a", "target": features, "weight": weights})
    with pytest.raises(ValueError, match=message):
        model.enrichment("rna", sets)


def test_a_feature_with_two_weights_is_refused(model):
    sets = pd.DataFrame({"source": "a", "target": "rna_0", "weight": [1.0, 2.0]})
    with pytest.raises(ValueError, match="'a' has 'rna_0' more than once, with different weights"):
        model.enrichment("rna", sets)


def test_features_that_no_dimension_moves_are_regressed_on_too():
    """A model that screens has many: shared predicts none of the features that are not shared."""
    from scipy.stats import linregress

    loadings = planted(None)
    loadings.loc[~loadings["feature"].isin([f"g{j}" for j in range(12)]), "loading"] = 0.0
    table = scvenn.readouts.enrichment.enrichment(loadings, SETS)
    assert set(table["set"]) == {"A", "B", "other"}
    of_first = loadings[loadings["dimension"] == "shared_0"]
    for name in ("A", "B", "other"):
        fit = linregress(of_first["feature"].isin(SETS[name]).astype(float), of_first["loading"])
        row = table[(table["dimension"] == "shared_0") & (table["set"] == name)]
        assert row["score"].item() == pytest.approx(fit.slope / fit.stderr, rel=1e-4)


def test_weights_on_all_features_are_a_set_and_one_weight_is_none():
    weights = np.random.default_rng(0).standard_normal(60)
    sets = pd.DataFrame({"source": "all", "target": [f"g{j}" for j in range(60)]})
    table = scvenn.readouts.enrichment.enrichment(planted(None), sets.assign(weight=weights))
    assert (table["n_features"] == 60).all()
    with pytest.warns(UserWarning, match="no others to compare with"):
        none = scvenn.readouts.enrichment.enrichment(planted(None), sets.assign(weight=2.0))
    assert none.empty
    assert none["score"].dtype == float
