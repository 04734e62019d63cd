"""Which features of a modality the other modalities predict.

A feature that nothing in the other modalities predicts can only teach a shared latent noise. The
score of a feature is its leave-one-out R², the better one of two regressions; the scores of
shuffled cells, in which no feature is shared, give the threshold above which a score is not due to
chance.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from scvenn._progress import progress
from scvenn.screening.regression import LeastSquares, Regression, Ridge, covariate_basis
from scvenn.screening.values import Values

# Of the features that are called shared, the share that chance scores may make up.
FDR = 0.05
# Cells of ridge regression: its cost grows with the cube of their number.
_MOST_CELLS_OF_RIDGE = 1500
# Scores of shuffled cells that a threshold is estimated from, where so many shuffles give as many.
_LEAST_NULL = 3000
_MOST_SHUFFLES = 50
# Of the shuffles that are scored together, all cells, and all features: what is held stays small.
_MOST_AT_ONCE = 2**15
# Cells of a batch that are shuffled among themselves; those of smaller batches are together.
_LEAST_BATCH = 20
# Chance scores of which a share is an estimate, and to which the tail is fitted at least.
_FEW, _LEAST_TAIL = 10, 50


class Screening(NamedTuple):
    """Scores of the features of one modality, (D,) each."""

    score: np.ndarray  # R², at most 1; NaN for a feature that is constant in the sample
    shared: np.ndarray  # the others predict the feature better than by chance; boolean
    related: np.ndarray  # they predict the feature or how far it is from its mean; boolean


def screen(
    target: Values,
    sources: Sequence[Values],
    rng: np.random.Generator,
    *,
    covariates: np.ndarray | None = None,
    groups: np.ndarray | None = None,
    batches: np.ndarray | None = None,
    fdr: float = FDR,
    name: str = "features",
) -> Screening:
    """Score each feature of a modality by how well the others predict it.

    Parameters
    ----------
    target
        Values of a sample of cells, (n, D), in random order.
    sources
        Values of the other modalities, rows in the same order.
    rng
        Shuffles the cells, for the scores of features that are not shared.
    covariates
        What explains features in all modalities and is not to count, such as the batch, (n, V).
    groups
        Numbers of groups of cells, (n,), whose means are not to count either: what is shared
        *within* groups is scored, and chance scores are of cells that are shuffled within them.
    batches
        Numbers of the batches of cells, (n,). Chance scores are of cells that are shuffled within
        batches (those of fewer than 20 cells: all of these together), because batches may differ in
        how much their features vary: cells of a noisy batch then agree by chance more than others.
    fdr
        Accepted false discovery rate among the features called shared.
    name
        Of the target, for the progress bar.

    Returns
    -------
    Scores, and which of them are not due to chance. Without any cell, no feature has a score.

    Raises
    ------
    ValueError
        If a covariate is not finite.
    """
    n, n_features = target.shape
    if covariates is not None and not np.isfinite(covariates).all():
        raise ValueError("expected finite covariates, found infinite or missing values.")
    if n == 0:
        none = np.full(n_features, False)
        return Screening(np.full(n_features, np.nan), none, none)
    if groups is not None:
        membership = groups[:, None] == np.unique(groups)
        covariates = np.hstack([membership, *([] if covariates is None else [covariates])])
    strata = _strata(n, groups, batches)
    some = slice(_MOST_CELLS_OF_RIDGE)
    basis_of_some = covariate_basis(
        min(n, _MOST_CELLS_OF_RIDGE), None if covariates is None else covariates[some]
    )

    def of_some(values: Values) -> Values:
        return values if n <= _MOST_CELLS_OF_RIDGE else values.rows(some)

    n_shuffles = min(_MOST_SHUFFLES, -(-_LEAST_NULL // n_features))
    squares = target.squares()
    # both regressions are made, and each scores what was measured and every shuffle of it
    n_steps = 2 + 2 * (1 + n_shuffles) * (1 if squares is None else 2)
    bar = progress(description=f"Screening {name}", total=n_steps)

    def r2(regression: Regression, cells: Values) -> tuple[np.ndarray, np.ndarray]:
        """Scores of the cells, (D,), and of shuffled ones, (shuffles, D)."""
        size = cells.shape[0]
        orders = np.array([np.arange(size), *(shuffled(size) for _ in range(n_shuffles))])
        at_once = max(1, _MOST_AT_ONCE // max(size, n_features))
        found = []
        for start in range(0, len(orders), at_once):
            some = orders[start : start + at_once]
            found.append(regression.r2(cells, some))
            bar.update(len(some))
        own, *null = np.vstack(found)
        return own, np.array(null)

    def shuffled(size: int) -> np.ndarray:
        return shuffled_within(strata[:size], rng)

    def judge(values: Values) -> tuple[np.ndarray, np.ndarray]:
        """Scores, and which are not due to chance."""
        scores, passed = [], []
        for regression, cells in ((ridge, of_some(values)), (least_squares, values)):
            found, null = r2(regression, cells)
            scores.append(found)
            # each regression has its own chance scores, and half of the false discoveries
            passed.append(found > threshold(found, null, fdr / 2))
        return np.fmax(*scores), passed[0] | passed[1]

    with bar:
        ridge = Ridge.on([of_some(source) for source in sources], basis_of_some)
        bar.update()
        least_squares = LeastSquares.on(sources, covariate_basis(n, covariates), rng)
        bar.update()
        score, shared = judge(target)
        # z² does not predict z, but z predicts z²; such a feature is found by its own square
        related = shared if squares is None else shared | judge(squares)[1]
    return Screening(score, shared, related)


def _strata(n: int, groups: np.ndarray | None, batches: np.ndarray | None) -> np.ndarray:
    """Within which cells are shuffled, (n,): the batches of each group, small ones together."""
    both = np.column_stack([np.zeros(n, int) if of is None else of for of in (groups, batches)])
    _, of_cell, sizes = np.unique(both, axis=0, return_inverse=True, return_counts=True)
    both[sizes[of_cell.ravel()] < _LEAST_BATCH, 1] = -1
    return np.unique(both, axis=0, return_inverse=True)[1].ravel()


def shuffled_within(groups: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """An order of cells, (n,), in which each takes the place of one of its group."""
    order = np.arange(len(groups))
    for group in np.unique(groups):
        rows = np.flatnonzero(groups == group)
        order[rows] = rng.permutation(rows)
    return order


def threshold(score: np.ndarray, null: np.ndarray, fdr: float) -> float:
    """Smallest score that Benjamini & Hochberg's procedure accepts; never below 0.

    Parameters
    ----------
    score
        Of the features, (D,).
    null
        Of the same features of shuffled cells, (shuffles, D), or (D,) of one shuffle: what features
        have by chance.
    fdr
        Accepted false discovery rate among the features whose score is higher.
    """
    score, null = np.sort(score[np.isfinite(score)]), np.sort(null[np.isfinite(null)])
    if not len(null):
        return np.inf
    found = len(score) - np.arange(len(score))  # as high as this score or higher
    acceptable = score[(_by_chance(score, null) * len(score) <= fdr * found) & (score > 0)]
    return float(np.nextafter(acceptable[0], -np.inf)) if len(acceptable) else np.inf


def _by_chance(score: np.ndarray, null: np.ndarray) -> np.ndarray:
    """Probability of a chance score as high as each score, (D,), from sorted chance scores.

    Where ten are as high, it is their share. Beyond, a share of 0 would say that nothing is due to
    chance: it is that of a generalised Pareto distribution, fitted to the highest chance scores by
    its moments, with a tail that is at least exponential (Knijnenburg et al., Bioinformatics
    25:i161, 2009).
    """
    as_high = len(null) - np.searchsorted(null, score, side="left")
    probability, few = as_high / len(null), as_high < _FEW
    start, *tail = null[-max(_LEAST_TAIL, len(null) // 10) :]
    excess = np.array(tail) - start
    if len(excess) < _FEW or not excess.any():
        probability[few] = (1 + as_high[few]) / (1 + len(null))
        return probability
    mean, variance = excess.mean(), excess.var()
    shape = np.clip((1 - mean**2 / variance) / 2, 1e-6, 0.5) if variance else 1e-6
    far = np.maximum(score[few] - start, 0) / (mean * (1 - shape))
    probability[few] = len(excess) / len(null) * (1 + shape * far) ** (-1 / shape)
    return probability
