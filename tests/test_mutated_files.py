"""Files that nobody saved are read, or refused by a message: in bounded memory and time."""

import os
import shutil
from random import Random

import mudata
import pytest

from tests.files import forks, in_child
from tests.mutated_files import (
    mutate_data,
    mutated,
    read,
    read_values_of_every_kind,
    write_models,
    write_values_of_every_kind,
)

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    write_models(folder, save_anndata=True)
    return folder


@pytest.fixture(params=["MMVAEpp", "MoPoEVAE"])
def model(models, request, tmp_path):
    """A folder to damage."""
    return shutil.copytree(models / request.param, tmp_path / request.param)


def test_mutated_values_are_read_or_refused(tmp_path):
    path = tmp_path / "values"
    write_values_of_every_kind(path)
    whole = path.read_bytes()
    assert read_values_of_every_kind(path)
    for seed in range(3000):
        path.write_bytes(mutated(whole, Random(seed)))
        read_values_of_every_kind(path)  # raises what is no message of ours


def test_mutated_models_are_loaded_or_refused(model):
    path, (data,) = model / "model.safetensors", model.glob("*.h5mu")
    whole, mdata = path.read_bytes(), mudata.read_h5mu(data)
    assert read(model, mdata)
    for seed in range(60):
        path.write_bytes(mutated(whole, Random(seed)))
        read(model, mdata)


@forks
@pytest.mark.parametrize("model", ["MMVAEpp"], indirect=True)
def test_models_with_mutated_data_are_loaded_or_refused(model, tmp_path):
    n_mutated = 0
    for seed in range(15):
        copied = shutil.copytree(model, tmp_path / f"{seed}" / model.name)
        if status_of(lambda folder=copied, seed=seed: mutate_data(folder, Random(seed))):
            continue  # HDF5 can crash on the way to such a file
        n_mutated += 1
        assert status_of(lambda folder=copied: read(folder, None)) == 0, f"seed {seed}"
    assert n_mutated >= 12


def status_of(action):
    """How a process ends that does something: 0 if all is well."""
    return os.waitpid(in_child(action), 0)[1]
