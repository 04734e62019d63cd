"""Read-outs credit latents with what covariates alone do not predict."""

import numpy as np
import pandas as pd
import pytest
import scvi
from anndata import AnnData
from mudata import MuData

import scvenn
from scvenn.readouts.evaluation import _less_covariates
from tests.conftest import QUIET


def moved_by(covariate, n_features=12):
    """Two modalities of noise that have nothing in common but a covariate of the cells, (n,)."""
    rng = np.random.default_rng(0)
    names = [f"cell{i}" for i in range(len(covariate))]
    modalities = {}
    for m in ("rna", "meth"):
        effect = np.outer(covariate, rng.normal(0, 2, n_features))
        x = (rng.normal(size=effect.shape) + effect).astype(np.float32)
        modalities[m] = AnnData(x, obs=pd.DataFrame(index=names))
        modalities[m].var_names = [f"{m}_{j}" for j in range(n_features)]
    mdata = MuData(modalities)
    mdata.obs["covariate"] = covariate
    mdata.obs["type"] = rng.choice(["A", "B"], len(covariate))
    return mdata


def trained(cls, mdata, max_epochs):
    """A small model, half of whose cells are held out."""
    scvi.settings.seed = 0
    model = cls(mdata, n_shared=2, n_private=2, n_hidden=16)
    model.train(max_epochs, batch_size=64, train_size=0.5, plan_kwargs={"lr": 5e-3}, **QUIET)
    return model


@pytest.fixture(
    scope="module",
    params=[
        (scvenn.MMVAEpp, "batch_key"),
        (scvenn.MMVAEpp, "continuous_covariate_keys"),
        (scvenn.MMVAE, "batch_key"),
    ],
    ids=lambda param: f"{param[0].__name__}-{param[1]}",
)
def model(request):
    """A model that is told the covariate."""
    cls, argument = request.param
    rng = np.random.default_rng(1)
    covariate = rng.integers(2, size=300) if argument == "batch_key" else rng.normal(size=300)
    mdata = moved_by(covariate)
    key = "covariate" if argument == "batch_key" else ["covariate"]
    cls.setup_mudata(mdata, **{argument: key})
    return trained(cls, mdata, 60)


def test_shared_explains_nothing_of_what_a_covariate_moves(model):
    table = model.variance_explained().set_index(["modality", "latent"])["r2"]
    for m in model.modalities:
        assert abs(table[m, "shared"]) < 0.1
        assert abs(table[m, "overlap"]) < 0.1


def test_features_that_a_covariate_moves_are_not_listed_as_shared(model):
    for m in model.modalities:
        assert model.shared_features(m)["listed"].sum() <= 1


def test_predictions_by_a_covariate_are_not_shared_within_types(model):
    table = model.evaluate(given="type")
    table = table[table["group"].eq("all")].set_index("metric")
    assert table.loc["shared_within", "value"].mean() < 0.1
    for metric in ("r2_within", "pearson_within"):
        assert abs(table.loc[metric, "value"].mean()) < 0.1


@pytest.fixture(scope="module")
def counts():
    """Sparse counts of three modalities in three batches, of which no cell has all for sure."""
    mdata = scvenn.datasets.simulate_counts(
        300,
        n_features=20,
        n_shared_features=0,
        n_batches=3,
        missing=0.2,
        modalities={"rna": "nb", "atac": "bernoulli", "adt": "nb"},
    )
    scvenn.MMVAEpp.setup_mudata(mdata, batch_key="batch")
    return trained(scvenn.MMVAEpp, mdata, 40)


def test_batches_of_counts_are_not_shared(counts):
    table = counts.variance_explained().set_index(["modality", "latent"])["r2"]
    for m in counts.modalities:
        assert abs(table[m, "shared"]) < 0.1
        assert counts.shared_features(m)["listed"].sum() <= 1


def test_covariates_are_regressed_out_of_each_feature_in_the_cells_that_have_it():
    rng = np.random.default_rng(0)
    covariates, values = rng.normal(size=(30, 2)), rng.normal(size=(30, 3))
    values[:10, 1] = np.nan
    found = _less_covariates(values, covariates)
    for j in range(3):
        rows = np.isfinite(values[:, j])
        x, y = covariates[rows], values[rows, j]
        np.testing.assert_allclose(found[rows, j], y - x @ np.linalg.pinv(x) @ y)
    assert np.isnan(found[:10, 1]).all()
