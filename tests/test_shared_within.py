"""What modalities share within cell types: ``get_shared_scores(given=...)``."""

import anndata
import mudata
import numpy as np
import pandas as pd
import pytest
import scvi

import scvenn
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
