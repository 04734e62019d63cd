"""The published models learn what they are for."""

import numpy as np
import pytest
import scanpy as sc
import scvi
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import adjusted_rand_score, r2_score

import scvenn
from tests.conftest import MODELS, QUIET


@pytest.fixture(scope="module")
def gp():
    """MMVAE++ on the paper's simulation: P1 = P2 = 10, Q1 = Q2 = 20."""
    mdata = scvenn.datasets.simulate_gp(700, n_private_features=(20, 20))
    scvi.settings.seed = 0
    model = scvenn.MMVAEpp(mdata)
    model.train(40, train_size=0.8, plan_kwargs={"lr": 4e-3}, **QUIET)
    return model


@pytest.mark.slow
@pytest.mark.parametrize(("source", "target"), [("view1", "view2"), ("view2", "view1")])
def test_shared_features_are_predicted_across_views_and_private_ones_are_not(gp, source, target):
    held_out = gp.validation_indices
    truth = gp.adata[target].X[held_out]
    predicted = gp.predict(source, target, indices=held_out, return_numpy=True)
    r2 = r2_score(truth, predicted, multioutput="raw_values")
    shared = gp.adata[target].var["shared"].to_numpy()
    assert np.median(r2[shared]) > 0.5
    assert r2[~shared].max() < 0.1


@pytest.mark.slow
@pytest.mark.parametrize("modality", ["view1", "view2"])
def test_private_features_are_predicted_within_their_view(gp, modality):
    held_out = gp.validation_indices
    truth = gp.adata[modality].X[held_out]
    predicted = gp.predict(modality, modality, indices=held_out, return_numpy=True)
    r2 = r2_score(truth, predicted, multioutput="raw_values")
    assert np.median(r2[~gp.adata[modality].var["shared"].to_numpy()]) > 0.7


@pytest.mark.slow
def test_planted_cell_types_come_back():
    mdata = scvenn.datasets.simulate_counts(700)
    scvi.settings.seed = 0
    scvenn.MMVAEpp(mdata).train(30, **QUIET)
    sc.pp.neighbors(mdata, use_rep="X_shared")
    sc.tl.leiden(mdata, flavor="igraph", n_iterations=2)
    assert adjusted_rand_score(mdata.obs["leiden"], mdata.obs["cell_type"]) > 0.8


@pytest.mark.slow
def test_labels_shape_the_shared_latent():
    """A label that only one modality's private programme knows is learned where it is asked for."""
    mdata = scvenn.datasets.simulate_counts(600, n_features=60, n_shared_features=20)
    side = mdata.obsm["z_private_rna"][:, 0] > 0
    mdata.obs["side"] = np.where(side, "right", "left")
    accuracy = {}
    for key in (None, "side"):
        scvenn.MMVAEpp.setup_mudata(mdata, labels_key=key)
        scvi.settings.seed = 0
        model = scvenn.MMVAEpp(mdata)
        model.train(25, **QUIET)
        shared = model.get_shared_representation(from_modalities="rna")
        rows = model.validation_indices
        train = model.train_indices
        probe = LogisticRegression(max_iter=1000).fit(shared[train], side[train])
        accuracy[key] = probe.score(shared[rows], side[rows])
    assert accuracy["side"] > accuracy[None] + 0.1


@pytest.mark.parametrize("name", list(MODELS))
def test_the_paper_setting_trains(name):
    mdata = scvenn.datasets.simulate_gp(80, n_private_features=(5, 5))
    model_kwargs, train_kwargs = scvenn.paper_setting(MODELS[name], max_epochs=3)
    scvi.settings.seed = 0
    model = MODELS[name](mdata, **model_kwargs)
    model.train(**train_kwargs, **QUIET)
    kind = "prior" if name in ("MVAE", "MoPoEVAE") else "zero"
    assert model.module.branches[0].absent.kind == kind
    assert model.module.label_weight == 100
    weights = model.history["kl_weight"].to_numpy(float).ravel()
    np.testing.assert_allclose(weights, [1e-5, 1 / 3, 2 / 3], rtol=1e-3)
    assert len(model.history["elbo_validation"]) == 3
