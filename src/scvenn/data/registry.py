"""What a set-up found, in scvi-tools' registry: read here and nowhere else."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from mudata import MuData

from scvenn.data.checks import quoted
from scvenn.data.columns import as_text, check_column_name, find_categories
from scvenn.data.keys import Keys
from scvenn.likelihoods import FeatureStats, find_likelihood

# Below this share of values that are not 0, what skips the zeros is faster; it gains more in a
# modality so wide that a minibatch does not fit into the cache (`benchmarks/density.py`).
_LEAST_DENSE, _LEAST_DENSE_WIDE = 0.12, 0.25
_WIDE = 5_000


class Registry:
    """A reader of the registry of a model or a manager.

    Parameters
    ----------
    registry
        As scvi-tools keeps and saves it.
    """

    def __init__(self, registry: dict) -> None:
        self._registry = registry

    def state(self, registry_key: str) -> dict:
        """What a field keeps."""
        return self._registry["field_registries"][registry_key]["state_registry"]

    @property
    def states(self) -> dict[str, dict]:
        """What each field keeps, by its registry key."""
        return {key: self.state(key) for key in self._registry["field_registries"]}

    @property
    def arguments(self) -> dict[str, Any]:
        """Arguments of ``setup_mudata``."""
        return self._registry["setup_args"]

    @property
    def described(self) -> dict[str, Any]:
        """Class, method and arguments of the set-up, as a manager takes them."""
        return {k: self._registry[k] for k in ("model_name", "setup_method_name", "setup_args")}

    @property
    def modalities(self) -> list[str]:
        """Names of the modalities, in the order in which they were set up."""
        return list(self.state(Keys.OBSERVED)["modalities"])

    def features(self, modality: str) -> np.ndarray:
        """Names of a modality's features, (D,)."""
        return self.state(Keys.x(modality))[Keys.COLUMN_NAMES]

    def likelihood(self, modality: str) -> str:
        """Name of a modality's likelihood."""
        return self.state(Keys.x(modality))[Keys.LIKELIHOOD]

    def stats(self, modality: str) -> FeatureStats:
        """Summary of a modality's features."""
        state = self.state(Keys.x(modality))
        # copies: networks that are trained write to what they are given
        return FeatureStats(state[Keys.MEAN].copy(), state[Keys.SCALE].copy(), state[Keys.LIBRARY])

    def is_sparse(self, modality: str) -> bool:
        """Whether minibatches hold a modality sparse, which is faster where few values are not 0.

        That depends on the values alone, not on how they are stored.
        """
        reads_sparse = find_likelihood(self.likelihood(modality)).reads_sparse
        density = self.state(Keys.x(modality)).get(Keys.DENSITY, 1.0)  # none in files of 0.1
        wide = len(self.features(modality)) >= _WIDE
        return reads_sparse and density < (_LEAST_DENSE_WIDE if wide else _LEAST_DENSE)

    def values_per_cell(self, modality: str) -> float:
        """How many values of a modality a cell has in a minibatch, on average."""
        part = self.state(Keys.x(modality))[Keys.DENSITY] if self.is_sparse(modality) else 1.0
        return part * len(self.features(modality))

    # ----------------------------------------------------------------- columns of obs

    @property
    def n_categories(self) -> dict[str, int]:
        """Number of categories of the batch and of each categorical covariate, by its key."""
        return {
            key: len(state[Keys.CATEGORIES])
            for key, state in self.states.items()
            if key == Keys.BATCH or key.startswith(Keys.categorical(""))
        }

    @property
    def continuous(self) -> list[str]:
        """Keys of the continuous covariates."""
        return [key for key in self.states if key.startswith(Keys.continuous(""))]

    @property
    def classes(self) -> list[str]:
        """Label classes; none without labels."""
        return list(self.state(Keys.LABELS)[Keys.CATEGORIES])

    @property
    def batches(self) -> list[str]:
        """Batches; none without ``batch_key``."""
        return list(self.state(Keys.BATCH)[Keys.CATEGORIES])

    def categories(self, mdata: MuData, key: str, argument: str) -> pd.Series:
        """A column of data as text, (n_obs,); missing where not known, as in the set-up.

        Of the labels of the set-up, ``unlabeled_category`` means "not known".

        Parameters
        ----------
        mdata
            The data.
        key
            Name of the column.
        argument
            How the user named it, for messages.
        """
        check_column_name(key, argument.partition("=")[0])
        used = self.arguments
        unknown = used["unlabeled_category"] if key == used["labels_key"] else None
        return find_categories(mdata, key, argument, unknown)

    def code_of_batch(self, batch: Any, *, argument: str) -> int:
        """Number of a batch.

        Parameters
        ----------
        batch
            Its name; 1 and 1.0 are the same.
        argument
            How the user named it, for messages.

        Raises
        ------
        ValueError
            If there is no such batch.
        """
        known = self.batches
        if as_text(batch) not in known:
            expected = f"expected one of the batches {quoted(known)}."
            if not known:
                expected = "the model knows no batches, as it was set up without batch_key."
            raise ValueError(f"{argument}={batch!r}: {expected}")
        return known.index(as_text(batch))

    def covariates(self) -> list[str]:
        """Columns that are inputs of the decoders, with their categories, for people to read."""
        categorical = [
            f"{state[Keys.SOURCE]} ({quoted(state[Keys.CATEGORIES])})"
            for key, state in self.states.items()
            if key != Keys.LABELS and state.get(Keys.SOURCE) is not None
        ]
        return [*categorical, *(self.arguments["continuous_covariate_keys"] or [])]
