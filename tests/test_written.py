"""A MuData is written once there is room for it on the disk."""

import errno
import os
from functools import partial

import h5py
import mudata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

import scvenn
from scvenn._whole_files import reserve
from scvenn.data import size_of, write_h5mu
from tests.conftest import three_modalities

LONG = "a name of forty letters, as peaks can have"


def with_everything():
    """Of all that anndata writes, something."""
    mdata = three_modalities(missing=0.3)
    rna = mdata["rna"]
    rna.layers["counts"] = rna.X.copy()
    rna.raw = rna
    rna.obsm["X"], rna.obsp["graph"] = np.zeros((rna.n_obs, 3)), sp.eye(rna.n_obs, format="csr")
    rna.obsm["table"] = pd.DataFrame({"a": np.arange(rna.n_obs)}, index=rna.obs_names)
    rna.varm["loadings"] = np.zeros((rna.n_vars, 2))
    rna.uns = {"a": {"b": "text", "c": np.array(["x", "yy"])}, "d": 1.5, "e": [1, 2]}
    mdata.obs["text"] = [LONG] * mdata.n_obs
    mdata.obs["flag"] = np.arange(mdata.n_obs) % 2 == 0
    mdata.obs["maybe"] = pd.array([None, 1] * (mdata.n_obs // 2), dtype="Int64")
    mdata.obs["kind"] = pd.Categorical([LONG, "b"] * (mdata.n_obs // 2))
    mdata.obsm["X_shared"] = np.zeros((mdata.n_obs, 10), np.float32)
    return mdata


def wide():
    """Many features with long names, and few counts."""
    mdata = scvenn.datasets.simulate_counts(30, n_features=3000)
    for m, adata in mdata.mod.items():
        adata.var_names = [f"{m} {j} {LONG}" for j in range(3000)]
    mdata.update()
    return mdata


MAKE = {
    "everything": with_everything,
    "wide": wide,
    "long": partial(scvenn.datasets.simulate_counts, 3000, n_features=50),
}


@pytest.mark.parametrize("what", MAKE)
def test_a_file_is_no_larger_than_what_was_asked_for(what, tmp_path):
    mdata = MAKE[what]()
    write_h5mu(mdata, tmp_path / "cells.h5mu")
    actual = (tmp_path / "cells.h5mu").stat().st_size
    assert actual <= size_of(mdata) <= 3 * actual
    backed = mudata.read_h5mu(tmp_path / "cells.h5mu", backed=True)
    assert actual <= size_of(backed) <= 3 * actual


def test_room_is_asked_for_and_given_back(tmp_path):
    before = os.statvfs(tmp_path).f_bavail
    reserve(tmp_path / "file", 1_000_000)
    assert not (tmp_path / "file").exists()
    assert os.statvfs(tmp_path).f_bavail > before - 200


def test_without_room_nothing_is_begun(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
    monkeypatch.setattr(mudata.MuData, "write", lambda *_: pytest.fail("it was begun"))
    with pytest.raises(OSError, match="No space left on device"):
        write_h5mu(three_modalities(missing=0), tmp_path / "cells.h5mu")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("why", ["not there", errno.EOPNOTSUPP], ids=str)
def test_where_room_cannot_be_asked_for_the_free_one_counts(tmp_path, monkeypatch, why):
    def cannot(*_):
        raise OSError(why, "Operation not supported")

    if why == "not there":
        monkeypatch.delattr(os, "posix_fallocate", raising=False)
    else:
        monkeypatch.setattr(os, "posix_fallocate", cannot, raising=False)
    reserve(tmp_path / "file", 1000)
    with pytest.raises(OSError, match="No space left on device"):
        reserve(tmp_path / "file", 10**18)
    assert not list(tmp_path.iterdir())


def test_predictions_need_room_as_well(tmp_path, monkeypatch):
    mdata = scvenn.datasets.simulate_counts(60, n_features=12, n_types=2)
    model = scvenn.MMVAEpp(mdata, n_hidden=8)
    model.train(1, enable_progress_bar=False)
    asked = []
    monkeypatch.setattr(
        "scvenn.readouts.writing.reserve", lambda path, n_bytes: asked.append(n_bytes)
    )
    model.write_predictions(tmp_path / "predicted.h5ad", "rna", "atac")
    assert asked[0] >= (tmp_path / "predicted.h5ad").stat().st_size
    with h5py.File(tmp_path / "predicted.h5ad") as file:
        assert file["X"].shape == (60, 12)
