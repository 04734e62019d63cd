"""Differences between groups of cells: planted ones, and arithmetic that can be done by hand."""

import numpy as np
import pandas as pd
import pytest
import scvi
from mudata import MuData

import scvenn
from scvenn import network
from scvenn.network import Gaussian
from scvenn.readouts import differential as _differential
from scvenn.readouts.differential import _expected_fdr
from tests.conftest import QUIET, data_file, three_modalities


@pytest.fixture(scope="module")
def model():
    """MMVAE++ that has learned what is planted: types shared, programmes private."""
    scvi.settings.seed = 0
    mdata = scvenn.datasets.simulate_counts(
        500,
        modalities={"rna": "nb", "meth": "normal", "peaks": "bernoulli"},
        n_features=30,
        n_shared_features=10,
        n_types=3,
        n_latent=2,
        missing=0.2,
    )
    for m in mdata.mod:
        programme = mdata.obsm[f"z_private_{m}"][:, 0]
        mdata.obs[f"programme_{m}"] = np.where(programme > 0, "on", "off")
    model = scvenn.MMVAEpp(mdata, n_shared=3, n_private=3, n_hidden=32)
    model.train(100, early_stopping=False, plan_kwargs={"lr": 5e-3}, **QUIET)
    return model


@pytest.fixture
def certain(model, monkeypatch):
    """The same model, with posteriors that are points: what is drawn of a cell is known."""
    posteriors = network.posteriors

    def points(*args):
        shared, private, *rest = posteriors(*args)
        private = {m: Gaussian(q.loc, 0 * q.var) for m, q in private.items()}
        return Gaussian(shared.loc, 0 * shared.var), private, *rest

    monkeypatch.setattr(network, "posteriors", points)
    return model


def of_features(table, model, modality):
    """A table with one comparison in the order of the features."""
    return table.set_index("feature").loc[list(model.adata[modality].var_names)]


def two_cells(model, *modalities):
    """A column in which one cell with the modalities is "a", another "b", and the rest nothing."""
    mdata = model.adata
    cells = np.flatnonzero(
        np.all([mdata.obs_names.isin(mdata[m].obs_names) for m in modalities], 0)
    )
    types = mdata.obs["cell_type"].to_numpy()[cells]
    chosen = [cells[types == "type0"][0], cells[types == "type1"][0]]
    column = np.full(mdata.n_obs, None, dtype=object)
    column[chosen] = ["a", "b"]
    mdata.obs["two"] = column
    return chosen


# ------------------------------------------------------------------------ planted differences


@pytest.mark.parametrize("modality", ["meth", "peaks"])
def test_types_differ_through_shared_in_shared_features_only(model, modality):
    table = model.differential(
        "cell_type", modality=modality, through="shared", group1="type0", group2="type1"
    )
    table = of_features(table, model, modality)
    shared = model.adata[modality].var["shared"]
    values, types = model.adata[modality].X, model.adata.obs["cell_type"]
    types = types.loc[model.adata[modality].obs_names]
    dense = values.toarray() if modality == "peaks" else values / values.std(0)
    planted = dense[types == "type0"].mean(0) - dense[types == "type1"].mean(0)
    clear = shared & (np.abs(planted) > {"meth": 1.0, "peaks": 0.3}[modality])
    assert clear.sum() >= 3
    assert table.loc[clear, "is_de_fdr_0.05"].all()
    assert (np.sign(table.loc[clear, "difference_mean"]) == np.sign(planted[clear])).all()
    # what faint relations tell of the others is no difference that anyone should report
    assert (table.loc[~shared, "proba_de"] < 0.5).all()
    assert not table.loc[~shared, "is_de_fdr_0.05"].any()


@pytest.mark.parametrize("modality", ["meth", "peaks"])
def test_a_private_programme_differs_through_private_only(model, modality):
    def strongest(through):
        table = model.differential(
            f"programme_{modality}", modality=modality, through=through, group1="on", group2="off"
        )
        return of_features(table, model, modality)["difference_mean"].abs()

    own = ~model.adata[modality].var["shared"]
    private, shared = strongest("private"), strongest("shared")
    assert private[own].max() > {"meth": 0.8, "peaks": 0.2}[modality]
    assert private[own].max() > 3 * private[~own].max()
    assert shared.max() < 0.3 * private[own].max()


@pytest.mark.parametrize("kind", [list, tuple, np.array, pd.Index, pd.Series])
def test_groups_may_be_any_sequence(model, kind):
    table = model.differential(
        "cell_type", modality="rna", group1=kind(["type0", "type1"]), n_samples=2
    )
    assert set(table["group1"]) == {"type0", "type1"}


def test_fold_changes_of_counts_are_those_of_normalised_counts(model):
    table = model.differential("cell_type", modality="rna", group1="type0", group2="type1")
    rna = model.adata["rna"]
    counts = rna.X.toarray()
    fraction = counts / counts.sum(1, keepdims=True)
    types = model.adata.obs["cell_type"].loc[rna.obs_names]
    means = [fraction[types == t].mean(0) for t in ("type0", "type1")]
    planted = np.log2(means[0] / means[1])[rna.var["shared"]]
    found = of_features(table, model, "rna").loc[rna.var["shared"], "lfc_mean"]
    assert np.abs(planted).max() > 2
    assert np.corrcoef(planted, found)[0, 1] > 0.95
    library = model.module.likelihood("rna").library_.item()
    assert table["scale1"].sum() == pytest.approx(library, rel=1e-3)


# ------------------------------------------------------------------------ arithmetic


def test_both_is_the_normalised_expression_of_the_cells(certain):
    cells = two_cells(certain, "rna")
    library = certain.module.likelihood("rna").library_.item()
    a, b = certain.get_normalized_expression("rna", library_size=library, indices=cells).to_numpy()
    table = certain.differential("two", modality="rna", group1="a", n_samples=3, pseudocounts=1.0)
    table = of_features(table, certain, "rna")
    np.testing.assert_allclose(table["scale1"], a, rtol=1e-4)
    np.testing.assert_allclose(table["scale2"], b, rtol=1e-4)
    # scvi-tools decides with the pseudocounts, and describes with a thousandth of them
    np.testing.assert_allclose(
        table["lfc_mean"], np.log2(a + 1e-3) - np.log2(b + 1e-3), atol=1e-3, rtol=1e-3
    )
    decided = np.abs(np.log2(a + 1) - np.log2(b + 1)) >= 0.25
    np.testing.assert_array_equal(table["proba_de"], decided)


def test_differences_of_real_values_are_in_standard_deviations(certain):
    cells = two_cells(certain, "meth")
    a, b = certain.predict(certain.modalities, "meth", indices=cells).to_numpy()
    table = certain.differential("two", modality="meth", group1="a", n_samples=3)
    table = of_features(table, certain, "meth")
    np.testing.assert_allclose(table["scale1"], a, rtol=1e-4, atol=1e-4)
    scale = certain.module.likelihood("meth").scale_.numpy()
    np.testing.assert_allclose(table["difference_median"], (a - b) / scale, atol=1e-4)
    assert not any(name.startswith(("lfc_", "pseudo")) for name in table)


def test_shared_alone_is_what_is_predicted_of_cells_without_the_modality(certain):
    mdata = certain.adata
    without = ~mdata.obs_names.isin(mdata["peaks"].obs_names)
    cells = np.flatnonzero(without)[:2]
    mdata.obs["two"] = pd.Series(["a", "b"], index=mdata.obs_names[cells])
    a, b = certain.predict(certain.modalities, "peaks", indices=cells).to_numpy()
    table = certain.differential("two", modality="peaks", through="shared", group1="a", n_samples=3)
    table = of_features(table, certain, "peaks")
    np.testing.assert_allclose(table["difference_mean"], a - b, atol=1e-5)


def test_private_alone_keeps_shared_at_its_mean(certain):
    cells = two_cells(certain, "meth")
    latents = certain.get_shared_representation(indices=cells)
    baseline = np.repeat(latents.mean(0, keepdims=True), 2, 0)
    private = certain.get_private_representation("meth", indices=cells)
    ((_, tensors),) = certain._cells(None, cells, None).minibatches([], "")
    expected = network.decode(
        certain.module, tensors, "meth", *(_differential._tensor(z) for z in (baseline, private))
    ).numpy()
    table = certain.differential("two", modality="meth", through="private", group1="a", n_samples=3)
    table = of_features(table, certain, "meth")
    np.testing.assert_allclose(table["scale1"], expected[0], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(table["scale2"], expected[1], rtol=1e-4, atol=1e-4)


def test_some_features_at_a_time_give_the_same_table(certain, monkeypatch):
    two_cells(certain, "rna")
    whole = certain.differential("two", modality="rna", group1="a", n_samples=3)
    monkeypatch.setattr(_differential, "_BLOCK", 3 * 7)
    pd.testing.assert_frame_equal(
        certain.differential("two", modality="rna", group1="a", n_samples=3), whole, atol=1e-6
    )


def test_no_array_holds_more_draws_than_asked_for(model, monkeypatch):
    """Memory follows the block, whatever the number of cells and features."""
    shapes = []
    means = _differential._Draws.means

    def counted(*args, **kwargs):
        values = means(*args, **kwargs)
        shapes.append(values.shape)
        return values

    monkeypatch.setattr(_differential._Draws, "means", counted)
    monkeypatch.setattr(_differential, "_BLOCK", 20 * 7)
    model.differential("cell_type", modality="rna", group1="type0", n_samples=20)
    assert len(shapes) == 2 * 5  # two groups, 30 features in blocks of 7
    assert max(shapes) == (20, 7)


def test_the_expected_false_discoveries_by_hand():
    np.testing.assert_allclose(_expected_fdr(np.array([1.0, 0.98, 0.9])), [0, 0.01, 0.04])


def test_batch_correction_takes_out_what_is_of_the_batch():
    scvi.settings.seed = 0
    mdata = three_modalities(missing=0.0, n_obs=300)
    scvenn.MMVAEpp.setup_mudata(mdata, batch_key="batch")
    model = scvenn.MMVAEpp(mdata, n_shared=3, n_private=3, n_hidden=32)
    model.train(40, early_stopping=False, plan_kwargs={"lr": 5e-3}, **QUIET)

    def strongest(**kwargs):
        table = model.differential("batch", modality="meth", group1="batch0", **kwargs)
        return table["difference_mean"].abs().max()

    assert strongest(batch_correction=True) < 0.3 * strongest()


# ------------------------------------------------------------------------ groups and cells


def test_all_groups_are_compared_with_the_rest_by_default(model):
    table = model.differential("cell_type", modality="meth", n_samples=10)
    assert list(table["comparison"].unique()) == [f"type{t} vs Rest" for t in range(3)]
    assert (table.groupby("comparison")["feature"].nunique() == 30).all()
    assert (table["proba_de"] + table["proba_not_de"]).to_numpy() == pytest.approx(1)


def test_groups_can_be_chosen(model):
    table = model.differential(
        "cell_type", modality="meth", group1=["type2", "type0"], group2="type1", n_samples=10
    )
    assert list(table["comparison"].unique()) == ["type2 vs type1", "type0 vs type1"]
    every = model.differential("cell_type", modality="meth", group2="type1", n_samples=10)
    assert list(every["group1"].unique()) == ["type0", "type2"]


def test_cells_without_the_modality_count_through_shared_only(model):
    mdata = model.adata
    has = mdata.obs_names.isin(mdata["rna"].obs_names)
    mdata.obs["has"] = np.where(has, "yes", "no")
    model.differential("has", modality="rna", through="shared", n_samples=10)
    for through in ("private", "both"):
        with pytest.raises(ValueError, match=r"'no'.* not found among .*\['yes'\]"):
            model.differential("has", modality="rna", through=through, group1="no")


def test_cells_without_a_group_are_no_ones(model):
    two_cells(model, "rna")
    model.adata.obs["one"] = model.adata.obs["two"].replace("b", None)
    with pytest.raises(ValueError, match="two different groups"):
        model.differential("one", modality="rna", group1="a")


def test_new_data_with_fewer_modalities(model):
    new = MuData({"rna": model.adata["rna"].copy()})
    new.obs["cell_type"] = model.adata.obs["cell_type"]
    table = model.differential(
        "cell_type", modality="meth", through="shared", mdata=new, n_samples=10
    )
    assert table["proba_de"].notna().all()
    assert list(new.obs.columns) == ["cell_type"]


def test_numbers_may_name_groups(model):
    model.adata.obs["number"] = model.adata.obs["cell_type"].cat.codes.astype(float)
    table = model.differential("number", modality="meth", group1=1, group2=0, n_samples=10)
    assert set(table["comparison"]) == {"1 vs 0"}


def test_a_seed_repeats_the_draws(model):
    one, two = (model.differential("cell_type", modality="rna", n_samples=10) for _ in range(2))
    pd.testing.assert_frame_equal(one, two)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"modality": "adt"}, "modality='adt': expected"),
        ({"through": "all"}, "through='all': expected 'shared', 'private' or 'both'"),
        ({"group1": "type9"}, r"\['type9'\] not found among the groups"),
        ({"group1": "type0", "group2": "type0"}, "two different groups"),
        ({"groupby": "leiden"}, "groupby='leiden' not found. Searched"),
        ({"delta": 0}, "delta=0: expected"),
        ({"fdr": 1}, "fdr=1: expected"),
        ({"n_samples": 0}, "n_samples=0: expected"),
        ({"pseudocounts": 0}, "pseudocounts=0: expected"),
        ({"batch_correction": True}, "set up without batch_key"),
    ],
)
def test_what_makes_no_sense_is_refused(model, arguments, message):
    with pytest.raises(ValueError, match=message):
        model.differential(**{"groupby": "cell_type", "modality": "rna", **arguments})


@pytest.mark.slow
def test_b_cells_have_their_markers():
    """What chromatin knows of B cells is in the shared latent; the markers come up through it."""
    data_file("pbmc10k_multiome_small.h5mu")
    mdata = scvenn.datasets.pbmc_multiome()
    mdata = mdata[np.arange(mdata.n_obs) % 8 == 0].copy()
    scvi.settings.seed = 0
    model = scvenn.MMVAEpp(mdata)
    model.train(12, **QUIET)
    for through in ("both", "shared"):
        table = model.differential(
            "celltype",
            modality="rna",
            through=through,
            group1="memory B",
            group2="CD14+ Monocytes",
        ).set_index("feature")
        markers = ["MS4A1", "CD79A", "CD22", "PAX5", "BLK", "FCRL1"]
        assert (table.loc[markers, "difference_mean"] > 0).all()
        assert table.loc[markers, "is_de_fdr_0.05"].mean() > 0.5


def test_a_group_that_is_named_twice_is_compared_once():
    mdata = scvenn.datasets.simulate_counts(80, n_features=12, n_types=3)
    model = scvenn.MMVAE(mdata, n_hidden=8)
    model.train(1, **QUIET)
    table = model.differential("cell_type", group1=["type0", "type0"], modality="rna", n_samples=50)
    assert len(table) == 12


def test_a_group_that_is_named_as_all_others_are_is_refused(small):
    model = scvenn.MMVAE(small, n_hidden=8)
    model.train(1, **QUIET)
    small.obs["group"] = ["Rest", "a", "b"] * 20
    with pytest.raises(ValueError, match="a group is named 'Rest'.*Rename it"):
        model.differential("group", modality="rna")
    table = model.differential("group", modality="rna", group2="Rest", n_samples=50)
    assert set(table.comparison) == {"a vs Rest", "b vs Rest"}
