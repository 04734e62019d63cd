"""Training on several devices: two processes on CPU do what one does."""

import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch.distributed as dist
from lightning.pytorch.strategies import DDPStrategy

import scvenn
from scvenn.models.processes import Part, in_several_processes
from tests import two_processes
from tests.two_processes import MODELS, N_TRAIN, WHOLE, trained

needs_gloo = pytest.mark.skipif(
    not (dist.is_available() and dist.is_gloo_available()),
    reason="PyTorch was built without gloo, by which processes on CPU talk",
)


def started(folder, what, **kwargs):
    """Two processes, the first of which starts the other one."""
    path = [str(Path(scvenn.__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(path)}
    for name in ("LOCAL_RANK", "MASTER_PORT", "PL_GLOBAL_SEED"):
        environment.pop(name, None)
    command = [sys.executable, two_processes.__file__, what]
    return subprocess.Popen(command, cwd=folder, env=environment, **kwargs)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where two processes ran."""
    folder = tmp_path_factory.mktemp("processes")
    with (folder / "log").open("w") as log:
        process = started(folder, "all", stdout=log, stderr=log)
        try:
            returned = process.wait(600)
        finally:
            process.kill()
    assert returned == 0, (folder / "log").read_text()[-4000:]
    return folder


@pytest.fixture(scope="module")
def found(folder):
    """What each of them has."""
    return [pickle.loads((folder / f"found-{rank}.pickle").read_bytes()) for rank in (0, 1)]


@pytest.fixture(scope="module")
def alone():
    """What one process has after the training in which latents are their means, and with noise."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("scvenn.models.runner.logger.disabled", True)
        _, with_noise = trained("MMVAEpp", seed=0, batch_size=N_TRAIN + 1, **WHOLE)
        patch.setattr(two_processes.vae, "sample_each", two_processes.vae.sample_each)
        two_processes.without_noise()
        _, without = trained("MMVAEpp", seed=0, batch_size=N_TRAIN + 1, **WHOLE)
    return {"with noise": with_noise, "without noise": without}


@needs_gloo
@pytest.mark.parametrize("name", [*MODELS, "with noise", "without noise", "gone on"])
def test_both_processes_have_the_same_model_to_the_last_bit(found, name):
    np.testing.assert_equal(found[0][name], found[1][name])


@needs_gloo
def test_early_stopping_ends_both_after_the_same_epoch(found):
    n_epochs, best = found[0][MODELS[-1]]["epochs"]
    assert (n_epochs, best) == found[1][MODELS[-1]]["epochs"]
    assert best == n_epochs - 2 < 13


@needs_gloo
def test_losses_are_those_of_one_process_whose_minibatches_are_as_large(found, alone):
    """A last minibatch with an odd number of cells, and modalities that are missing."""
    one, two = (of["without noise"] for of in (alone, found[0]))
    np.testing.assert_equal(one["split"], two["split"])
    np.testing.assert_equal(one["screening"], two["screening"])
    for name, values in one["history"].items():
        np.testing.assert_allclose(two["history"][name], values, rtol=1e-5, atol=1e-5)


@needs_gloo
def test_weights_are_those_of_one_process_and_so_is_the_noise_of_the_loss(found, alone):
    one, two = (of["without noise"]["weights"] for of in (alone, found[0]))
    noise = [name for name in one if "cross_view_variance" in name or "held_out" in name]
    assert noise
    trained_ones = [name for name in one if "hidden" in name or "head" in name or "out." in name]
    for name in noise + trained_ones:
        np.testing.assert_allclose(two[name], one[name], atol=2e-5, err_msg=name)


@needs_gloo
def test_with_noise_the_loss_is_that_of_one_process_up_to_chance(found, alone):
    one, two = (of["with noise"]["history"]["train_loss"] for of in (alone, found[0]))
    assert not np.array_equal(one, two)
    np.testing.assert_allclose(two, one, rtol=0.03)


@needs_gloo
def test_a_checkpoint_is_gone_on_from(found):
    np.testing.assert_equal(found[0]["gone on"]["weights"], found[0]["without noise"]["weights"])


@needs_gloo
def test_the_first_process_alone_writes(folder):
    files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    (data,) = (name for name in files if name.endswith(".h5mu"))
    ours = {"log", "found-0.pickle", "found-1.pickle"}
    assert files - ours == {
        data,
        "model/model.safetensors",
        "predicted.h5ad",
        "checkpoint/checkpoint.safetensors",
    }
    scvenn.MMVAEpp.load(folder / "model")


@needs_gloo
@pytest.mark.parametrize(
    ("why", "message"),
    [
        ("diverged", "Training diverged in epoch"),
        ("one validation cell", "1 validation cells for 2 processes; expected at least as many"),
    ],
)
def test_an_error_is_that_of_both(found, why, message):
    assert [message in of_process[why] for of_process in found] == [True, True]


@needs_gloo
def test_one_process_shows_messages(folder):
    log = (folder / "log").read_text()
    assert log.count("Trained ") == len(MODELS) + 3
    assert "early_stopping was automatically disabled" not in log
    assert "deprecated" not in log


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
@needs_gloo
@pytest.mark.parametrize(
    ("number", "to_all"), [(signal.SIGTERM, False), (signal.SIGINT, True)], ids=["SIGTERM", "^C"]
)
def test_a_signal_ends_both(tmp_path, number, to_all):
    with (tmp_path / "log").open("w") as log:
        process = started(
            tmp_path, "until-a-signal", stdout=log, stderr=log, start_new_session=True
        )
    ready = [tmp_path / "ready-0", tmp_path / "ready-1"]
    try:
        until = time.monotonic() + 400
        while not all(path.is_file() and path.read_text() for path in ready):
            assert process.poll() is None
            assert time.monotonic() < until
            time.sleep(0.1)
        other = int(ready[1].read_text())
        (os.killpg if to_all else os.kill)(process.pid, number)
        returned = process.wait(120)
        assert returned == 143 if number == signal.SIGTERM else returned
        until = time.monotonic() + 60
        while _is_alive(other):
            assert time.monotonic() < until
            time.sleep(0.1)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert (tmp_path / "log").read_text().count("The model is trained") == 1


def _is_alive(process):
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


# --------------------------------------------------------------------- without processes


@pytest.mark.parametrize("n_cells", [1, 7, 8, 9, 16, 17, 18, 23])
@pytest.mark.parametrize("n_processes", [2, 3])
@pytest.mark.parametrize("seed", [None, 5])
def test_parts_of_all_processes_are_each_cell_once(n_cells, n_processes, seed):
    parts = [
        Part(n_cells, 4, seed=seed, rank=rank, n_processes=n_processes)
        for rank in range(n_processes)
    ]
    minibatches = list(zip(*parts, strict=True))
    read = [cell for minibatch in minibatches for cells in minibatch for cell in cells]
    assert sorted(read) == list(range(n_cells))
    for i, minibatch in enumerate(minibatches):
        n = sum(map(len, minibatch))
        if n_cells >= n_processes:
            assert min(map(len, minibatch)) >= 1
        for part, cells in zip(parts, minibatch, strict=True):
            assert part.weight(i) == pytest.approx(n_processes * len(cells) / n)
    assert [len(part) for part in parts] == [len(minibatches)] * n_processes


def test_an_epoch_has_an_order_of_its_own():
    part, same = (Part(20, 4, seed=1, rank=1, n_processes=2) for _ in range(2))
    first = list(part)
    assert list(same) == first
    part.set_epoch(1)
    assert list(part) != first
    unshuffled = Part(20, 4, seed=None, rank=1, n_processes=2)
    assert next(iter(unshuffled)) == [1, 3, 5, 7]


def test_a_last_minibatch_that_is_not_whole_can_be_left_out():
    part = Part(17, 4, seed=None, rank=0, n_processes=2, drop_last=True)
    assert [len(batch) for batch in part] == [4, 4]


@pytest.mark.parametrize(
    ("devices", "given", "used"),
    [
        ("auto", {}, None),
        (1, {}, None),
        ([0], {}, None),
        (1, {"strategy": "auto"}, None),
        (1, {"strategy": "single_device"}, None),
        (2, {"strategy": None}, "ddp_find_unused_parameters_true"),
        (2, {}, "ddp_find_unused_parameters_true"),
        ([0, 1], {"strategy": "ddp"}, "ddp"),
        (-1, {}, "ddp_find_unused_parameters_true"),
        ("auto", {"strategy": "ddp"}, "ddp"),
        (1, {"num_nodes": 2}, "ddp_find_unused_parameters_true"),
    ],
)
def test_several_devices_or_a_strategy_ask_for_several_processes(devices, given, used):
    several = in_several_processes(devices, given)
    assert several == (used is not None)
    if several:
        assert given["strategy"] == used


@pytest.mark.parametrize(
    "strategy",
    ["ddp_notebook", "ddp_spawn", "fsdp", DDPStrategy(start_method="spawn")],
    ids=["ddp_notebook", "ddp_spawn", "fsdp", "an object"],
)
def test_processes_that_end_with_the_training_are_refused(strategy, small):
    with pytest.raises(ValueError, match=r"strategy=.*: expected one of \['ddp_find_unused"):
        scvenn.MMVAE(small).train(devices=2, accelerator="cpu", strategy=strategy)


def test_a_notebook_is_told_to_use_a_script(small, monkeypatch):
    monkeypatch.setattr(sys, "ps1", ">>> ", raising=False)
    with pytest.raises(ValueError, match=r"python train\.py.*or train on one device, devices=1"):
        scvenn.MMVAE(small).train(devices=2, accelerator="cpu")
