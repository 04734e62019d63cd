"""Models that earlier releases saved give the numbers that they gave then."""

import shutil

import mudata
import numpy as np
import pytest

import scvenn
from tests.archives import ARCHIVES, MODELS, readouts

SAVED = [
    (folder.name, name) for folder in sorted(ARCHIVES.iterdir()) for name in MODELS
    if (folder / name).is_dir()
]  # fmt: skip


@pytest.fixture
def mdata(request):
    return mudata.read_h5mu(ARCHIVES / request.param / "data.h5mu")


def load(version, name, mdata, folder):
    """The model of a release; files of 0.1 are converted in a copy."""
    saved = ARCHIVES / version / name
    if (saved / "model.pt").exists():
        saved = shutil.copytree(saved, folder / name)
        scvenn.convert_legacy(saved, trust=True)
    return getattr(scvenn, MODELS[name][0]).load(saved, mdata)


def test_the_first_release_is_archived_whole():
    assert {name for version, name in SAVED if version == "0.1.0"} == set(MODELS)


@pytest.mark.parametrize(("mdata", "name"), SAVED, indirect=["mdata"])
def test_a_saved_model_gives_the_same_numbers(mdata, name, request, tmp_path):
    version = request.node.callspec.params["mdata"]
    model = load(version, name, mdata, tmp_path)
    found = readouts(model)
    with np.load(ARCHIVES / version / f"{name}.npz") as expected:
        assert set(found) == set(expected)
        for key, values in expected.items():
            np.testing.assert_allclose(
                found[key].astype(float), values.astype(float), rtol=1e-5, atol=1e-5, err_msg=key
            )


@pytest.mark.parametrize(("mdata", "name"), SAVED, indirect=["mdata"])
def test_a_saved_model_can_be_evaluated_and_trained_further(mdata, name, request, tmp_path):
    model = load(request.node.callspec.params["mdata"], name, mdata, tmp_path)
    assert len(model.evaluate())
    model.train(1, enable_progress_bar=False)
    assert np.isfinite(mdata.obsm["X_shared"]).all()
