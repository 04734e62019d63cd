"""Files that nobody saved: bytes, headers, contents and arrays of models changed at random."""

import hashlib
import json
from functools import partial
from pathlib import Path
from random import Random

import h5py
import numpy as np
import pandas as pd
from safetensors import SafetensorError
from safetensors.numpy import load, save

import scvenn
from scvenn.models.value_file import _digest, read_values, write_values
from scvenn.screening import Screening
from tests.errors import is_ours

# What stands where something else is expected.
LEAVES = [None, True, False, 0, 1, -1, 2, 3, 2**31, 2**63, -(2**64), 10**400, 0.5, -0.0, 1e308]
LEAVES += ["", "a", "nan", "rna", "nb", "\x00", "\ud800", "../..", "x" * 5000, [], {}, [[]], [0]]
LEAVES += [{"$tuple": []}, {"$dict": []}, {"$dict": [[1, 2]]}, {"$texts": []}, {"$texts": ["a"]}]
LEAVES += [{"$float": kind} for kind in ("nan", "inf", "-inf", "1", 1)]
LEAVES += [{"$dict": [[{"$tuple": [[]]}, 1]]}, {"$call": "os.system"}, {"$": 0}, {"$Term": {}}]
LEAVES += [{"$Penalty": {"name": "p", "weight": 1}}, {"$table": {"index": [], "of": 0}}]
LEAVES += [{"$table": {"index": [0], "of": None, "columns": [["a", 1], ["a", [1, 2]]]}}]
TYPES = ["F64", "F32", "F16", "BF16", "F8_E4M3", "I64", "I8", "U8", "BOOL", "C64", "?", 1, None]
DTYPES = ["f8", "f4", "f2", "i8", "i1", "u1", "u8", "?"]
_SCREENING = Screening(np.zeros(2), np.ones(2, bool), np.ones(2, bool))
NUMBERS = [0, 1, -1, np.nan, np.inf, -np.inf, 1e30, 3e38, -3e38, 1e-40]


def write_models(folder: Path, **how) -> scvenn.MMVAEpp:
    """Write a small model of each of two classes to a folder of its name; returns the last."""
    mdata = scvenn.datasets.simulate_counts(40, n_features=3, n_shared_features=2, n_batches=2)
    mdata.obs["depth"] = np.linspace(0, 1, 40)
    sizes = {"n_shared": 2, "n_private": 1, "n_hidden": 2}
    for name, arguments in (("MoPoEVAE", {}), ("MMVAEpp", {"dispersion": "feature-batch"})):
        of_class = getattr(scvenn, name)
        of_class.setup_mudata(
            mdata,
            batch_key="batch",
            labels_key="cell_type",
            continuous_covariate_keys=["depth"],
        )
        model = of_class(mdata, **sizes, **arguments)
        model.train(2, enable_progress_bar=False)
        model.history_ = {"train_loss": model.history["train_loss"]}  # the others are alike
        model.save(folder / name, **how)
    return model


def write_values_of_every_kind(path: Path) -> None:
    """Write a small file of values: the format of models, and quick to read."""
    texts = np.array(["a", "b"], dtype=object)
    values = {
        "attributes": {"x": (1, [2.5, np.inf]), 3: None, "texts": texts, "screening": _SCREENING},
        "weights": {"w": np.ones((2, 2), np.float32), "n": np.arange(3)},
        "history": pd.DataFrame({"loss": [1.0, np.nan], "of": texts}),
        "objective": scvenn.Objective((scvenn.Term(("a",), ("a", "b")),)),
    }
    write_values(path, values, format="values", protocol=1)


def read_values_of_every_kind(path: Path) -> bool:
    """Whether such a file is read; False if a message of ours refused it."""
    kinds = {"attributes": dict, "weights": dict, "history": pd.DataFrame}
    protocols = {1: {**kinds, "objective": scvenn.Objective}}
    return _works(partial(read_values, path, format="values", protocols=protocols))


def read(folder: Path, mdata) -> bool:
    """Load a model as the class that its folder is named by; False if a message of ours refused it.

    Raises
    ------
    Exception
        Any other than a message of ours.
    """
    of_class = getattr(scvenn, folder.name)
    results = [_works(of_class.load_registry, folder), _works(of_class.load, folder, mdata)]
    return all(results)


def _works(call, *arguments) -> bool:
    try:
        call(*arguments)
    except Exception as error:
        if not is_ours(error):
            raise
        return False
    return True


def mutated(whole: bytes, rng: Random) -> bytes:
    """A file of a model in which one to three things are not as they were."""
    for _ in range(rng.randint(1, 3)):
        change = rng.choice([_bytes, _bytes, _header, _content, _content, _arrays])
        try:
            whole = change(whole, rng)
        except (SafetensorError, ValueError, TypeError, LookupError, OverflowError, AttributeError):
            whole = _bytes(whole, rng)  # it had been changed too much for this
    return whole


def _bytes(whole: bytes, rng: Random) -> bytes:
    """Bits flipped; bytes overwritten, cut out, repeated or moved; the end cut off."""
    changed = bytearray(whole)
    place = rng.randrange(len(changed) + 1) if rng.random() < 0.5 else rng.randrange(20)
    length = rng.choice([1, 1, 2, 4, 8, 64, 1000])
    match rng.randrange(6):
        case 0 if place < len(changed):
            changed[place] ^= 1 << rng.randrange(8)
        case 1:
            changed[place : place + length] = rng.randbytes(length)
        case 2:
            del changed[place : place + length]
        case 3:
            changed[place:place] = changed[place : place + length]
        case 4:
            changed[place:place] = rng.choice([b"\x00", b"\xff", b'"', b"{", b"]", b"$"]) * length
        case _:
            del changed[place:]
    return bytes(changed)


def _header(whole: bytes, rng: Random) -> bytes:
    """Something else in the header of safetensors, and nothing that would fit it."""
    end = 8 + int.from_bytes(whole[:8], "little")
    header = json.loads(whole[8:end])
    entry = header[rng.choice(list(header))]
    name = rng.choice(list(entry))
    entry[name] = rng.choice([*TYPES, *LEAVES, [2, 2], [0, 8], [-1, 8], [2**40, 2**40], [1] * 40])
    if rng.random() < 0.1:
        del entry[name]
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + whole[end:]


def _content(whole: bytes, rng: Random) -> bytes:
    """Something else in the content, with a digest that fits."""
    header, content, arrays = _parts(whole)
    at, key = _node(content, rng)
    match rng.randrange(8):
        case 0:
            del at[key]
        case 1 | 2 | 3:
            at[key] = rng.choice(LEAVES)
        case 4:
            other, place = _node(content, rng)
            at[key] = json.loads(json.dumps(other[place]))
        case 5:
            at[key] = {rng.choice(["$tuple", "$texts", "$dict", "$array", "$table"]): at[key]}
        case 6 if isinstance(at, dict):
            at[rng.choice(["", "$", "a", key + "_", key[:-1], "mean", "is_trained_"])] = at[key]
        case 7 if isinstance(at[key], int | float):
            at[key] = at[key] * rng.choice([-1, 0, 0.5, 2, 1000]) + rng.choice([0, 1, -1])
        case _:
            at[key] = {"$array": rng.choice([*arrays, "none"])}
    return _whole(header, content, arrays)


def _arrays(whole: bytes, rng: Random) -> bytes:
    """Other numbers, types, shapes or names of arrays, with a digest that fits."""
    header, content, arrays = _parts(whole)
    name = rng.choice(list(arrays))
    found = arrays[name]
    with np.errstate(all="ignore"):
        match rng.randrange(6):
            case 0:
                del arrays[name]
            case 1:
                arrays[name] = found.astype(rng.choice(DTYPES))
            case 2:
                arrays[name] = np.resize(found, rng.choice([0, 1, (2, 0), (1, 1, 1), 3, (7, 3)]))
            case 3 if found.size and found.dtype.kind == "f":
                found = arrays[name] = found.copy()
                found.flat[rng.randrange(found.size)] = rng.choice(NUMBERS)
            case 4:
                arrays[name] = np.full_like(found, rng.choice([0, 1, 100]))
            case _:
                arrays[name] = arrays[rng.choice(list(arrays))]
    return _whole(header, content, arrays)


def _parts(whole: bytes) -> tuple[dict, dict, dict]:
    """Header, content and arrays of a file."""
    header = json.loads(whole[8 : 8 + int.from_bytes(whole[:8], "little")])["__metadata__"]
    return header, json.loads(header["content"]), load(whole)


def _whole(header: dict, content: dict, arrays: dict) -> bytes:
    """A file whose digest fits."""
    text = json.dumps(content)
    return save(arrays, header | {"content": text, "sha256": _digest(text, arrays)})


def _node(value, rng: Random) -> tuple:
    """A part of a value at random: what it is in, and under which key."""
    key = rng.choice(list(value) if isinstance(value, dict) else range(len(value)))
    part = value[key]
    if isinstance(part, dict | list) and part and rng.random() < 0.8:
        return _node(part, rng)
    return value, key


# ------------------------------------------------------------------------------- data


def mutate_data(folder: Path, rng: Random) -> None:
    """Change the data that was saved with a model, and the digest of it that the model has."""
    (path,) = folder.glob("*.h5mu")
    if rng.random() < 0.5:
        path.write_bytes(_bytes(path.read_bytes(), rng))
    else:
        with h5py.File(path, "r+") as file:
            _change_part(file, rng)
    model = folder / "model.safetensors"
    header, content, arrays = _parts(model.read_bytes())
    content["data"]["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    model.write_bytes(_whole(header, content, arrays))


def _change_part(file: h5py.File, rng: Random) -> None:
    """Change a group, an array or an attribute of a file."""
    names: list[str] = []
    file.visit(names.append)
    name = rng.choice(names)
    part = file[name]
    attributes = list(part.attrs)
    match rng.randrange(7):
        case 0:
            del file[name]
        case 1 if attributes:
            del part.attrs[rng.choice(attributes)]
        case 2 if attributes:
            values = [
                "",
                "array",
                "csr_matrix",
                "dict",
                0,
                -1,
                1e308,
                [2**40, 2**40],
                [-1, -1],
                b"x",
            ]
            part.attrs[rng.choice(attributes)] = rng.choice(values)
        case 3:
            del file[name]
            file[name] = rng.choice([0, "a", [], [1.5, np.nan], [[1]], ["a", "b"], [-1, 2**40]])
        case 4:
            del file[name]
            file[name] = h5py.SoftLink(rng.choice(["/", "/mod", f"/{name}", "/nowhere"]))
        case 5:
            other = rng.choice(names)
            del file[name]
            if other in file:
                file[name] = file[other]
        case _ if isinstance(part, h5py.Dataset) and part.ndim:
            values = part[...]
            del file[name]
            file[name] = np.resize(values, rng.choice([0, 1, len(values) + 1, (2, 2)]))
        case _:
            file[name + "x"] = rng.choice([0, "a", [1]])
