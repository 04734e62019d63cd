"""Construction, training, saving and loading."""

import importlib.metadata

import numpy as np
import pytest
import scvi
import torch

import scvenn
from scvenn import Objective, SharedPrivateModel, Term
from scvenn.models.base import _default_max_epochs
from tests.conftest import MODELS, QUIET, shuffled, three_modalities

SMALL = {"n_shared": 3, "n_private": 2, "n_hidden": 16}


def embeddings(model):
    return {key: model.adata.obsm[key] for key in model.adata.obsm if key.startswith("X_")}


def assert_same_bits(one, two):
    assert set(one) == set(two)
    for key in one:
        np.testing.assert_array_equal(one[key], two[key], err_msg=key)


def trained(cls, mdata, epochs=2, **kwargs):
    scvi.settings.seed = 0
    model = cls(mdata, **SMALL, **kwargs)
    model.train(epochs, **QUIET)
    return model


# ------------------------------------------------------------------------------- training


def test_every_model_trains_on_three_modalities(model_class, mdata):
    """nb + normal + bernoulli, with missing cells and entries, batches and labels."""
    model_class.setup_mudata(
        mdata, labels_key="cell_type", unlabeled_category="type0", batch_key="batch"
    )
    model = trained(model_class, mdata, epochs=3, encode_covariates=True)
    assert np.isfinite(model.history["elbo_train"].to_numpy(float)).all()
    assert mdata.obsm["X_shared"].shape == (mdata.n_obs, 3)
    assert np.isfinite(mdata.obsm["X_shared"]).all()


def test_training_lowers_the_loss(model_class, mdata):
    model = trained(model_class, mdata, epochs=15)
    elbo = model.history["elbo_train"].to_numpy(float).ravel()
    assert elbo[-1] < elbo[0]


def test_a_seed_gives_the_same_bits(model_class, incomplete):
    one = embeddings(trained(model_class, incomplete.copy()))
    assert_same_bits(one, embeddings(trained(model_class, incomplete.copy())))
    scvi.settings.seed = 1
    other = model_class(incomplete, **SMALL)
    other.train(2, **QUIET)
    assert not np.array_equal(one["X_shared"], incomplete.obsm["X_shared"])


@pytest.mark.parametrize("modality", ["rna", "meth", "peaks"])
def test_shuffling_the_rows_of_one_modality_changes_no_bit(model_class, mdata, modality):
    other = shuffled(mdata, modality)
    assert list(other[modality].obs_names) != list(mdata[modality].obs_names)
    one, two = trained(model_class, mdata), trained(model_class, other)
    assert_same_bits(embeddings(one), embeddings(two))
    rows = mdata[modality].obs_names
    np.testing.assert_array_equal(
        mdata[modality].obsm["X_private"],
        other[modality].obsm["X_private"][other[modality].obs_names.get_indexer(rows)],
    )


def test_the_history_holds_what_users_watch(model_class, mdata):
    model_class.setup_mudata(mdata, labels_key="cell_type")
    history = trained(model_class, mdata).history
    for mode in ("train", "validation"):
        expected = ["elbo", "kl_shared", "log_likelihood_labels", "accuracy_labels"]
        for a in mdata.mod:
            expected.append(f"kl_private_{a}")
            expected += [f"log_likelihood_{a}->{b}" for b in mdata.mod]
        for name in expected:
            values = history[f"{name}_{mode}"].to_numpy(float)
            assert len(values) == 2, name
            assert np.isfinite(values).all(), name
    assert "validation_loss" in history
    assert "train_loss" in history


def test_records_are_means_over_the_cells_they_concern():
    """With all training cells in one minibatch the record is the plain mean."""
    mdata = three_modalities(missing=0.4, n_obs=80)
    scvi.settings.seed = 0
    model = scvenn.MMVAE(mdata, **SMALL)
    model.train(1, batch_size=7, train_size=0.5, plan_kwargs={"lr": 0.0}, **QUIET)
    loader = model._make_data_loader(mdata, indices=model.validation_indices)
    recorded = float(model.history["kl_private_rna_validation"].iloc[0, 0])
    values = torch.cat([model.module(t)[2].extra_metrics["kl_private_rna"] for t in loader])
    assert values.isnan().any()
    assert recorded == pytest.approx(values.nanmean().item(), rel=1e-5)


def test_a_record_that_concerns_no_cell_is_not_a_number():
    """No validation cell has atac: nothing says how well it is predicted, least of all 0."""
    mdata = scvenn.datasets.simulate_counts(80, n_features=20)
    mdata.mod["atac"] = mdata["atac"][:60].copy()
    model = scvenn.MMVAE(mdata, **SMALL)
    split = {"external_indexing": [np.arange(60), np.arange(60, 80)]}
    model.train(1, datasplitter_kwargs=split, **QUIET)
    of_atac = model.history["log_likelihood_rna->atac_validation"].to_numpy(float)
    assert np.isnan(of_atac).all()
    assert np.isfinite(model.history["log_likelihood_rna->rna_validation"].to_numpy(float)).all()


def test_the_warm_up_fits_the_epochs(small):
    model = scvenn.MMVAEpp(small, **SMALL)
    model.train(40, early_stopping=False, **QUIET)
    weights = model.history["kl_weight"].to_numpy(float).ravel()
    np.testing.assert_allclose(weights, [0, 0.25, 0.5, 0.75] + 36 * [1])


@pytest.mark.parametrize(("steps", "epochs"), [(1, 400), (7, 400), (72, 56), (7000, 20)])
def test_default_epochs_make_about_four_thousand_steps(steps, epochs):
    assert _default_max_epochs(steps) == epochs


def test_training_without_validation_cells(small):
    model = scvenn.MMVAEpp(small, **SMALL)
    model.train(2, train_size=1.0, **QUIET)
    assert "elbo_train" in model.history


def test_training_stops_early_after_the_warm_up(small):
    model = scvenn.MMVAEpp(small, **SMALL)
    model.train(50, early_stopping_patience=1, plan_kwargs={"lr": 0.1}, **QUIET)
    assert 5 < len(model.history["elbo_validation"]) < 50


def test_training_returns_to_the_best_epoch(small):
    """The embeddings are those of a run that ends at the epoch with the best validation loss."""
    plan = {"lr": 0.05, "n_epochs_kl_warmup": 1}
    scvi.settings.seed = 0
    stopped = scvenn.MMVAEpp(small, **SMALL)
    stopped.train(40, early_stopping_patience=5, plan_kwargs=plan, **QUIET)
    losses = stopped.history["validation_loss"].to_numpy(float).ravel()
    best = 1 + losses[1:].argmin()
    assert best < len(losses) - 1
    assert stopped.best_epoch_ == best
    scvi.settings.seed = 0
    exact = scvenn.MMVAEpp(small, **SMALL)
    exact.train(int(best) + 1, early_stopping=False, plan_kwargs=plan, **QUIET)
    np.testing.assert_array_equal(
        stopped.get_shared_representation(), exact.get_shared_representation()
    )


def test_write_obsm_can_be_left_out(small):
    model = scvenn.MMVAEpp(small, **SMALL)
    model.train(1, write_obsm=False, **QUIET)
    assert not [key for key in small.obsm if key.startswith("X_")]


def test_an_objective_of_ones_own(small):
    objective = Objective(
        (Term(("rna",), ("rna", "atac")), Term(("atac",), ("atac",), ("atac",))), reduction="sum"
    )
    model = trained(SharedPrivateModel, small, objective=objective)
    assert np.isfinite(model.get_shared_representation(from_modalities="rna")).all()
    assert "log_likelihood_atac->rna_validation" in model.history


# ------------------------------------------------------------------------------- construction


def test_no_set_up_call_is_needed(small):
    assert scvenn.MMVAEpp(small).modalities == ["rna", "atac"]


def test_a_set_up_holds_for_all_classes(small):
    scvenn.MMVAEpp.setup_mudata(small, labels_key="cell_type", likelihoods={"rna": "poisson"})
    for cls in MODELS.values():
        module = cls(small).module
        assert module.n_classes == 2
        assert module.likelihood("rna").name == "poisson"


def test_a_set_up_holds_for_copies(small):
    scvenn.MMVAEpp.setup_mudata(small, labels_key="cell_type")
    copy = small.copy()
    assert scvenn.MMVAEpp(copy).module.n_classes == 2
    assert copy.uns["_scvi_uuid"] != small.uns["_scvi_uuid"]
    assert scvenn.MMVAEpp(small).adata is small


def test_the_last_set_up_wins(small):
    scvenn.MMVAEpp.setup_mudata(small, labels_key="cell_type")
    scvenn.MMVAEpp.setup_mudata(small)
    assert scvenn.MMVAEpp(small).module.n_classes == 0


def test_the_label_weight_is_the_largest_number_of_features(small):
    scvenn.MMVAEpp.setup_mudata(small, labels_key="cell_type")
    assert scvenn.MMVAEpp(small).module.label_weight == 12
    assert scvenn.MMVAEpp(small, label_weight=3).module.label_weight == 3


@pytest.mark.parametrize(
    ("name", "arguments", "expected"),
    [
        ("MMVAEpp", {}, {"rna": {0.1}, "meth": set(), "peaks": {0.1}}),
        ("MMVAEpp", {"screen": False}, {"rna": set(), "meth": set(), "peaks": set()}),
        ("MMVAE", {}, {"rna": set(), "meth": set(), "peaks": set()}),
        ("MMVAE", {"dropout_rate": 0.3}, {"rna": {0.3}, "meth": {0.3}, "peaks": {0.3}}),
    ],
)
def test_networks_of_counts_have_some_dropout(name, arguments, expected):
    model = MODELS[name](three_modalities(missing=0), **arguments)
    module = model.module
    for m in model.modalities:
        layers = module.branch(m).modules()
        assert {layer.p for layer in layers if isinstance(layer, torch.nn.Dropout)} == expected[m]


def test_private_sizes_by_modality(small):
    module = scvenn.MMVAEpp(small, n_private={"atac": 2, "rna": 5}).module
    assert module.n_private == {"rna": 5, "atac": 2}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n_shared": 0}, "n_shared=0: expected an integer of at least 1"),
        ({"n_shared": 2.5}, "n_shared=2.5: expected an integer"),
        ({"n_private": 0}, r"n_private\['rna'\]=0: expected an integer of at least 1"),
        ({"n_private": {"rna": 2}}, r"expected a size for each of \['rna', 'atac'\]"),
        ({"n_private": {"rna": 2, "atac": -1}}, r"n_private\['atac'\]=-1"),
        ({"n_hidden": 0}, "n_hidden=0"),
        ({"n_layers": 0}, "n_layers=0"),
        ({"dropout_rate": 1.0}, "dropout_rate=1.0: expected 0 <="),
        ({"label_weight": -1}, "label_weight=-1"),
        ({"label_weight": "big"}, "label_weight='big'"),
        ({"absent_private": "mean"}, "expected 'zero', 'prior' or 'learned'"),
        ({"absent_private": "learned"}, "Pass screen=False"),
        ({"absent_private": "prior"}, "Pass screen=False"),
        ({"objective": Objective((Term(("rna",), ("atac",)),))}, "has its own objective"),
    ],
)
def test_arguments_out_of_range_are_refused(small, arguments, message):
    with pytest.raises(ValueError, match=message):
        scvenn.MMVAEpp(small, **arguments)


def test_the_base_class_needs_an_objective(small):
    with pytest.raises(ValueError, match="needs an objective"):
        SharedPrivateModel(small)


def test_an_objective_must_fit_the_data(small):
    objective = Objective((Term(("rna",), ("rna", "adt")),))
    with pytest.raises(ValueError, match=r"names \['adt'\]"):
        SharedPrivateModel(small, objective=objective)


@pytest.mark.parametrize("arguments", [{"max_epochs": 0}, {"batch_size": 0}])
def test_training_arguments_out_of_range_are_refused(small, arguments):
    with pytest.raises(ValueError, match="expected an integer of at least 1"):
        scvenn.MMVAEpp(small).train(**arguments)


# ------------------------------------------------------------------------------- save and load


@pytest.fixture
def saved(incomplete):
    scvenn.MMVAEpp.setup_mudata(incomplete, labels_key="cell_type", batch_key="batch")
    model = trained(scvenn.MMVAEpp, incomplete)
    model.save("model")
    return model


def test_a_loaded_model_gives_the_same_bits(saved):
    loaded = scvenn.MMVAEpp.load("model", saved.adata)
    np.testing.assert_array_equal(
        loaded.get_latent_representation(), saved.get_latent_representation()
    )
    assert loaded.history.keys() == saved.history.keys()


def test_load_save_load(saved):
    for data in (saved.adata, False):
        first = scvenn.MMVAEpp.load("model", data)
        first.save("again", overwrite=True)
        second = scvenn.MMVAEpp.load("again", saved.adata)
        np.testing.assert_array_equal(
            second.get_latent_representation(), saved.get_latent_representation()
        )


def test_a_model_loaded_in_a_new_process_needs_no_set_up(saved, incomplete):
    fresh = three_modalities(missing=0.3)  # never seen by scvi-tools
    loaded = scvenn.MMVAEpp.load("model", fresh)
    np.testing.assert_array_equal(
        loaded.get_shared_representation(), saved.get_shared_representation()
    )


def test_data_can_be_saved_along(saved):
    saved.save("whole", save_anndata=True)
    loaded = scvenn.MMVAEpp.load("whole")
    assert loaded.adata is not saved.adata
    np.testing.assert_array_equal(
        loaded.get_shared_representation(), saved.get_shared_representation()
    )


def test_a_model_loaded_without_data_reads_new_data(saved):
    loaded = scvenn.MMVAEpp.load("model")
    assert loaded.adata is None
    with pytest.raises(ValueError, match="loaded without data"):
        loaded.get_shared_representation()
    with pytest.raises(ValueError, match="loaded without data"):
        loaded.train(1)
    np.testing.assert_array_equal(
        loaded.get_shared_representation(saved.adata), saved.get_shared_representation()
    )


def test_a_model_of_ones_own_objective_is_loaded(small):
    objective = Objective((Term(("rna",), ("rna", "atac")), Term(("atac",), ("atac",))))
    model = trained(SharedPrivateModel, small, objective=objective)
    model.save("own")
    loaded = SharedPrivateModel.load("own", small)
    assert loaded.module.objective == objective


def test_versions_are_recorded(saved):
    loaded = scvenn.MMVAEpp.load("model", saved.adata)
    assert loaded.versions_["scvenn"] == scvenn.__version__
    assert loaded.versions_["torch"] == importlib.metadata.version("torch")
    assert saved.adata.uns["scvenn"]["versions"] == loaded.versions_


def test_training_goes_on_after_loading(saved):
    loaded = scvenn.MMVAEpp.load("model", saved.adata)
    before = loaded.get_shared_representation()
    loaded.train(1, **QUIET)
    assert not np.array_equal(before, loaded.get_shared_representation())


def test_an_existing_folder_is_not_overwritten(saved):
    with pytest.raises(FileExistsError, match="overwrite=True"):
        saved.save("model")
    saved.save("model", overwrite=True)


def test_a_failed_save_leaves_the_old_model_whole(saved, monkeypatch, tmp_path):
    before = (tmp_path / "model" / "model.pt").read_bytes()

    def disk_full(*args, **kwargs):
        raise OSError("No space left on device")

    monkeypatch.setattr(torch, "save", disk_full)
    with pytest.raises(OSError, match="No space"):
        saved.save("model", overwrite=True)
    assert (tmp_path / "model" / "model.pt").read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


def test_a_model_of_another_class_is_refused(saved):
    with pytest.raises(ValueError, match="class 'MMVAEpp', not 'MVAE'. Load it with"):
        scvenn.MVAE.load("model", saved.adata)


@pytest.mark.parametrize("kept", [0.0, 0.5, 0.99])
def test_a_truncated_file_is_refused(saved, kept, tmp_path):
    file = tmp_path / "model" / "model.pt"
    whole = file.read_bytes()
    file.write_bytes(whole[: int(kept * len(whole))])
    with pytest.raises(ValueError, match=r"model.pt is damaged"):
        scvenn.MMVAEpp.load("model", saved.adata)


def test_a_missing_file_is_refused(small):
    with pytest.raises(FileNotFoundError, match=r"nowhere/model.pt does not exist"):
        scvenn.MMVAEpp.load("nowhere", small)


def test_another_models_set_up_does_not_disturb(saved):
    """scvi-tools would register the data again and forget the order of the features."""
    before = saved.get_shared_representation()
    scvenn.MVAE.setup_mudata(saved.adata, modalities=["meth", "rna"])
    np.testing.assert_array_equal(saved.get_shared_representation(), before)
