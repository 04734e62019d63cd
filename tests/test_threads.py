"""Threads: no more than the process has cores, and as many as the command line says."""

import json
import os

import pytest
import torch
from click.testing import CliRunner

import scvenn
from scvenn import _threads
from scvenn.cli import main
from scvenn.screening.threads import in_threads


@pytest.fixture(autouse=True)
def _same_threads_afterwards():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def cgroup(tmp_path, monkeypatch):
    """A folder of control files, and a machine of eight cores."""
    monkeypatch.setattr(_threads, "_CGROUP", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    return tmp_path


@pytest.mark.parametrize(
    ("content", "cores"),
    [("200000 100000", 2), ("150000 100000", 2), ("50000 100000", 1), ("max 100000", 8), ("", 8)],
)
def test_the_quota_of_a_container_is_respected(cgroup, content, cores):
    (cgroup / "cpu.max").write_text(content)
    assert _threads.usable_cores() == cores


@pytest.mark.parametrize(("quota", "cores"), [("300000", 3), ("-1", 8)])
def test_the_quota_of_an_older_container_is_respected(cgroup, quota, cores):
    (cgroup / "cpu").mkdir()
    (cgroup / "cpu/cpu.cfs_quota_us").write_text(quota)
    (cgroup / "cpu/cpu.cfs_period_us").write_text("100000")
    assert _threads.usable_cores() == cores


def test_the_affinity_of_the_process_is_respected(cgroup, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3})
    assert _threads.usable_cores() == 1


def test_a_model_lowers_the_number_of_threads_to_the_cores_and_says_so(small, cgroup, caplog):
    (cgroup / "cpu.max").write_text("100000 100000")
    torch.set_num_threads(2)
    with caplog.at_level("INFO", logger="scvi.scvenn"):
        scvenn.MMVAE(small)
    assert torch.get_num_threads() == 1
    assert "Threads: 1 instead of 2, as this process may use 1 core" in caplog.text


def test_training_lowers_a_number_of_threads_that_was_raised_since(small, cgroup):
    (cgroup / "cpu.max").write_text("100000 100000")
    model = scvenn.MMVAE(small)
    torch.set_num_threads(2)  # as numba does, for parallel functions of scanpy
    model.train(1, enable_progress_bar=False)
    assert torch.get_num_threads() == 1


def test_fewer_threads_than_cores_stay(small, cgroup, caplog):
    torch.set_num_threads(1)
    scvenn.MMVAE(small)
    assert torch.get_num_threads() == 1
    assert "Threads" not in caplog.text


def test_the_command_line_sets_the_number_of_threads(small, tmp_path):
    small.write(tmp_path / "in.h5mu")
    torch.set_num_threads(2)
    command = ["train", f"{tmp_path}/in.h5mu", "--out", f"{tmp_path}/out.h5mu", "--json"]
    result = CliRunner().invoke(main, [*command, "--max-epochs", "1", "--threads", "1"])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["epochs"] == 1
    assert torch.get_num_threads() == 1


def test_no_threads_at_all_are_refused(small, tmp_path):
    small.write(tmp_path / "in.h5mu")
    result = CliRunner().invoke(
        main, ["train", f"{tmp_path}/in.h5mu", "--out", f"{tmp_path}/o.h5mu", "--threads", "0"]
    )
    assert result.exit_code == 2
    assert "'--threads': expected a number from 1 to 4096, found 0" in result.output


@pytest.mark.parametrize("n_parts", [0, 1, 5])
def test_parts_of_any_number_are_worked_on_in_their_order(n_parts):
    torch.set_num_threads(2)
    assert list(in_threads(lambda part: 2 * part, range(n_parts))) == [
        2 * i for i in range(n_parts)
    ]
