"""What must not change a result does not, for every model and every likelihood."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import mudata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import scvi
import torch
from anndata import AnnData
from mudata import MuData

from scvenn.likelihoods import LIKELIHOODS
from tests.conftest import MODELS, QUIET
from tests.test_storage import in_another_order, make, trained, values

ALL = [(name, likelihood) for name in MODELS for likelihood in LIKELIHOODS]
# The least that a result changes if nothing but the order of a sum does, in single precision.
ROUNDING = {"rtol": 1e-4, "atol": 1e-4}


def of_all(name, likelihood):
    """A trained model of two sparse modalities; some cells lack the second."""
    mdata = make([likelihood, likelihood], sp.csr_matrix, seed=1, missing=True)
    return trained(mdata, [likelihood, likelihood], model_class=MODELS[name])


def digest(model):
    """Of the bits of all weights and of the embeddings."""
    arrays = [tensor.numpy() for tensor in model.module.state_dict().values()]
    return hashlib.sha256(
        b"".join(a.tobytes() for a in [*arrays, model.get_latent_representation()])
    ).hexdigest()


@pytest.fixture(scope="module", params=ALL, ids="-".join)
def case(request):
    return request.param, of_all(*request.param)


@pytest.fixture
def model(case):
    return case[1]


@pytest.fixture(scope="module")
def digests_of_another_process():
    """By model and likelihood; the process is started once."""
    command = [sys.executable, "-m", "tests.test_invariances"]
    root = Path(__file__).parent.parent
    done = subprocess.run(
        command, cwd=root, env=os.environ, check=True, capture_output=True, text=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def readouts(model, mdata=None, **choice):
    """Every latent of each cell, and predictions in both directions, with their names."""
    of_cells = mdata if mdata is not None else model.adata
    names = of_cells.obs_names[choice.get("indices", slice(None))]
    latent = model.get_latent_representation(mdata, **choice)
    found = {"latents": pd.DataFrame(latent, index=names)}
    for pair in (("m0", "m1"), ("m1", "m0")):
        found["".join(pair)] = model.predict(*pair, mdata, **choice)
    return found


def assert_same(found, expected):
    """Of the cells that were found, whatever the order of cells and features."""
    for name, table in found.items():
        other = expected[name].loc[table.index, table.columns]
        np.testing.assert_allclose(table, other, **ROUNDING, err_msg=name)


@pytest.mark.parametrize("what", ["cells", "features", "modalities"])
def test_the_order_of_new_data_changes_no_result(model, what):
    new = in_another_order(model.adata, what)
    assert list(new.obs_names) != list(model.adata.obs_names) or what != "cells"
    assert_same(readouts(model, new), readouts(model))


def test_the_batch_size_of_a_readout_changes_no_result(model):
    assert_same(readouts(model, batch_size=7), readouts(model))


def test_new_data_in_parts_gives_the_results_of_the_whole(model):
    whole, n = readouts(model), model.adata.n_obs
    for start in (0, 30):
        assert_same(readouts(model, model.adata[start : start + n - 30].copy()), whole)
    assert_same(readouts(model, indices=np.arange(n)[::-3]), whole)


def test_a_view_gives_the_results_of_its_copy(model):
    view = model.adata[::2]
    assert view.is_view
    found, expected = readouts(model, view), readouts(model, view.copy())
    for name, table in found.items():
        pd.testing.assert_frame_equal(table, expected[name], check_exact=True)


def test_a_saved_and_loaded_model_gives_the_same_bits(model, tmp_path):
    model.save(tmp_path / "model")
    loaded = type(model).load(tmp_path / "model", model.adata)
    assert digest(loaded) == digest(model)


def test_data_from_a_file_gives_the_same_bits(model, tmp_path):
    model.adata.write(tmp_path / "data.h5mu")
    found = readouts(model, mudata.read_h5mu(tmp_path / "data.h5mu"))
    for name, table in readouts(model).items():
        pd.testing.assert_frame_equal(found[name], table, check_exact=True)


def test_another_process_gives_the_same_bits(case, digests_of_another_process):
    name, model = case
    assert digests_of_another_process["-".join(name)] == digest(model)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model_class", "likelihood"),
    [*(("MMVAEpp", likelihood) for likelihood in LIKELIHOODS), *((m, "nb") for m in MODELS)][:-1],
)
def test_one_and_two_threads_give_the_same_bits(model_class, likelihood):
    """Of more than 16 rows and columns: MKL may sum smaller products in another order."""
    rng = np.random.default_rng(0)
    factor = rng.normal(size=200)
    names = pd.DataFrame(index=[f"cell{i}" for i in range(200)])
    of_modalities = {m: values(likelihood, rng, factor, holes=False, width=60) for m in ("a", "b")}
    threads, found = torch.get_num_threads(), []
    for n in (1, 2):
        torch.set_num_threads(n)
        mdata = MuData({m: AnnData(x.copy(), obs=names) for m, x in of_modalities.items()})
        MODELS[model_class].setup_mudata(mdata, likelihoods=dict.fromkeys("ab", likelihood))
        scvi.settings.seed = 0
        model = MODELS[model_class](mdata)
        model.train(1, batch_size=80, train_size=0.8, validation_size=0.2, **QUIET)
        found.append(digest(model))
    torch.set_num_threads(threads)
    assert found[0] == found[1]


if __name__ == "__main__":
    print(json.dumps({"-".join(names): digest(of_all(*names)) for names in ALL}))
