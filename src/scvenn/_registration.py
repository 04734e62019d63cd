"""From a MuData to tensors: which entries are read, how cells are aligned, what is refused.

Cells are aligned by *name*. Every tensor has one row for each of ``mdata.obs_names``, in that
order, whatever cells a modality holds and however its rows are ordered; ``observed`` (n_obs, M)
says where a modality was measured. Features are found by name as well.

Nothing of the MuData is written here. The fields below keep what must survive saving in their
state registry, and the manager reads through them.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData
from mudata import MuData
from scvi.data import AnnDataManager, AnnDataManagerValidationCheck
from scvi.data.fields import BaseAnnDataField
from sklearn.preprocessing import StandardScaler

from scvenn._keys import Keys
from scvenn.likelihoods import LIKELIHOODS, FeatureStats

logger = logging.getLogger("scvenn")

# Rows of a matrix that are looked at in one go when it is checked: bounds the memory.
_CHUNK = 2048

# Tried in this order by likelihoods="auto": the narrowest domain that holds every value.
_INFERRED = ("bernoulli", "nb", "normal")


def some(names: Sequence[Any], n: int = 5) -> str:
    """Quote the first ``n`` names, and how many there are."""
    shown = ", ".join(repr(str(name)) for name in names[:n])
    return shown if len(names) <= n else f"{shown}, … ({len(names)} in all)"


# --------------------------------------------------------------------------------------------
# The MuData as a whole
# --------------------------------------------------------------------------------------------


def check_mudata(mdata: object) -> None:
    """Refuse what is not an in-memory MuData with unambiguous names.

    Raises
    ------
    TypeError
        If ``mdata`` is not a MuData.
    ValueError
        If it is a view, backed, not aligned along observations, or has repeated names.
    """
    if isinstance(mdata, AnnData):
        raise TypeError(
            "Expected a MuData, found an AnnData. Put the measurements of the same cells together "
            "first: mudata.MuData({'rna': adata, 'atac': other_adata})."
        )
    if not isinstance(mdata, MuData):
        raise TypeError(f"Expected a MuData, found {type(mdata).__name__}.")
    if mdata.is_view:
        raise ValueError(
            "This MuData is a view of another one. Pass a copy instead: mdata = mdata.copy()."
        )
    if mdata.isbacked:
        raise ValueError(
            "This MuData is backed by a file; its matrices are not in memory. Read it with "
            "mudata.read_h5mu(path) (without backed=True)."
        )
    if mdata.axis != 0:
        raise ValueError(
            f"mdata.axis is {mdata.axis}, expected 0: scvenn needs modalities that share cells "
            "(observations)."
        )
    if not mdata.obs_names.is_unique:
        repeated = mdata.obs_names[mdata.obs_names.duplicated()].unique()
        raise ValueError(
            f"mdata.obs_names holds {some(repeated)} more than once; cells are aligned by name. "
            "Make the names unique in each modality and call mdata.update()."
        )


def choose_modalities(mdata: MuData, modalities: Sequence[str] | None) -> list[str]:
    """Modalities to model: those asked for, or all, in their stored order.

    Raises
    ------
    ValueError
        If one is unknown or repeated, there are fewer than two, one has fewer than two cells or no
        feature, names repeat, or one shares no cell with any other.
    """
    if isinstance(modalities, str):
        raise ValueError(f"modalities={modalities!r}: expected a list of two or more names.")
    names = list(mdata.mod) if modalities is None else list(modalities)
    if unknown := [m for m in names if m not in mdata.mod]:
        raise ValueError(
            f"modalities={names}: {some(unknown)} not found; mdata.mod has {list(mdata.mod)}."
        )
    if len(set(names)) < len(names):
        raise ValueError(f"modalities={names} names one more than once.")
    if len(names) < 2:
        raise ValueError(
            f"Expected two or more modalities, found {names}. What is shared can only be learned "
            "from two measurements of the same cells."
        )
    for m in names:
        _check_modality(mdata, m)
    for m in names:
        others = [mdata.mod[other].obs_names for other in names if other != m]
        if not any(mdata.mod[m].obs_names.isin(other).any() for other in others):
            examples = ", ".join(f"{n!r}: {some(mdata.mod[n].obs_names, 2)}" for n in names)
            raise ValueError(
                f"modality {m!r} has no cell in common with any other modality; cells are matched "
                f"by obs_names ({examples}). Give the same cell the same name, or leave it out "
                "with modalities=[...]."
            )
    return names


def _check_modality(mdata: MuData, modality: str) -> None:
    """Shape and names of one modality."""
    adata = mdata.mod[modality]
    if adata.n_obs < 2:
        raise ValueError(
            f"modality {modality!r} has {adata.n_obs} cells; at least 2 are needed. Leave it out "
            "with modalities=[...]."
        )
    if adata.n_vars < 1:
        raise ValueError(
            f"modality {modality!r} has no features. Leave it out with modalities=[...]."
        )
    check_names(mdata, modality)


def check_names(mdata: MuData, modality: str) -> None:
    """Refuse a modality whose names cannot be matched one to one."""
    adata = mdata.mod[modality]
    for axis, names, remedy in (
        ("obs_names", adata.obs_names, "obs_names_make_unique() and then mdata.update()"),
        ("var_names", adata.var_names, "var_names_make_unique()"),
    ):
        if not names.is_unique:
            repeated = names[names.duplicated()].unique()
            raise ValueError(
                f"modality {modality!r}: {axis} holds {some(repeated)} more than once; "
                f"{'cells' if axis == 'obs_names' else 'features'} are found by name. Call "
                f"mdata[{modality!r}].{remedy}."
            )
    if missing := list(adata.obs_names[mdata.obs_names.get_indexer(adata.obs_names) < 0]):
        raise ValueError(
            f"modality {modality!r} holds cells that are not in mdata.obs_names: {some(missing)}. "
            "Call mdata.update() first."
        )


# --------------------------------------------------------------------------------------------
# Matrices
# --------------------------------------------------------------------------------------------


def _expression(modality: str, layer: str | None) -> str:
    """How a user would write the matrix."""
    return f"mdata[{modality!r}]" + (".X" if layer is None else f".layers[{layer!r}]")


def _matrix(mdata: MuData, modality: str, layer: str | None) -> np.ndarray | sp.spmatrix:
    """The matrix of a modality as it is stored."""
    adata = mdata.mod[modality]
    where = _expression(modality, layer)
    if layer is not None and layer not in adata.layers:
        raise ValueError(
            f"modality {modality!r}: layer {layer!r} not found; mdata[{modality!r}].layers has "
            f"{list(adata.layers)}."
        )
    matrix = adata.X if layer is None else adata.layers[layer]
    if matrix is None:
        raise ValueError(
            f"modality {modality!r}: {where} is None. Pass layers={{{modality!r}: <layer>}} with "
            f"one of {list(adata.layers)}."
        )
    if not (isinstance(matrix, np.ndarray) or sp.issparse(matrix)) or matrix.dtype.kind not in "biuf":
        kind = getattr(matrix, "dtype", "")
        raise TypeError(
            f"modality {modality!r}: {where} is a {type(matrix).__name__} {kind}; expected a "
            "numpy array or a scipy sparse matrix of numbers."
        )
    return matrix


def gather(matrix: Any, rows: np.ndarray, columns: np.ndarray) -> Any:
    """Rows and columns of a matrix in a new order; -1 in ``rows`` gives a row of zeros.

    Sparse matrices come back as CSR. The matrix itself is returned where nothing changes.
    """
    if sp.issparse(matrix) and matrix.format != "csr":
        matrix = matrix.tocsr()
    if not np.array_equal(columns, np.arange(matrix.shape[1])):
        matrix = matrix[:, columns]
    if np.array_equal(rows, np.arange(matrix.shape[0])):
        return matrix
    if (rows >= 0).all():
        return matrix[rows]
    if sp.issparse(matrix):
        empty = sp.csr_matrix((1, matrix.shape[1]), dtype=matrix.dtype)
        return sp.vstack([matrix, empty], format="csr")[rows]  # -1 is the row just added
    out = np.zeros((len(rows), matrix.shape[1]), dtype=matrix.dtype)
    out[rows >= 0] = matrix[rows[rows >= 0]]
    return out


def _chunks(matrix: Any, rows: np.ndarray) -> Iterator[Any]:
    """The given rows, a few at a time."""
    for start in range(0, len(rows), _CHUNK):
        yield matrix[rows[start : start + _CHUNK]]


def _stored(chunk: Any) -> np.ndarray:
    """All values of an array; those of a sparse matrix that are not implicit zeros."""
    return chunk.data if sp.issparse(chunk) else chunk


def check_values(
    matrix: Any, rows: np.ndarray, modality: str, where: str, likelihood: str | None
) -> str:
    """Check the observed values of a matrix against a likelihood, or infer one.

    Parameters
    ----------
    matrix
        Aligned values, (n_obs, D).
    rows
        Indices of the cells in which the modality was measured.
    modality, where
        For messages: the name, and the expression that gives the matrix.
    likelihood
        A name in ``LIKELIHOODS``, or None to choose the narrowest that fits.

    Returns
    -------
    The likelihood's name.

    Raises
    ------
    ValueError
        If a value is infinite, or outside the likelihood's domain, or missing where it must not be.
    """
    candidates = list(_INFERRED) if likelihood is None else [likelihood]
    for chunk in _chunks(matrix, rows):
        values = _stored(chunk)
        missing = np.isnan(values)
        if np.isinf(values).any():
            raise ValueError(
                f"modality {modality!r}: found {values[np.isinf(values)][0]} in {where}; expected "
                "finite values (NaN where a value was not measured)."
            )
        for name in list(candidates):
            cls = LIKELIHOODS[name]
            bad = ~cls.in_domain(values) & ~missing
            wrong = values[bad][:1] if bad.any() else values[missing][:1]
            if bad.any() or (missing.any() and not cls.allows_missing):
                if likelihood is not None:
                    raise ValueError(
                        f"modality {modality!r}: likelihood {name!r} needs {cls.domain}, found "
                        f"{wrong[0]:g} in {where}. Pass layers={{{modality!r}: <layer>}} with a "
                        f"layer that has them, or likelihoods={{{modality!r}: 'normal'}}."
                    )
                candidates.remove(name)
    return candidates[0]


def feature_stats(matrix: Any, rows: np.ndarray, names: pd.Index, modality: str) -> FeatureStats:
    """Mean and scale of each feature and the median library size, over the measured cells.

    Raises
    ------
    ValueError
        If a feature has no observed value.
    """
    # scikit-learn's scaler streams, reads sparse chunks as they are, and leaves out NaN
    scaler = StandardScaler(with_mean=not sp.issparse(matrix))
    libraries = []
    for chunk in _chunks(matrix, rows):
        scaler.partial_fit(chunk.astype(np.float64))
        libraries.append(np.asarray(chunk.sum(axis=1), dtype=np.float64).ravel())
    n_seen = np.broadcast_to(scaler.n_samples_seen_, len(names))
    if (n_seen == 0).any():
        raise ValueError(
            f"modality {modality!r}: features {some(names[n_seen == 0])} are NaN in every cell. "
            f"Remove them: mdata.mod[{modality!r}] = mdata[{modality!r}][:, keep].copy(); "
            "mdata.update()."
        )
    library = np.concatenate(libraries)
    positive = library[np.isfinite(library) & (library > 0)]
    return FeatureStats(
        mean=scaler.mean_.astype(np.float32),
        scale=scaler.scale_.astype(np.float32),
        library=float(np.median(positive)) if len(positive) else 1.0,
    )


# --------------------------------------------------------------------------------------------
# Fields: what is read, and what of it is remembered
# --------------------------------------------------------------------------------------------


class _Field(BaseAnnDataField):
    """Common to our fields: never empty, and checked while they are registered."""

    is_empty = False
    attr_key: str | None = None

    def validate_field(self, adata: MuData) -> None:
        """Nothing to do: :meth:`register_field` checks what it reads."""

    def get_summary_stats(self, state_registry: dict) -> dict:
        return {}

    def view_state_registry(self, state_registry: dict) -> None:
        return None

    def read(self, mdata: MuData, state: dict) -> Any:
        """The values, one row for each of ``mdata.obs_names``."""
        raise NotImplementedError


class ModalityField(_Field):
    """The matrix of one modality.

    Parameters
    ----------
    modality
        Its name in ``mdata.mod``.
    layer
        Which layer to read; None for ``.X``.
    likelihood
        A name in ``LIKELIHOODS``, or None to infer it.
    """

    def __init__(self, modality: str, layer: str | None, likelihood: str | None) -> None:
        self.modality = modality
        self.layer = layer
        self.likelihood = likelihood
        self.registry_key = Keys.x(modality)
        self.attr_name = "X" if layer is None else "layers"
        self.attr_key = layer
        self.mod_key = modality

    # the base class declares these as properties
    registry_key = attr_name = mod_key = None  # type: ignore[assignment]

    def register_field(self, adata: MuData) -> dict:
        mdata, m = adata, self.modality
        names = mdata.mod[m].var_names.astype(str)
        state: dict[str, Any] = {Keys.COLUMN_NAMES: names.to_numpy()}
        matrix = self.read(mdata, state)
        rows = np.flatnonzero(observed_cells(mdata, m))
        where = _expression(m, self.layer)
        likelihood = check_values(matrix, rows, m, where, self.likelihood)
        stats = feature_stats(matrix, rows, names, m)
        logger.info(
            "modality %r: likelihood %r (%s), %d features, measured in %d of %d cells",
            m,
            likelihood,
            "as asked" if self.likelihood else f"inferred: {LIKELIHOODS[likelihood].domain}",
            len(names),
            len(rows),
            mdata.n_obs,
        )
        return {
            **state,
            "likelihood": likelihood,
            "mean": stats.mean,
            "scale": stats.scale,
            "library": stats.library,
        }

    def transfer_field(self, state_registry: dict, adata_target: MuData, **kwargs: Any) -> dict:
        mdata, m = adata_target, self.modality
        if m in mdata.mod:
            check_names(mdata, m)
            matrix = self.read(mdata, state_registry)
            rows = np.flatnonzero(observed_cells(mdata, m))
            where = _expression(m, self.layer)
            check_values(matrix, rows, m, where, state_registry["likelihood"])
        return state_registry

    def read(self, mdata: MuData, state: dict) -> Any:
        names = state[Keys.COLUMN_NAMES]
        if self.modality not in mdata.mod:
            return sp.csr_matrix((mdata.n_obs, len(names)), dtype=np.float32)
        adata = mdata.mod[self.modality]
        matrix = _matrix(mdata, self.modality, self.layer)
        columns = adata.var_names.astype(str).get_indexer(names)
        if (columns < 0).any():
            missing = names[columns < 0]
            raise ValueError(
                f"modality {self.modality!r}: {len(missing)} of the {len(names)} features that the "
                f"model was trained on are missing: {some(missing)}. Add them (zeros for counts "
                "that were never seen) before using the model."
            )
        return gather(matrix, adata.obs_names.get_indexer(mdata.obs_names), columns)

    def get_summary_stats(self, state_registry: dict) -> dict:
        return {f"n_{self.registry_key}": len(state_registry[Keys.COLUMN_NAMES])}


def observed_cells(mdata: MuData, modality: str) -> np.ndarray:
    """In which of ``mdata.obs_names`` a modality was measured; boolean, (n_obs,)."""
    if modality not in mdata.mod:
        return np.zeros(mdata.n_obs, dtype=bool)
    return mdata.obs_names.isin(mdata.mod[modality].obs_names)


class ObservedField(_Field):
    """Which modalities were measured in which cells."""

    registry_key = Keys.OBSERVED
    attr_name = "obs_names"

    def __init__(self, modalities: Sequence[str]) -> None:
        self.modalities = list(modalities)

    def register_field(self, adata: MuData) -> dict:
        return {"modalities": self.modalities}

    def transfer_field(self, state_registry: dict, adata_target: MuData, **kwargs: Any) -> dict:
        if not set(self.modalities) & set(adata_target.mod):
            raise ValueError(
                f"The model knows the modalities {self.modalities}; this MuData has "
                f"{list(adata_target.mod)}. At least one must be there, under the same name."
            )
        return state_registry

    def read(self, mdata: MuData, state: dict) -> np.ndarray:
        return np.stack([observed_cells(mdata, m) for m in self.modalities], axis=1)  # (B, M)


class ColumnField(_Field):
    """A categorical column of ``obs``: the batch, or the labels.

    It is looked for in ``mdata.obs[key]``, else put together from ``mdata.obs["<mod>:<key>"]`` and
    ``mdata[<mod>].obs[key]`` of all modalities, in which a cell may be known in one only.

    Parameters
    ----------
    registry_key
        ``Keys.BATCH`` or ``Keys.LABELS``.
    key
        Name of the column; None gives every cell the same category.
    unlabeled_category
        For labels: a value that means "not known", as NaN does.
    """

    attr_name = "obs"

    def __init__(
        self, registry_key: str, key: str | None, unlabeled_category: Any = None
    ) -> None:
        self.registry_key = registry_key
        self.attr_key = key
        self.unlabeled_category = unlabeled_category

    registry_key = None  # type: ignore[assignment]

    @property
    def _is_label(self) -> bool:
        return self.registry_key == Keys.LABELS

    def register_field(self, adata: MuData) -> dict:
        if self.attr_key is None:
            return {Keys.CATEGORIES: np.array([], dtype=object), Keys.SOURCE: None}
        values = self._values(adata)
        categories = np.array([str(v) for v in np.unique(values.dropna())], dtype=object)
        self._check(values, categories)
        return {Keys.CATEGORIES: categories, Keys.SOURCE: self.attr_key}

    def _check(self, values: pd.Series, categories: np.ndarray) -> None:
        if self._is_label and len(categories) < 2:
            raise ValueError(
                f"labels_key={self.attr_key!r}: found {len(categories)} class "
                f"({some(categories)}) in {len(values)} cells; a label needs two or more. Choose "
                "another column or train without labels."
            )
        if not self._is_label and values.isna().any():
            raise ValueError(
                f"batch_key={self.attr_key!r}: {int(values.isna().sum())} of {len(values)} cells "
                f"have no batch, for example {some(values.index[values.isna()])}. Fill them in."
            )

    def transfer_field(self, state_registry: dict, adata_target: MuData, **kwargs: Any) -> dict:
        if self.attr_key is None or self._is_label:
            return state_registry
        values = self._values(adata_target)
        self._check(values, state_registry[Keys.CATEGORIES])
        known = state_registry[Keys.CATEGORIES]
        if unseen := sorted(set(values.astype(str)) - set(known)):
            raise ValueError(
                f"batch_key={self.attr_key!r}: the model was trained on the batches {some(known)}, "
                f"the new data has {some(unseen)}, for which its decoders have no parameters. Set "
                "the column to one of the known batches, or train with the new cells."
            )
        return state_registry

    def read(self, mdata: MuData, state: dict) -> np.ndarray:
        """Codes of the categories, (n_obs, 1); -1 for a label that is not known."""
        categories = state[Keys.CATEGORIES]
        if self.attr_key is None:
            return np.zeros((mdata.n_obs, 1), dtype=np.int64)
        if self._is_label and self._find(mdata) is None:
            return np.full((mdata.n_obs, 1), -1, dtype=np.int64)  # new cells need no labels
        values = self._values(mdata)
        codes = pd.Index(categories).get_indexer(values.astype(str))
        return np.where(values.isna(), -1, codes).astype(np.int64)[:, None]

    def get_summary_stats(self, state_registry: dict) -> dict:
        n = len(state_registry[Keys.CATEGORIES])
        return {f"n_{self.registry_key}": n}

    def _values(self, mdata: MuData) -> pd.Series:
        values = self._find(mdata)
        if values is None:
            name = "labels_key" if self._is_label else "batch_key"
            raise ValueError(
                f"{name}={self.attr_key!r} not found. Searched mdata.obs "
                f"({some(list(mdata.obs.columns), 20)}) and the obs of "
                f"{ {m: list(adata.obs.columns) for m, adata in mdata.mod.items()} }."
            )
        values = values.astype(object)
        if self.unlabeled_category is not None:
            values = values.where(values != self.unlabeled_category)
        return values

    def _find(self, mdata: MuData) -> pd.Series | None:
        key = self.attr_key
        if key in mdata.obs:
            return mdata.obs[key]
        found: pd.Series | None = None
        for m, adata in mdata.mod.items():
            column = str(key).removeprefix(f"{m}:") if str(key).startswith(f"{m}:") else key
            if column in adata.obs:
                values = adata.obs[column].astype(object).reindex(mdata.obs_names)
            elif f"{m}:{key}" in mdata.obs:
                values = mdata.obs[f"{m}:{key}"].astype(object)
            else:
                continue
            if found is not None:
                differ = found.notna() & values.notna() & (found != values)
                if differ.any():
                    raise ValueError(
                        f"obs column {key!r} differs between modalities in {int(differ.sum())} "
                        f"cells, for example {some(differ.index[differ])}. Write the right values "
                        f"to mdata.obs[{key!r}]."
                    )
            found = values if found is None else found.where(found.notna(), values)
        return found


class AlignedManager(AnnDataManager):
    """scvi-tools' manager, reading through our fields: cells and features aligned by name."""

    def __init__(
        self,
        fields: list[_Field] | None = None,
        setup_method_args: dict | None = None,
        validation_checks: AnnDataManagerValidationCheck | None = None,
    ) -> None:
        super().__init__(
            fields,
            setup_method_args,
            # scvi-tools would pair rows by position, and refuse cells missing from a modality
            AnnDataManagerValidationCheck(check_fully_paired_mudata=False),
        )
        self._kept: dict[str, Any] | None = None

    def register_fields(
        self, adata: MuData, source_registry: dict | None = None, **transfer_kwargs: Any
    ) -> None:
        check_mudata(adata)
        super().register_fields(adata, source_registry, **transfer_kwargs)

    def get_from_registry(self, registry_key: str) -> Any:
        """Values of a field, one row for each of ``mdata.obs_names``."""
        if self._kept is not None and registry_key in self._kept:
            return self._kept[registry_key]
        field = next(f for f in self.fields if f.registry_key == registry_key)
        values = field.read(self.adata, self.get_state_registry(registry_key))
        if self._kept is not None:
            self._kept[registry_key] = values
        return values

    @contextmanager
    def keep_aligned(self) -> Iterator[None]:
        """Align each matrix once for all loaders made inside this context."""
        self._kept = {}
        try:
            yield
        finally:
            self._kept = None
