"""Construction, saving and loading."""

import errno
import importlib.metadata
from pathlib import Path

import numpy as np
import pytest
import scvi
import torch

import scvenn
from scvenn import Objective, SharedPrivateModel, Term
from tests.conftest import MODELS, QUIET, three_modalities

SMALL = {"n_shared": 3, "n_private": 2, "n_hidden": 16}


def trained(cls, mdata, epochs=2, **kwargs):
    scvi.settings.seed = 0
    model = cls(mdata, **SMALL, **kwargs)
    model.train(epochs, **QUIET)
    return model


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
        ({"label_weight": float("inf")}, "label_weight=inf: expected 'auto' or a finite number"),
        ({"kl_weight_shared": float("inf")}, "kl_weight_shared=inf: expected a finite number"),
        ({"kl_weight_shared": "small"}, "kl_weight_shared='small': expected a finite number"),
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
    before = (tmp_path / "model" / "model.safetensors").read_bytes()

    def disk_full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", disk_full)
    with pytest.raises(OSError, match="No space left on device; the one that was there is"):
        saved.save("model", overwrite=True)
    assert (tmp_path / "model" / "model.safetensors").read_bytes() == before
    assert [p.name for p in (tmp_path / "model").iterdir()] == ["model.safetensors"]
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


def test_a_model_of_another_class_is_refused(saved):
    with pytest.raises(ValueError, match="class 'MMVAEpp', not 'MVAE'. Load it with"):
        scvenn.MVAE.load("model", saved.adata)


@pytest.mark.parametrize("kept", [0.0, 0.5, 0.99])
def test_a_truncated_file_is_refused(saved, kept, tmp_path):
    file = tmp_path / "model" / "model.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[: int(kept * len(whole))])
    with pytest.raises(ValueError, match=r"model.safetensors \(.* bytes\) is damaged"):
        scvenn.MMVAEpp.load("model", saved.adata)


def test_a_missing_file_is_refused(small):
    with pytest.raises(FileNotFoundError, match=r"nowhere/model.safetensors does not exist"):
        scvenn.MMVAEpp.load("nowhere", small)


def test_another_models_set_up_does_not_disturb(saved):
    """scvi-tools would register the data again and forget the order of the features."""
    before = saved.get_shared_representation()
    scvenn.MVAE.setup_mudata(saved.adata, modalities=["meth", "rna"])
    np.testing.assert_array_equal(saved.get_shared_representation(), before)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"screen": "no"}, "screen='no': expected True or False"),
        ({"start_at_means": 0}, "start_at_means=0: expected True or False"),
        ({"dropout_rate": "a"}, "dropout_rate='a': expected 0 <= dropout_rate < 1"),
        ({"modality_weights": {"rna": "2"}}, "modality_weights={'rna': '2'}: expected numbers"),
    ],
)
def test_arguments_of_another_kind_are_refused(small, arguments, message):
    with pytest.raises(ValueError, match=message):
        scvenn.MMVAEpp(small, **arguments)
