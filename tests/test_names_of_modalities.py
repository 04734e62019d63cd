"""A modality may be called as anything that has a name of its own in models, tables and files."""

import numpy as np
import pytest
import scvi

import scvenn
from tests.conftest import QUIET

pl = scvenn.pl

PAIRS = [
    ("shared", "private"),
    ("all", "labels"),
    ("observed", "batch"),
    ("X", "a.b"),
    ("train", "type"),
    ("keys", "a+b"),
    ("rna", "private_rna"),
    ("modality shared", "shared"),
]


@pytest.fixture(scope="module", params=PAIRS, ids=str)
def model(request):
    scvi.settings.seed = 0
    mdata = scvenn.datasets.simulate_counts(
        80,
        modalities=dict(zip(request.param, ("nb", "normal"), strict=True)),
        n_features=10,
        n_shared_features=6,
        n_types=2,
        n_batches=2,
    )
    scvenn.MMVAEpp.setup_mudata(mdata, labels_key="cell_type", batch_key="batch")
    model = scvenn.MMVAEpp(mdata, n_shared=2, n_private=2, n_hidden=8)
    model.train(2, train_size=0.5, **QUIET)
    return model


@pytest.fixture(scope="module")
def table(model):
    return model.evaluate(labels_key="cell_type")


def test_every_read_out_works(model):
    for m in model.modalities:
        (other,) = (name for name in model.modalities if name != m)
        n_features = model.adata[m].n_vars
        assert model.predict(other, m).shape == (80, n_features)
        assert model.sample_posterior(other, m, n_samples=2).shape == (2, 80, n_features)
        assert model.get_private_representation(m).shape == (80, 2)
        assert len(model.loadings(m)) == len(model.loadings(m, "private")) == 2 * n_features
        assert len(model.shared_features(m)) == len(model.private_features(m)) == n_features
        assert len(model.differential("cell_type", modality=m, n_samples=3)) == 2 * n_features
    assert set(model.sample_prior(3)) == set(model.modalities)
    assert model.write_contributions().shape == (80, 4)
    assert model.predict_labels().shape == (80, 2)


def test_no_two_rows_of_a_table_are_of_the_same_name(model, table):
    assert not table.duplicated(["metric", "view", "source", "target", "feature"]).any()
    leaks = table[table["metric"] == "leakage_r2"]
    latents = {"shared", *(f"private_{m}" for m in model.modalities)}
    assert set(leaks["source"]) == latents
    of_modalities = leaks[~leaks["target"].isin(latents)]
    assert of_modalities["target"].nunique() == 2
    assert len(of_modalities) == 2 * 10  # features
    explained = model.variance_explained()
    assert not explained.duplicated(["modality", "latent"]).any()


def test_every_figure_has_the_right_names(model, table):
    a, b = model.modalities
    latents = ["shared", f"private {a}", f"private {b}"]
    columns = pl.leakage(table).get_xticklabels()
    assert len({text.get_text() for text in columns}) == 1 + 3 + 2
    assert [text.get_text() for text in pl.leakage(table).get_yticklabels()] == latents
    assert [ax.get_title() for ax in pl.training(model)] == [a, b, "loss"]
    drawn = pl.embeddings(model.adata, "cell_type", basis="pca")
    assert [ax.get_title() for ax in drawn] == latents
    assert [ax.get_title() for ax in pl.r2(table)] == [a, b]
    pl.compare(table.assign(model="one"), "auc")
    pl.variance_explained(model.variance_explained())
    pl.shared_scores(model)


def test_files_give_the_same_model(model):
    model.save("model")
    loaded = type(model).load("model", model.adata)
    np.testing.assert_array_equal(
        loaded.get_latent_representation(), model.get_latent_representation()
    )
