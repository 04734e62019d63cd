"""What modalities share within cell types: ``get_shared_scores(given=...)``."""

import anndata
import mudata
import numpy as np
import pandas as pd
import pytest
import scvi

import scvenn
from scvenn.readouts.evaluation import _Latents, _leakage_within, _varying
from tests.conftest import QUIET, three_modalities

KINDS = np.repeat(["types", "within", "both", "neither"], [20, 20, 20, 140])


def simulated(likelihood, seed=0, n=1200, n_types=5):
    """Features shared through types only, within types only, both, and not at all."""
    rng = np.random.default_rng(seed)
    types = rng.integers(n_types, size=n)
    state = rng.normal(size=(n, 2))  # of each cell, whatever its type

    def modality(name):
        d = len(KINDS)
        by_type = rng.normal(size=(n_types, d)) * np.isin(KINDS, ["types", "both"])
        by_state = rng.normal(size=(2, d)) * np.isin(KINDS, ["within", "both"])
        x = 0.8 * (by_type[types] + state @ by_state)
        if likelihood == "normal":
            x += rng.normal(size=(n, d))
        else:  # most counts are of features that do not move, nor then the library size
            x = rng.poisson(np.exp(x + np.where(KINDS == "neither", 8.0, 0.0)))
        adata = anndata.AnnData(x.astype(np.float32))
        adata.obs_names = [f"cell{i}" for i in range(n)]
        adata.var_names = [f"{name}{j}" for j in range(d)]
        return adata

    mdata = mudata.MuData({"one": modality("a"), "two": modality("b")})
    mdata.obs["cell_type"] = pd.Categorical([f"type{t}" for t in types])
    return mdata


@pytest.fixture(scope="module", params=["normal", "nb"])
def model(request):
    scvi.settings.seed = 0
    model = scvenn.MMVAEpp(simulated(request.param))
    model.train(1, write_obsm=False, **QUIET)
    return model


def shares(table):
    """Of each kind of features, the share that is called shared."""
    kind = KINDS[[int(name[1:]) for name in table["feature"]]]
    return table["shared"].groupby(kind).mean()


def test_what_is_shared_through_types_only_is_not_shared_within_them(model):
    whole, within = model.get_shared_scores(), model.get_shared_scores(given="cell_type")
    before = shares(whole)
    assert (before[["types", "within", "both"]] > 0.9).all()
    found = within[within.group == "all"]
    after = shares(found)
    assert after[["within", "both"]].min() > 0.8
    called = found[found.shared]
    false = np.isin(KINDS[[int(name[1:]) for name in called.feature]], ["types", "neither"])
    assert false.mean() <= 0.1  # 5 % on average


def test_each_type_is_scored_by_itself(model):
    within = model.get_shared_scores(given="cell_type")
    assert set(within.group) == {"all", *(f"type{t}" for t in range(5))}
    assert within.groupby(["modality", "group"]).size().eq(len(KINDS)).all()
    of_type = shares(within[within.group == "type0"])
    assert of_type[["within", "both"]].min() > 0.4
    assert of_type[["types", "neither"]].max() < 0.1


def test_types_of_few_cells_are_scored_together_only(small):
    """Cells without a type are left out."""
    model = scvenn.MMVAEpp(small)
    model.train(1, write_obsm=False, **QUIET)
    small.obs["half"] = pd.Categorical(np.where(np.arange(60) < 40, "yes", None))
    assert set(model.get_shared_scores(given="half").group) == {"all"}


def test_three_modalities_with_batches_and_missing_cells_are_scored():
    mdata = three_modalities(missing=0.3)
    mdata.obs["half"] = pd.Categorical(np.where(np.arange(mdata.n_obs) % 2, "odd", "even"))
    scvenn.MMVAEpp.setup_mudata(mdata, batch_key="batch")
    model = scvenn.MMVAEpp(mdata)
    model.train(1, write_obsm=False, **QUIET)
    table = model.get_shared_scores(given="half")
    sizes = table.groupby(["modality", "group"]).size()
    assert set(sizes.index.get_level_values("modality")) == set(model.modalities)
    assert (sizes == 20).all()
    assert table.loc[table.group == "all", "score"].notna().all()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("nowhere", "nowhere"),
        ("empty", "given='empty'.*no training cell"),
        ("all", "named 'all'.*Rename"),
    ],
)
def test_a_column_that_names_no_groups_is_refused(small, given, message):
    model = scvenn.MMVAEpp(small)
    model.train(1, write_obsm=False, **QUIET)
    small.obs["empty"] = pd.Categorical([None] * 60, categories=["a"])
    small.obs["all"] = pd.Categorical(["all", "some"] * 30)
    with pytest.raises(ValueError, match=message):
        model.get_shared_scores(given=given)


def test_a_seed_gives_the_same_scores(small):
    model = scvenn.MMVAEpp(small)
    model.train(1, write_obsm=False, **QUIET)
    tables = [model.get_shared_scores(given="cell_type") for _ in range(2)]
    pd.testing.assert_frame_equal(*tables)


# -------------------------------------------------------------------------------------- evaluate


@pytest.fixture(scope="module", params=["normal", "nb"])
def evaluated(request):
    """A trained model and its scores within types, of 400 held-out cells."""
    scvi.settings.seed = 0
    model = scvenn.MMVAEpp(simulated(request.param, n=1600))
    model.train(15, train_size=0.75, write_obsm=False, **QUIET)
    return model, model.evaluate(labels_key="cell_type", given="cell_type")


def of(table, metric, group="all"):
    return table[(table.metric == metric) & (table.group == group)]


@pytest.mark.slow
def test_predictions_within_types_are_those_of_what_is_shared_within_types(evaluated):
    _, table = evaluated
    found = of(table, "shared_within").assign(shared=lambda t: t["value"] == 1)
    found_by_kind = shares(found)
    assert found_by_kind[["within", "both"]].min() > 0.8
    called = found[found.shared]
    false = np.isin(KINDS[[int(name[1:]) for name in called.feature]], ["types", "neither"])
    assert false.mean() <= 0.1  # 5 % on average


@pytest.mark.slow
def test_scores_within_types_are_of_deviations_from_their_means():
    """Of values without a library size, in the order of the features."""
    scvi.settings.seed = 0
    model = scvenn.MMVAEpp(simulated("normal", n=400))
    model.train(2, train_size=0.5, write_obsm=False, **QUIET)
    table, cells = model.evaluate(given="cell_type"), model.validation_indices
    types = model.adata.obs["cell_type"].to_numpy()[cells]
    truth, predicted = (
        pd.DataFrame(v).groupby(types, observed=True).transform(lambda x: x - x.mean())
        for v in (
            model.adata["two"][model.adata.obs_names[cells]].X,
            model.predict("one", "two", indices=cells, return_numpy=True),
        )
    )
    expected = 1 - np.square(truth - predicted).sum() / np.square(truth).sum()
    found = of(table, "r2_within")
    np.testing.assert_allclose(found[found.target == "two"]["value"], expected, atol=1e-3)
    found = of(table, "pearson_within").set_index("feature")["value"]
    for j in np.flatnonzero(KINDS == "within"):
        correlation = np.corrcoef(truth[j], predicted[j])[0, 1]
        np.testing.assert_allclose(found[f"b{j}"], correlation, atol=1e-3)


def test_scores_by_chance_within_types_depend_on_neither_the_order_of_cells_nor_a_seed():
    scvi.settings.seed = 0
    model = scvenn.MMVAEpp(simulated("normal", n=200))
    model.train(1, train_size=0.5, write_obsm=False, **QUIET)
    forwards = model.evaluate(given="cell_type", indices=model.validation_indices)
    scvi.settings.seed = 1
    backwards = model.evaluate(given="cell_type", indices=model.validation_indices[::-1])
    by = ["metric", "view", "source", "target", "feature", "group"]
    one, other = (table.sort_values(by, ignore_index=True) for table in (forwards, backwards))
    pd.testing.assert_frame_equal(one, other, atol=1e-5)


def test_within_types_needs_the_training_cells(tmp_path):
    model = scvenn.MMVAEpp(simulated("normal", n=120))
    model.train(1, write_obsm=False, **QUIET)
    model.save(tmp_path / "model")
    other = simulated("normal", n=60, seed=1)
    for adata in other.mod.values():
        adata.obs_names = [f"new{i}" for i in range(60)]
    other = mudata.MuData(dict(other.mod), obs=other.obs.set_axis(other["one"].obs_names))
    loaded = scvenn.MMVAEpp.load(tmp_path / "model", other)
    with pytest.raises(ValueError, match="reads the training cells, of which this model has none"):
        loaded.get_shared_scores(given="cell_type")


@pytest.mark.slow
def test_types_of_fifty_scored_cells_have_scores_of_their_own(evaluated):
    model, table = evaluated
    sizes = model.adata.obs["cell_type"].iloc[model.validation_indices].value_counts()
    assert set(table.group.dropna()) == {"all", *sizes.index[sizes >= 50]}


@pytest.mark.slow
def test_leakage_within_types_is_scored_beside_that_over_all_cells(evaluated):
    _, table = evaluated
    leakage = table[table.metric == "leakage_r2_within"]
    assert set(leakage.source) == {"shared", "private_one", "private_two"}
    from_private = leakage[leakage.source != "shared"]["value"]
    assert from_private.median() < 0.2
    assert (table[table.metric == "leakage_r2_within"].group.isna()).all()


def test_numbers_are_no_groups(small):
    mdata = small.copy()
    mdata.obs["depth"] = np.linspace(0, 1, mdata.n_obs)
    message = f"='depth': found {mdata.n_obs} different values in {mdata.n_obs} cells"
    for setup in ({"batch_key": "depth"}, {"labels_key": "depth"}):
        with pytest.raises(ValueError, match=message):
            scvenn.MMVAEpp.setup_mudata(mdata.copy(), **setup)
    with pytest.raises(ValueError, match=message):
        scvenn.pp.shared_features(mdata, given="depth")
    scvenn.MMVAEpp.setup_mudata(mdata)
    model = scvenn.MMVAEpp(mdata)
    model.train(1, train_size=1.0, write_obsm=False, **QUIET)
    with pytest.raises(ValueError, match=message):
        model.get_shared_scores(given="depth")
    with pytest.raises(ValueError, match=message):
        model.differential("depth", modality="rna")


def test_scores_that_are_not_within_types_are_those_without_given(small):
    model = scvenn.MMVAEpp(small)
    model.train(1, train_size=0.5, write_obsm=False, **QUIET)
    table = model.evaluate(given="cell_type")
    plain = table[~table.metric.str.endswith("_within")].drop(columns="group")
    pd.testing.assert_frame_equal(plain.reset_index(drop=True), model.evaluate())


def test_cells_without_a_type_and_missing_modalities_are_left_out_within_types():
    mdata = three_modalities(missing=0.3)
    half = np.where(np.arange(mdata.n_obs) % 2, "odd", "even").astype(object)
    half[::7] = None
    mdata.obs["half"] = pd.Categorical(half)
    model = scvenn.MMVAEpp(mdata)
    model.train(1, train_size=0.5, write_obsm=False, **QUIET)
    table = model.evaluate(given="half")
    found = table[table.metric == "pearson_within"]
    assert found["value"].between(-1, 1).sum() > 0
    assert len(found.groupby(["source", "target"])) == 6


def test_cells_without_a_type_change_no_leakage_within_types():
    """However far they are from the others."""
    rng = np.random.default_rng(0)
    latents = {"shared": rng.normal(size=(40, 2)), "private_rna": rng.normal(size=(40, 2))}
    groups = pd.Series(np.where(np.arange(40) % 2, "a", "b").astype(object))
    groups[::5] = None
    halves = np.arange(20), np.arange(20, 40)
    others = {name: rng.permutation(z) for name, z in latents.items()}

    def leakage(latents):
        varies = {name: _varying(z) for name, z in latents.items()}
        return list(_leakage_within(_Latents(latents, others, varies, *halves), groups))

    found = leakage(latents)
    far = {name: np.where(groups.isna().to_numpy()[:, None], 1e6, z) for name, z in latents.items()}
    assert len(found) == 4
    assert found == leakage(far)


def test_columns_of_types_that_evaluate_cannot_use_are_refused(small):
    model = scvenn.MMVAEpp(small)
    model.train(1, train_size=0.5, write_obsm=False, **QUIET)
    with pytest.raises(ValueError, match="nowhere"):
        model.evaluate(given="nowhere")
    small.obs["empty"] = pd.Categorical([None] * 60, categories=["a"])
    with pytest.raises(ValueError, match="given='empty'.*no scored cell"):
        model.evaluate(given="empty")
