"""The command line with hostile arguments, damaged files, and signals at any moment."""

import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
import traceback
import warnings
from contextlib import suppress
from pathlib import Path

import h5py
import mudata
import numpy as np
import pytest
from lightning.pytorch.callbacks import Callback

import scvenn
from scvenn import _whole_files
from scvenn._mudata import pull_on_update
from scvenn.cli import files, main
from scvenn.cli.files import read_h5mu
from scvenn.cli.probe import probe
from tests.files import forks, in_child
from tests.test_cli import QUICK, levels_of_loggers, refused, run

OUT = ["--out", "out.h5mu"]
TRAIN = sys.modules["scvenn.cli.train"]  # the command hides it


@pytest.fixture(autouse=True)
def _levels_of_loggers():
    with levels_of_loggers():
        yield


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """A file and a model that was trained on it."""
    folder = tmp_path_factory.mktemp("good")
    mdata = scvenn.datasets.simulate_counts(60, n_features=12, n_shared_features=6, n_types=2)
    with pull_on_update(False):
        mdata.write(folder / "in.h5mu")
    mdata.write(folder / "packed.h5mu", compression="gzip")
    model = scvenn.MMVAEpp(mdata)
    model.train(2, enable_progress_bar=False)
    model.save(folder / "model")
    return folder


@pytest.fixture
def data(good):
    return shutil.copy(good / "in.h5mu", "in.h5mu")


# ------------------------------------------------------------------------------- arguments

LONG = "x" * 300
TOO_LONG = "cannot be written: File name too long"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["", *OUT], "File '' does not exist"),
        (
            ["folder", *OUT],
            "folder is a folder; expected an h5mu file. In Python",
        ),
        (["in.h5mu/in.h5mu", *OUT], "does not exist"),
        (["loop.h5mu", *OUT], "File 'loop.h5mu' does not exist"),
        ([f"{LONG}.h5mu", *OUT], "does not exist"),
        (["in.h5mu", "--out", ""], "does not end with .h5mu"),
        (["in.h5mu", "--out", "folder"], "File 'folder' is a directory"),
        (["in.h5mu", "--out", "in.h5mu/out.h5mu"], "the folder in.h5mu does not exist"),
        (["in.h5mu", "--out", f"{LONG}.h5mu"], TOO_LONG),
        (["in.h5mu", "--out", "loop.h5mu"], "loop.h5mu already exists. Pass --overwrite"),
        (["in.h5mu", "--out", "/proc/out.h5mu"], "/proc/out.h5mu cannot be written: "),
        (["in.h5mu", *OUT, "--save", "in.h5mu"], "Directory 'in.h5mu' is a file"),
        (["in.h5mu", *OUT, "--save", LONG], TOO_LONG),
        (["in.h5mu", *OUT, "--save", "loop.h5mu"], "loop.h5mu already exists"),
        (["in.h5mu", *OUT, "--checkpoint", ""], "'': expected FOLDER"),
        (["in.h5mu", *OUT, "--checkpoint", "in.h5mu"], "'--checkpoint': in.h5mu is not a folder"),
        (["in.h5mu", *OUT, "--checkpoint", "out.h5mu"], "out.h5mu is the path of a result, too"),
        (["in.h5mu", *OUT, "--checkpoint", LONG], "cannot be made: File name too long"),
        (["in.h5mu", *OUT, "--threads", "0"], "a number from 1 to 4096, found 0"),
        (["in.h5mu", *OUT, "--threads", "9" * 30], "expected INTEGER"),
        (["in.h5mu", *OUT, "--threads", "5000"], "'--threads': expected a number from 1 to 4096"),
        (["in.h5mu", *OUT, "--seed", "-1"], "'--seed': expected a number from 0 to 4294967295"),
        (["in.h5mu", *OUT, "--n-shared", "9" * 30], "expected INTEGER"),
        (["in.h5mu", *OUT, "--n-private", f"rna={'9' * 30}"], "expected INTEGER or MODALITY="),
        (["in.h5mu", *OUT, "--lr", "nan"], "'nan': expected NUMBER"),
        (["in.h5mu", *OUT, "--label-weight", "inf"], "'inf': expected auto or NUMBER"),
        (["in.h5mu", *OUT, "--label-weight", "1e400"], "'1e400': expected auto or NUMBER"),
        (["in.h5mu", *OUT, "--labels", ""], "'': expected COLUMN"),
        (["in.h5mu", *OUT, "--labels"], "Option '--labels' requires an argument"),
        (["-x.h5mu", *OUT], "No such option '-x'"),
        (["in.h5mu", *OUT, "more.h5mu"], "Got unexpected extra argument (more.h5mu)"),
        (["in.h5mu", *OUT, "--\N{SNOWMAN}"], "No such option"),
    ],
)
def test_hostile_arguments_are_a_wrong_command_line(data, arguments, message):
    Path("folder").mkdir()
    Path("loop.h5mu").symlink_to("loop.h5mu")
    assert message in refused("train", *arguments, code=2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--labels", "--out"], "labels_key='--out' not found"),
        (["--labels", "\N{SNOWMAN}\n"], "not found"),
        (["--modality", "rna\n"], "modalities=['rna\\n']"),
        (["--n-hidden", f"{2**40}"], "There is not enough memory for this data and model"),
        (["--batch-size", "-1"], "batch_size=-1"),
        (["--max-epochs", "-1"], "max_epochs=-1"),
        (["--train-size", "1.5"], "train_size"),
    ],
)
def test_hostile_values_are_refused_in_one_message(data, monkeypatch, arguments, message):
    monkeypatch.setattr(files, "_probe", lambda path: None)
    assert message in refused("train", data, *OUT, *arguments)


@pytest.mark.parametrize("name", ["a b\n.h5mu", "\N{SNOWMAN}.h5mu", "-x.h5mu", "'$(ls)';.h5mu"])
def test_any_name_of_a_file_is_read_and_written(good, name):
    shutil.copy(good / "in.h5mu", name)
    run("embed", "--out", f"new{name}", "--", good / "model", name)
    assert mudata.read_h5mu(f"new{name}").obsm["X_shared"].shape == (60, 10)


def test_a_pipe_is_refused_before_it_is_opened(data):
    os.mkfifo("pipe.h5mu")
    assert "pipe.h5mu is a pipe or a device" in refused("train", "pipe.h5mu", *OUT)


def test_unlabeled_may_be_the_empty_text(data, monkeypatch):
    seen = {}
    monkeypatch.setattr(scvenn.MMVAEpp, "setup_mudata", lambda _, **given: seen.update(given))
    monkeypatch.setattr(scvenn.MMVAEpp, "__init__", lambda *_, **__: 1 / 0)
    run("train", data, *OUT, "--labels", "cell_type", "--unlabeled", "", code=1)
    assert seen["unlabeled_category"] == ""


# ------------------------------------------------------------------------------- files


def without(name):
    def remove(file):
        del file[name]

    return remove


def replaced(name, value):
    def replace(file):
        del file[name]
        file[name] = value

    return replace


STRUCTURES = {
    "no obs": without("obs"),
    "no var": without("var"),
    "no obs of a modality": without("mod/rna/obs"),
    "no var of a modality": without("mod/rna/var"),
    "no names of cells": without("mod/rna/obs/_index"),
    "no X": without("mod/rna/X"),
    "no column of X": without("mod/rna/X/indices"),
    "no modality": without("mod/rna"),
    "mod is a number": replaced("mod", 1),
    "obs is a number": replaced("obs", 1),
    "a modality is a text": replaced("mod/rna", "text"),
    "X is a text": replaced("mod/rna/X", "text"),
    "X is too short": replaced("mod/rna/X", np.zeros((3, 12))),
    "X is a link to all": replaced("mod/rna/X", h5py.SoftLink("/")),
    "X is a link to nothing": replaced("mod/rna/X", h5py.SoftLink("/nothing")),
    "X is a link to a file": replaced("mod/rna/X", h5py.ExternalLink("none.h5", "/")),
    "obsm of other cells": replaced("obsm", np.zeros(3)),
}


@pytest.mark.parametrize("what", STRUCTURES)
def test_a_file_that_lacks_something_is_trained_on_or_refused_in_one_message(
    data, monkeypatch, what
):
    with h5py.File(data, "r+") as file:
        STRUCTURES[what](file)

    def train(self, **_):
        raise ValueError("in.h5mu was read")

    monkeypatch.setattr(scvenn.MMVAEpp, "train", train)
    message = refused("train", data, *OUT)
    assert re.search(r"in\.h5mu|rna", message)
    assert "This error was not expected" not in message


@pytest.mark.parametrize("table", ["obs", "var"])
def test_a_modality_without_names_is_refused_and_not_numbered(data, monkeypatch, table):
    with h5py.File(data, "r+") as file:
        del file[f"mod/rna/{table}"]
    monkeypatch.setattr(files, "_probe", lambda path: None)
    assert f"[\"modality 'rna' has no {table}\"]" in refused("train", data, *OUT)


def damaged(whole, rng):
    """A file with a block of zeros, of flipped bits or of noise, or cut off."""
    start, length = rng.randrange(len(whole)), rng.choice([1, 8, 64, 512, 4096])
    block = whole[start : start + length]
    match rng.randrange(5):
        case 0 | 1:
            block = bytes(len(block))
        case 2:
            block = bytes(byte ^ 255 for byte in block)
        case 3:
            block = rng.randbytes(len(block))
        case _:
            return whole[:start]
    return whole[:start] + block + whole[start + length :]


def read_in_child(action):
    """How reading a file ends: 0 read, 1 refused, negative for the signal that ended it."""

    def limited():
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        resource.setrlimit(resource.RLIMIT_CPU, (2, 2))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        action()

    return os.waitstatus_to_exitcode(os.waitpid(in_child(limited), 0)[1])


@forks
@pytest.mark.parametrize("name", ["in.h5mu", "packed.h5mu"])
@pytest.mark.parametrize(
    "cases", [range(20), pytest.param(range(20, 1000), marks=pytest.mark.soak)], ids=str
)
def test_what_is_read_first_ends_for_any_damaged_file_that_would_stop_the_command(
    good, name, cases, monkeypatch
):
    """What passes the probe is read, or refused by a ValueError, and never hangs or crashes."""
    whole = (good / name).read_bytes()
    monkeypatch.setattr(files, "_probe", lambda path: None)

    def read():
        with (
            pull_on_update(False),
            warnings.catch_warnings(action="ignore"),
            suppress(ValueError),  # the only kind that may come
        ):
            read_h5mu(Path("bad.h5mu"))

    for case in cases:
        Path("bad.h5mu").write_bytes(damaged(whole, random.Random(f"{case}")))
        if read_in_child(lambda: probe("bad.h5mu")) == 0:
            assert read_in_child(read) == 0, case


def hanging(whole):
    """A file whose heap of texts has objects of no size: HDF5 goes round in it for ever."""
    start = whole.index(b"GCOL") + 16
    return whole[:start] + bytes(64) + whole[start + 64 :]


def test_a_file_on_which_hdf5_hangs_is_refused_after_a_while(data, monkeypatch):
    Path("bad.h5mu").write_bytes(hanging(Path(data).read_bytes()))
    monkeypatch.setattr(files, "PATIENCE", 3)
    message = refused("train", "bad.h5mu", *OUT)
    assert message.endswith(
        "bad.h5mu is not an HDF5 file, was cut off or is damaged: HDF5 did not end within 3 "
        "seconds. Expected a MuData (.h5mu). Copy it again from where it came from, or write it "
        "again."
    )


def test_a_file_on_which_hdf5_crashes_is_refused(data, monkeypatch):
    crash = [sys.executable, "-c", "import os; os.kill(os.getpid(), 11)"]
    actual = subprocess.run
    monkeypatch.setattr(files.subprocess, "run", lambda _, **how: actual(crash, **how))
    assert "damaged: HDF5 ended the process that read it" in refused("train", data, *OUT)


@pytest.mark.parametrize("command", ["train", "embed", "predict", "evaluate", "report"])
def test_every_command_refuses_a_file_that_is_none_or_was_cut_off(good, command):
    Path("cut.h5mu").write_bytes((good / "in.h5mu").read_bytes()[:20_000])
    model = [] if command == "train" else [good / "model"]
    others = ["--from", "rna", "--to", "atac"] if command == "predict" else []
    suffix = {"predict": "h5ad", "evaluate": "csv", "report": "html"}.get(command, "h5mu")
    message = refused(command, *model, "cut.h5mu", "--out", f"out.{suffix}", *others)
    assert "cut.h5mu is not an HDF5 file, was cut off or is damaged: " in message
    assert "Expected a MuData (.h5mu). Copy it again" in message


# ------------------------------------------------------------------------------- signals


class Announcing(Callback):
    def __init__(self, announce):
        self.on_train_batch_end = lambda *_: announce()


def announced(owner, name, patch, announce):
    """Have a function announce that it was called, before it does what it does."""
    actual = getattr(owner, name)

    def announcing(*args, **kwargs):
        announce()
        return actual(*args, **kwargs)

    patch.setattr(owner, name, announcing)


def when_training(patch, announce):
    quiet = {"enable_progress_bar": False}
    patch.setattr(TRAIN, "progress", lambda: quiet | {"callbacks": [Announcing(announce)]})


def when_half_written(patch, announce):
    def write(self, path):
        Path(path).write_text("half")
        announce()

    patch.setattr(mudata.MuData, "write", write)


def when_renamed(patch, announce):
    replace = os.replace
    patch.setattr(_whole_files.os, "replace", lambda *paths: replace(*paths) or announce())


def when_half_reported(patch, announce):
    def report(self, path, **_):
        Path(path).write_text("half")
        announce()

    patch.setattr(scvenn.SharedPrivateModel, "report", report)


def when(owner, name):
    return lambda patch, announce: announced(owner, name, patch, announce)


# phase: how it is announced, and what is complete by then
PHASES = {
    "importing": (when(TRAIN, "library"), ""),
    "reading": (when(mudata, "read_h5mu"), ""),
    "setting up": (when(scvenn.MMVAEpp, "setup_mudata"), ""),
    "screening": (when(sys.modules["scvenn.models.training"], "screen_features"), ""),
    "training": (when_training, ""),
    "writing": (when_half_written, ""),
    "renaming": (when(_whole_files.os, "replace"), ""),
    "renamed": (when_renamed, "out.h5mu"),
    "saving": (when(scvenn.SharedPrivateModel, "save"), "out.h5mu"),
    "reporting": (when_half_reported, "out.h5mu, model"),
}
SIGNALS = {signal.SIGINT: (130, "Interrupted"), signal.SIGTERM: (143, "Terminated")}


def train_in_child(prepare):
    """A process of `scvenn train`, all its messages in the file log."""

    def train():
        log = os.open("log", os.O_CREAT | os.O_WRONLY)
        os.dup2(log, 1)
        os.dup2(log, 2)
        sys.stdout = sys.stderr = open(2, "w", buffering=1)  # noqa: SIM115
        signal.signal(signal.SIGINT, signal.default_int_handler)
        files._probe = lambda path: None
        with pytest.MonkeyPatch.context() as patch:
            prepare(patch)
            try:
                outputs = ["--save", "model", "--report", "report.html"]
                main(["train", "in.h5mu", *OUT, *outputs, *QUICK])
            except SystemExit as stop:
                os._exit(stop.code)
            except BaseException:
                traceback.print_exc()

    return in_child(train)


def ended(child, number):
    """Check how a process ended after a signal; the results that it names."""
    code, word = SIGNALS[number]
    found = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    log = Path("log").read_text()
    assert "Traceback" not in log
    if found == 0:  # it had just printed its result
        assert log.endswith("report report.html\n")
        return ", ".join({*os.listdir()} - {"in.h5mu", "log"})
    assert found == code, log
    assert log.splitlines()[-1].startswith(f"{word}. ")
    named = re.search(rf"{word}\. (?:Nothing|Only (.*)) was written\.\n$", log).group(1) or ""
    assert {*os.listdir()} == {"in.h5mu", "log"} | {name for name in named.split(", ") if name}
    return named


@forks
@pytest.mark.parametrize("number", SIGNALS, ids=str)
@pytest.mark.parametrize("phase", PHASES)
def test_a_signal_in_any_phase_ends_the_command_and_leaves_whole_files(data, phase, number):
    announce, complete = PHASES[phase]
    reading, writing = os.pipe()

    def prepare(patch):
        # one announcement, and then a moment in which the signal comes
        def once():
            announced = os.write(writing, b"x")
            time.sleep(20 * announced)

        announce(patch, once)

    child = train_in_child(prepare)
    os.close(writing)
    assert os.read(reading, 1) == b"x", Path("log").read_text()
    os.kill(child, number)
    assert ended(child, number) == complete


@forks
@pytest.mark.parametrize("number", SIGNALS, ids=str)
@pytest.mark.soak
@pytest.mark.parametrize("times", [100])
def test_a_signal_at_any_moment_ends_the_command_and_leaves_whole_files(data, number, times):
    def prepare(patch):  # the page takes long, and has tests of its own
        report = lambda self, path, **_: Path(path).write_text("page")  # noqa: E731
        patch.setattr(scvenn.SharedPrivateModel, "report", report)

    rng = random.Random(times)
    started = time.monotonic()
    os.waitpid(train_in_child(prepare), 0)
    longest = time.monotonic() - started
    for _ in range(times):
        for name in ("out.h5mu", "report.html", "log"):
            Path(name).unlink(missing_ok=True)
        shutil.rmtree("model", ignore_errors=True)
        child = train_in_child(prepare)
        while not (Path("log").exists() and "reading" in Path("log").read_text()):
            time.sleep(0.01)
        time.sleep(rng.random() * longest)
        if os.waitpid(child, os.WNOHANG)[0] == 0:
            os.kill(child, number)
            ended(child, number)
