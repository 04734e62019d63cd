"""Saving and loading of models: whole files or none; data is read as it was in training."""

from __future__ import annotations

import copy
import hashlib
import inspect
import os
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, Self
from uuid import uuid4

import mudata
import numpy as np
import torch
from mudata import MuData
from scvi.model._utils import parse_device_args
from scvi.model.base import BaseModelClass

from scvenn._arguments import check_flags
from scvenn._processes import is_first_process
from scvenn._whole_files import alone_in, draft, make_folder
from scvenn.data import (
    AlignedManager,
    Registry,
    check_mudata,
    fields_of,
    hashes_of,
    moved,
    warn_of_renamed,
    write_h5mu,
)
from scvenn.models.file_checks import (
    NotInSessionError,
    check_attributes,
    check_likelihoods,
    check_registry,
    check_sizes,
    check_types,
)
from scvenn.models.messages import quiet_libraries
from scvenn.models.model_file import ModelFile, read_model_file, write_model_file
from scvenn.models.value_file import damaged
from scvenn.objective import Latents, Objective
from scvenn.readouts import ModelState

# Letters and digits in the name of a data file by which it differs from others.
_DIGITS = 16


class SavingMixin(ModelState, BaseModelClass):
    """Saving and loading of :class:`~scvenn.SharedPrivateModel`."""

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """A model of its own, with a copy of the data; scvi-tools' trainer is left behind."""
        if self.adata is not None and self.adata_manager.on_disk:
            raise TypeError(
                "A model of data on disk cannot be copied with its data, which would be read into "
                "memory. Save it with model.save(dir_path), and load it with load(dir_path, mdata)."
            )
        new = type(self).__new__(type(self))
        memo[id(self)] = new
        if self.adata is not None:  # which copies itself, but not by `deepcopy`
            memo[id(self.adata)] = self.adata.copy()
        state = {name: value for name, value in self.__dict__.items() if name != "trainer"}
        new.__dict__.update(copy.deepcopy(state, memo))
        new.id = str(uuid4())
        return new

    def __copy__(self) -> Self:
        """Another model with the same networks and data."""
        new = type(self).__new__(type(self))
        new.__dict__.update(self.__dict__)
        return new

    def __getstate__(self) -> dict[str, Any]:
        """What is pickled of a model without data; a MuData can be pickled, and not read again."""
        if self.adata is not None:
            raise TypeError(
                "A model with data cannot be pickled. Save it with model.save(dir_path), and load "
                "it with load(dir_path, mdata); a model that was loaded without data, by "
                "load(dir_path, False), can be pickled."
            )
        return self.__dict__

    def _get_user_attributes(self) -> list[tuple[str, Any]]:
        """For scvi-tools: what the model holds. Properties are computed from that, and left out."""
        computed = dict(inspect.getmembers(type(self), lambda of: isinstance(of, property)))
        names = [name for name in dir(self) if not name.startswith("__") and name not in computed]
        held = [(name, getattr(self, name)) for name in names]
        return [(name, value) for name, value in held if not inspect.isroutine(value)]

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
    ) -> None:
        """Save the model to a folder.

        The model is one file, ``model.safetensors``: weights as arrays, all else as JSON in its
        header. The file holds no code, so that a model of a stranger can be loaded. It appears
        whole under its name or not at all, and a model that was there before stays until then.
        After a training on several devices, the first process saves and the others go on.

        Parameters
        ----------
        dir_path
            Folder, created if it does not exist.
        prefix
            Put before the names of the files.
        overwrite
            Whether the folder may exist; a model with the same prefix is then replaced, and other
            files stay.
        save_anndata
            Whether to save the MuData as well, as ``mdata-….h5mu``. The model's file has its name
            and its SHA-256, so that no model is loaded with the data of another one.

        Raises
        ------
        FileExistsError
            If the folder exists and ``overwrite`` is False.
        ValueError
            If the MuData is to be saved as well, and is on disk or was changed since the model was
            set up.
        TypeError
            If an attribute of a class of your own holds something that is no data.
        OSError
            If the files cannot be written, for example because the disk is full.
        """
        check_flags(overwrite=overwrite, save_anndata=save_anndata)
        folder = Path(dir_path)
        _check_prefix(prefix)
        if save_anndata:
            self._find_cells_by_name()
            if self.adata_manager.on_disk:
                raise ValueError(
                    "save_anndata=True: the data is on disk, and would be written a second time. "
                    "Save the model alone, and load it with the file: load(dir_path, mdata)."
                )
        if not is_first_process():
            return
        is_new = not folder.exists()
        if not (is_new or overwrite):
            raise FileExistsError(f"{folder} already exists. Pass overwrite=True to replace it.")
        try:
            make_folder(folder)
            with alone_in(folder):
                self._write(folder, prefix, save_anndata)
        except BaseException:  # Ctrl-C is no Exception
            if is_new:
                with suppress(OSError):  # not if something is in it
                    folder.rmdir()
            raise

    def _write(self, folder: Path, prefix: str | None, save_anndata: bool) -> None:
        """Write the files of a model, and remove the data of the one that was replaced."""
        data = self._save_data(folder, prefix or "") if save_anndata else None
        # scvi-tools' rule: what is learned or set up has a name that ends with "_"
        attributes = {k: v for k, v in self._get_user_attributes() if k.endswith("_")}
        weights = {name: value.cpu().numpy() for name, value in self.module.state_dict().items()}
        versions = attributes.pop("versions_")
        model = ModelFile(type(self).__name__, versions, attributes, weights, data)
        write_model_file(_path(folder, prefix), model)
        # the data of the model that was replaced; a user's "mdata-preprocessed_all.h5mu" stays
        name_of_ours = re.compile(rf"{re.escape(prefix or '')}mdata-[0-9a-f]{{{_DIGITS}}}\.h5mu")
        for path in list(folder.iterdir()):
            is_ours = name_of_ours.fullmatch(path.name) is not None
            if is_ours and (data is None or path.name != data["name"]):
                path.unlink(missing_ok=True)

    def _save_data(self, folder: Path, prefix: str) -> dict[str, Any]:
        """Save the data under a name that no other has; the name and SHA-256 of its file."""
        path = folder / f"{prefix}mdata-{uuid4().hex[:_DIGITS]}.h5mu"
        with draft(path) as unfinished:
            write_h5mu(self.adata_manager.adata, unfinished)
            sha256 = _sha256(unfinished)
        return {"name": path.name, "sha256": sha256}

    @classmethod
    def load(
        cls,
        dir_path: str | os.PathLike,
        adata: MuData | Literal[False] | None = None,
        accelerator: str = "auto",
        device: int | str = "auto",
        prefix: str | None = None,
        penalties: Mapping[str, Callable[[Latents], Any]] | None = None,
    ) -> Self:
        """Load a model that was saved with :meth:`save`.

        Nothing in the files is run, and nothing is built before they were checked: their protocol,
        class, SHA-256, and the names, shapes and types of all weights.

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
        penalties
            The functions of the penalties of the objective, by name: they are code, which files do
            not hold. Only training on needs them.

        Returns
        -------
        The model, ready for its read-outs.

        Raises
        ------
        FileNotFoundError
            If there is no model in the folder, or the data that was saved with it is gone.
        ValueError
            If a file is damaged, is of a release whose files can hold code (see
            :func:`~scvenn.convert_legacy`) or of a later version, holds a model of another class,
            or the data does not fit.
        """
        folder, path = Path(dir_path), _path(Path(dir_path), prefix)
        _refuse_legacy(folder, prefix)
        found = read_model_file(path)
        if found.class_name != cls.__name__:
            raise ValueError(
                f"{folder} holds a model of class {found.class_name!r}, not {cls.__name__!r}. Load "
                f"it with that class: {found.class_name}.load({str(folder)!r})."
            )
        if adata is None and found.data is not None:
            adata = _read_data(folder, found.data)
        *_, where = parse_device_args(
            accelerator, device, return_device="torch", validate_single_device=True
        )
        functions = {} if penalties is None else penalties
        if not (isinstance(functions, Mapping) and all(map(callable, functions.values()))):
            raise ValueError(
                f"penalties={penalties!r}: expected a dictionary of functions, by name of penalty."
            )
        try:
            with quiet_libraries():
                model = cls._built(found, functions)
        except NotInSessionError:
            raise
        except Exception as error:  # what was made up can break anything
            raise damaged(path, f"its parts do not fit together ({error})") from error
        model.to_device(where)
        model.module.eval()
        if adata is not None and adata is not False:
            model._attach(adata)
        return model

    def _attach(self, mdata: MuData) -> None:
        """Give data to a model that was loaded."""
        self._adata = mdata
        self._adata_manager = _manager_like(self.registry_, mdata)
        self.registry_ = self._adata_manager.registry
        self._find_split(mdata)

    @classmethod
    def _built(cls, found: ModelFile, penalties: Mapping[str, Any]) -> Self:
        """A model with the attributes and weights of a file, once they were found to fit.

        It is built twice, first without memory for its weights: a file could ask for more of them
        than it holds.
        """
        attributes = dict(found.attributes)
        registry = attributes.pop("registry_")
        arguments = dict(attributes.pop("init_params_")["non_kwargs"])
        arguments["objective"] = _with_functions(arguments["objective"], penalties)
        weights = {name: torch.from_numpy(array) for name, array in found.weights.items()}
        check_attributes(cls, attributes)
        check_likelihoods(registry)
        check_registry(registry)
        check_sizes(arguments, weights, len(Registry(registry).modalities))
        with torch.device("meta"):
            without_memory = cls._empty(registry, arguments, attributes).module
            # refuses other names and shapes
            without_memory.load_state_dict({name: w.to("meta") for name, w in weights.items()})
            check_types(without_memory, weights)
        model = cls._empty(registry, arguments, attributes)
        model.module.load_state_dict(weights)
        model.versions_ = found.versions
        return model

    @classmethod
    def _empty(cls, registry: dict, arguments: dict, attributes: dict) -> Self:
        """A model that has yet to get its weights."""
        model = cls(registry=copy.deepcopy(registry), **arguments)
        for name, value in attributes.items():
            setattr(model, name, value)
        model.module.on_load(model)
        model.module.float()  # whatever PyTorch's default is
        return model

    @staticmethod
    def load_registry(dir_path: str | os.PathLike, prefix: str | None = None) -> dict:
        """What the set-up of a saved model found, without building the model.

        Parameters
        ----------
        dir_path, prefix
            As in :meth:`load`.

        Returns
        -------
        The registry, as scvi-tools has it: the arguments of the set-up, and for each part of the
        data what was found in it.

        Raises
        ------
        FileNotFoundError, ValueError
            As :meth:`load`.
        """
        _refuse_legacy(Path(dir_path), prefix)
        return read_model_file(_path(Path(dir_path), prefix)).attributes["registry_"]

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


# ------------------------------------------------------------------------------------ files


def class_of(folder: Path, prefix: str | None = None) -> str:
    """Name of the class whose model was saved to a folder.

    Raises
    ------
    FileNotFoundError
        If there is no model in the folder.
    ValueError
        If the file is damaged.
    """
    _refuse_legacy(folder, prefix)
    return read_model_file(_path(folder, prefix)).class_name


def _path(folder: Path, prefix: str | None) -> Path:
    _check_prefix(prefix)
    return folder / f"{prefix or ''}model.safetensors"


def _check_prefix(prefix: Any) -> None:
    """Refuse what cannot be put before the name of a file."""
    is_part = isinstance(prefix, str) and Path(f"{prefix}x").name == f"{prefix}x"
    if prefix is not None and (not is_part or "\0" in prefix):
        raise ValueError(f"prefix={prefix!r}: expected None or a text without '/'.")


def _refuse_legacy(folder: Path, prefix: str | None) -> None:
    """Refuse files of 0.1, which can run code when they are read."""
    old = folder / f"{prefix or ''}model.pt"
    if old.is_file() and not _path(folder, prefix).exists():
        raise ValueError(
            f"{old} is a file of scvenn 0.1 or of scvi-tools, which can run any code when it is "
            "read, so that load() does not. If you trust where it came from, convert it once: "
            f"scvenn.convert_legacy({str(folder)!r}, trust=True)."
        )


def _read_data(folder: Path, data: Mapping[str, Any]) -> MuData:
    """The data that was saved with a model, if it is still the same."""
    path = folder / Path(data["name"]).name
    instead = "Pass the data, load(dir_path, mdata), or False to load the model without data."
    if not os.path.isfile(path):  # nor of a name that no file can have
        raise FileNotFoundError(
            f"The model was saved with data, but its file {path} does not exist. {instead}"
        )
    if _sha256(path) != data["sha256"]:
        raise ValueError(
            f"{path} ({path.stat().st_size:,} bytes) is not the file that was saved with the "
            f"model: it has another SHA-256. It may be damaged, or was changed. {instead}"
        )
    try:
        return mudata.read_h5mu(path)
    except Exception as error:  # HDF5, anndata and mudata raise errors of any kind
        raise ValueError(
            f"{path} ({path.stat().st_size:,} bytes) is the file that was saved with the model, "
            f"but cannot be read as a MuData: {error}. {instead}"
        ) from error


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# ------------------------------------------------------------------------------------ checks


def _with_functions(objective: Objective | None, functions: Mapping[str, Any]) -> Any:
    """An objective whose penalties have their functions again."""
    penalties = () if objective is None else objective.penalties
    if unknown := sorted(set(functions) - {penalty.name for penalty in penalties}):
        known = [penalty.name for penalty in penalties]
        raise NotInSessionError(
            f"penalties={unknown}: the model has {known}. Pass only these names."
        )
    if objective is None:
        return None
    given = [replace(p, value=functions.get(p.name, p.value)) for p in penalties]
    return replace(objective, penalties=tuple(given))


def _manager_like(registry: dict, mdata: MuData) -> AlignedManager:
    """A manager of data that is read by the registry of a saved model."""
    check_mudata(mdata, may_be_view=False)
    found = Registry(registry)
    warn_of_renamed(mdata, found.modalities)
    manager = AlignedManager(fields_of(found.modalities, **found.arguments), found.described)
    manager.register_fields(mdata, registry)
    return manager


def _hash_of_all(mdata: MuData) -> str:
    """Hash of the names of all cells in their order, as files of 0.1 hold it."""
    return hashlib.sha256("\n".join(map(str, mdata.obs_names)).encode()).hexdigest()
