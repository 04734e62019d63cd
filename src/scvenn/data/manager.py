"""scvi-tools' manager of a MuData, reading through our fields; all that models read goes by it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import copy, deepcopy
from functools import partial
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import numpy as np
import pandas as pd
import scipy.sparse as sp
from mudata import MuData
from scvi.data import AnnDataManager, AnnDataManagerValidationCheck, AnnTorchDataset
from torch.utils.data import Dataset, Subset

from scvenn.data.checks import check_mudata, check_names, check_unique, quoted
from scvenn.data.columns import find_numbers
from scvenn.data.fields import ColumnField, Field, ModalityField, NumberField, observed_cells
from scvenn.data.fingerprint import Fingerprint
from scvenn.data.keys import Keys
from scvenn.data.minified import is_minified, posteriors_of, refuse_minified
from scvenn.data.registry import Registry
from scvenn.data.stored import stays_on_disk
from scvenn.likelihoods import FeatureStats, SparseRows


class _Dataset(AnnTorchDataset):
    """scvi-tools' dataset, of which spawned workers are sent the values alone.

    Modalities that are read sparse come as such, however they are stored; but for those of which
    features are missing, which are NaN.
    """

    def __init__(self, manager: AlignedManager, keys: Any, load_sparse_tensor: bool) -> None:
        super().__init__(manager, keys, load_sparse_tensor)
        self._lacking = manager.lacking()
        self._sparse = {
            Keys.x(m)
            for m in manager.found.modalities
            if manager.found.is_sparse(m) and Keys.x(m) not in self._lacking
        }

    @property
    def registered_keys(self) -> Any:
        """Names of all fields, without the registry that scvi-tools makes of them each time."""
        return self.adata_manager.found.states.keys()

    def __getitem__(self, indexes: int | list[int] | slice) -> dict[str, np.ndarray | SparseRows]:
        """Values of some cells, by the names of their fields."""
        return self.minibatch(self.stored([indexes] if isinstance(indexes, int) else indexes))

    def stored(self, rows: Any) -> dict[str, Any]:
        """Values of some cells, by the names of their fields: arrays and CSR."""
        return {key: self.data[key][rows] for key in self.keys_and_dtypes}

    def minibatch(self, stored: dict[str, Any]) -> dict[str, np.ndarray | SparseRows]:
        """What :meth:`stored` gives, in the form that networks read."""
        found: dict[str, np.ndarray | SparseRows] = {}
        for key, dtype in self.keys_and_dtypes.items():
            values = stored[key]
            if key in self._sparse:
                found[key] = SparseRows.of(sp.csr_matrix(values, dtype=dtype))
            else:
                dense = values.toarray() if sp.issparse(values) else values
                dense = dense.astype(dtype, copy=False)
                lacking = self._lacking.get(key)
                found[key] = dense if lacking is None else np.where(lacking, np.nan, dense)
        return found

    def __getstate__(self) -> dict[str, Any]:
        adata = SimpleNamespace(shape=self.adata_manager.adata.shape, isbacked=False)
        manager = SimpleNamespace(adata=adata)
        return {**self.__dict__, "_data": self.data, "adata_manager": manager}


class AlignedManager(AnnDataManager):
    """Reads cells and features aligned by name, and notices when the data was changed.

    It leaves no mark in the MuData.
    """

    def __init__(
        self,
        fields: list[Field] | None = None,
        setup_method_args: dict | None = None,
        validation_checks: AnnDataManagerValidationCheck | None = None,
    ) -> None:
        super().__init__(
            fields,
            setup_method_args,
            # scvi-tools would pair rows by position, and refuse cells missing from a modality, and
            # modalities that are views; a view of a MuData is refused by check_mudata
            AnnDataManagerValidationCheck(check_if_view=False, check_fully_paired_mudata=False),
        )
        self.fingerprint: Fingerprint | None = None
        self._kept: dict[str, Any] | None = None

    @classmethod
    def reading(cls, fields: list[Field], registry: dict, mdata: MuData) -> AlignedManager:
        """A manager of data that was not set up, read by a registry, after a check."""
        manager = cls(fields)
        manager._registry = registry
        manager._kept = {}  # made for one call
        manager.adata = mdata
        manager._check_fits()
        return manager

    def bound_to(self, mdata: MuData, *, model: str) -> AlignedManager:
        """A copy of the set-up with its MuData, for one model: what that learns changes no other.

        Parameters
        ----------
        mdata
            The data that was set up.
        model
            Name of the class of the model.
        """
        manager = copy(self)
        manager.id = str(uuid4())
        manager._registry = deepcopy(self._registry)
        manager._registry["model_name"] = model
        manager.adata = mdata
        return manager

    def snapshot(self) -> AlignedManager:
        """A manager of the same data that aligns and checks each matrix once, for one call."""
        manager = copy(self)
        manager._kept = {}
        return manager

    # ----------------------------------------------------------------- the set-up

    def register_fields(
        self, adata: MuData, source_registry: dict | None = None, **transfer_kwargs: Any
    ) -> None:
        """Check the data, keep what must survive saving, and how the data looked."""
        super().register_fields(adata, source_registry, **transfer_kwargs)
        self.fingerprint = Fingerprint(adata, self.fields, self.found.states)

    def _assign_uuid(self) -> None:
        """Name the set-up, in the registry only."""
        self._registry[Keys.SCVI_UUID] = str(uuid4())

    def _assign_most_recent_manager_uuid(self) -> None:
        """Leave no mark."""

    def validate(self) -> None:
        """Do nothing: a set-up for another model changes nothing of what is read here."""

    @property
    def found(self) -> Registry:
        """What the set-up found."""
        return Registry(self._registry)

    @property
    def on_disk(self) -> bool:
        """Whether the matrix of a modality stays in its file."""
        present = (f for f in self._matrices if f.modality in self.adata.mod)
        return any(stays_on_disk(self.adata, f.modality, f.layer) for f in present)

    @property
    def _a_copy(self) -> str:
        """How a user copies the data; ``mdata.copy()`` does not copy what stays in a file."""
        if not self.on_disk:
            return "mdata.copy()"
        return "mudata.MuData({m: a.to_memory() for m, a in mdata.mod.items()})"

    @property
    def _matrices(self) -> list[ModalityField]:
        """Fields of the modalities."""
        return [field for field in self.fields if isinstance(field, ModalityField)]

    # ----------------------------------------------------------------- reading

    def get_from_registry(self, registry_key: str) -> Any:
        """Values of a field, one row for each of ``mdata.obs_names``."""
        if self._kept is not None and registry_key in self._kept:
            return self._kept[registry_key]
        field = next(f for f in self.fields if f.registry_key == registry_key)
        values = field.read(self.adata, self.found.state(registry_key))
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

    def lacking(self) -> dict[str, np.ndarray]:
        """Of modalities of which features are missing, which ones, (D,), by registry key."""
        found = {
            field.registry_key: field.lacking(self.adata, self.found.state(field.registry_key))
            for field in self._matrices
        }
        return {key: features for key, features in found.items() if features.any()}

    def posteriors(self, modality: str) -> np.ndarray | None:
        """What minified data has in place of values, (n_obs, W); None of other data."""
        return posteriors_of(self.adata, modality) if is_minified(self.adata, modality) else None

    def name_posteriors(self) -> str:
        """By which name minified data says whose posteriors it has; one until encoders change."""
        states = [self.found.state(field.registry_key) for field in self._matrices]
        name = states[0].get(Keys.POSTERIOR_OF) or uuid4().hex
        for state in states:
            state[Keys.POSTERIOR_OF] = name
        return name

    def forget_posteriors(self) -> None:
        """Let no minified data be read any more: encoders are about to change.

        Raises
        ------
        ValueError
            If the data of the model is minified itself.
        """
        for field in self._matrices:
            refuse_minified(self.adata, field.modality, field.where)
        for field in self._matrices:
            self.found.state(field.registry_key).pop(Keys.POSTERIOR_OF, None)

    @contextmanager
    def keep_aligned(self) -> Iterator[None]:
        """Align each matrix once for all loaders made inside this context."""
        self._kept = {}
        try:
            yield
        finally:
            self._kept = None

    # ----------------------------------------------------------------- over time

    def is_outdated(self, mdata: MuData) -> bool:
        """Whether a set-up of the MuData as it is now would have another result."""
        every = self.found.arguments["modalities"] is None
        if every and list(mdata.mod) != self.found.modalities:
            return True
        self._check_each(check_names, mdata)
        return self.fingerprint is None or bool(
            self.fingerprint.changes(mdata, self.fields, self.found.states, labels=True, names=True)
        )

    @property
    def cells_moved(self) -> bool:
        """Whether the data has other cells than at the last check, or in another order."""
        if self.fingerprint is None:
            return False
        before, names = self.fingerprint.cells, self.adata.obs_names
        return names is not before and not names.equals(before)

    def check_unchanged(self, *, labels: bool = False) -> pd.Index | None:
        """Raise where the data is no longer what was set up.

        Cells that were filtered or reordered in place are found by name.

        Parameters
        ----------
        labels
            Whether labels are read, as training does.

        Returns
        -------
        The names that the cells had, in their order, where these changed since the last check; else
        None.

        Raises
        ------
        ValueError
            If values, features, batches or covariates were changed, or names repeat: with the
            message that new data gets, where it would get one.
        """
        if self.fingerprint is None:
            return None
        check_mudata(self.adata, may_be_view=False)
        self._check_each(check_unique, self.adata)
        before = self.fingerprint.cells
        _refuse_renamed(before, self.adata.obs_names, "obs_names", self._a_copy)
        for field in self._matrices:
            had = self.fingerprint.cells_of(field)
            if had is not None and field.modality in self.adata.mod:
                now = self.adata.mod[field.modality].obs_names
                which = f"obs_names of modality {field.modality!r}"
                _refuse_renamed(had, now, which, self._a_copy)
        self._check_each(check_names, self.adata)
        changes = self.fingerprint.changes(
            self.adata, self.fields, self.found.states, labels=labels
        )
        if changes:
            self._check_fits()
        if changes.fields:
            field = changes.fields[0]
            change = f"{field.where} was changed"
            if isinstance(field, ModalityField) and field.modality not in self.adata.mod:
                change = f"modality {field.modality!r} was removed"
            raise ValueError(
                f"{change} after the model was set up: this is no longer the data of the model. "
                "Put the former values back; or pass the changed data as new data, "
                f"{self._a_copy}; or build a new model."
            )
        if not changes.cells:
            return None
        self.fingerprint = Fingerprint(self.adata, self.fields, self.found.states)
        return before

    def _check_each(self, check: Callable[[MuData, str], None], mdata: MuData) -> None:
        """Check the names in each modality that is read and that the data has."""
        for field in self._matrices:
            if field.modality in mdata.mod:
                check(mdata, field.modality)

    def _check_fits(self) -> None:
        """Raise where the data does not fit the registry."""
        for field in self.fields:
            read = partial(self.get_from_registry, field.registry_key)
            field.transfer_field(self.found.state(field.registry_key), self.adata, read=read)

    def check_labels(self) -> None:
        """Refuse data without any label that the model knows, and point out those it does not.

        A model that was loaded with other data would train without its labels.
        """
        for field in self.fields:
            if isinstance(field, ColumnField) and field.is_label:
                field.check_known(self.found.state(field.registry_key), self.adata)

    def check_measured(self, cells: np.ndarray) -> None:
        """Refuse training cells, by their positions, of which none has one of the modalities."""
        for field in self._matrices:
            if not observed_cells(self.adata, field.modality)[cells].any():
                raise ValueError(
                    f"modality {field.modality!r} was measured in none of the {len(cells)} "
                    "training cells. Train on more cells, or leave it out with "
                    "setup_mudata(modalities=...)."
                )

    def learn_statistics(self, cells: np.ndarray) -> dict[str, FeatureStats]:
        """Take means, scales and library sizes from some of the cells only.

        Parameters
        ----------
        cells
            Positions of the training cells.

        Returns
        -------
        Statistics of each modality's features over the cells that have it.

        Raises
        ------
        ValueError
            If a modality was measured in none of the cells.
        """
        self.check_measured(cells)
        found = {}
        for field in self.fields:
            state = self.found.state(field.registry_key)
            if isinstance(field, NumberField):
                values = find_numbers(self.adata, field.attr_key, field.argument)
                state.update(field.statistics(values, cells))
            if not isinstance(field, ModalityField):
                continue
            measured = cells[observed_cells(self.adata, field.modality)[cells]]
            matrix = self.get_from_registry(field.registry_key)
            found[field.modality] = field.learn_statistics(matrix, np.sort(measured), state).stats
        return found


def _refuse_renamed(before: pd.Index, now: pd.Index, which: str, a_copy: str) -> None:
    """Raise where cells went and others came: which was which cannot be found out."""
    if before is now or before.equals(now):
        return
    gone, new = before.difference(now, sort=False), now.difference(before, sort=False)
    if len(gone) and len(new):
        raise ValueError(
            f"{which} were changed after the model was set up: {len(gone)} cells such as "
            f"{quoted(gone, 3)} are no longer there, and {len(new)} such as {quoted(new, 3)} are "
            "new; cells are found by name. Put the former names back; or pass the changed data as "
            f"new data, {a_copy}; or build a new model."
        )
