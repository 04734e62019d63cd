"""Files and folders: where results go; data and models that are read.

scvenn itself is imported inside functions only, so that ``--help`` does not wait for it.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import click

from scvenn._mudata import pull_on_update
from scvenn._whole_files import why_not_writable

MODELS = ("MMVAEpp", "MMVAE", "MVAE", "MoPoEVAE")

# Seconds after which the reading of a file's structure, which takes less than one, is ended.
PATIENCE = 120
# What to do with a damaged file.
AGAIN = "Copy it again from where it came from, or write it again."


class DataFile(click.Path):
    """A path of an h5mu file, which exists."""

    def __init__(self) -> None:
        super().__init__(exists=True, dir_okay=False, path_type=Path)

    def convert(self, value: Any, *of_option: Any) -> Any:
        """The path, unless there is a folder."""
        if os.path.isdir(value):
            self.fail(
                f"{value} is a folder; expected an h5mu file. In Python, scvenn.read_lazy(path) "
                "reads a folder of zarr, and mudata.read_zarr(path).write(file) makes a file of "
                "it.",
                *of_option,
            )
        return super().convert(value, *of_option)


H5MU = DataFile()
SAVED = click.Path(exists=True, file_okay=False, path_type=Path)


class Output(click.Option):
    """An option for the path of a result: a file with one of some suffixes, or a folder."""

    def __init__(self, name: str, what: str, *suffixes: str, required: bool = False) -> None:
        super().__init__(
            [name],
            type=click.Path(file_okay=bool(suffixes), dir_okay=not suffixes, path_type=Path),
            metavar="FILE" if suffixes else "FOLDER",
            required=required,
            help=f"Write {what} to this {f'{suffixes[0]} file' if suffixes else 'folder'}.",
        )
        self.suffixes = suffixes


def check_outputs(paths: Mapping[Output, Path], *, overwrite: bool) -> None:
    """Check up front that results can be written and replace neither each other nor a file."""
    outputs: dict[str, Output] = {}
    for output, path in paths.items():
        other = outputs.setdefault(os.path.realpath(path), output)
        if output.suffixes and not path.name.endswith(output.suffixes):
            problem = f"{path} does not end with {' or '.join(output.suffixes)}."
        elif not os.path.isdir(path.parent):
            problem = f"the folder {path.parent} does not exist. Create it first."
        elif reason := why_not_writable(path):
            problem = f"{path} cannot be written: {reason}."
        elif os.path.lexists(path) and not overwrite:
            problem = f"{path} already exists. Pass --overwrite to replace it."
        elif other is not output:
            problem = f"{path} is the path of {other.opts[0]}, too. Give each result its own."
        else:
            continue
        raise click.BadParameter(problem, param=output)


def version_of(path: Path) -> list[tuple] | None:
    """Tells files at a path from those that a command wrote there later; None without any."""
    try:
        files = path.iterdir() if path.is_dir() else [path]
        # drafts are hidden
        names = sorted(file for file in files if not file.name.startswith("."))
        found = [(file.stat().st_ino, file.stat().st_mtime_ns) for file in names]
    except OSError:
        return None
    return found or None


def check_checkpoint(folder: Path, results: Iterable[Path]) -> None:
    """Check that the folder of a checkpoint is one, or can be made, and is no result."""
    if os.path.realpath(folder) in map(os.path.realpath, results):
        problem = f"{folder} is the path of a result, too. Give each its own."
    elif os.path.lexists(folder) and not os.path.isdir(folder):
        problem = f"{folder} is not a folder."
    elif os.path.isdir(folder.parent) and (why := why_not_writable(folder)):
        problem = f"{folder} cannot be made: {why}."
    else:
        return
    raise click.BadParameter(problem, param_hint="'--checkpoint'")


def library() -> Any:
    """The package, imported; of what libraries log as information, only its own is shown."""
    import scvi  # noqa: F401  it and Lightning set their levels when they are imported

    import scvenn

    for name in ("scvi", "lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for name, level in (("", logging.INFO), (".interrupts", logging.ERROR)):
        logging.getLogger("scvi.scvenn" + name).setLevel(level)
    return scvenn


def load(folder: Path, mdata: Any = False) -> Any:
    """Load the model in a folder, whichever its class."""
    scvenn = library()
    from scvenn.models import class_of

    name = class_of(folder)
    if name not in (*MODELS, "SharedPrivateModel"):
        raise ValueError(f"{folder} holds a model of class {name!r}, which is not one of scvenn's.")
    return getattr(scvenn, name).load(folder, mdata)


def read_h5mu(path: Path) -> Any:
    """Read a MuData; of another file, the error states what it holds.

    Raises
    ------
    ValueError
        If the file is no MuData, or is damaged.
    """
    if not path.is_file():  # opening a pipe could wait for ever
        raise ValueError(f"{path} is a pipe or a device. Expected the file of a MuData (.h5mu).")
    click.echo(f"reading {path}", err=True)
    _probe(path)
    import h5py
    import mudata

    with h5py.File(path) as file:
        groups = set(file)
        modalities = file.get("mod", {})
        lacking = [
            f"modality {name!r} has no {table}"
            for name, part in (modalities.items() if isinstance(modalities, h5py.Group) else ())
            for table in ("obs", "var")
            if isinstance(part, h5py.Group) and table not in part
        ]
    if lacking:  # anndata would number cells and features instead
        raise ValueError(
            f"{path} does not have the names of all cells and features: {lacking}. {AGAIN}"
        )
    if "mod" not in groups:
        kind = "an AnnData of one modality" if {"obs", "var"} <= groups else "no MuData"
        raise ValueError(
            f"{path} holds {kind}; expected a MuData with two or more modalities of the same "
            "cells. In Python: mudata.MuData({'rna': rna, 'atac': atac}).write('data.h5mu')."
        )
    try:
        try:
            return mudata.read_h5mu(path)
        except ValueError:  # a command keeps columns as they are, with which not all is read
            with pull_on_update(None):
                return mudata.read_h5mu(path)
    except Exception as error:  # of many kinds; mudata checks nothing of a file
        raise ValueError(
            f"{path} is an HDF5 file, but what is in it is not a whole MuData "
            f"({type(error).__name__}: {error}). {AGAIN}"
        ) from error


def writer_of(mdata: Any) -> Callable[[Path], None]:
    """A function that writes a MuData to a path."""
    from scvenn.data import write_h5mu

    return partial(write_h5mu, mdata)


def _probe(path: Path) -> None:
    """Have another process read a file first: a damaged one can stop any process that does."""
    # -P: modules of the working directory are none of Python's
    command = [sys.executable, "-P", str(Path(__file__).with_name("probe.py")), str(path)]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=PATIENCE
        )
        problem = done.returncode and (done.stderr.strip() or "HDF5 ended the process that read it")
    except subprocess.TimeoutExpired:
        problem = f"HDF5 did not end within {PATIENCE} seconds"
    if problem:
        raise ValueError(
            f"{path} is not an HDF5 file, was cut off or is damaged: {problem}. Expected a MuData "
            f"(.h5mu). {AGAIN}"
        )


def embeddings(mdata: Any, model: Any) -> dict[str, list[int]]:
    """Shapes of the embeddings that a model wrote to ``.obsm``."""
    from scvenn.data import Keys

    keys = [Keys.shared(), *(Keys.private(m) for m in model.modalities if m in mdata.mod)]
    return {key: list(mdata.obsm[key].shape) for key in keys}


def shape_lines(shapes: Mapping[str, list[int]]) -> list[str]:
    """Shapes of matrices as text."""
    return [f"{name:20} {rows} x {columns}" for name, (rows, columns) in shapes.items()]
