"""Values as JSON and arrays, and back: what is read back is data, never code.

JSON has no arrays, tuples, tables or numbers that are not finite. Each of these is an object with
one key that starts with ``$``: ``{"$tuple": [1, 2]}``, ``{"$array": "name among the arrays"}``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from scvenn.objective import Objective, Penalty, Term
from scvenn.screening import Screening

# Numbers and truth values; others, such as times and objects, are no data of a model.
_KINDS = "biuf"


def not_in_the_file(name: str, latents: Any) -> Any:
    """Stands for the function of a penalty, which is code and therefore in no file."""
    raise ValueError(
        f"The function of the penalty {name!r} is not in the saved model: files hold no code. "
        f"Load the model with it: load(dir_path, mdata, penalties={{{name!r}: function}})."
    )


def _penalty(name: str, weight: float) -> Penalty:
    return Penalty(name, weight, partial(not_in_the_file, name))


# What a value of a class of scvenn is made of, and how it is made again.
_RECORDS: dict[str, tuple[type, tuple[str, ...], Callable[..., Any]]] = {
    "Objective": (Objective, ("terms", "prior_expert", "reduction", "penalties"), Objective),
    "Penalty": (Penalty, ("name", "weight"), _penalty),
    "Screening": (Screening, ("score", "shared", "related"), Screening),
    "Term": (Term, ("encode", "decode", "detach_shared"), Term),
}


def encode(value: Any, arrays: dict[str, np.ndarray], name: str) -> Any:
    """A value as JSON.

    Parameters
    ----------
    value
        Texts, numbers, None, arrays of numbers or texts, pandas tables, and scvenn's own records,
        in lists, tuples and dictionaries of any depth.
    arrays
        Arrays of numbers are added to it.
    name
        What the value is, for the names of arrays and for messages.

    Raises
    ------
    TypeError
        If the value, or a part of it, is something else.
    """

    def inner(key: Any, part: Any) -> Any:
        return encode(part, arrays, f"{name}.{key}")

    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if np.isfinite(value) else {"$float": str(value)}
    for tag, (kind, parts, _) in _RECORDS.items():
        if isinstance(value, kind):
            return {"$" + tag: {part: inner(part, getattr(value, part)) for part in parts}}
    if isinstance(value, list | tuple):
        items = [inner(i, item) for i, item in enumerate(value)]
        return items if isinstance(value, list) else {"$tuple": items}
    if isinstance(value, Mapping):
        pairs = [[inner("key", key), inner(key, part)] for key, part in value.items()]
        plain = all(isinstance(key, str) and not key.startswith("$") for key in value)
        return dict(pairs) if plain else {"$dict": pairs}
    if isinstance(value, np.ndarray):
        if value.dtype.kind in _KINDS:
            while name in arrays:  # {"a.b": ...} beside {"a": {"b": ...}}
                name += "'"
            native = value.dtype.newbyteorder("=")  # a file has one order of bytes
            arrays[name] = np.ascontiguousarray(value, native).reshape(value.shape)
            return {"$array": name}
        if value.ndim == 1 and all(isinstance(text, str) for text in value):
            return {"$texts": [str(text) for text in value]}
    if isinstance(value, pd.DataFrame):
        # scvi-tools keeps numbers of the history as objects
        table = value.infer_objects()
        columns = [[inner("key", key), inner(key, table[key].to_numpy())] for key in table]
        index = inner("index", value.index.to_numpy())
        return {"$table": {"index": index, "of": value.index.name, "columns": columns}}
    raise TypeError(
        f"A saved model holds numbers, texts, arrays and tables, and no code; {name} is "
        f"{value!r:.80} of the class {type(value).__name__}. Remove or replace it before saving."
    )


def decode(value: Any, arrays: dict[str, np.ndarray]) -> Any:
    """The value that was encoded.

    Parameters
    ----------
    value
        As :func:`encode` returned it.
    arrays
        The arrays by name. Each is taken out where it stands: one that stood in many places could
        ask for more memory than a file has.

    Raises
    ------
    ValueError, KeyError, TypeError
        If nothing was encoded as this.
    """
    inner = partial(decode, arrays=arrays)
    if isinstance(value, list):
        return [inner(item) for item in value]
    if not isinstance(value, dict):
        return value
    if not any(key.startswith("$") for key in value):
        return {key: inner(part) for key, part in value.items()}
    ((tag, content),) = value.items()
    if tag == "$float" and content in ("nan", "inf", "-inf"):
        return float(content)
    if tag == "$tuple":
        return tuple(map(inner, content))
    if tag == "$dict":
        return {inner(key): inner(part) for key, part in content}
    if tag == "$array":
        if content not in arrays:
            raise ValueError(f"found no array {content!r}, or found it twice")
        return arrays.pop(content)
    if tag == "$texts" and all(isinstance(text, str) for text in content):
        return np.array(content, dtype=object)
    if tag == "$table":
        columns = {inner(key): inner(column) for key, column in content["columns"]}
        index = inner(content["index"])
        for values in (index, *columns.values()):  # a single value would be repeated in each row
            if not isinstance(values, np.ndarray) or values.ndim != 1:
                raise ValueError(f"found a table of {type(values).__name__}")
        return pd.DataFrame(columns, index=pd.Index(index, name=content["of"]))
    if tag[1:] in _RECORDS:
        _, parts, make = _RECORDS[tag[1:]]
        return make(**{part: inner(content[part]) for part in parts})
    raise ValueError(f"found {tag!r}, which stands for nothing")
