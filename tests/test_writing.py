"""Predictions in files: the same values, never all in memory, whole files or none."""

import os

import anndata
import numpy as np
import pandas as pd
import pytest
import scvi
import zarr
from anndata.io import read_elem
from mudata import MuData

import scvenn
from scvenn import network
from tests.conftest import QUIET, three_modalities


@pytest.fixture(scope="module")
def model():
    scvi.settings.seed = 0
    mdata = three_modalities(missing=0.3)
    scvenn.MMVAEpp.setup_mudata(mdata, batch_key="batch")
    model = scvenn.MMVAEpp(mdata, n_shared=3, n_private=2, n_hidden=16)
    model.train(2, **QUIET)
    return model


@pytest.mark.parametrize(
    "arguments",
    [
        {"source": "rna", "target": "peaks"},
        {"source": ["meth", "rna"], "target": "rna", "library_size": 100.0},
        {"source": "meth", "target": "rna", "transform_batch": "batch1", "batch_size": 7},
        {"source": "rna", "target": "meth", "features": ["meth_7", "meth_2"], "indices": [5, 1]},
    ],
)
def test_the_file_holds_what_predict_returns(model, arguments):
    model.write_predictions("imputed.zarr", **arguments)
    expected = model.predict(**arguments)
    read = anndata.read_zarr("imputed.zarr")
    pd.testing.assert_frame_equal(read.to_df(), expected, check_names=False, rtol=1e-5)
    assert read.X.dtype == np.float32


def test_a_file_that_is_named_as_h5ad_is_one(model):
    model.write_predictions("imputed.h5ad", ["meth", "rna"], "rna")
    read, expected = anndata.read_h5ad("imputed.h5ad"), model.predict(["meth", "rna"], "rna")
    pd.testing.assert_frame_equal(read.to_df(), expected, check_names=False, rtol=1e-5)
    assert list(read.obs["cell_type"]) == list(model.adata.obs["cell_type"])
    assert read.uns["scvenn"]["target"] == "rna"


def test_the_size_of_a_file_is_logged_before_it_is_written(model, caplog):
    with caplog.at_level("INFO", logger="scvi.scvenn"):
        model.write_predictions("imputed.h5ad", "rna", "peaks", features=["peaks_3"])
    expected = "peaks: 150 cells x 1 features to write, 0.0 MB before compression"
    assert expected in [record.getMessage() for record in caplog.records]


def test_the_file_says_which_cells_and_features_it_holds(model):
    model.write_predictions("imputed.zarr", "rna", "peaks")
    read = anndata.read_zarr("imputed.zarr")
    mdata = model.adata
    assert list(read.obs["cell_type"]) == list(mdata.obs["cell_type"])
    assert list(read.var["shared"]) == list(mdata["peaks"].var["shared"])
    assert read.uns["scvenn"]["target"] == "peaks"
    assert list(read.uns["scvenn"]["source"]) == ["rna"]


def test_elements_can_be_read_alone(model):
    model.write_predictions("imputed.zarr", "rna", "peaks")
    opened = zarr.open("imputed.zarr", mode="r")
    expected = model.predict("rna", "peaks", return_numpy=True)
    np.testing.assert_allclose(opened["X"][10:20], expected[10:20], rtol=1e-5)
    np.testing.assert_allclose(read_elem(opened["X"]), expected, rtol=1e-5)


def test_no_more_than_a_minibatch_is_held(model, monkeypatch):
    """Every piece that is predicted is written, a chunk of its own, before the next is made."""
    events = []
    means, write = network.means, zarr.Array.__setitem__

    def predicted(*args, **kwargs):
        values = means(*args, **kwargs)
        events.append(("predicted", tuple(values.shape)))
        return values

    def written(array, selection, value):
        if array.name == "/X":
            events.append(("written", value.shape))
        write(array, selection, value)

    monkeypatch.setattr(network, "means", predicted)
    monkeypatch.setattr(zarr.Array, "__setitem__", written)
    model.write_predictions("imputed.zarr", "rna", "peaks", batch_size=40)
    rows = [40, 40, 40, 30]
    assert events == [(what, (n, 20)) for n in rows for what in ("predicted", "written")]
    assert zarr.open("imputed.zarr")["X"].chunks == (40, 20)


@pytest.mark.parametrize("path", ["imputed.csv", "imputed.h5mu", "imputed"])
def test_a_name_of_no_format_is_refused_before_anything_is_written(model, path):
    with pytest.raises(ValueError, match=f"path='{path}': expected a name that ends in .h5ad or"):
        model.write_predictions(path, "rna", "peaks")
    assert not os.path.exists(path)


def test_the_ending_may_be_in_capitals(model):
    model.write_predictions("IMPUTED.H5AD", "rna", "peaks")
    assert anndata.read_h5ad("IMPUTED.H5AD").shape == (model.adata.n_obs, 20)


def test_new_data_without_the_target(model):
    new = MuData({"rna": model.adata["rna"].copy()})
    new.obs["batch"] = model.adata.obs["batch"]
    model.write_predictions("imputed.zarr", "rna", "peaks", new)
    read = anndata.read_zarr("imputed.zarr")
    assert read.shape == (new.n_obs, 20)
    assert list(read.var_names) == list(model.adata["peaks"].var_names)


@pytest.mark.parametrize("path", ["imputed.h5ad", "imputed.zarr"])
def test_columns_of_features_that_mapped_cells_lack_keep_their_kind(model, path):
    panel = model.adata["peaks"][:, :15].copy()
    panel.var["highly_variable"] = [True, False, True] * 5
    panel.var["n_cells"] = range(15)
    new = MuData({"rna": model.adata["rna"].copy(), "peaks": panel})
    new.obs["batch"] = "new"
    mapped = model.map_query(new, max_epochs=1, enable_progress_bar=False)
    mapped.write_predictions(path, "rna", "peaks")
    read = anndata.read_h5ad(path) if path.endswith("h5ad") else anndata.read_zarr(path)
    assert read.var["highly_variable"].tolist()[:3] == [True, False, True]
    assert read.var["n_cells"].tolist()[:15] == list(range(15))
    assert read.var.iloc[15:].isna().all().all()
    assert [str(read.var[c].dtype) for c in ("highly_variable", "n_cells")] == ["boolean", "Int64"]


def test_no_cells_give_an_empty_file(model):
    model.write_predictions("imputed.zarr", "rna", "peaks", indices=[])
    assert anndata.read_zarr("imputed.zarr").shape == (0, 20)


def test_what_is_there_is_not_overwritten(model, tmp_path):
    (tmp_path / "imputed.zarr").mkdir()
    with pytest.raises(FileExistsError, match=r"imputed.zarr already exists"):
        model.write_predictions("imputed.zarr", "rna", "peaks")
    assert not list((tmp_path / "imputed.zarr").iterdir())


def test_nothing_is_left_where_writing_stops(model, tmp_path, monkeypatch):
    calls = []
    means = network.means

    def fails(*args, **kwargs):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return means(*args, **kwargs)

    monkeypatch.setattr(network, "means", fails)
    with pytest.raises(KeyboardInterrupt):
        model.write_predictions("imputed.zarr", "rna", "peaks", batch_size=10)
    assert len(calls) == 3
    assert not list(tmp_path.iterdir())


def test_nothing_is_left_where_the_data_does_not_fit(model, tmp_path):
    new = model.adata.copy()
    new.mod["peaks"] = new["peaks"][:, 3:].copy()
    with pytest.raises(ValueError, match="3 of the 20 features"):
        model.write_predictions("imputed.zarr", "rna", "peaks", new)
    assert not list(tmp_path.iterdir())


def test_unknown_names_are_refused(model, tmp_path):
    with pytest.raises(ValueError, match=r"target='adt': expected one of"):
        model.write_predictions("imputed.zarr", "rna", "adt")
    assert not list(tmp_path.iterdir())
