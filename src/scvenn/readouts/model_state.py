"""What a model holds between calls of its methods."""

from __future__ import annotations

from typing import Any

import numpy as np
from mudata import MuData

from scvenn.data import AlignedManager, Registry
from scvenn.network import SharedPrivateVAE
from scvenn.screening import Screening


class ModelState:
    """Data, networks, and what training left: one declaration for all parts of a model.

    Attributes whose names end with ``_`` are saved with the model.
    """

    # the data, None where the model was loaded without; and what reads it
    adata: MuData | None
    adata_manager: AlignedManager
    # what the set-up found, as scvi-tools has it; see Registry
    registry_: dict[str, Any]
    module: SharedPrivateVAE
    # of the packages that made the model, by name
    versions_: dict[str, str]

    is_trained_: bool
    train_params_: dict[str, str] | None = None
    # whose weights the model has, counted from 0; -1 for the last
    best_epoch_: int = -1
    # of each modality, where the model screens
    screening_: dict[str, Screening] | None = None
    # axes that carry something, and the correlation between modalities along the shared ones
    n_shared_effective_: int | None = None
    n_private_effective_: dict[str, int] | None = None
    shared_agreement_: np.ndarray | None = None
    # batches of the model that cells were mapped onto; None for a model that was trained
    reference_batches_: list[str] | None = None

    # positions of the cells of each part of the split, (n,); None where there is none
    train_indices: Any
    validation_indices: Any
    test_indices: Any
    # hashes of the names of the cells that these positions count, and of all that were ever
    # trained on
    cells_: np.ndarray | None = None
    trained_cells_: np.ndarray = np.zeros(0, dtype=np.uint64)
    # of files of 0.1: a hash of all names, and positions of cells of trainings with another split
    trained_on_: str | None = None
    earlier_train_indices_: Any = ()

    @property
    def modalities(self) -> list[str]:
        """Names of the modalities of the model, in the order in which they were set up."""
        return list(self.module.modalities)

    @property
    def batches(self) -> list[str]:
        """Names of the batches that the model knows; none without ``batch_key``."""
        return self._found.batches

    @property
    def _found(self) -> Registry:
        """What the set-up found."""
        return Registry(self.registry_)

    def _manager_of(self, mdata: MuData | None) -> AlignedManager:
        """A manager of data that was checked: the model's own for None, or other data."""
        raise NotImplementedError

    def _find_cells_by_name(self, *, labels: bool = False) -> None:
        """Check the model's own data, and find its cells if they were filtered or moved in place.

        Parameters
        ----------
        labels
            Whether labels are read, as training does.
        """
        raise NotImplementedError
