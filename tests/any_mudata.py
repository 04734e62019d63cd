"""MuData of every kind, drawn as recipes: a few words each, which a failing test can print."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData
from hypothesis import strategies as st
from mudata import MuData

import scvenn
from scvenn.likelihoods import LIKELIHOODS

# ------------------------------------------------------------------------------- values


def _with_one(value):
    def change(x, rng):
        x[rng.integers(len(x)), rng.integers(x.shape[1])] = value

    return change


def _some_missing(x, rng):
    x[rng.random(x.shape) < 0.1] = np.nan


def _one_missing_cell(x, rng):
    x[rng.integers(len(x))] = np.nan


def _one_missing_feature(x, rng):
    x[:, rng.integers(x.shape[1])] = np.nan


def _all_missing(x, rng):
    x[:] = np.nan


def _one_large_cell(x, rng):
    x[rng.integers(len(x))] *= 100


def _one_constant_feature(x, rng):
    x[:, 0] = x[0, 0]


VALUES = {
    "counts": lambda rng, shape: rng.poisson(2.0, shape),
    "binary": lambda rng, shape: rng.integers(0, 2, shape),
    "real": lambda rng, shape: rng.normal(size=shape),
    "fractions": lambda rng, shape: rng.random(shape),
    "zeros": lambda rng, shape: np.zeros(shape),
    "threes": lambda rng, shape: np.full(shape, 3.0),
    "rare": lambda rng, shape: rng.random(shape) < 1e-4,
    "millions": lambda rng, shape: rng.poisson(1e6, shape),
    "1e30": lambda rng, shape: 1e30 * rng.normal(size=shape),
    "3e38": lambda rng, shape: 3e38 * rng.uniform(-1, 1, shape),
    "whole 1e30": lambda rng, shape: np.rint(1e30 * rng.random(shape)),
    "1e-40": lambda rng, shape: 1e-40 * rng.normal(size=shape),
    "far": lambda rng, shape: 1e8 + rng.normal(size=shape),
    "negative": lambda rng, shape: -rng.poisson(2.0, shape),
    "rounded": lambda rng, shape: rng.poisson(2.0, shape) * (1 + 1e-6),
}
CHANGES = {
    "none": lambda x, rng: None,
    "some missing": _some_missing,
    "a missing cell": _one_missing_cell,
    "a missing feature": _one_missing_feature,
    "all missing": _all_missing,
    "a large cell": _one_large_cell,
    "a constant feature": _one_constant_feature,
    "inf": _with_one(np.inf),
    "-inf": _with_one(-np.inf),
    "1e300": _with_one(1e300),
    "3e38": _with_one(3e38),
    "1e30": _with_one(1e30),
    "-1": _with_one(-1),
}
TYPES = ["f4", "f8", "f2", "i1", "i8", "u1", "u8", "bool", "longdouble", ">f4", ">i8"]
NO_NUMBERS = ["c8", "object", "U", "M8[s]", "m8[s]"]

# ------------------------------------------------------------------------------- storage


def _strided(x):
    wide = np.zeros((2 * len(x), 3 * x.shape[1]), x.dtype)
    wide[::2, ::3] = x
    return wide[::2, ::3]


def _reversed(x):
    return np.ascontiguousarray(x[::-1, ::-1])[::-1, ::-1]


def _read_only(x):
    x = x.copy()
    x.flags.writeable = False
    return x


def _unsorted(x):
    csr = sp.csr_matrix(x)
    for start, end in zip(csr.indptr[:-1], csr.indptr[1:], strict=True):
        for part in (csr.indices, csr.data):
            part[start:end] = part[start:end][::-1].copy()
    csr.has_sorted_indices = False
    return csr


def _repeated(x):
    rows, columns = np.nonzero(np.ones_like(x, dtype=bool))
    coo = sp.coo_matrix((np.tile(x.ravel(), 2), (np.tile(rows, 2), np.tile(columns, 2))), x.shape)
    csr = sp.csr_matrix(x.shape, dtype=x.dtype)
    order = np.argsort(coo.row, kind="stable")
    csr.data, csr.indices = coo.data[order], coo.col[order]
    ends = np.concatenate([[0], np.cumsum(np.bincount(coo.row, minlength=len(x)))])
    csr.indptr = ends.astype(csr.indices.dtype)
    return csr


def _stored_zeros(x):
    rows, columns = np.nonzero(np.ones_like(x, dtype=bool))
    return sp.csr_matrix((x.ravel(), (rows, columns)), x.shape)


def _wide_index(x):
    csr = sp.csr_matrix(x)
    csr.indices, csr.indptr = csr.indices.astype("i8"), csr.indptr.astype("i8")
    return csr


def _damaged(x):
    csr = sp.csr_matrix(x)
    if len(csr.indices):
        csr.indices[-1] = x.shape[1] + 7
    return csr


STORAGES = {
    "dense": np.asarray,
    "fortran": np.asfortranarray,
    "strided": _strided,
    "reversed": _reversed,
    "read-only": _read_only,
    "masked": lambda x: np.ma.masked_array(x, np.arange(x.size).reshape(x.shape) % 7 == 3),
    "matrix": np.matrix,
    "table": pd.DataFrame,
    **{
        f"{kind}_{form}": getattr(sp, f"{kind}_{form}")
        for kind in ("csr", "csc")  # anndata takes no others; `test_matrices.py` has them
        for form in ("matrix", "array")
    },
    "unsorted": _unsorted,
    "repeated": _repeated,
    "stored zeros": _stored_zeros,
    "wide index": _wide_index,
    "damaged": _damaged,
    "none": lambda x: None,
}
VIEWS = {
    "none": lambda adata: adata,
    "slice": lambda adata: adata[1:],
    "mask": lambda adata: adata[np.arange(adata.n_obs) % 3 != 1],
    "backwards": lambda adata: adata[::-1],
    "features": lambda adata: adata[:, ::-1],
    "of a view": lambda adata: adata[1:][:, : max(1, adata.n_vars - 1)][::-1],
    "no cells": lambda adata: adata[:0],
    "no features": lambda adata: adata[:, :0],
}

# ------------------------------------------------------------------------------- names

HOSTILE = ["", " ", ".", "a.b", "a/b", "a:b", "->", "X", "observed", "None", "nan", "é🧬", "%s{0}"]
HOSTILE += ["__class__", "a\nb", "../x", "x" * 300, "rna+atac", "loss", "train", "shared", "a'\"b"]
CELLS = {
    "text": lambda i: f"cell{i}",
    "digits": str,
    "numbers": lambda i: i,
    "fractions": lambda i: i + 0.5,
    "hostile": lambda i: HOSTILE[i] if i < len(HOSTILE) else f"{i}\t",
    "alike": lambda i: f"cell{i // 2}",
    "mixed": lambda i: i if i % 2 else f"{i}",
    "missing": lambda i: f"cell{i}" if i else None,
    "times": lambda i: pd.Timestamp(2020, 1, 1) + pd.Timedelta(days=i),
}
FEATURES = {
    name: CELLS[name] for name in ("text", "digits", "numbers", "hostile", "alike", "mixed")
}
MEASURED = {
    "all": lambda n, rng: np.arange(n),
    "most": lambda n, rng: np.flatnonzero(rng.random(n) < 0.7),
    "in another order": lambda n, rng: rng.permutation(n),
    "the first": lambda n, rng: np.arange(n // 2),
    "the last": lambda n, rng: np.arange(n // 2, n),
    "two": lambda n, rng: np.arange(min(2, n)),
    "one": lambda n, rng: np.arange(min(1, n)),
    "none": lambda n, rng: np.arange(0),
}
FORMS = {
    "as it is": lambda mdata: mdata,
    "copy": lambda mdata: mdata.copy(),
    "view": lambda mdata: mdata[: max(1, mdata.n_obs - 1)],
    "copied view": lambda mdata: mdata[::-1].copy(),
    "other axis": lambda mdata: MuData(dict(mdata.mod), axis=1),
    "nested": lambda mdata: MuData({"x": mdata, **mdata.mod}),
}

# ------------------------------------------------------------------------------- columns

_DAYS = pd.Timestamp(2020, 1, 1)
COLUMNS = {
    "text": lambda i: np.array(["a", "b", "c"], object)[i % 3],
    "categories": lambda i: pd.Categorical(np.array(["a", "b", "c"])[i % 3]),
    "ordered numbers": lambda i: pd.Categorical(i % 3, ordered=True),
    "integers": lambda i: i % 4,
    "truth values": lambda i: i % 2 == 0,
    "numbers": lambda i: i / 7,
    "single": lambda i: (i / 7).astype(np.float32),
    "half": lambda i: (i % 9).astype(np.float16),
    "missing numbers": lambda i: np.where(i % 3 == 0, np.nan, i),
    "all missing": lambda i: np.full(len(i), np.nan),
    "infinite": lambda i: np.where(i == 1, np.inf, i),
    "large": lambda i: 1e300 * i,
    "Int64": lambda i: pd.array(np.where(i % 3 == 0, None, i % 2), "Int64"),
    "Float64": lambda i: pd.array(i / 3, "Float64"),
    "boolean": lambda i: pd.array(np.where(i % 3 == 0, None, i % 2 == 0), "boolean"),
    "string": lambda i: pd.array(np.where(i % 3 == 0, "x", "y"), "string"),
    "missing string": lambda i: pd.array(np.where(i % 3 == 0, None, "y"), "string"),
    "times": lambda i: _DAYS + pd.to_timedelta(i % 3, "D"),
    "zoned times": lambda i: (_DAYS + pd.to_timedelta(i % 3, "D")).tz_localize("UTC"),
    "durations": lambda i: pd.to_timedelta(i % 3, "D"),
    "periods": lambda i: pd.PeriodIndex(_DAYS + pd.to_timedelta(i % 3, "D"), freq="D"),
    "intervals": lambda i: pd.cut(i, 3) if len(i) else pd.Categorical([]),
    "complex": lambda i: i * 1j,
    "sparse": lambda i: pd.arrays.SparseArray(i % 2),
    "mixed": lambda i: np.array([k if k % 2 else f"{k % 3}" for k in i], object),
    "tuples": lambda i: pd.Series([(k % 2,) for k in i], dtype=object),
    "lists": lambda i: pd.Series([[k % 2] for k in i], dtype=object),
    "bytes": lambda i: np.array([b"a", b"b"], object)[i % 2],
    "nothing": lambda i: np.full(len(i), None, object),
    "blanks": lambda i: np.array(["", " ", "nan"], object)[i % 3],
    "one": lambda i: np.full(len(i), "a", object),
    "each its own": lambda i: np.array([f"c{k}" for k in i], object),
}

# ------------------------------------------------------------------------------- recipes


@dataclass
class Modality:
    """How one modality is made."""

    name: str
    likelihood: str | None = None
    n_features: int = 4
    measured: str = "all"
    kind: str = "counts"
    change: str = "none"
    dtype: str = "f4"
    storage: str = "dense"
    features: str = "text"
    view: str = "none"
    layer: bool = False


@dataclass
class Recipe:
    """How a MuData is made, and a model of it."""

    seed: int
    n_cells: int
    modalities: list[Modality]
    cells: str = "text"
    form: str = "as it is"
    column: str | None = None  # its type
    column_of: str = "mdata"
    column_as: str = "labels_key"
    model: str = "MMVAEpp"
    screen: bool = False
    batch_size: int = 128
    options: dict[str, Any] = field(default_factory=dict)

    def mdata(self) -> MuData:
        """The MuData; raises whatever anndata and mudata raise where they refuse it."""
        rng = np.random.default_rng(self.seed)
        names = pd.Index([CELLS[self.cells](i) for i in range(self.n_cells)])
        number = pd.Series(np.arange(self.n_cells), range(self.n_cells))
        mod = {}
        for m in self.modalities:
            rows = MEASURED[m.measured](self.n_cells, rng)
            shape = (len(rows), m.n_features)
            x = np.asarray(VALUES[m.kind](rng, shape), np.float64)
            if x.size:
                CHANGES[m.change](x, rng)
            with np.errstate(all="ignore"):
                x = STORAGES[m.storage](x.astype(m.dtype))
            obs = pd.DataFrame(index=names[rows])
            if self.column is not None and self.column_of == "modalities":
                obs["column"] = self._values(number.to_numpy()[rows])
            var = pd.DataFrame(index=[FEATURES[m.features](i) for i in range(m.n_features)])
            layers = {"of": x} if m.layer else None
            adata = AnnData(None if m.layer else x, obs=obs, var=var, layers=layers)
            mod[m.name] = VIEWS[m.view](adata)
        mdata = FORMS[self.form](MuData(mod))
        if self.column is not None and self.column_of == "mdata" and not mdata.is_view:
            mdata.obs["column"] = self._values(np.arange(mdata.n_obs))
        return mdata

    def _values(self, number: np.ndarray) -> Any:
        values = COLUMNS[self.column](number)
        return values.to_numpy() if isinstance(values, pd.Series) else values

    def set_up(self, mdata: MuData) -> None:
        """Set up the model's class, as the recipe has it."""
        given = {"column": self.column_as} if self.column is not None else {}
        keys = {
            argument: [key] if argument.endswith("_keys") else key
            for key, argument in given.items()
        }
        scvenn.MMVAEpp.setup_mudata(
            mdata,
            likelihoods={m.name: m.likelihood for m in self.modalities if m.likelihood},
            layers={m.name: "of" for m in self.modalities if m.layer},
            **keys,
        )

    def build(self, mdata: MuData) -> scvenn.SharedPrivateModel:
        """A small model."""
        small = {"n_shared": 2, "n_private": 2, "n_hidden": 4}
        return getattr(scvenn, self.model)(mdata, screen=self.screen, **small, **self.options)


def mostly(usual, others):
    """One of the usual values, or now and then another."""
    return st.integers(0, 9).flatmap(lambda k: st.sampled_from(list(others if k == 9 else usual)))


COLUMN_AS = ["labels_key", "batch_key"]
COLUMN_AS += ["categorical_covariate_keys", "continuous_covariate_keys"]
OPTIONS = [{}, {"decoder": "linear"}, {"start_at_means": False}, {"modality_weights": "auto"}]
OPTIONS += [{"n_layers": 2}]
LIKELIHOOD_OF = {"counts": ["nb", "poisson", "zinb", "nb_mixture"], "binary": ["bernoulli"]}
LIKELIHOOD_OF |= {"real": ["normal"], "fractions": ["beta", "normal"]}


@st.composite
def modalities(draw, name):
    kind = draw(mostly(["counts", "binary", "real", "fractions"], VALUES))
    fitting = [None, *LIKELIHOOD_OF.get(kind, ["normal"])]
    return Modality(
        name,
        likelihood=draw(mostly(fitting, LIKELIHOODS)),
        n_features=draw(mostly([1, 2, 5, 12], [0, 1, 300])),
        measured=draw(mostly(["all", "most", "in another order"], MEASURED)),
        kind=kind,
        change=draw(mostly(["none"], CHANGES)),
        dtype=draw(mostly(["f4", *(["i8"] if kind == "counts" else [])], [*TYPES, *NO_NUMBERS])),
        storage=draw(mostly(["dense", "csr_matrix", "csc_matrix"], STORAGES)),
        features=draw(mostly(["text"], FEATURES)),
        view=draw(mostly(["none"], VIEWS)),
        layer=draw(mostly([False], [True])),
    )


@st.composite
def recipes(draw):
    """A recipe of data and model: most of its parts usual, some as strange as they come."""
    names = draw(
        mostly(
            [["rna", "atac"], ["a", "b", "c"], ["a", "b", "c", "d"], list("abcde")],
            [HOSTILE[i : i + 3] for i in range(len(HOSTILE) - 2)],
        )
    )
    model = draw(st.sampled_from(["MMVAEpp", "MMVAE", "MVAE", "MoPoEVAE"]))
    return Recipe(
        seed=draw(st.integers(0, 99)),
        n_cells=draw(mostly([5, 20, 60], [1, 2, 3, 130, 3000])),
        modalities=[draw(modalities(name)) for name in names],
        cells=draw(mostly(["text"], CELLS)),
        form=draw(mostly(["as it is", "copy", "copied view"], FORMS)),
        column=draw(mostly([None, "text", "integers"], COLUMNS)),
        column_of=draw(st.sampled_from(["mdata", "modalities"])),
        column_as=draw(st.sampled_from(COLUMN_AS)),
        model=model,
        screen=draw(st.booleans()) and model != "MVAE",
        batch_size=draw(mostly([128, 20], [1, 2, 7])),
        options=draw(mostly(OPTIONS, [{"dispersion": "feature-batch"}])),
    )


def strange():
    """Recipes in which one thing is strange, and all of these."""
    first = {
        "kind": VALUES,
        "change": CHANGES,
        "dtype": [*TYPES, *NO_NUMBERS],
        "storage": STORAGES,
        "features": FEATURES,
        "view": VIEWS,
        "measured": MEASURED,
        "layer": [True],
        "n_features": [0, 1],
        "name": HOSTILE,
    }
    whole = {"cells": CELLS, "form": FORMS, "n_cells": [1, 2, 3], "batch_size": [1]}
    for key, values in first.items():
        for value in values:
            yield Recipe(0, 20, [Modality(**{"name": "rna", key: value}), Modality("atac")])
    # views of matrices in every form, which once were the most errors
    for view in ("mask", "of a view"):
        for storage in STORAGES:
            rna = Modality("rna", view=view, storage=storage)
            yield Recipe(0, 20, [rna, Modality("atac")])
    for key, values in whole.items():
        for value in values:
            yield Recipe(**{"seed": 0, "n_cells": 20, "modalities": _TWO, key: value})
    for kind in COLUMNS:
        for column_as in COLUMN_AS:
            yield Recipe(0, 20, _TWO, column=kind, column_as=column_as)


_TWO = [Modality("rna"), Modality("atac")]
