"""``scvenn.pp``: screening as a selector of features for any other tool."""

import numpy as np
import pandas as pd
import pytest
import scvi

import scvenn
from scvenn.data import fields
from tests.conftest import QUIET, three_modalities
from tests.test_shared_within import KINDS, simulated


@pytest.fixture
def mdata():
    return scvenn.datasets.simulate_counts(400, n_features=60)


def test_planted_shared_features_are_marked(mdata):
    scvenn.pp.shared_features(mdata)
    for m in mdata.mod:
        var = mdata[m].var
        assert var["scvenn_shared"].dtype == bool
        assert var["scvenn_shared"][:15].mean() > 0.8
        assert var["scvenn_shared"][15:].mean() < 0.2
        assert var["scvenn_shared_score"].notna().all()


def test_the_table_is_that_of_a_model_that_is_trained_on_all_cells(mdata):
    scvi.settings.seed = 0
    table = scvenn.pp.shared_features(mdata, inplace=False)
    scvi.settings.seed = 0
    model = scvenn.MMVAEpp(mdata)
    model.train(1, train_size=1.0, write_obsm=False, **QUIET)
    expected = model.get_shared_scores()
    assert list(table.columns) == list(expected.columns)
    np.testing.assert_allclose(table["score"], expected["score"], atol=0.05)
    assert (table["shared"] == expected["shared"]).mean() > 0.95


@pytest.mark.parametrize("given", [None, "cell_type"])
def test_each_matrix_is_aligned_once(mdata, given, monkeypatch):
    """Counts are taken to the scale of regression a few cells at a time."""
    calls = []
    monkeypatch.setattr("scvenn.readouts.shared_features._CELLS_AT_ONCE", 50)
    whole = fields.align
    monkeypatch.setattr(fields, "align", lambda x, *to: calls.append(x.shape) or whole(x, *to))
    scvenn.pp.shared_features(mdata, given=given)
    of_all = [shape for shape in calls if shape == (400, 60)]
    # of both modalities, at the set-up and at the screening
    assert len(of_all) <= 4


def test_a_table_changes_nothing_of_the_data(mdata):
    scvenn.MMVAEpp.setup_mudata(mdata, likelihoods={"atac": "poisson"})
    uns, var = dict(mdata.uns), mdata["rna"].var.copy()
    scvenn.pp.shared_features(mdata, inplace=False)
    assert mdata.uns == uns
    pd.testing.assert_frame_equal(mdata["rna"].var, var)
    assert scvenn.MMVAEpp(mdata)._found.likelihood("atac") == "poisson"


def test_what_is_shared_within_types_is_marked():
    mdata = simulated("normal")
    scvenn.pp.shared_features(mdata, given="cell_type")
    marked = pd.Series(mdata["one"].var["scvenn_shared"].to_numpy()).groupby(KINDS).mean()
    assert marked[["within", "both"]].min() > 0.8
    assert marked[["types", "neither"]].max() < 0.1
    table = scvenn.pp.shared_features(mdata, given="cell_type", inplace=False)
    assert "type0" in set(table["group"])


def test_three_modalities_with_batches_and_missing_cells():
    mdata = three_modalities(missing=0.3)
    table = scvenn.pp.shared_features(mdata, batch_key="batch", inplace=False)
    assert set(table["modality"]) == set(mdata.mod)
    two = list(mdata.mod)[:2]
    scvenn.pp.shared_features(mdata, modalities=two)
    marked = [m for m in mdata.mod if "scvenn_shared" in mdata[m].var]
    assert marked == two


@pytest.mark.parametrize("given", [None, "cell_type"])
def test_the_order_of_cells_changes_no_call(given):
    mdata = three_modalities(missing=0.3)
    mdata.obs["cell_type"] = mdata.obs["cell_type"].astype(str)
    found = []
    for cells in (np.arange(mdata.n_obs), np.random.default_rng(1).permutation(mdata.n_obs)):
        scvi.settings.seed = 0
        found.append(scvenn.pp.shared_features(mdata[cells].copy(), given=given, inplace=False))
    pd.testing.assert_frame_equal(*found, check_exact=True)


def test_a_view_is_read_but_not_written_to(mdata):
    view = mdata[:300]
    assert len(scvenn.pp.shared_features(view, inplace=False)) == 120
    with pytest.raises(ValueError, match="view"):
        scvenn.pp.shared_features(view)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"given": "nowhere"}, "nowhere"),
        ({"modalities": ["rna", "protein"]}, "protein"),
        ({"modalities": "rna"}, "modalities: expected a list of names, found 'rna'"),
        ({"batch_key": "nowhere"}, "nowhere"),
        ({"layers": {"rna": "nowhere"}}, "nowhere"),
    ],
)
def test_arguments_that_cannot_be_used_are_refused(mdata, arguments, message):
    with pytest.raises(ValueError, match=message):
        scvenn.pp.shared_features(mdata, **arguments)
    assert "scvenn_shared" not in mdata["rna"].var


def test_whether_to_write_is_true_or_false(small):
    with pytest.raises(ValueError, match="inplace='no': expected True or False"):
        scvenn.pp.shared_features(small, inplace="no")


def test_groups_of_too_few_cells_are_refused_and_marks_stay(mdata):
    scvenn.pp.shared_features(mdata)
    marks = mdata["rna"].var["scvenn_shared"].copy()
    mdata.obs["group"] = ["a", *[None] * 399]
    with pytest.raises(ValueError, match="given='group': no feature varies within groups of the 1"):
        scvenn.pp.shared_features(mdata, given="group")
    pd.testing.assert_series_equal(mdata["rna"].var["scvenn_shared"], marks)
