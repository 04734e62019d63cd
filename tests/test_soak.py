"""Use for hours: memory, open files and registries do not grow; many threads read one model."""

import gc
import os
import resource
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from anndata import AnnData
from mudata import MuData

import scvenn
from scvenn.data.manager import AlignedManager
from tests.conftest import MODELS, QUIET, three_modalities

MINUTES = float(os.environ.get("SCVENN_SOAK_MINUTES", "60"))


def one_round(name, folder):
    """A model's whole life: set up, trained, read, saved, loaded, read again, deleted."""
    mdata = three_modalities(missing=0.3)
    model = MODELS[name](mdata, n_shared=3, n_private=2, n_hidden=16)
    model.train(1, **QUIET)
    model.save(folder / name, overwrite=True, save_anndata=True)
    loaded = MODELS[name].load(folder / name)
    for read in (model, loaded):
        read.predict("rna", "meth")
        read.evaluate()
    np.testing.assert_array_equal(
        loaded.get_shared_representation(), model.get_shared_representation()
    )


def held():
    """What a process holds: MiB, open files, MuData, AnnData and models, and set-ups."""
    gc.collect()
    kinds = Counter(type(found) for found in gc.get_objects())
    status = Path("/proc/self/statm").read_text().split()
    return {
        "MiB": int(status[1]) * resource.getpagesize() / 2**20,
        "files": len(os.listdir("/proc/self/fd")),
        "data": kinds[MuData] + kinds[AnnData],
        "models": sum(kinds[cls] for cls in MODELS.values()),
        "set-ups": kinds[AlignedManager],
    }


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads /proc, which Linux has")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("names", "minutes"),
    [(["MMVAEpp"], 0.0), pytest.param([*MODELS], MINUTES, marks=pytest.mark.soak)],
    ids=["a few rounds", "long"],
)
def test_models_that_come_and_go_leave_nothing_behind(names, minutes, tmp_path):
    end, rounds = time.monotonic() + 60 * minutes, 0
    for name in names:  # caches fill
        one_round(name, tmp_path)
    before = held()
    while time.monotonic() < end or rounds < 3:
        for name in names:
            one_round(name, tmp_path)
            rounds += 1
    after = held()
    print(f"\n{rounds} rounds: {before} before, {after} after")
    # the allocator keeps some; a leak of a model and its data would be a MiB in each round
    assert after.pop("MiB") - before.pop("MiB") < 50 + 0.02 * rounds
    assert after == before


@pytest.mark.filterwarnings("ignore")
def test_32_threads_read_one_model_as_one_does():
    mdata = three_modalities(missing=0.3)
    model = scvenn.MMVAEpp(mdata, n_shared=3, n_private=2, n_hidden=16)
    model.train(1, **QUIET)
    reads = [
        model.get_shared_representation,
        lambda: model.predict("rna", "meth", return_numpy=True),
        lambda: model.get_private_representation("peaks"),
        lambda: model.predict("meth", "peaks", return_numpy=True),
    ]
    expected = [read() for read in reads]
    with ThreadPoolExecutor(32) as pool:
        found = list(pool.map(lambda i: reads[i % len(reads)](), range(96)))
    for i, values in enumerate(found):
        np.testing.assert_array_equal(values, expected[i % len(reads)])
