"""What the file of a model must hold before a model is built of it: it may be a stranger's.

Each function raises an error of any kind where a file holds something else than was ever saved;
:meth:`~scvenn.SharedPrivateModel.load` makes it the message of a damaged file, but for a
:class:`NotInSessionError`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd
import torch

from scvenn._arguments import is_number
from scvenn.data import ColumnField, Keys, Registry, fields_of
from scvenn.likelihoods import find_likelihood
from scvenn.screening import Screening


def _is_vector(value: Any, kinds: str) -> bool:
    """Whether a value is an array of one dimension, of some of numpy's kinds of numbers."""
    return isinstance(value, np.ndarray) and value.ndim == 1 and value.dtype.kind in kinds


def _is_texts(value: Any) -> bool:
    return _is_vector(value, "O") and all(isinstance(text, str) for text in value)


def _is_history(value: Any) -> bool:
    tables = isinstance(value, dict) and all(isinstance(t, pd.DataFrame) for t in value.values())
    return tables and all(len(t) == 0 or t.to_numpy().dtype.kind in "biuf" for t in value.values())


def _is_screening(value: Any) -> bool:
    return isinstance(value, dict) and all(
        isinstance(found, Screening)
        and _is_vector(found.score, "f")
        and _is_vector(found.shared, "b")
        and _is_vector(found.related, "b")
        for found in value.values()
    )


# What attributes are where they are not None; others are of classes of users.
_ATTRIBUTES: dict[str, Callable[[Any], bool]] = {
    "best_epoch_": lambda value: isinstance(value, int),
    "cells_": lambda value: _is_vector(value, "u"),
    "history_": _is_history,
    "is_trained_": lambda value: isinstance(value, bool),
    "n_private_effective_": lambda value: isinstance(value, dict),
    "n_shared_effective_": lambda value: isinstance(value, int),
    "reference_batches_": lambda value: isinstance(value, list),
    "screening_": _is_screening,
    "shared_agreement_": lambda value: _is_vector(value, "f"),
    "train_params_": lambda value: isinstance(value, dict),
    "trained_cells_": lambda value: _is_vector(value, "u"),
    "trained_on_": lambda value: isinstance(value, str),
}
_POSITIONS = ("train_indices_", "validation_indices_", "test_indices_")


class NotInSessionError(ValueError):
    """A file is sound, and what it takes to load it is not in this session."""


def check_likelihoods(registry: dict) -> None:
    """Raise a :class:`NotInSessionError` if a likelihood is not known: users may have their own."""
    found = Registry(registry)
    for name in map(found.likelihood, found.modalities):
        try:
            find_likelihood(name)
        except ValueError as error:
            raise NotInSessionError(str(error)) from error


def check_attributes(cls: type, attributes: Mapping[str, Any]) -> None:
    """Refuse attributes that ``save`` would not have written, by name or by what they are."""
    for name, value in attributes.items():
        known = name.endswith("_") and not name.startswith("_")
        if not known or callable(getattr(cls, name, None)):
            raise ValueError(f"found the attribute {name!r}")
        if value is not None and name in _ATTRIBUTES and not _ATTRIBUTES[name](value):
            raise ValueError(f"the attribute {name!r} is {value!r:.60}")
    cells = attributes.get("cells_")
    for name in _POSITIONS:
        rows = attributes.get(name)
        if rows is None:
            continue
        inside = _is_vector(rows, "iu") and (rows >= 0).all()
        if not inside or (cells is not None and len(rows) and rows.max() >= len(cells)):
            raise ValueError(f"the attribute {name!r} has no positions of cells")


def check_registry(registry: dict) -> None:
    """Refuse what no set-up would have found."""
    found = Registry(registry)
    modalities, arguments = found.modalities, found.arguments
    if not all(isinstance(m, str) for m in modalities) or len(modalities) < 2:
        raise ValueError(f"the modalities are {modalities!r:.60}")
    for name in ("labels_key", "batch_key", "unlabeled_category"):
        if not np.isscalar(value := arguments[name]) and value is not None:
            raise ValueError(f"{name} is {value!r:.60}")
    fields = fields_of(modalities, **arguments)
    states, keys = found.states, [field.registry_key for field in fields]
    if sorted(states) != sorted(set(keys)):
        raise ValueError(f"the set-up has {sorted(states)}, expected {sorted(keys)}")
    for field in fields:
        state = states[field.registry_key]
        if field.registry_key == Keys.OBSERVED:
            continue
        if not np.isscalar(field.attr_key) and field.attr_key is not None:
            raise ValueError(f"a layer or column is named {field.attr_key!r:.60}")
        if isinstance(field, ColumnField):
            sound = _is_texts(state[Keys.CATEGORIES]) or not len(state[Keys.CATEGORIES])
        elif field.mod_key is None:
            sound = (
                is_number(state[Keys.MEAN])
                and is_number(state[Keys.SCALE])
                and state[Keys.SCALE] > 0
            )
        else:
            sound = _is_of_modality(state)
        if not sound:
            raise ValueError(f"the set-up of {field.where} has other values than were ever saved")


def _is_of_modality(state: Mapping[str, Any]) -> bool:
    """Whether this is what a set-up found in a modality."""
    names, may_lack = state[Keys.COLUMN_NAMES], state.get(Keys.MAY_LACK)
    constant = state.get(Keys.CONSTANT)
    return (
        _is_texts(names)
        and (may_lack is None or (_is_texts(may_lack) and set(may_lack) < set(names)))
        and len(set(names)) == len(names) > 0
        and all(_is_vector(state[key], "f") for key in (Keys.MEAN, Keys.SCALE))
        and len(names) == len(state[Keys.MEAN]) == len(state[Keys.SCALE])
        and is_number(state[Keys.LIBRARY])
        and state[Keys.LIBRARY] > 0
        and is_number(state.get(Keys.DENSITY, 1.0))
        and (constant is None or (_is_vector(constant, "b") and len(constant) == len(names)))
    )


def check_sizes(
    arguments: Mapping[str, Any], weights: Mapping[str, torch.Tensor], n_modalities: int
) -> None:
    """Refuse numbers of units or layers that the weights do not have."""
    most = max([len(weights), *(n for values in weights.values() for n in values.shape)])
    # each layer of each encoder has weights and a bias
    most_layers = len(weights) // (2 * n_modalities)
    for name, value in arguments.items():
        numbers = list(value.values()) if isinstance(value, Mapping) else [value]
        for number in numbers:
            if isinstance(number, int) and number > most:
                raise ValueError(f"{name}={number}, but no array is larger than {most}")
            if name == "n_layers" and number > most_layers:
                raise ValueError(f"{name}={number}, but the weights are of at most {most_layers}")


def check_types(module: torch.nn.Module, weights: Mapping[str, torch.Tensor]) -> None:
    """Refuse weights of other types than networks have; they would be converted."""
    expected = module.state_dict()
    for name, found in weights.items():
        if found.dtype != expected[name].dtype:
            raise ValueError(f"{name}: expected {expected[name].dtype}, found {found.dtype}")
