"""Some cells of a MuData, as a model reads them: checked once, whatever is read of them after."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from mudata import MuData
from scvi import settings
from scvi.dataloaders import AnnDataLoader

from scvenn._progress import progress
from scvenn.data.checks import plain, quoted
from scvenn.data.fields import observed_cells
from scvenn.data.keys import Keys
from scvenn.data.manager import AlignedManager
from scvenn.data.matrices import Matrix, sums_of
from scvenn.data.names import hashes_of
from scvenn.data.registry import Registry
from scvenn.likelihoods import find_likelihood, share_of

# What a user may pass for cells: positions, a boolean mask, or names.
Indices = Any  # Sequence[int | bool | str] | np.ndarray | pd.Series | slice
_EXPECTED = (
    "expected positions (integers), a mask (booleans) or names (strings) of cells such as "
    "mdata.obs_names[:3], in a list, an array or a Series; or a slice of positions"
)
# A minibatch as loaders give it: for each field a tensor, or SparseRows of a modality read sparse.
Tensors = dict[str, Any]


class Cells:
    """Rows of a MuData that was checked against what a model was set up with.

    Parameters
    ----------
    manager
        Of the data, checked.
    rows
        Positions of the cells in ``mdata.obs_names``, (n,).
    batch_size
        Cells per minibatch; None for ``scvi.settings.batch_size``.
    """

    def __init__(
        self, manager: AlignedManager, rows: np.ndarray, *, batch_size: int | None = None
    ) -> None:
        self.manager = manager
        self.rows = rows
        self.batch_size = batch_size

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, which: np.ndarray) -> Cells:
        """Some of the cells, by their positions among these, or a mask of these."""
        return Cells(self.manager, self.rows[which], batch_size=self.batch_size)

    def few(self, most: int) -> Cells:
        """The cells; of data on disk no more than so many, those that their names choose.

        For what reads all values of the cells at once.
        """
        return self.sample(most) if self.manager.on_disk else self

    def sample(self, most: int) -> Cells:
        """No more than so many of the cells: those that their names choose, in whatever order."""
        if len(self) <= most:
            return self
        return self.take(np.sort(np.argsort(hashes_of(self.names), kind="stable")[:most]))

    @property
    def mdata(self) -> MuData:
        """The data that the cells are of."""
        return self.manager.adata

    @property
    def names(self) -> pd.Index:
        """Names of the cells."""
        return self.mdata.obs_names[self.rows]

    @property
    def modalities(self) -> list[str]:
        """Modalities of the model that the data has, in the model's order."""
        return [m for m in self.found.modalities if m in self.mdata.mod]

    @property
    def found(self) -> Registry:
        """What the set-up of the model found."""
        return self.manager.found

    def observed(self, modalities: str | Collection[str]) -> np.ndarray:
        """Which of the cells have a modality, or any of several; boolean, (n,)."""
        names = [modalities] if isinstance(modalities, str) else modalities
        return np.any([observed_cells(self.mdata, m)[self.rows] for m in names], axis=0)

    def paired(self, modality: str) -> np.ndarray:
        """Which of the cells have a modality and another one; boolean, (n,)."""
        others = [m for m in self.found.modalities if m != modality]
        return self.observed(modality) & self.observed(others)

    def matrix(self, modality: str) -> Matrix:
        """Values of the cells, (n, D), CSR or dense; zeros where the modality was not measured.

        Of features that are missing, see :meth:`lacking`, they are zeros as well.
        """
        return self.manager.get_from_registry(Keys.x(modality))[self.rows]

    def lacking(self, modality: str) -> np.ndarray:
        """Which of the model's features the data lacks, boolean, (D,)."""
        none = np.zeros(len(self.found.features(modality)), dtype=bool)
        return self.manager.lacking().get(Keys.x(modality), none)

    def library(self, modality: str) -> np.ndarray:
        """Sum of each cell's values, (n, 1); with what missing features have on average."""
        sums = sums_of(self.manager.get_from_registry(Keys.x(modality)), self.rows)
        return sums[:, None] / self.share_measured(modality)

    def share_measured(self, modality: str) -> float:
        """Part of a cell's counts that is of features which the data has, on average."""
        lacking = self.lacking(modality)
        if not (lacking.any() and find_likelihood(self.found.likelihood(modality)).discrete):
            return 1.0
        return float(share_of(~lacking, self.found.stats(modality).mean)[0])

    def column(self, registry_key: str) -> np.ndarray:
        """Values of a column or of ``observed``, (n, columns), by its key in the registry."""
        return self.manager.get_from_registry(registry_key)[self.rows]

    def minibatches(
        self, modalities: Collection[str], description: str, *, values: bool = False
    ) -> Iterator[tuple[slice, Tensors]]:
        """Minibatches of the cells, in their order, with a progress bar if they take long.

        Parameters
        ----------
        modalities
            Whose values the minibatches hold; covariates and which cells have which modality are
            always there.
        description
            Of the progress bar.
        values
            Whether the values themselves are needed, which minified data does not have; else what
            the encoders made of them will do.

        Yields
        ------
        Positions of the minibatch among the cells, and its tensors.
        """
        matrices = [Keys.x(m) for m in self.found.modalities]
        keys = [key for key in self.found.states if key not in (Keys.LABELS, *matrices)]
        found = {} if values else {m: self.manager.posteriors(m) for m in modalities}
        encoded = {m: posteriors for m, posteriors in found.items() if posteriors is not None}
        # an open file cannot be sent to another process
        n_workers = 0 if self.manager.on_disk else settings.dl_num_workers
        loader = AnnDataLoader(
            self.manager,
            indices=self.rows,
            batch_size=self.batch_size or settings.batch_size,
            data_and_attributes=[*(Keys.x(m) for m in modalities if m not in encoded), *keys],
            num_workers=n_workers,
            persistent_workers=settings.dl_persistent_workers and n_workers > 0,
        )
        done = 0
        for tensors in progress(loader, description=description):
            n_cells = len(tensors[Keys.OBSERVED])
            part = slice(done, done + n_cells)
            for m, posteriors in encoded.items():
                tensors[Keys.posterior(m)] = torch.from_numpy(posteriors[self.rows[part]])
            yield part, tensors
            done += n_cells


def choose_rows(mdata: MuData, indices: Indices | None) -> np.ndarray:
    """Positions of the cells asked for, (n,).

    Parameters
    ----------
    mdata
        The data.
    indices
        Positions in ``mdata.obs_names`` (negative ones count from the end), a boolean mask of all
        cells, names of cells, or a slice; None for all cells. A boolean Series is matched by its
        index.

    Raises
    ------
    ValueError
        If a position or name is not there, a mask has another length, or these are neither.
    """
    every = np.arange(mdata.n_obs)
    if indices is None:
        return every
    if isinstance(indices, slice):
        try:
            return every[indices]
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"indices={indices}: expected a slice of positions ({error}). List the names of "
                "cells."
            ) from error
    # of a MuData, numpy would make an array cell by cell; sets have no order
    if not (np.isscalar(indices) or isinstance(indices, Sequence) or hasattr(indices, "__array__")):
        raise ValueError(f"indices: {_EXPECTED}; found {type(indices).__name__}.")
    chosen = np.atleast_1d(np.asarray(indices))
    if chosen.ndim != 1:
        raise ValueError(
            f"indices has {chosen.ndim} dimensions; expected a list of positions or names, or a "
            "mask."
        )
    if not chosen.size:
        return every[:0]
    # whatever the type of the array: pandas' arrays come as objects
    kind = pd.api.types.infer_dtype(chosen)
    if isinstance(indices, pd.Series) and kind == "boolean":
        chosen = _matched_mask(mdata, pd.Series(chosen, indices.index))
    if (missing := pd.isna(chosen)).any():
        raise ValueError(
            f"indices: {missing.sum()} of {len(chosen)} values are missing, the first at position "
            f"{missing.argmax()}. Fill them in; in a mask, False leaves a cell out."
        )
    if kind == "string":
        rows = mdata.obs_names.get_indexer(chosen)
        if (rows < 0).any():
            if not isinstance(mdata.obs_names[0], str):
                examples = [plain(name) for name in mdata.obs_names[:2]]
                raise ValueError(
                    f"indices: {quoted(chosen[rows < 0])} not found: the names of the "
                    f"{mdata.n_obs} cells are no text but of type {type(examples[0]).__name__}, "
                    "and numbers in indices are positions. Pass a mask: "
                    f"indices=mdata.obs_names.isin({examples})."
                )
            raise ValueError(
                f"indices: {quoted(chosen[rows < 0])} not found among the {mdata.n_obs} cells, "
                f"such as {quoted(mdata.obs_names, 3)}."
            )
        return rows
    if kind not in ("integer", "boolean"):
        raise ValueError(
            f"indices: {_EXPECTED}; found {kind} values, the first of which is "
            f"{plain(chosen[0])!r}."
        )
    if kind == "boolean":
        problem = "" if len(chosen) == len(every) else f"the mask has {len(chosen)} values"
    else:  # compared before they become integers of 64 bits, which not all of them fit
        beyond = chosen[(chosen < -len(every)) | (chosen >= len(every))]
        problem = f"there is no position {beyond[0]}" if len(beyond) else ""
    if problem:
        raise ValueError(
            f"indices must be positions or a mask of the {len(every)} cells: {problem}."
        )
    return every[chosen.astype(bool if kind == "boolean" else np.int64)]


def _matched_mask(mdata: MuData, mask: pd.Series) -> np.ndarray:
    """A mask with an index of names, in the order of the cells."""
    of_cells = mask[mask.index.isin(mdata.obs_names)]
    if mask.index.equals(mdata.obs_names) or of_cells.empty:
        return mask.to_numpy()
    if missing := list(mdata.obs_names.difference(of_cells.index)):
        raise ValueError(
            f"indices: the mask has no value for {quoted(missing)}; it needs one for each cell."
        )
    if (repeated := of_cells.index.duplicated()).any():
        raise ValueError(
            f"indices: the mask has more than one value for {quoted(of_cells.index[repeated])}; it "
            "needs one for each cell."
        )
    return of_cells.reindex(mdata.obs_names).to_numpy()
