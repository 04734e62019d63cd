"""What commands read and write: data, models, and results that are whole or not there.

scvenn itself is imported where it is needed and nowhere else, so that ``--help`` does not wait.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from scvenn._whole_files import draft

MODELS = ("MMVAEpp", "MMVAE", "MVAE", "MoPoEVAE")

# a file or folder to read
H5MU = click.Path(exists=True, dir_okay=False, path_type=Path)
SAVED = click.Path(exists=True, file_okay=False, path_type=Path)


def library() -> Any:
    """The package, whose import takes seconds; of all libraries only it tells what it does."""
    import scvi  # noqa: F401  it and Lightning set their levels when they are imported

    import scvenn

    for name in ("scvi", "lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("scvi.scvenn").setLevel(logging.INFO)
    return scvenn


def load(folder: Path, mdata: Any = False) -> Any:
    """The model in a folder, whichever class it is of."""
    scvenn = library()
    from scvenn.models.saving import class_of

    name = class_of(folder)
    if name not in (*MODELS, "SharedPrivateModel"):
        raise ValueError(f"{folder} holds a model of class {name!r}, which is not one of scvenn's.")
    return getattr(scvenn, name).load(folder, mdata)


def read_h5mu(path: Path) -> Any:
    """Read a MuData; if the file is none, say what it is instead."""
    import h5py
    import mudata

    try:
        with h5py.File(path) as file:
            groups = set(file)
    except OSError as error:
        raise ValueError(
            f"{path} is not an HDF5 file, or was cut off ({error}). Expected a MuData, as "
            "Python's mdata.write('data.h5mu') makes it."
        ) from error
    if "mod" not in groups:
        kind = "an AnnData of one modality" if {"obs", "var"} <= groups else "no MuData"
        raise ValueError(
            f"{path} holds {kind}; expected a MuData with two or more modalities of the same "
            "cells. Put them together in Python: mudata.MuData({'rna': anndata.read_h5ad("
            "'rna.h5ad'), 'atac': anndata.read_h5ad('atac.h5ad')}).write('data.h5mu')."
        )
    click.echo(f"reading {path}", err=True)
    with columns_as_they_are():
        return mudata.read_h5mu(path)


def write_h5mu(mdata: Any, path: Path) -> None:
    """Write a MuData: the whole file or none."""
    with columns_as_they_are(), draft(path) as unfinished:
        mdata.write(unfinished)


@contextmanager
def columns_as_they_are() -> Iterator[None]:
    """Keep mudata from copying columns of the modalities' tables to its own."""
    import mudata

    # 0.3 does so unless it is told not to; 0.4 never does
    if hasattr(mudata, "set_options"):
        with mudata.set_options(pull_on_update=False):
            yield
    else:
        yield


def embeddings(mdata: Any, model: Any) -> dict[str, list[int]]:
    """Shapes of what the model wrote to ``.obsm``."""
    from scvenn.data import Keys

    keys = [Keys.shared(), *(Keys.private(m) for m in model.modalities if m in mdata.mod)]
    return {key: list(mdata.obsm[key].shape) for key in keys}
