"""The message where training diverges: in which term, and which value is extreme."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp

from scvenn.data import AlignedManager, Keys, Tensors

# Rows that are made dense at a time.
_ROWS = 2048
# Parts of the loss that a message names.
_MOST_NAMED = 3


class Broken(NamedTuple):
    """A part of the loss that is not finite, and the modalities that it is about."""

    what: str
    modalities: tuple[str, ...] = ()


class Diverged(ArithmeticError):
    """A loss, or weights, that are not finite; the runner turns it into a message for users.

    Parameters
    ----------
    epoch
        In which epoch of this training, counted from 0.
    validation
        Whether it was found in validation cells.
    broken
        What of the loss is not finite.
    lr
        The learning rate.
    """

    def __init__(self, epoch: int, validation: bool, broken: Sequence[Broken], lr: float) -> None:
        super().__init__(epoch, validation, broken, lr)
        self.epoch = epoch
        self.validation = validation
        self.broken = list(broken)
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
        modalities = dict.fromkeys(m for part in self.broken for m in part.modalities)
        found = most_extreme(model, list(modalities) or model.modalities, rows)
        return (
            f"Training diverged in epoch {self.epoch} (the first is 0). Not finite in {cells} "
            f"cells: {self._what()}. Try a smaller learning rate, plan_kwargs={{'lr': "
            f"{self.lr / 10:g}}} (it was {self.lr:g}). The most extreme value of these cells is "
            f"{found.value:g}, {found.deviations:.0f} standard deviations from the mean of its "
            f"feature: modality {found.modality!r}, feature {found.feature!r}, cell "
            f"{found.cell!r}. If it is an outlier, clip it or leave out the cell; if values are "
            "of very different sizes, put them on another scale."
        )

    def _what(self) -> str:
        if not self.broken:
            return "the loss"
        named = "; ".join(part.what for part in self.broken[:_MOST_NAMED])
        n_others = len(self.broken[_MOST_NAMED:])
        return named + (f"; and {n_others} more" if n_others else "")


def broken_parts(module: Any, tensors: Tensors, output: Any) -> list[Broken]:
    """Parts of the loss that are not finite in a cell that they concern.

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
    anything = tensors[Keys.OBSERVED].bool().any(1)  # (B,)
    parts = []  # what it is, its record, and the cells it concerns
    for encode, m in sorted({(t.encode, m) for t in module.objective.terms for m in t.decode}):
        what = f"the log-likelihood of modality {m!r} given {'+'.join(encode)!r}"
        concerned = sum(observed[e] for e in encode).bool() & observed[m]
        parts.append((Broken(what, (*encode, m)), Keys.log_likelihood(encode, m), concerned))
    parts.append((Broken("the KL of the shared latent"), Keys.KL_SHARED, anything))
    for m, has in observed.items():
        what = f"the KL of the private latent of modality {m!r}"
        parts.append((Broken(what, (m,)), Keys.kl_private(m), has))
    if module.label_head is not None:
        labelled = (tensors[Keys.LABELS].squeeze(1) >= 0) & anything
        parts.append(
            (Broken("the log-likelihood of the labels"), Keys.LABEL_LOG_LIKELIHOOD, labelled)
        )
    for penalty in module.objective.penalties:  # NaN is of cells that it does not concern
        values = output.extra_metrics[penalty.name]
        parts.append((Broken(f"the penalty {penalty.name!r}"), penalty.name, ~values.isnan()))
    return [
        part
        for part, name, concerned in parts
        if not output.extra_metrics[name][concerned].isfinite().all()
    ]


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
