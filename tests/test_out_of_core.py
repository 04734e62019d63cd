"""Data on disk: trained on and read without ever holding a whole matrix."""

import copy
import itertools
import logging
import os
import re
import shutil

import anndata
import h5py
import mudata
import numpy as np
import pytest
import scipy.sparse as sp
import scvi
from lightning.pytorch.callbacks import Callback

import scvenn
from scvenn.data import BlockLoader, blocks, fingerprint, matrices, on_disk
from scvenn.readouts import axes, latent_methods, shared_features
from tests.conftest import QUIET

N_CELLS, EPOCHS = 240, 2


def open_backed(folder):
    return mudata.read_h5mu(folder / "cells.h5mu", backed=True)


def open_lazy(folder):
    return scvenn.read_lazy(folder / "cells.h5mu")


def open_zarr(folder):
    return scvenn.read_lazy(folder / "cells.zarr")


OPENED = {"backed": open_backed, "lazy": open_lazy, "zarr": open_zarr}


def trained(mdata, layer=None, **how):
    """A model of the default kind, from one seed."""
    scvi.settings.seed = 0
    scvenn.MMVAEpp.setup_mudata(mdata, layers=None if layer is None else {"rna": layer})
    model = scvenn.MMVAEpp(mdata)
    model.train(how.pop("max_epochs", EPOCHS), batch_size=16, **QUIET, **how)
    return model


def weights(model):
    return {name: value.numpy().tobytes() for name, value in model.module.state_dict().items()}


@pytest.fixture(scope="module", autouse=True)
def _small_blocks():
    """Several buffers of several blocks, though the data is small."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks, "BLOCK", 8)
        patch.setattr(blocks, "BUFFER", 6)
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A mosaic: rna dense, with counts in a layer as well; atac CSR, in another order of cells."""
    mdata = scvenn.datasets.simulate_counts(
        N_CELLS, n_features=12, n_shared_features=6, n_types=2, missing=0.2
    )
    rna, atac = mdata["rna"], mdata["atac"]
    rna.X = rna.X.toarray() if sp.issparse(rna.X) else np.asarray(rna.X)
    rna.layers["counts"] = rna.X.copy()
    atac.X = sp.csr_matrix(atac.X)
    order = np.random.default_rng(0).permutation(atac.n_obs)
    mdata.mod["atac"] = atac[order].copy()
    found = tmp_path_factory.mktemp("data")
    mdata.write(found / "cells.h5mu")
    mdata.write_zarr(found / "cells.zarr")
    return found


@pytest.fixture(scope="module")
def in_memory(folder):
    return trained(mudata.read_h5mu(folder / "cells.h5mu"), shuffle="blocks")


@pytest.fixture(scope="module")
def of_file(folder):
    return trained(open_backed(folder))


# ------------------------------------------------------------------------------- the same results


@pytest.mark.parametrize("opened", OPENED)
def test_data_on_disk_gives_the_weights_and_embeddings_of_data_in_memory(opened, folder, in_memory):
    layer = None if opened == "backed" else "counts"  # layers of backed data are in memory
    model = trained(OPENED[opened](folder), layer)
    assert model.adata_manager.on_disk
    assert weights(model) == weights(in_memory)
    for key in ("X_shared", "X_private_rna", "X_private_atac"):
        assert model.adata.obsm[key].tobytes() == in_memory.adata.obsm[key].tobytes()


def test_one_modality_on_disk_will_do(folder, in_memory):
    mdata = mudata.read_h5mu(folder / "cells.h5mu")
    mdata["rna"].write(folder / "rna.h5ad")
    mod = {"rna": anndata.read_h5ad(folder / "rna.h5ad", backed="r"), "atac": mdata["atac"]}
    assert weights(trained(mudata.MuData(mod, obs=mdata.obs))) == weights(in_memory)


def test_read_outs_are_those_of_data_in_memory(of_file, in_memory):
    assert of_file.evaluate(labels_key="cell_type").equals(
        in_memory.evaluate(labels_key="cell_type")
    )
    assert of_file.predict("rna", "atac").equals(in_memory.predict("rna", "atac"))
    assert of_file.variance_explained().equals(in_memory.variance_explained())
    assert of_file.shared_features("rna").equals(in_memory.shared_features("rna"))


def test_a_report_of_data_on_disk_is_written(of_file, tmp_path):
    of_file.report(tmp_path / "report.html", labels_key="cell_type")
    assert "Scores" in (tmp_path / "report.html").read_text()


def test_new_data_on_disk_is_read_by_the_names_of_its_features(in_memory, tmp_path):
    new = in_memory.adata.copy()
    new.mod["atac"] = new["atac"][:, ::-1].copy()
    new.write(tmp_path / "cells.h5mu")
    found = in_memory.get_shared_representation(open_backed(tmp_path))
    assert np.array_equal(found, in_memory.get_shared_representation(), equal_nan=True)


@pytest.mark.parametrize("opened", OPENED)
def test_a_view_of_data_on_disk_is_read(opened, folder, in_memory):
    view = OPENED[opened](folder)[50:10:-3]
    found = in_memory.get_latent_representation(view)
    expected = in_memory.get_latent_representation(indices=view.obs_names)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_a_model_is_loaded_with_data_on_disk(of_file, folder, tmp_path):
    of_file.save(tmp_path / "model")
    loaded = scvenn.MMVAEpp.load(tmp_path / "model", open_backed(folder))
    assert np.array_equal(loaded.train_indices, of_file.train_indices)
    found = loaded.get_shared_representation()
    assert np.array_equal(found, of_file.get_shared_representation(), equal_nan=True)


def test_data_on_disk_is_not_saved_a_second_time(of_file, tmp_path):
    with pytest.raises(ValueError, match=r"on disk.*load\(dir_path, mdata\)"):
        of_file.save(tmp_path / "model", save_anndata=True)
    assert not (tmp_path / "model").exists()


def test_data_on_disk_is_screened_without_a_model(folder):
    mdata = open_backed(folder)
    scvenn.pp.shared_features(mdata)
    assert mdata["rna"].var["scvenn_shared_score"].notna().any()


def test_workers_are_not_sent_an_open_file(of_file, monkeypatch):
    monkeypatch.setattr(scvi.settings, "dl_num_workers", 1)
    monkeypatch.setattr(scvi.settings, "dl_persistent_workers", True)
    assert len(of_file.get_shared_representation()) == N_CELLS


# ------------------------------------------------------------------------------- bounded reading


def test_no_step_reads_a_whole_matrix(folder, monkeypatch):
    limit, read = 60, []
    monkeypatch.setattr(matrices, "_CHUNK", 12 * limit)
    monkeypatch.setattr(fingerprint, "_MOST_VALUES", 12 * limit)
    monkeypatch.setattr(shared_features, "MOST_CELLS", limit)
    monkeypatch.setattr(axes, "MOST_CELLS", limit)
    monkeypatch.setattr(latent_methods, "_MOST_ON_DISK", limit)
    monkeypatch.setattr(scvi.settings, "batch_size", limit)
    taken = on_disk.DiskMatrix.__getitem__

    def counted(matrix, rows):
        values = taken(matrix, rows)
        read.append(values.shape[0])
        return values

    monkeypatch.setattr(on_disk.DiskMatrix, "__getitem__", counted)
    model = trained(open_backed(folder), max_epochs=1)
    model.evaluate(indices=np.r_[model.validation_indices, model.test_indices])
    model.predict("rna", "atac")
    model.write_contributions()
    model.shared_features("rna")
    assert 0 < max(read) <= limit


def test_reading_is_in_the_order_of_the_file_whatever_is_asked_for(folder, monkeypatch):
    mdata = open_backed(folder)
    values = mdata["atac"].X[:].toarray()
    rows = np.array([7, 150, 3, 3, -1, 151, 100])
    spans = []
    between = on_disk.DiskMatrix._between
    monkeypatch.setattr(
        on_disk.DiskMatrix, "_between", lambda *of: spans.append(of[1:]) or between(*of)
    )
    matrix = on_disk.DiskMatrix(mdata["atac"].X, "atac", "")
    found = matrix.aligned(rows, np.array([4, 0]))[np.arange(7)].toarray()
    assert spans == [(3, 8), (100, 101), (150, 152)]
    expected = np.where(rows[:, None] < 0, 0, values[rows][:, [4, 0]])
    assert np.array_equal(found, expected)


def test_a_sample_is_scored_and_the_log_says_so(of_file, monkeypatch, caplog):
    monkeypatch.setattr(latent_methods, "_MOST_ON_DISK", 10)
    with caplog.at_level(logging.INFO, "scvi.scvenn"):
        first, again = of_file.evaluate(), of_file.evaluate()
    assert first.equals(again)
    assert f"Scored are 10 of the {len(of_file.validation_indices)} cells" in caplog.text


# ------------------------------------------------------------------------------- shuffling


@pytest.fixture(scope="module")
def loader(in_memory):
    return BlockLoader(in_memory.adata_manager, np.arange(200)[::-1], batch_size=16)


def order_of(loader, monkeypatch):
    """Positions of the cells of each minibatch."""
    every = np.arange(N_CELLS)[:, None]
    monkeypatch.setattr(loader.dataset, "_data", {"observed": every}, raising=False)
    monkeypatch.setattr(loader.dataset, "_keys_and_dtypes", {"observed": np.int64})
    return [minibatch["observed"].ravel().tolist() for minibatch in loader]


def test_each_cell_is_in_one_minibatch_and_all_but_the_last_are_full(loader, monkeypatch):
    found = order_of(loader, monkeypatch)
    assert sorted(itertools.chain(*found)) == list(range(200))
    assert [len(cells) for cells in found] == [16] * 12 + [8]
    assert len(loader) == 13


def test_blocks_are_in_another_order_each_time_and_the_cells_of_several_are_mixed(
    loader, monkeypatch
):
    first, second = (order_of(loader, monkeypatch) for _ in range(2))
    assert first != second
    assert all(len({cell // 8 for cell in cells}) > 3 for cells in first[:-1])


def test_a_buffer_holds_fewer_cells_if_they_have_many_values(in_memory, monkeypatch):
    monkeypatch.setattr(blocks, "MOST_VALUES", 24 * 20)
    rows = np.arange(200)
    assert BlockLoader(in_memory.adata_manager, rows, batch_size=16).buffer == 16


def test_the_last_small_minibatch_can_be_left_out(in_memory):
    rows = np.arange(200)
    left_out = BlockLoader(in_memory.adata_manager, rows, batch_size=16, drop_last=True)
    assert len(left_out) == len(list(left_out)) == 12


def test_another_way_to_shuffle_is_refused(in_memory):
    with pytest.raises(ValueError, match="shuffle='rows': expected 'cells' or 'blocks'"):
        in_memory.train(1, shuffle="rows")


# ------------------------------------------------------------------------------- what goes wrong


def cut_off(path):
    if path.is_dir():  # a part of the values
        os.remove(path / "mod" / "atac" / "X" / "data" / "0")
    else:
        os.truncate(path, path.stat().st_size // 2)


def change(path):
    os.utime(path / "mod" / "atac" / "X" if path.is_dir() else path)


def remove(path):
    shutil.rmtree(path) if path.is_dir() else path.unlink()


class After(Callback):
    """Does something once an epoch has been trained."""

    def __init__(self, action):
        self.action = action

    def on_train_epoch_start(self, trainer, plan):
        if trainer.current_epoch == 1:
            self.action()


@pytest.mark.parametrize("opened", ["backed", "zarr"])
@pytest.mark.parametrize("harm", [cut_off, change, remove])
def test_a_file_that_changes_while_it_is_read_ends_training(opened, harm, folder, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(folder, data)
    path = data / ("cells.zarr" if opened == "zarr" else "cells.h5mu")
    model = scvenn.MMVAEpp(OPENED[opened](data), screen=False)
    found = "was removed" if harm is remove else "was changed"
    with pytest.raises((ValueError, OSError), match=rf"{path.name}.*{found} while it was read"):
        model.train(3, batch_size=64, callbacks=[After(lambda: harm(path))], **QUIET)
    assert model.is_trained_  # with the weights of the epochs before
    assert "X_shared" not in model.adata.obsm


def test_a_checkpoint_outlives_its_file(folder, in_memory, tmp_path):
    shutil.copy(folder / "cells.h5mu", tmp_path)
    how = {"checkpoint": tmp_path / "kept", "checkpoint_minutes": 0}
    with pytest.raises(OSError, match=r"was removed while it was read.*checkpoint"):
        trained(
            open_backed(tmp_path), callbacks=[After(lambda: remove(tmp_path / "cells.h5mu"))], **how
        )
    assert [path.name for path in (tmp_path / "kept").iterdir()] == ["checkpoint.safetensors"]
    assert weights(trained(open_backed(folder), **how)) == weights(in_memory)


def test_a_file_that_was_closed_is_named_with_a_remedy(folder):
    mdata = open_lazy(folder)
    model = scvenn.MMVAEpp(mdata)
    mdata["atac"].X.group.file.close()
    with pytest.raises(OSError, match=r"the file of mdata\['rna'\].X was closed. Open it again"):
        model.train(1, **QUIET)


def test_sizes_of_latents_are_not_chosen_in_processes_that_cannot_share_a_file(folder):
    with pytest.raises(ValueError, match="n_jobs=2: the data is on disk.*Pass n_jobs=None"):
        scvenn.choose_latent_sizes(open_lazy(folder), n_splits=2, n_jobs=2, max_epochs=1)


def test_a_matrix_by_columns_is_refused_with_a_remedy_that_works(folder, tmp_path):
    mdata = mudata.read_h5mu(folder / "cells.h5mu")
    mdata["atac"].X = mdata["atac"].X.tocsc()
    mdata.write(tmp_path / "cells.h5mu")
    backed = open_backed(tmp_path)
    with pytest.raises(ValueError, match=r"modality 'atac'.*by columns \(CSC\).*to_memory\(\)"):
        scvenn.MMVAEpp.setup_mudata(backed)
    backed.mod["atac"] = backed["atac"].to_memory()  # what the message says
    scvenn.MMVAEpp.setup_mudata(backed)


def test_values_on_disk_are_checked_as_those_in_memory(folder, tmp_path):
    mdata = mudata.read_h5mu(folder / "cells.h5mu")
    mdata["atac"].X.data[-1] = np.inf
    mdata.write(tmp_path / "cells.h5mu")
    with pytest.raises(ValueError, match=r"modality 'atac': found inf in mdata\['atac'\].X"):
        scvenn.MMVAEpp.setup_mudata(open_backed(tmp_path))


def test_a_path_without_a_mudata_is_refused_when_opened(folder, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no file or folder .*missing"):
        scvenn.read_lazy(tmp_path / "missing")
    (tmp_path / "text").write_text("no data")
    with pytest.raises(ValueError, match="neither a file of HDF5 nor a folder of zarr"):
        scvenn.read_lazy(tmp_path / "text")
    mudata.read_h5mu(folder / "cells.h5mu")["rna"].write(tmp_path / "rna.h5ad")
    with pytest.raises(ValueError, match="holds no MuData: there is no group 'mod'") as caught:
        scvenn.read_lazy(tmp_path / "rna.h5ad")
    h5py.File(tmp_path / "rna.h5ad", "w").close()  # which HDF5 refuses for a file that is open
    assert caught.tb is not None  # and holds what the function held


@pytest.mark.parametrize("opened", OPENED)
def test_a_model_of_data_on_disk_cannot_be_copied(folder, opened):
    model = trained(OPENED[opened](folder), max_epochs=1)
    with pytest.raises(TypeError, match=r"data on disk cannot be copied.*model.save\(dir_path\)"):
        copy.deepcopy(model)


@pytest.mark.parametrize("opened", OPENED)
def test_the_remedy_for_changed_data_on_disk_works(folder, opened):
    mdata = OPENED[opened](folder)
    model = trained(mdata, max_epochs=1)
    del mdata.mod["atac"]
    with pytest.raises(ValueError, match="modality 'atac' was removed") as caught:
        model.predict("rna", "atac")
    remedy = re.search(r"as new data, (mudata.MuData.*?\}\))", str(caught.value))[1]
    changed = eval(remedy, {"mudata": mudata, "mdata": mdata})
    assert len(model.predict("rna", "atac", changed)) == mdata["rna"].n_obs
