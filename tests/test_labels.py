"""Labels of cells that have none, and the weight of each modality."""

import numpy as np
import pandas as pd
import pytest
import scvi
import torch

import scvenn
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
    model.train(60, **QUIET)
    right = model.predict_labels().idxmax(axis=1) == truth
    for m in ("rna", "adt"):
        alone = mdata.obs_names.isin(mdata[m].obs_names) & ~paired
        assert right[alone].mean() > 0.75, m


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
        model.train(40, train_size=0.8, **QUIET)
        table = model.evaluate()
        same = table[(table["metric"] == "r2") & (table["view"] == "same")]
        r2[choice] = same.groupby("target")["value"].median()
    assert r2["auto"]["view1"] > r2[None]["view1"] + 0.05
