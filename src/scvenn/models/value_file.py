"""A file of values: safetensors, whose arrays are numbers and whose header is JSON.

Neither a reader nor a writer of it can run code. Its header, ``__metadata__`` of safetensors, holds
four texts:

``format``
    What the file is of, such as ``scvenn model``.
``protocol``
    The number of the layout.
``content``
    JSON, as :mod:`~scvenn.models.encoding` has it: everything but the arrays.
``sha256``
    Of the content and of all arrays, with their names, types and shapes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from scvenn._whole_files import draft
from scvenn.models.encoding import decode, encode

_HEADER = {"format", "protocol", "content", "sha256"}


def write_values(path: Path, values: Mapping[str, Any], *, format: str, protocol: int) -> None:
    """Write values by their names, whole or not at all.

    Raises
    ------
    TypeError
        If a value is no data.
    OSError
        If the file cannot be written.
    """
    arrays: dict[str, np.ndarray] = {}
    encoded = {name: encode(value, arrays, name) for name, value in values.items()}
    content = json.dumps(encoded, allow_nan=False, separators=(",", ":"))
    header = {
        "format": format,
        "protocol": str(protocol),
        "content": content,
        "sha256": _digest(content, arrays),
    }
    with draft(path) as unfinished:
        unfinished.write_bytes(save(arrays, header))


def read_values(path: Path, *, format: str, protocols: Mapping[int, Mapping[str, Any]]) -> dict:
    """Read values by their names; of a file that is not whole nothing is returned.

    Parameters
    ----------
    path
        The file.
    format
        What it is to be of.
    protocols
        For each protocol that can be read, the values that a file has, with their types.

    Raises
    ------
    ValueError
        If the file is damaged, is of something else, or was written by a later version.
    """
    try:
        with safe_open(path, framework="np") as file:  # checks types, shapes and sizes
            header = file.metadata() or {}
            expected = _expected(path, header, format, {str(n): t for n, t in protocols.items()})
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    # numpy has not every type of number that a file can name
    except (SafetensorError, OSError, OverflowError, TypeError, AttributeError) as error:
        raise damaged(path, f"it is no complete safetensors file ({error})") from error
    if header["sha256"] != _digest(header["content"], arrays):
        raise damaged(path, "its content does not have the SHA-256 that was written with it")
    try:
        content = json.loads(header["content"])
        values = {name: decode(part, arrays) for name, part in content.items()}
    except Exception as error:  # pandas and numpy raise errors of any kind
        raise damaged(path, f"its content cannot be read ({error})") from error
    wrong = [name for name, kind in expected.items() if not isinstance(values.get(name), kind)]
    if wrong := sorted({*wrong, *(values.keys() ^ expected.keys())}):
        raise damaged(path, f"its content is not that of a {format}: {', '.join(wrong)}")
    return values


def damaged(path: Path, why: str) -> ValueError:
    """The error of a file that is not as it was written."""
    size = path.stat().st_size
    return ValueError(
        f"{path} ({size:,} bytes) is damaged, or was not written by scvenn: {why}. Copy it again "
        "from where it came from, or save it again."
    )


def _expected(
    path: Path, header: Mapping[str, str], format: str, protocols: Mapping[str, Any]
) -> Mapping[str, Any]:
    """Names and types of the values, by the protocol that a header names."""
    if header.get("format") != format:
        raise ValueError(
            f"{path} is a safetensors file, but no {format}: expected format {format!r} in its "
            f"header, found {header.get('format')!r}."
        )
    if set(header) != _HEADER:
        raise damaged(path, f"its header has {sorted(header)}, expected {sorted(_HEADER)}")
    if header["protocol"] not in protocols:
        raise ValueError(
            f"{path} has the protocol {header['protocol']!r:.20}; this version of scvenn reads "
            f"{', '.join(protocols)}. Update scvenn, or write the file with this version."
        )
    return protocols[header["protocol"]]


def _digest(content: str, arrays: Mapping[str, np.ndarray]) -> str:
    """SHA-256 of a file's values."""
    found = hashlib.sha256(content.encode())
    for name, values in sorted(arrays.items()):
        found.update(json.dumps([name, values.dtype.str, values.shape]).encode())
        found.update(values.tobytes())
    return found.hexdigest()
