"""The message where training diverges: in which term, and which value is extreme."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp

from scvenn.data import AlignedManager, Keys, Tensors

# Rows that are made dense at a time.
_ROWS = 2048

# What was encoded, and what was decoded from it.
Pair = tuple[tuple[str, ...], str]


class Diverged(ArithmeticError):
    """A loss, or weights, that are not finite; the runner turns it into a message for users.

    Parameters
    ----------
    epoch
        In which epoch of this training, counted from 0.
    validation
        Whether it was found in validation cells.
    pairs
        The pairs of modalities whose log-likelihood is not finite.
    lr
        The learning rate.
    """

    def __init__(self, epoch: int, validation: bool, pairs: Sequence[Pair], lr: float) -> None:
        super().__init__(epoch, validation, pairs, lr)
        self.epoch = epoch
        self.validation = validation
        self.pairs = list(pairs)
        self.lr = lr

    def explain(self, model: Any, rows: np.ndarray) -> str:
        """What happened, and what to try.

        Parameters
        ----------
        model
            The model that was trained.
        rows
            Positions of the cells that were read.
        """
        cells = "validation" if self.validation else "training"
        modalities = dict.fromkeys(m for encode, decode in self.pairs for m in (*encode, decode))
        found = most_extreme(model, list(modalities) or model.modalities, rows)
        return (
            f"Training diverged in epoch {self.epoch} (the first is 0): {self._what()} is not "
            f"finite in {cells} cells. Try a smaller learning rate, plan_kwargs={{'lr': "
            f"{self.lr / 10:g}}} (it was {self.lr:g}). The most extreme value of these cells is "
            f"{found.value:g}, {found.deviations:.0f} standard deviations from the mean of its "
            f"feature: modality {found.modality!r}, feature {found.feature!r}, cell "
            f"{found.cell!r}. If it is an outlier, clip it or leave out the cell; if values are "
            "of very different sizes, put them on another scale."
        )

    def _what(self) -> str:
        if not self.pairs:
            return "the loss"
        encode, decode = self.pairs[0]
        others = f" (and of {len(self.pairs) - 1} other pairs)" if len(self.pairs) > 1 else ""
        return f"the log-likelihood of modality {decode!r} given {'+'.join(encode)!r}{others}"


def broken_pairs(module: Any, tensors: Tensors, output: Any) -> list[Pair]:
    """Pairs of modalities whose log-likelihood is not finite in a cell that has both.

    Parameters
    ----------
    module
        The networks.
    tensors
        A minibatch of B cells.
    output
        Its loss, whose records (B,) are NaN for cells they do not concern.
    """
    observed = dict(zip(module.modalities, tensors[Keys.OBSERVED].bool().T, strict=True))
    pairs = {(term.encode, m) for term in module.objective.terms for m in term.decode}
    broken = []
    for encode, decode in sorted(pairs):
        record = output.extra_metrics[Keys.log_likelihood(encode, decode)]  # (B,)
        concerned = sum(observed[m] for m in encode).bool() & observed[decode]
        if not record[concerned].isfinite().all():
            broken.append((encode, decode))
    return broken


class Extreme(NamedTuple):
    """A value, where it is, and how many standard deviations it is from its feature's mean."""

    deviations: float
    value: float
    modality: str
    feature: str
    cell: str


def most_extreme(model: Any, modalities: Sequence[str], rows: np.ndarray) -> Extreme:
    """The value of some cells that is farthest from the mean of its feature."""
    manager: AlignedManager = model.adata_manager
    most = (-1.0, np.nan, modalities[0], 0, rows[0])
    for m in modalities:
        likelihood = model.module.likelihood(m)
        mean, scale = (s.double().cpu().numpy() for s in (likelihood.mean_, likelihood.scale_))
        matrix = manager.get_from_registry(Keys.x(m))
        i = model.modalities.index(m)
        observed = rows[manager.get_from_registry(Keys.OBSERVED)[rows, i]]
        for start in range(0, len(observed), _ROWS):
            block = matrix[observed[start : start + _ROWS]]
            values = np.asarray(block.toarray() if sp.issparse(block) else block, np.float64)
            deviations = np.nan_to_num(np.abs(values - mean) / scale, nan=-1.0)  # (rows, D)
            row, column = np.unravel_index(deviations.argmax(), deviations.shape)
            found = deviations[row, column], values[row, column]
            most = max(most, (*map(float, found), m, int(column), observed[start + row]))
    deviations, value, m, column, row = most
    cell = str(model.adata.obs_names[row])
    return Extreme(deviations, value, m, str(model.get_var_names()[m][column]), cell)
