"""Saving and loading of models: whole files or none; data is read as it was in training."""

from __future__ import annotations

import copy
import hashlib
import os
import tempfile
import zipfile
from pathlib import Path
from typing import Any, Literal, Self
from uuid import uuid4

import mudata
import numpy as np
from mudata import MuData
from scvi.model.base import BaseModelClass

from scvenn.data import AlignedManager, Registry, check_mudata, fields_of, hashes_of, moved
from scvenn.models.messages import quiet_libraries


class SavingMixin(BaseModelClass):
    """Saving and loading of :class:`~scvenn.SharedPrivateModel`."""

    # hashes of the names of the cells, in the order that positions of training and held-out cells
    # refer to; and of all that were ever trained on
    cells_: np.ndarray | None = None
    trained_cells_: np.ndarray = np.zeros(0, dtype=np.uint64)
    # of files of 0.1: a hash of all names, and positions of cells of trainings with another split
    trained_on_: str | None = None
    earlier_train_indices_: Any = ()

    def _find_cells_by_name(self) -> None:
        """Check the model's own data."""
        raise NotImplementedError

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """A model of its own, with a copy of the data; scvi-tools' trainer is left behind."""
        new = type(self).__new__(type(self))
        memo[id(self)] = new
        if self.adata is not None:  # which copies itself, but not by `deepcopy`
            memo[id(self.adata)] = self.adata.copy()
        state = {name: value for name, value in self.__dict__.items() if name != "trainer"}
        new.__dict__.update(copy.deepcopy(state, memo))
        new.id = str(uuid4())
        return new

    def get_var_names(self, legacy_mudata_format: bool = False) -> dict[str, np.ndarray]:
        """Feature names of each modality, in the order of the model's own arrays."""
        found = Registry(self.registry_)
        return {m: found.features(m) for m in found.modalities}

    def save(
        self,
        dir_path: str | os.PathLike,
        prefix: str | None = None,
        overwrite: bool = False,
        save_anndata: bool = False,
        **kwargs: Any,
    ) -> None:
        """Save the model to a folder.

        Files are written to a temporary folder beside it and then moved, so that a model that was
        there before is never left half overwritten.

        Parameters
        ----------
        dir_path
            Folder to create.
        prefix
            Put before the names of the files.
        overwrite
            Whether the folder may exist; files of the same name are then replaced.
        save_anndata
            Whether to save the MuData as well.
        **kwargs
            Further arguments of :meth:`scvi.model.base.BaseModelClass.save`.

        Raises
        ------
        FileExistsError
            If the folder exists and ``overwrite`` is False.
        ValueError
            If the MuData is to be saved as well, and was changed since the model was set up.
        """
        if save_anndata:
            self._find_cells_by_name()
        folder = Path(dir_path)
        if folder.exists() and not overwrite:
            raise FileExistsError(f"{folder} already exists. Pass overwrite=True to replace it.")
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as draft:
            super().save(draft, prefix=prefix, overwrite=True, save_anndata=save_anndata, **kwargs)
            folder.mkdir(exist_ok=True)
            for file in Path(draft).iterdir():
                os.replace(file, folder / file.name)

    @classmethod
    def load(
        cls,
        dir_path: str | os.PathLike,
        adata: MuData | Literal[False] | None = None,
        accelerator: str = "auto",
        device: int | str = "auto",
        prefix: str | None = None,
    ) -> Self:
        """Load a model that was saved with :meth:`save`.

        Parameters
        ----------
        dir_path
            The folder.
        adata
            MuData to read from; it needs no set-up, may hold other cells, fewer modalities, and
            features in another order. None takes the one saved with the model, if there is one.
            False loads the model without data. Cells that were trained on, and those held out, are
            found by their names.
        accelerator, device
            Where to put the model.
        prefix
            As given to :meth:`save`.

        Returns
        -------
        The model, ready for its read-outs.

        Raises
        ------
        FileNotFoundError
            If there is no model in the folder.
        ValueError
            If the file is damaged or holds a model of another class, or the data does not fit.
        """
        folder = Path(dir_path)
        saved_by = class_of(folder, prefix)
        if saved_by != cls.__name__:
            raise ValueError(
                f"{folder} holds a model of class {saved_by!r}, not {cls.__name__!r}. Load it with "
                f"that class: {saved_by}.load({str(folder)!r})."
            )
        saved_data = folder / f"{prefix or ''}mdata.h5mu"
        if adata is None and saved_data.is_file():
            adata = mudata.read_h5mu(saved_data)
        with quiet_libraries():
            model: Any = super().load(
                str(folder), adata=False, accelerator=accelerator, device=device, prefix=prefix
            )
        model.module.float()  # whatever PyTorch's default is
        if adata is not None and adata is not False:
            model._adata = adata
            model._adata_manager = _manager_like(model.registry_, adata)
            model.registry_ = model._adata_manager.registry
            model._find_split(adata)
        return model

    def _find_split(self, mdata: MuData) -> None:
        """Find the training and held-out cells by their names; none where it has none of them."""
        if self.train_indices is None:
            return
        names = hashes_of(mdata.obs_names)
        if self.cells_ is None and self.trained_on_ == _hash_of_all(mdata):  # files of 0.1
            ever = np.union1d(self.train_indices, self.earlier_train_indices_).astype(int)
            self.cells_, self.trained_cells_ = names, np.sort(names[ever])
        before = np.zeros(0, dtype=np.uint64) if self.cells_ is None else self.cells_
        parts = ("train", "validation", "test")
        rows = [getattr(self, f"{part}_indices") for part in parts]
        known = len(before) > 0
        if known and not np.array_equal(before, names):
            rows = [None if part is None else moved(part, before, names) for part in rows]
            known = len(rows[0]) > 0
        for part, found in zip(parts, rows, strict=True):
            setattr(self, f"{part}_indices", found if known else None)
        self.cells_ = names if known else None


def _manager_like(registry: dict, mdata: MuData) -> AlignedManager:
    """A manager of data that is read by the registry of a saved model."""
    check_mudata(mdata, may_be_view=False)
    found = Registry(registry)
    manager = AlignedManager(fields_of(found.modalities, **found.arguments), found.described)
    manager.register_fields(mdata, registry)
    return manager


def class_of(folder: Path, prefix: str | None = None) -> str:
    """Name of the class whose model was saved to a folder.

    Raises
    ------
    FileNotFoundError
        If there is no model in the folder.
    ValueError
        If the file is damaged.
    """
    file = folder / f"{prefix or ''}model.pt"
    if not file.is_file():
        raise FileNotFoundError(f"No model found: {file} does not exist.")
    if not zipfile.is_zipfile(file):
        raise ValueError(
            f"{file} is damaged: it is not a complete PyTorch file ({file.stat().st_size} bytes). "
            "It may have been cut off while it was copied; copy or save it again."
        )
    with quiet_libraries():
        return BaseModelClass.load_registry(str(folder), prefix).get("model_name", "unknown")


def _hash_of_all(mdata: MuData) -> str:
    """Hash of the names of all cells in their order, as files of 0.1 hold it."""
    return hashlib.sha256("\n".join(map(str, mdata.obs_names)).encode()).hexdigest()
