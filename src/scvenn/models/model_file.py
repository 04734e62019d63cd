"""What the file of a model holds: one file, so that no part of one model can meet another's."""

from __future__ import annotations

from pathlib import Path
from types import NoneType
from typing import Any, NamedTuple

import numpy as np

from scvenn.models.value_file import damaged, read_values, write_values

FORMAT = "scvenn model"
# Raised by whatever changes what a file holds; a later version reads every earlier protocol.
PROTOCOL = 1


class ModelFile(NamedTuple):
    """What the file of a model holds."""

    class_name: str
    versions: dict[str, str]  # of the packages that wrote it
    attributes: dict[str, Any]  # of the model, by name
    weights: dict[str, np.ndarray]  # of its networks, by name
    data: dict[str, Any] | None = None  # name and SHA-256 of the file of data saved along


_TYPES = {
    "class_name": str,
    "versions": dict,
    "attributes": dict,
    "weights": dict,
    "data": (dict, NoneType),
}
# The same of parts of them that every model has.
_ATTRIBUTES = {"registry_": dict, "init_params_": dict}
_DATA = {"name": str, "sha256": str}


def write_model_file(path: Path, model: ModelFile) -> None:
    """Write a model; see :func:`~scvenn.models.value_file.write_values`."""
    write_values(path, model._asdict(), format=FORMAT, protocol=PROTOCOL)


def read_model_file(path: Path) -> ModelFile:
    """Read a model; see :func:`~scvenn.models.value_file.read_values`.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is damaged.
    """
    if not path.is_file():
        remedy = " Pass the folder that holds the file." if path.parent.is_file() else ""
        raise FileNotFoundError(f"No model found: {path} does not exist.{remedy}")
    found = ModelFile(**read_values(path, format=FORMAT, protocols={1: _TYPES}))
    for part, kinds in (
        ("attributes", _ATTRIBUTES),
        ("weights", dict.fromkeys(found.weights, np.ndarray)),
        ("data", {} if found.data is None else _DATA),
    ):
        values = getattr(found, part) or {}
        if wrong := [k for k, kind in kinds.items() if not isinstance(values.get(k), kind)]:
            raise damaged(path, f"its {part} are not those of a model: {', '.join(wrong)}")
    return found
