"""From a MuData to tensors: which entries are read, and how cells are aligned.

Cells are aligned by *name*. Every tensor has one row for each of ``mdata.obs_names``, in that
order, whatever cells a modality holds and however its rows are ordered; ``observed`` (n_obs, M)
says where a modality was measured. Features are found by name as well.

The fields below keep what must survive saving in their state registry; the manager reads through
them.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from mudata import MuData
from scvi.data import AnnDataManager, AnnDataManagerValidationCheck, AnnTorchDataset
from scvi.data.fields import BaseAnnDataField
from torch.utils.data import Dataset, Subset

from scvenn.data.checks import (
    check_names,
    check_values,
    expression,
    feature_stats,
    gather,
    some,
    stored_matrix,
)
from scvenn.data.keys import Keys

# below scvi-tools' logger: shown by default, and quiet when scvi.settings.verbosity says so
logger = logging.getLogger("scvi.scvenn")


class _Field(BaseAnnDataField):
    """Common to our fields: never empty, and checked while they are registered."""

    is_empty = False
    # the base class declares properties, which instances could not set
    registry_key: Any = None
    attr_name: Any = None
    attr_key: Any = None
    mod_key: Any = None

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

    def register_field(self, adata: MuData) -> dict:
        mdata, m = adata, self.modality
        names = mdata.mod[m].var_names.astype(str)
        state: dict[str, Any] = {Keys.COLUMN_NAMES: names.to_numpy()}
        matrix = self.read(mdata, state)
        rows = np.flatnonzero(observed_cells(mdata, m))
        where = expression(m, self.layer)
        likelihood = check_values(matrix, rows, m, where, self.likelihood)
        stats = feature_stats(matrix, rows, names, m)
        logger.info(
            "%s: %d features, %d of %d cells, likelihood %s (%s)",
            m,
            len(names),
            len(rows),
            mdata.n_obs,
            likelihood,
            "inferred" if self.likelihood is None else "as asked",
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
            where = expression(m, self.layer)
            check_values(matrix, rows, m, where, state_registry["likelihood"])
        return state_registry

    def read(self, mdata: MuData, state: dict) -> Any:
        names = state[Keys.COLUMN_NAMES]
        if self.modality not in mdata.mod:
            return sp.csr_matrix((mdata.n_obs, len(names)), dtype=np.float32)
        adata = mdata.mod[self.modality]
        matrix = stored_matrix(mdata, self.modality, self.layer)
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
    """A categorical column of ``obs``: the batch, another covariate, or the labels.

    Parameters
    ----------
    registry_key
        ``Keys.BATCH``, ``Keys.LABELS``, or the key of a covariate.
    key
        Name of the column; None gives every cell the same category.
    unlabeled_category
        For labels: a value that means "not known", as NaN does.
    """

    attr_name = "obs"

    def __init__(self, registry_key: str, key: str | None, unlabeled_category: Any = None) -> None:
        self.registry_key = registry_key
        self.attr_key = key
        self.unlabeled_category = unlabeled_category

    @property
    def _is_label(self) -> bool:
        return self.registry_key == Keys.LABELS

    @property
    def _argument(self) -> str:
        """How a user named the column."""
        names = {Keys.BATCH: "batch_key", Keys.LABELS: "labels_key"}
        name = names.get(self.registry_key, "categorical_covariate_keys")
        return f"{name}={self.attr_key!r}"

    def register_field(self, adata: MuData) -> dict:
        if self.attr_key is None:
            return {Keys.CATEGORIES: np.array([], dtype=object), Keys.SOURCE: None}
        values = self.values(adata)
        categories = np.array(sorted(set(values.dropna())), dtype=object)
        self._check(values, categories)
        return {Keys.CATEGORIES: categories, Keys.SOURCE: self.attr_key}

    def _check(self, values: pd.Series, categories: np.ndarray) -> None:
        if self._is_label and len(categories) < 2:
            raise ValueError(
                f"{self._argument}: found {len(categories)} class "
                f"({some(categories)}) in {len(values)} cells; a label needs two or more. Choose "
                "another column or train without labels."
            )
        if not self._is_label:
            check_complete(values, self._argument)

    def transfer_field(self, state_registry: dict, adata_target: MuData, **kwargs: Any) -> dict:
        if self.attr_key is None or self._is_label:
            return state_registry
        values = self.values(adata_target)
        self._check(values, state_registry[Keys.CATEGORIES])
        known = state_registry[Keys.CATEGORIES]
        if unseen := sorted(set(values) - set(known)):
            raise ValueError(
                f"{self._argument}: the model was trained on {some(known)}, the new data has "
                f"{some(unseen)}, for which its decoders have no parameters. Set the column to one "
                "of the known values, or train with the new cells."
            )
        return state_registry

    def read(self, mdata: MuData, state: dict) -> np.ndarray:
        """Codes of the categories, (n_obs, 1); -1 for a label that is not known."""
        categories = state[Keys.CATEGORIES]
        if self.attr_key is None:
            return np.zeros((mdata.n_obs, 1), dtype=np.int64)
        if self._is_label and _find(mdata, self.attr_key) is None:
            return np.full((mdata.n_obs, 1), -1, dtype=np.int64)  # new cells need no labels
        values = self.values(mdata)
        codes = pd.Index(categories).get_indexer(values)  # NaN is in no index: -1
        return codes.astype(np.int64)[:, None]

    def get_summary_stats(self, state_registry: dict) -> dict:
        n = len(state_registry[Keys.CATEGORIES])
        return {f"n_{self.registry_key}": n}

    def values(self, mdata: MuData) -> pd.Series:
        """The column as text, so that categories survive files; missing where not known."""
        text = find_categories(mdata, self.attr_key, self._argument)
        if self.unlabeled_category is not None:
            text = text.where(text != as_text(self.unlabeled_category))
        return text


class NumberField(_Field):
    """A column of ``obs`` with numbers, a continuous covariate: standardised as in training.

    Parameters
    ----------
    key
        Name of the column.
    """

    attr_name = "obs"

    def __init__(self, key: str) -> None:
        self.registry_key = Keys.continuous(key)
        self.attr_key = key

    def register_field(self, adata: MuData) -> dict:
        values = self._values(adata)
        return {"mean": float(values.mean()), "scale": float(values.std()) or 1.0}

    def transfer_field(self, state_registry: dict, adata_target: MuData, **kwargs: Any) -> dict:
        self._values(adata_target)
        return state_registry

    def read(self, mdata: MuData, state: dict) -> np.ndarray:
        standardised = (self._values(mdata) - state["mean"]) / state["scale"]
        return standardised.astype(np.float32)[:, None]  # (n_obs, 1)

    def _values(self, mdata: MuData) -> np.ndarray:
        argument = f"continuous_covariate_keys={self.attr_key!r}"
        column = find_column(mdata, self.attr_key, argument)
        values = pd.to_numeric(column, errors="coerce")
        if (text := values.isna() & column.notna()).any():
            raise ValueError(
                f"{argument}: expected numbers, found {column[text].iloc[0]!r} in cell "
                f"{some(column.index[text])}. Categories belong to categorical_covariate_keys."
            )
        check_complete(values.where(np.isfinite(values)), argument)
        return values.to_numpy(np.float64)


def check_complete(values: pd.Series, argument: str) -> None:
    """Raise a ``ValueError`` unless every cell has a value."""
    if (missing := values.isna()).any():
        raise ValueError(
            f"{argument}: {int(missing.sum())} of {len(values)} cells have no value, for example "
            f"{some(values.index[missing])}. Fill them in."
        )


def find_column(mdata: MuData, key: str, argument: str) -> pd.Series:
    """A column of ``obs``, one value for each of ``mdata.obs_names``.

    It is looked for in ``mdata.obs[key]``, else put together from ``mdata.obs["<mod>:<key>"]`` and
    ``mdata[<mod>].obs[key]`` of all modalities, in which a cell may be known in one only.

    Raises
    ------
    ValueError
        If it is nowhere, or modalities contradict each other.
    """
    found = _find(mdata, key)
    if found is None:
        raise ValueError(
            f"{argument} not found. Searched mdata.obs ({some(list(mdata.obs.columns), 20)}) and "
            f"the obs of { {m: list(adata.obs.columns) for m, adata in mdata.mod.items()} }."
        )
    return found


def find_categories(mdata: MuData, key: str, argument: str) -> pd.Series:
    """The same, as text; missing values stay missing."""
    return find_column(mdata, key, argument).astype(object).map(as_text, na_action="ignore")


def _find(mdata: MuData, key: str) -> pd.Series | None:
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


def as_text(value: Any) -> str:
    """A category's name; 1 and 1.0 are the same, as files do not keep them apart."""
    if isinstance(value, float | np.floating) and float(value).is_integer():
        value = int(value)
    return str(value)


class _Dataset(AnnTorchDataset):
    """scvi-tools' dataset, which spawned workers can read: they are sent the values alone."""

    def __getstate__(self) -> dict[str, Any]:
        adata = SimpleNamespace(shape=self.adata_manager.adata.shape, isbacked=False)
        manager = SimpleNamespace(adata=adata)
        return {**self.__dict__, "_data": self.data, "adata_manager": manager}


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

    @classmethod
    def reading(cls, fields: list[_Field], registry: dict, mdata: MuData) -> AlignedManager:
        """A manager of data that was not set up, read as the registry says.

        The data is checked, and neither marked nor kept anywhere.
        """
        manager = cls(fields)
        manager._registry = registry
        for field in fields:
            field.transfer_field(manager.state(field.registry_key), mdata)
        manager.adata = mdata
        return manager

    def state(self, registry_key: str) -> dict:
        """What a field remembers."""
        return self._registry["field_registries"][registry_key]["state_registry"]

    def validate(self) -> None:
        """Do nothing: a set-up for another model changes nothing of what is read here."""

    def get_from_registry(self, registry_key: str) -> Any:
        """Values of a field, one row for each of ``mdata.obs_names``."""
        if self._kept is not None and registry_key in self._kept:
            return self._kept[registry_key]
        field = next(f for f in self.fields if f.registry_key == registry_key)
        values = field.read(self.adata, self.state(registry_key))
        if self._kept is not None:
            self._kept[registry_key] = values
        return values

    def create_torch_dataset(
        self,
        indices: Any = None,
        data_and_attributes: Any = None,
        load_sparse_tensor: bool = False,
    ) -> Dataset:
        """The values of all cells, or of some, as PyTorch's loaders read them."""
        dataset = _Dataset(self, data_and_attributes, load_sparse_tensor)
        return dataset if indices is None else Subset(dataset, indices)

    @contextmanager
    def keep_aligned(self) -> Iterator[None]:
        """Align each matrix once for all loaders made inside this context."""
        self._kept = {}
        try:
            yield
        finally:
            self._kept = None
