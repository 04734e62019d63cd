"""Files of scvenn 0.1, which are pickles: reading one can run any code that it holds.

They name :mod:`scvenn._screening`, which exists for them alone.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mudata
import torch

from scvenn.models.base import SharedPrivateModel
from scvenn.models.messages import quiet_libraries

logger = logging.getLogger("scvi.scvenn")

# Until 0.1, the networks of one kind stood in a list with one for each modality. The first pattern
# that fits counts.
_NAMES_UNTIL_0_1 = {
    r"encoders\.(\d+)\.hidden_shared\.": r"branches.\1.shared_hidden.",
    r"encoders\.(\d+)\.hidden_private\.": r"branches.\1.hidden.",
    r"encoders\.(\d+)\.(shared|private)\.": r"branches.\1.\2_head.",
    r"encoders\.(\d+)\.": r"branches.\1.",
    r"decoders\.(\d+)\.": r"branches.\1.decoder.",
    r"cross_decoders\.(\d+)\.": r"branches.\1.cross_decoder.",
    r"likelihoods\.(\d+)\.": r"branches.\1.likelihood.",
    r"absent\.(\d+)\.": r"branches.\1.absent.",
}
# What 0.1 did not have yet; all are as at the start.
_NEW = re.compile(r"_(axes|correction\.|ratio)")


def convert_legacy(
    dir_path: str | os.PathLike, *, trust: bool = False, prefix: str | None = None
) -> None:
    """Convert a model that scvenn 0.1 saved, so that ``load`` reads it.

    The old file, ``model.pt``, is a pickle: **reading it can run any code** that its author put
    into it. Convert only files of people and places that you trust. The new file,
    ``model.safetensors``, is written beside it, with the data if it was saved along; the old files
    stay and are no longer needed.

    Parameters
    ----------
    dir_path
        The folder.
    trust
        Whether you trust the file; without it, nothing is read.
    prefix
        As given to ``save``.

    Raises
    ------
    FileNotFoundError
        If there is no ``model.pt`` in the folder.
    ValueError
        If ``trust`` is not True, or the file is damaged or holds no model of scvenn.
    FileExistsError
        If the folder has a ``model.safetensors``.
    """
    folder, prefix = Path(dir_path), prefix or ""
    old, new = folder / f"{prefix}model.pt", folder / f"{prefix}model.safetensors"
    if not old.is_file():
        raise FileNotFoundError(f"No model of scvenn 0.1 found: {old} does not exist.")
    if trust is not True:
        raise ValueError(
            f"Reading {old} can run any code that it holds. If you trust where it came from, pass "
            "trust=True."
        )
    if new.exists():
        raise FileExistsError(f"{new} already exists. Remove it to convert {old} again.")
    model = _read(old)
    data = folder / f"{prefix}mdata.h5mu"
    if data.is_file():
        model._attach(mudata.read_h5mu(data))
    model.save(folder, prefix, overwrite=True, save_anndata=data.is_file())
    logger.info("%s is converted to %s. The old file is no longer needed.", old, new)


def _read(path: Path) -> SharedPrivateModel:
    """Read a model of scvenn 0.1, and run what its file holds."""
    try:
        with quiet_libraries():
            saved = torch.load(path, map_location="cpu", weights_only=False)
    except Exception as error:  # a damaged pickle can raise anything
        raise ValueError(
            f"{path} ({path.stat().st_size:,} bytes) is damaged, or no file of PyTorch: {error}. "
            "Copy it again from where it came from."
        ) from error
    try:
        return _built(path, saved)
    except (AttributeError, KeyError, RuntimeError, TypeError) as error:
        raise ValueError(
            f"{path} is no file of a model of scvenn 0.1, or is damaged: {error}. Copy it again "
            "from where it came from."
        ) from error


def _built(path: Path, saved: Any) -> SharedPrivateModel:
    """The model that was saved."""
    attributes: dict[str, Any] = dict(saved.get("attr_dict") or {})
    name = attributes.get("registry_", {}).get("model_name")
    classes = {found.__name__: found for found in _subclasses(SharedPrivateModel)}
    if name not in classes:
        raise ValueError(
            f"{path} holds a model of the class {name!r}; expected one of {sorted(classes)}."
        )
    weights = saved["model_state_dict"]
    weights.pop("pyro_param_store", None)
    registry = attributes.pop("registry_")
    versions = attributes.pop("versions_", {})
    arguments = attributes.pop("init_params_")["non_kwargs"]
    model = classes[name]._empty(registry, arguments, attributes)
    new = {key: value for key, value in model.module.state_dict().items() if _NEW.search(key)}
    known = {_todays_name(key): value for key, value in weights.items()}
    model.module.load_state_dict(new | known)
    model.module.eval()
    model.versions_ = versions
    return model


def _subclasses(cls: type[SharedPrivateModel]) -> Iterator[type[SharedPrivateModel]]:
    """A class and all that inherit from it."""
    yield cls
    for child in cls.__subclasses__():
        yield from _subclasses(child)


def _todays_name(name: str) -> str:
    for pattern, replacement in _NAMES_UNTIL_0_1.items():
        if re.match(pattern, name):
            return re.sub(pattern, replacement, name, count=1)
    return name
