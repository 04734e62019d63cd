"""What of a MuData becomes which tensor, in the terms of scvi-tools' registry.

Cells are aligned by *name*. Every tensor has one row for each of ``mdata.obs_names``, in that
order, whatever cells a modality holds and however its rows are ordered; ``observed`` (n_obs, M)
says where a modality was measured. Features are found by name as well.

A field keeps what must survive saving in its state in the registry, and no data.
"""

from __future__ import annotations

import difflib
import logging
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from mudata import MuData
from scvi.data.fields import BaseAnnDataField

from scvenn._warnings import warn
from scvenn.data.checks import check_names, quoted
from scvenn.data.columns import (
    as_text,
    check_complete,
    check_groups,
    find_categories,
    find_column_or_none,
    find_numbers,
)
from scvenn.data.keys import Keys
from scvenn.data.matrices import (
    Matrix,
    align,
    are_counts,
    canonical,
    check_measured,
    check_values,
    count_missing,
    sums_of,
    warn_of_empty_cells,
)
from scvenn.data.minified import check_posteriors, is_minified
from scvenn.data.missing import warn_of_spelled_missing
from scvenn.data.on_disk import DiskMatrix
from scvenn.data.renaming import remedy_for_names, similar_names
from scvenn.data.statistics import Summary, feature_stats
from scvenn.data.stored import expression, stored_matrix
from scvenn.likelihoods import LIKELIHOODS
from scvenn.screening import LEAST_VARIATION

# below scvi-tools' logger: shown by default, and quiet when scvi.settings.verbosity says so
logger = logging.getLogger("scvi.scvenn")

# Standard deviations of a covariate from its mean: what is further away is in other units.
_FARTHEST = 1e12


class Field(BaseAnnDataField):
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
        """Nothing by default."""
        return {}

    def extended(self, state: dict, mdata: MuData) -> dict:
        """The state that fits further data as well, of what :meth:`transfer_field` refuses."""
        return state

    def view_state_registry(self, state_registry: dict) -> None:
        """Nothing to show."""

    @property
    def where(self) -> str:
        """What is read, as a user would write it."""
        return f"obs column {self.attr_key!r}"

    def read(self, mdata: MuData, state: dict) -> Any:
        """The values, one row for each of ``mdata.obs_names``."""
        raise NotImplementedError


class ModalityField(Field):
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

    @property
    def where(self) -> str:
        """How a user would write the matrix."""
        return expression(self.modality, self.layer)

    def register_field(self, adata: MuData) -> dict:
        """Read the matrix, choose the likelihood, and summarise the features."""
        mdata, m = adata, self.modality
        names = mdata.mod[m].var_names.astype(str)
        state: dict[str, Any] = {Keys.COLUMN_NAMES: names.to_numpy()}
        matrix = self.read(mdata, state)
        rows = np.flatnonzero(observed_cells(mdata, m))
        likelihood = check_values(
            matrix, rows, modality=m, where=self.where, likelihood=self.likelihood
        )
        state[Keys.LIKELIHOOD] = likelihood
        state[Keys.OF_COUNTS] = LIKELIHOODS[likelihood].discrete or are_counts(matrix, rows)
        inferred_as_real = self.likelihood is None and not LIKELIHOODS[likelihood].discrete
        if inferred_as_real and state[Keys.OF_COUNTS]:
            warn(
                f"modality {m!r}: {self.where} holds counts, and NaN in "
                f"{count_missing(matrix, rows)} entries. Likelihoods of counts need the sum of "
                f"each cell, so that {likelihood!r} was chosen, which does not suit raw counts. "
                "Replace NaN by 0 where nothing was counted; leave cells "
                "or features out that were not measured; or pass "
                f"likelihoods={{{m!r}: 'nb_mixture'}} for counts of proteins, which may be NaN. "
                f"To keep this choice, pass likelihoods={{{m!r}: {likelihood!r}}}."
            )
        check_measured(matrix, rows, names=names, modality=m)
        self._warn_of_empty_cells(mdata, matrix, rows, likelihood)
        logger.info(
            "%s: %d features, %d of %d cells, likelihood %s (%s)",
            m,
            len(names),
            len(rows),
            mdata.n_obs,
            likelihood,
            "inferred" if self.likelihood is None else "as asked",
        )
        found = self.learn_statistics(matrix, rows, state)
        if found.nearly_constant.any():
            logger.warning(
                "%s: features that vary by no more than a millionth of their mean count as "
                "constant: %s. If the differences matter, subtract the smallest value of each.",
                m,
                quoted(names[found.nearly_constant]),
            )
        return state

    def learn_statistics(self, matrix: Matrix, rows: np.ndarray, state: dict) -> Summary:
        """Put into the state what some of the cells that have the modality say of its features."""
        found = feature_stats(matrix, rows, likelihood=state[Keys.LIKELIHOOD])
        state.update(
            vars(found.stats), **{Keys.DENSITY: found.density, Keys.CONSTANT: found.constant}
        )
        return found

    def transfer_field(self, state_registry: dict, adata_target: MuData, **kwargs: Any) -> dict:
        """Check that other data fits what was registered."""
        mdata, m = adata_target, self.modality
        if is_minified(mdata, m):
            check_names(mdata, m)
            check_posteriors(mdata, m, state_registry.get(Keys.POSTERIOR_OF))
        elif m in mdata.mod:
            check_names(mdata, m)
            read = kwargs.get("read") or partial(self.read, mdata, state_registry)
            matrix, rows = read(), np.flatnonzero(observed_cells(mdata, m))
            check_values(
                matrix,
                rows,
                modality=m,
                where=self.where,
                likelihood=state_registry[Keys.LIKELIHOOD],
                new_data=True,
            )
            # files of 0.1 do not have it
            if not state_registry.get(Keys.OF_COUNTS, True) and are_counts(matrix, rows):
                raise ValueError(
                    f"modality {m!r}: all values of {self.where} look like counts (integers of at "
                    "least 0); the model was trained on values that do not. Normalise and "
                    f"transform them like the training data, and put the result into {self.where}."
                )
            self._warn_of_empty_cells(mdata, matrix, rows, state_registry[Keys.LIKELIHOOD])
        return state_registry

    def _warn_of_empty_cells(
        self, mdata: MuData, matrix: Matrix, rows: np.ndarray, likelihood: str
    ) -> None:
        if not LIKELIHOODS[likelihood].allows_missing:
            return  # NaN was refused
        of = {"names": mdata.obs_names, "modality": self.modality, "layer": self.layer}
        warn_of_empty_cells(matrix, rows, sums_of(matrix, rows), **of)

    def read(self, mdata: MuData, state: dict) -> Matrix:
        """Values (n_obs, D), CSR, dense or on disk; zeros for cells that lack the modality."""
        names = state[Keys.COLUMN_NAMES]
        if self.modality not in mdata.mod:  # as new data may
            return sp.csr_matrix((mdata.n_obs, len(names)), dtype=np.float32)
        adata = mdata.mod[self.modality]
        was_set_up = Keys.LIKELIHOOD in state
        stored = stored_matrix(mdata, self.modality, self.layer, new_data=was_set_up)
        columns = self.columns(mdata, state)
        rows = adata.obs_names.get_indexer(mdata.obs_names)
        if isinstance(stored, DiskMatrix):
            return stored.aligned(rows, columns)
        return align(canonical(stored, self.modality, self.where), rows, columns)

    def extended(self, state: dict, mdata: MuData) -> dict:
        """The state for data that may lack features; the state itself if none is missing."""
        if self.modality not in mdata.mod:
            return state
        check_names(mdata, self.modality)
        names = state[Keys.COLUMN_NAMES]
        found = mdata.mod[self.modality].var_names.astype(str)
        missing = names[~np.isin(names, found)]
        if len(missing) == len(names):
            raise ValueError(
                f"modality {self.modality!r} has none of the {len(names)} features that the model "
                f"was trained on, such as {quoted(names, 3)}. "
                + remedy_for_names(self.modality, names, missing, found)
            )
        if not len(missing):
            return state
        logger.info(
            "%s: %d of the %d features of the model are missing and count as not measured: %s",
            self.modality,
            len(missing),
            len(names),
            quoted(missing, 3),
        )
        if similar := similar_names(missing, found.difference(names)):
            name, instead = next(iter(similar.items()))
            warn(
                f"modality {self.modality!r}: {len(similar)} of the features that count as not "
                f"measured are in the data under similar names, such as {instead!r} for {name!r}. "
                "If these are the same features, give them the names of the model before mapping."
            )
        return {**state, Keys.MAY_LACK: np.union1d(state.get(Keys.MAY_LACK, missing), missing)}

    def columns(self, mdata: MuData, state: dict) -> np.ndarray:
        """Positions of the model's features among those of the modality, (D,).

        -1 for one that is missing and may be.
        """
        names, may_lack = state[Keys.COLUMN_NAMES], state.get(Keys.MAY_LACK, ())
        found = mdata.mod[self.modality].var_names.astype(str)
        columns = found.get_indexer(names)
        missing = names[columns < 0]
        if not np.isin(missing, may_lack).all():
            raise ValueError(
                f"modality {self.modality!r}: {len(missing)} of the {len(names)} features that the "
                f"model was trained on are missing: {quoted(missing)}. "
                + remedy_for_names(self.modality, names, missing, found)
            )
        return columns

    def lacking(self, mdata: MuData, state: dict) -> np.ndarray:
        """Which of the model's features the modality lacks, boolean, (D,)."""
        if self.modality not in mdata.mod or Keys.MAY_LACK not in state:
            return np.zeros(len(state[Keys.COLUMN_NAMES]), dtype=bool)
        return self.columns(mdata, state) < 0

    def get_summary_stats(self, state_registry: dict) -> dict:
        """Number of features."""
        return {f"n_{self.registry_key}": len(state_registry[Keys.COLUMN_NAMES])}


def observed_cells(mdata: MuData, modality: str) -> np.ndarray:
    """In which of ``mdata.obs_names`` a modality was measured; boolean, (n_obs,)."""
    if modality not in mdata.mod:
        return np.zeros(mdata.n_obs, dtype=bool)
    return mdata.obs_names.isin(mdata.mod[modality].obs_names)


class ObservedField(Field):
    """Which modalities were measured in which cells."""

    registry_key = Keys.OBSERVED
    attr_name = "obs_names"

    def __init__(self, modalities: Sequence[str]) -> None:
        self.modalities = list(modalities)

    def register_field(self, adata: MuData) -> dict:
        """Keep the order of the modalities."""
        without = int((~self.read(adata, {}).any(1)).sum())
        if without:
            logger.warning(
                "%d of %d cells have none of the modalities %s. They are not trained on, and their "
                "embeddings are NaN. If a modality was replaced, call mdata.update() first.",
                without,
                adata.n_obs,
                quoted(self.modalities),
            )
        return {"modalities": self.modalities}

    def transfer_field(self, state_registry: dict, adata_target: MuData, **kwargs: Any) -> dict:
        """Check that other data has one of the modalities."""
        if not set(self.modalities) & set(adata_target.mod):
            raise ValueError(
                f"The model has the modalities {self.modalities}; this MuData has "
                f"{list(adata_target.mod)}. At least one must be there, under the same name."
            )
        return state_registry

    def read(self, mdata: MuData, state: dict) -> np.ndarray:
        """Boolean, (n_obs, M)."""
        return np.stack([observed_cells(mdata, m) for m in self.modalities], axis=1)


class ColumnField(Field):
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
    def is_label(self) -> bool:
        """Whether these are the labels, which cells need not have."""
        return self.registry_key == Keys.LABELS

    @property
    def argument(self) -> str:
        """How a user named the column."""
        names = {Keys.BATCH: "batch_key", Keys.LABELS: "labels_key"}
        name = names.get(self.registry_key, "categorical_covariate_keys")
        return f"{name}={self.attr_key!r}"

    def register_field(self, adata: MuData) -> dict:
        """Keep the categories, in the order of their names."""
        if self.attr_key is None:
            return {Keys.CATEGORIES: np.array([], dtype=object), Keys.SOURCE: None}
        values = self.values(adata)
        self._warn_of_unused_category(adata)
        categories = np.array(sorted(set(values.dropna())), dtype=object)
        self._check(values, categories)
        check_groups(values, self.argument)
        warn_of_spelled_missing(
            values, self.argument, in_setup=self.is_label, complete=not self.is_label
        )
        if self.is_label:
            n_known = int(values.notna().sum())
            logger.info(
                "labels %r: %d classes (%s), %d of %d cells labelled",
                self.attr_key,
                len(categories),
                quoted(categories, 50),
                n_known,
                len(values),
            )
        return {Keys.CATEGORIES: categories, Keys.SOURCE: self.attr_key}

    def _warn_of_unused_category(self, mdata: MuData) -> None:
        """Warn if no cell has the label that means "not known"."""
        if pd.isna(self.unlabeled_category) is True:  # None, or NaN, which is not known anyway
            return
        meant = as_text(self.unlabeled_category)
        labels = list(find_categories(mdata, str(self.attr_key), self.argument).dropna().unique())
        if meant in labels:
            return
        similar = {label.strip().casefold(): label for label in labels}
        alike = [
            similar[match]
            for match in difflib.get_close_matches(meant.strip().casefold(), similar, cutoff=0.8)
        ]
        remedy = f"Did you mean {alike[0]!r}?" if alike else "Pass one of these, or leave it out."
        warn(
            f"{self.argument}: unlabeled_category={self.unlabeled_category!r} is the label of no "
            f"cell, so that it changes nothing; the labels are {quoted(sorted(labels))}. {remedy}"
        )

    def _check(self, values: pd.Series, categories: np.ndarray) -> None:
        if self.is_label and len(categories) < 2:
            raise ValueError(
                f"{self.argument}: found {len(categories)} class "
                f"({quoted(categories)}) in {len(values)} cells; a label needs two or more. Choose "
                "another column or train without labels."
            )
        if not self.is_label:
            check_complete(values, self.argument)

    def extended(self, state: dict, mdata: MuData) -> dict:
        """The state with the categories that are new, after those that were there before."""
        if self.attr_key is None or self.is_label:
            return state
        values, known = self.values(mdata), state[Keys.CATEGORIES]
        self._check(values, known)
        unknown = values[~values.isin(known)]
        check_groups(unknown, self.argument)
        warn_of_spelled_missing(unknown, self.argument, complete=True)
        new = np.array(sorted(set(values) - set(known)), dtype=object)
        return {**state, Keys.CATEGORIES: np.concatenate([known, new])}

    def transfer_field(self, state_registry: dict, adata_target: MuData, **kwargs: Any) -> dict:
        """Check that other data has no category that the decoders have no parameters for."""
        if self.attr_key is None or self.is_label:
            return state_registry
        values = self.values(adata_target)
        self._check(values, state_registry[Keys.CATEGORIES])
        known = state_registry[Keys.CATEGORIES]
        if unseen := sorted(set(values) - set(known)):
            raise ValueError(
                f"{self.argument}: the model was trained on {quoted(known)}, the new data has "
                f"{quoted(unseen)}, for which its decoders have no parameters. Map the new cells "
                "with map_query(mdata), set the column to one of the known values, or train with "
                "the new cells."
            )
        return state_registry

    def check_known(self, state: dict, mdata: MuData) -> None:
        """Refuse data without any label that the model knows; warn of those that it does not."""
        if self.attr_key is None:
            return
        known = state[Keys.CATEGORIES]
        if find_column_or_none(mdata, self.attr_key) is None:
            raise ValueError(
                f"{self.argument} not found in the data: the model was set up with these labels, "
                f"{quoted(known)}, and would train without them. Add the column."
            )
        labels = self.values(mdata).dropna()
        unknown = labels[~labels.isin(known)]
        if len(unknown) == len(labels):
            raise ValueError(
                f"{self.argument}: none of the {mdata.n_obs} cells has one of the labels that the "
                f"model knows, {quoted(known)}; found {quoted(unknown.unique()) or 'no label'}. "
                "Give them the names that they had when the model was set up."
            )
        if len(unknown):
            warn(
                f"{self.argument}: {quoted(unknown.unique())} is not among the labels that the "
                f"model knows, {quoted(known)}, and counts as not known in {len(unknown)} cells."
            )

    def read(self, mdata: MuData, state: dict) -> np.ndarray:
        """Codes of the categories, (n_obs, 1); -1 for a label that is not known."""
        categories = state[Keys.CATEGORIES]
        if self.attr_key is None:
            return np.zeros((mdata.n_obs, 1), dtype=np.int64)
        if self.is_label and find_column_or_none(mdata, self.attr_key) is None:
            return np.full((mdata.n_obs, 1), -1, dtype=np.int64)  # new cells need no labels
        values = self.values(mdata)
        codes = pd.Index(categories).get_indexer(values)  # NaN is in no index: -1
        return codes.astype(np.int64)[:, None]

    def get_summary_stats(self, state_registry: dict) -> dict:
        """Number of categories."""
        return {f"n_{self.registry_key}": len(state_registry[Keys.CATEGORIES])}

    def values(self, mdata: MuData) -> pd.Series:
        """The column as text; missing where not known."""
        return find_categories(mdata, str(self.attr_key), self.argument, self.unlabeled_category)


class NumberField(Field):
    """A column of ``obs`` with numbers, a continuous covariate: standardised as in training.

    A column that is constant in training carries no information, and is 0 in any data.

    Parameters
    ----------
    key
        Name of the column.
    """

    attr_name = "obs"

    def __init__(self, key: str) -> None:
        self.registry_key = Keys.continuous(key)
        self.attr_key = key

    @property
    def argument(self) -> str:
        """How a user named the column."""
        return f"continuous_covariate_keys={self.attr_key!r}"

    def register_field(self, adata: MuData) -> dict:
        """Keep the mean and scale."""
        values = find_numbers(adata, self.attr_key, self.argument)
        state = self.statistics(values, np.arange(len(values)))
        if state[Keys.CONSTANT] and np.ptp(values) == 0:
            logger.info(
                "covariate %r is %g in every cell and has no effect", self.attr_key, values[0]
            )
        elif state[Keys.CONSTANT]:
            logger.warning(
                "covariate %r varies by no more than a millionth of its mean, %g, and has no "
                "effect. If the differences matter, subtract its smallest value.",
                self.attr_key,
                state[Keys.MEAN],
            )
        return state

    def statistics(self, values: np.ndarray, rows: np.ndarray) -> dict[str, float | bool]:
        """Mean and scale of the column over some of the cells."""
        mean, scale = float(values[rows].mean()), float(values[rows].std())
        constant = scale <= LEAST_VARIATION * abs(mean) or scale == 0
        return {Keys.MEAN: mean, Keys.SCALE: 1.0 if constant else scale, Keys.CONSTANT: constant}

    def transfer_field(self, state_registry: dict, adata_target: MuData, **kwargs: Any) -> dict:
        """Check that other data has the column."""
        find_numbers(adata_target, self.attr_key, self.argument)
        return state_registry

    def read(self, mdata: MuData, state: dict) -> np.ndarray:
        """Standardised values, (n_obs, 1)."""
        values = find_numbers(mdata, self.attr_key, self.argument)
        if state.get(Keys.CONSTANT, False):  # files of 0.1 do not have it
            return np.zeros((len(values), 1), dtype=np.float32)
        standardised = (values - state[Keys.MEAN]) / state[Keys.SCALE]
        if (far := np.abs(standardised) > _FARTHEST).any():
            raise ValueError(
                f"{self.argument}: found {values[far][0]:g} in cell "
                f"{quoted(mdata.obs_names[far])}; in training its mean was {state['mean']:g} and "
                f"its standard deviation {state['scale']:g}. Correct or rescale the column."
            )
        return standardised.astype(np.float32)[:, None]
