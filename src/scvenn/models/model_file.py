"""The file of a model: safetensors, whose arrays are the weights and whose header is JSON.

It is one file, so that no part of one model can meet a part of another, and neither a reader nor
a writer of it can run code. Its header, ``__metadata__`` of safetensors, holds four texts:

``format``
    ``scvenn model``.
``protocol``
    The number of the layout; a later version of scvenn reads every earlier one.
``content``
    JSON, as :mod:`~scvenn.models.encoding` has it: everything of the model but its arrays.
``sha256``
    Of the content and of all arrays, with their names, types and shapes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from scvenn._whole_files import draft
from scvenn.models.encoding import decode, encode

FORMAT = "scvenn model"
PROTOCOL = 1
_HEADER = {"format", "protocol", "content", "sha256"}


class ModelFile(NamedTuple):
    """What the file of a model holds."""

    class_name: str
    versions: dict[str, str]  # of the packages that wrote it
    attributes: dict[str, Any]  # of the model, by name
    weights: dict[str, np.ndarray]  # of its networks, by name
    data: dict[str, Any] | None = None  # name, size and SHA-256 of the data saved along


def write_model_file(path: Path, model: ModelFile) -> None:
    """Write a model, whole or not at all.

    Raises
    ------
    TypeError
        If an attribute is no data.
    OSError
        If the file cannot be written.
    """
    arrays: dict[str, np.ndarray] = {}
    fields = {**model._asdict(), "weights": dict(model.weights)}
    encoded = {name: encode(value, arrays, name) for name, value in fields.items()}
    content = json.dumps(encoded, allow_nan=False, separators=(",", ":"))
    header = {
        "format": FORMAT,
        "protocol": str(PROTOCOL),
        "content": content,
        "sha256": _digest(content, arrays),
    }
    with draft(path) as unfinished:
        unfinished.write_bytes(save(arrays, header))


def read_model_file(path: Path) -> ModelFile:
    """Read a model; of a file that is not whole, or not one of a model, nothing is returned.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is damaged, is not one of a model, or was written by a later version.
    """
    if not path.is_file():
        raise FileNotFoundError(f"No model found: {path} does not exist.")
    try:
        with safe_open(path, framework="np") as file:  # checks types, shapes and sizes
            header = file.metadata() or {}
            reader = _reader(path, header)
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, OverflowError, TypeError) as error:
        raise damaged(path, f"it is no complete safetensors file ({error})") from error
    if header["sha256"] != _digest(header["content"], arrays):
        raise damaged(path, "its content does not have the SHA-256 that was written with it")
    try:
        return reader(json.loads(header["content"]), arrays)
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        raise damaged(path, f"its content is not that of a model ({error})") from error


def damaged(path: Path, why: str) -> ValueError:
    """The error of a file that is not as it was written."""
    size = path.stat().st_size
    return ValueError(
        f"{path} ({size:,} bytes) is damaged, or was not written by scvenn: {why}. Copy it again "
        "from where it came from, or save the model again."
    )


def _reader(path: Path, header: Mapping[str, str]) -> Callable[[Any, dict], ModelFile]:
    """The reader of the protocol that a header names."""
    if header.get("format") != FORMAT:
        raise ValueError(
            f"{path} is a safetensors file, but not of a model of scvenn: expected "
            f"format {FORMAT!r} in its header, found {header.get('format')!r}."
        )
    if set(header) != _HEADER:
        raise damaged(path, f"its header has {sorted(header)}, expected {sorted(_HEADER)}")
    if header["protocol"] not in _READERS:
        raise ValueError(
            f"{path} has the protocol {header['protocol']!r:.20}; this version of scvenn reads "
            f"{', '.join(_READERS)}. Update scvenn, or save the model with this version."
        )
    return _READERS[header["protocol"]]


def _read_protocol_1(content: dict[str, Any], arrays: dict[str, np.ndarray]) -> ModelFile:
    model = ModelFile(**{name: decode(part, arrays) for name, part in content.items()})
    for value, kind in zip(model, (str, dict, dict, dict, dict | None), strict=True):
        if not isinstance(value, kind):
            raise ValueError(f"expected {kind}, found {type(value).__name__}")
    return model


_READERS: dict[str, Callable[[Any, dict], ModelFile]] = {"1": _read_protocol_1}


def _digest(content: str, arrays: Mapping[str, np.ndarray]) -> str:
    """SHA-256 of a model."""
    found = hashlib.sha256(content.encode())
    for name, values in sorted(arrays.items()):
        found.update(json.dumps([name, values.dtype.str, values.shape]).encode())
        found.update(values.tobytes())
    return found.hexdigest()
