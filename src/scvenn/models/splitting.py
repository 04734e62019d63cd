"""Which cells are trained on, and which are held out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from mudata import MuData
from scvi.dataloaders import DataSplitter

from scvenn._arguments import check_number
from scvenn.data import AlignedManager, BlockLoader, choose_rows, plain
from scvenn.models.processes import loader_of_part

_PARTS = ("training", "validation", "test")


class Splitter(DataSplitter):
    """scvi-tools' splitter, for which Lightning need not have validation cells.

    In a training of several processes, each reads its part of every minibatch.

    Parameters
    ----------
    manager
        Of the data.
    shuffle
        Whether training cells are drawn one by one, ``"cells"``, or in ``"blocks"``; in blocks,
        all cells are in the order of the data, in which others are read.
    **kwargs
        As those of :class:`scvi.dataloaders.DataSplitter`.
    """

    def __init__(self, manager: AlignedManager, *, shuffle: str = "cells", **kwargs: Any) -> None:
        if manager.on_disk:  # an open file cannot be sent to another process
            kwargs |= {"num_workers": 0, "persistent_workers": False}
        super().__init__(manager, **kwargs)
        self.in_blocks = shuffle == "blocks"

    def setup(self, stage: str | None = None) -> None:
        """Split the cells."""
        super().setup(stage)
        if self.in_blocks:
            for part in ("train_idx", "val_idx", "test_idx"):
                setattr(self, part, np.sort(getattr(self, part)))

    @property
    def _several(self) -> bool:
        return bool(self.data_loader_kwargs.get("distributed_sampler"))

    def train_dataloader(self) -> Any:
        """Loader of the training cells."""
        if self._several and self.in_blocks:
            raise ValueError(
                "shuffle='blocks', as data on disk is read, trains on one device; found several. "
                "Pass devices=1, or read the data into memory."
            )
        if self._several:
            return loader_of_part(self, self.train_idx, shuffle=True)
        if not self.in_blocks:
            return super().train_dataloader()
        batch_size = self.data_loader_kwargs["batch_size"]
        return BlockLoader(
            self.adata_manager, self.train_idx, batch_size=batch_size, drop_last=self.drop_last
        )

    def val_dataloader(self) -> Any:
        """Loader of the validation cells; none where there are no such cells."""
        if self._several and len(self.val_idx):
            return loader_of_part(self, self.val_idx, shuffle=False)
        loader = super().val_dataloader()
        return [] if loader is None else loader

    def gives(self, split: Sequence[np.ndarray]) -> bool:
        """Whether this is a split (training, validation, test cells) as it was asked for.

        Cells drawn at random may be any, as long as they are as many.
        """
        if self.external_indexing is None and self.shuffle_set_split:
            return [self.n_train, self.n_val] == [len(part) for part in split[:2]]
        self.setup()
        own = (self.train_idx, self.val_idx, self.test_idx)
        return all(np.array_equal(np.sort(a), np.sort(b)) for a, b in zip(own, split, strict=True))


def check_parts(train_size: Any, validation_size: Any) -> None:
    """Raise a ``ValueError`` unless these are parts of the cells, the first above 0."""
    part = "a part of the cells"
    check_number("train_size", train_size, f"{part}, above 0 to 1", above=0, most=1)
    if validation_size is None:
        return
    check_number("validation_size", validation_size, f"{part}, from 0 to 1", least=0, most=1)
    if train_size + validation_size > 1 + 1e-9:  # .9 + .1 is, in binary
        raise ValueError(
            f"train_size={train_size!r} and validation_size={validation_size!r}: expected parts of "
            f"the cells that are 1 or less together, found {train_size + validation_size:g}."
        )


def listed_split(mdata: MuData, external_indexing: Any) -> list[np.ndarray]:
    """Positions of the training, validation and test cells that a user lists, (n,) each.

    Parameters
    ----------
    mdata
        The data.
    external_indexing
        One to three lists of cells, each as :func:`~scvenn.data.choose_rows` takes them; None for
        none.

    Raises
    ------
    ValueError
        If these are no such lists, a cell is in two of them or twice in one, or a cell is in none.
    """
    argument = "datasplitter_kwargs['external_indexing']"
    if not isinstance(external_indexing, list | tuple) or not 1 <= len(external_indexing) <= 3:
        raise ValueError(
            f"{argument}: expected a list of the training, validation and test cells, such as "
            f"[train, validation, test]; found {type(external_indexing).__name__}"
            + (f" of {len(external_indexing)}." if hasattr(external_indexing, "__len__") else ".")
        )
    split = []
    for part, cells in zip(_PARTS, [*external_indexing, None, None], strict=False):
        try:
            split.append(choose_rows(mdata, [] if cells is None else cells))
        except ValueError as error:
            raise ValueError(f"{argument}, {part} cells: {error}") from error
    if not len(split[0]):
        raise ValueError(f"{argument}: expected at least one training cell; found none.")
    listed = np.bincount(np.concatenate(split), minlength=mdata.n_obs)  # how often, of each cell
    if (repeated := np.flatnonzero(listed > 1)).size:
        where = [part for part, rows in zip(_PARTS, split, strict=True) if repeated[0] in rows]
        raise ValueError(
            f"{argument}: {len(repeated)} cells are listed more than once, such as "
            f"{plain(mdata.obs_names[repeated[0]])!r} among the {' and the '.join(where)} cells. "
            "Expected each cell in one list."
        )
    if (left_out := np.flatnonzero(listed == 0)).size:
        raise ValueError(
            f"{argument}: {len(left_out)} of the {mdata.n_obs} cells are in no list, such as "
            f"{plain(mdata.obs_names[left_out[0]])!r}. Add them to the test cells, the third list."
        )
    return split
