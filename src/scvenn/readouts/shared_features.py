"""Which features are shared: found before training, and what follows from it after training."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from functools import partial

import numpy as np
import pandas as pd
import scipy.sparse as sp
import scvi
import torch

from scvenn import network
from scvenn._warnings import warn
from scvenn.data import (
    Cells,
    Keys,
    Registry,
    check_groups,
    quoted,
    row_sums,
    warn_of_spelled_missing,
)
from scvenn.likelihoods import Likelihood
from scvenn.network import SharedPrivateVAE
from scvenn.readouts.embeddings import embed
from scvenn.screening import (
    DiscreteValues,
    ExtremeValueError,
    RealValues,
    Screening,
    Values,
    as_csr,
    screen,
    weak_effects,
    whitening,
)

logger = logging.getLogger("scvi.scvenn")

# Cells that are screened.
MOST_CELLS = 10_000
# Cells of a group that is screened by itself.
LEAST_GROUP = 50
# Cells whose counts are copied at a time.
_CELLS_AT_ONCE = 500


def screen_features(net: SharedPrivateVAE, train: Cells) -> dict[str, Screening]:
    """Find the features of each modality that the other modalities predict.

    Parameters
    ----------
    net
        The networks, of which likelihoods and covariates are used.
    train
        The training cells; no other cell is read.

    Returns
    -------
    What was found, by modality.

    Raises
    ------
    ValueError
        If a regression fails or values are too extreme.
    """
    rng = np.random.default_rng(scvi.settings.seed)
    found: dict[str, Screening] = {}
    for m, cells, values in _samples(net, train, rng):
        found[m] = _screened(net, cells, m, values, rng)
        if net.n_classes:  # the label head reads `shared`, too
            labels = _screened(net, cells, m, values, rng, sources=[_labels(net, cells)])
            found[m] = found[m]._replace(related=found[m].related | labels.related)
        _log_found(m, _others(net, m), found[m], len(cells))
    return found


def _others(net: SharedPrivateVAE, modality: str) -> list[str]:
    return [m for m in net.modalities if m != modality]


def _samples(
    net: SharedPrivateVAE, cells: Cells, rng: np.random.Generator
) -> Iterator[tuple[str, Cells, dict[str, Values]]]:
    """Each modality, a sample of the cells that have it and another one, and their values."""
    # from an order by name: that of the data must not choose the cells, nor how they are shuffled
    order = rng.permutation(cells.names.argsort())
    sample = cells.take(order[:0])
    values: dict[str, Values] = {}
    for m in net.modalities:
        of_modality = cells.take(order[cells.paired(m)[order]][:MOST_CELLS])
        # mostly, all modalities are paired in the same cells
        if not (values and np.array_equal(of_modality.rows, sample.rows)):
            sample, values = of_modality, {}
            values = {name: _values(net, sample, name) for name in net.modalities}
        yield m, sample, values


def _log_found(modality: str, others: list[str], found: Screening, n_cells: int) -> None:
    """Say how many features are shared."""
    logger.info(
        "%s: %d of %d features are predicted by %s",
        modality,
        found.shared.sum(),
        len(found.shared),
        quoted(others),
    )
    if not found.related.any():
        warn(
            f"No feature of modality {modality!r} is predicted by {quoted(others)} better than by "
            f"chance in {n_cells} cells that have both. Are the cells matched by the right names? "
            "The shared latent of a model will not learn to predict it; with screen=False every "
            "feature counts."
        )


def table_of_scores(
    found: Registry, screened: Mapping[str, Screening], **columns: str
) -> pd.DataFrame:
    """What screening found of each modality, as users get it; with further columns."""
    tables = [
        pd.DataFrame({"modality": m, **columns, "feature": found.features(m), **of._asdict()})
        for m, of in screened.items()
    ]
    return pd.concat(tables, ignore_index=True)


def groups_of(cells: Cells, given: str, which: str) -> pd.Series:
    """The group of each cell, missing where unknown, from a column.

    Parameters
    ----------
    cells
        Which cells.
    given
        Name of the column.
    which
        What one of these cells is called in messages.

    Raises
    ------
    ValueError
        If there is no such column, none of the cells has a value in it, nearly every cell has one
        of its own, or a group is named ``"all"``.
    """
    groups = cells.found.categories(cells.mdata, given, f"given={given!r}").iloc[cells.rows]
    if not groups.notna().any():
        raise ValueError(f"given={given!r}: no {which} has a value in this column.")
    check_groups(groups, f"given={given!r}")
    warn_of_spelled_missing(groups, f"given={given!r}")
    if groups.eq("all").any():
        raise ValueError(
            f"given={given!r}: a group is named 'all', which is the name of all groups together in "
            "the result. Rename it."
        )
    return groups


def scores_within(net: SharedPrivateVAE, cells: Cells, groups: pd.Series) -> pd.DataFrame:
    """Score how well features are predicted within groups of cells.

    Parameters
    ----------
    net
        The networks, of which likelihoods and covariates are used.
    cells
        Which cells; those without a group are left out.
    groups
        The group of each cell, (n,), missing where unknown.

    Returns
    -------
    The table of :meth:`~scvenn.SharedPrivateModel.get_shared_scores` with ``given``: of ``"all"``
    groups, their means regressed out, and of each group of at least 50 cells that have the modality
    and another.

    Raises
    ------
    ValueError
        If a regression fails, values are too extreme, or the cells with a group are too few to
        score any feature.
    """
    rng = np.random.default_rng(scvi.settings.seed)
    codes, names = pd.factorize(groups, sort=True)  # -1 where unknown
    parts = {"all": codes >= 0, **{name: codes == i for i, name in enumerate(names)}}
    code_of_row = np.full(cells.mdata.n_obs, -1)
    code_of_row[cells.rows] = codes
    tables = []
    for name, which in parts.items():
        for m, some, values in _samples(net, cells.take(which), rng):
            if name == "all" or len(some) >= LEAST_GROUP:
                found = _screened(net, some, m, values, rng, groups=code_of_row[some.rows])
                tables.append(table_of_scores(cells.found, {m: found}, group=name))
    table = pd.concat(tables, ignore_index=True)
    if table["score"].isna().all():
        measured = np.sum([cells.observed(m) for m in net.modalities], axis=0)
        raise ValueError(
            f"given={groups.name!r}: no feature varies within groups of the "
            f"{((codes >= 0) & (measured > 1)).sum()} cells that have a value in this column and "
            "two modalities, so that nothing can be scored."
        )
    return table


def _screened(
    net: SharedPrivateVAE,
    cells: Cells,
    modality: str,
    values: dict[str, Values],
    rng: np.random.Generator,
    *,
    sources: list[Values] | None = None,
    groups: np.ndarray | None = None,
) -> Screening:
    """Scores of the features of a modality, by the others or by other sources."""
    others = _others(net, modality)
    if sources is None:
        sources = [values[m] for m in others]
    try:
        return screen(
            values[modality],
            sources,
            rng,
            covariates=_covariates(net, cells),
            groups=groups,
            batches=batches_of(net, cells),
            name=modality,
        )
    except ValueError as error:  # LinAlgError is one
        raise ValueError(
            f"Screening of modality {modality!r} by {quoted(others)} failed in {len(cells)} "
            f"cells: {error} Look for constant features and extreme values in these modalities and "
            "in continuous covariates. A model with screen=False does without screening."
        ) from error


def _values(net: SharedPrivateVAE, cells: Cells, modality: str) -> Values:
    """Values on the scale of regression; the likelihood decides on their form."""
    likelihood, observed = net.likelihood(modality), cells.observed(modality)
    try:
        if likelihood.sparse_on_regression_scale:
            return DiscreteValues(_scaled_counts(likelihood, cells, modality), observed)
        # real values have no library size
        to_scale = partial(likelihood.regression_scale, library=np.ones((1, 1)))
        return RealValues(
            cells.matrix(modality),
            observed,
            to_scale=to_scale,
            with_squares=likelihood.squares_inform,
        )
    except ExtremeValueError as error:
        raise ValueError(
            f"Screening of modality {modality!r}: expected values with a finite variance, found "
            f"{error.value:g} (on the scale of the regression) in feature "
            f"{cells.found.features(modality)[error.feature]!r}. Remove or clip it. A model with "
            "screen=False does without screening."
        ) from error


def _scaled_counts(likelihood: Likelihood, cells: Cells, modality: str) -> sp.csr_matrix:
    """Counts on the scale of regression, (n, D); those of few cells are copied at a time."""
    parts = []
    for start in range(0, max(1, len(cells)), _CELLS_AT_ONCE):
        some = Cells(cells.manager, cells.rows[start : start + _CELLS_AT_ONCE])
        counts = as_csr(some.matrix(modality))
        parts.append(likelihood.regression_scale(counts, row_sums(counts)))
    return sp.vstack(parts, format="csr")


def _covariates(net: SharedPrivateVAE, cells: Cells) -> np.ndarray:
    """Inputs of the decoders besides latents, (n, V)."""
    keys = (Keys.OBSERVED, *net.n_categories, *net.continuous)
    return net.covariates({key: torch.as_tensor(cells.column(key)) for key in keys}).numpy()


def batches_of(net: SharedPrivateVAE, cells: Cells) -> np.ndarray:
    """A number for each combination of batch and other categories of covariates, (n,)."""
    columns = [np.zeros((len(cells), 1), int), *(cells.column(key) for key in net.n_categories)]
    return np.unique(np.hstack(columns), axis=0, return_inverse=True)[1].ravel()


def _labels(net: SharedPrivateVAE, cells: Cells) -> Values:
    """Which class each cell has, (n, classes); not observed where it is unknown."""
    codes = cells.column(Keys.LABELS)  # (n, 1)
    return DiscreteValues(codes == np.arange(net.n_classes), codes[:, 0] >= 0)


# --------------------------------------------------------------------------------------------
# After training
# --------------------------------------------------------------------------------------------


def learn_weak_effects(
    net: SharedPrivateVAE, train: Cells, screening: dict[str, Screening]
) -> None:
    """Estimate effects of ``shared`` on features that screening did not select.

    After training, when ``shared`` no longer changes, from training cells. ``shared`` is that of
    the other modalities, as for a cross-view prediction.
    """
    effects = {}
    for m, found in screening.items():
        others = _others(net, m)
        cells = train.take(train.paired(m))
        candidates = ~np.tile(found.shared, net.likelihood(m).n_outputs)  # (R,)
        if not len(cells) or not candidates.any():
            continue
        shared, _ = embed(net, cells, others)
        centre = shared.mean(0)
        to_directions, spread = whitening(shared - centre)  # (K, directions), (directions,)
        directions = (shared - centre) @ to_directions
        derivatives = _derivatives(net, cells, m, shared, directions)
        slopes = weak_effects(derivatives, candidates, spread)
        effects[m] = centre, to_directions @ slopes
    net.set_learned_after_training(weak_effects=effects)


def _derivatives(
    net: SharedPrivateVAE, cells: Cells, modality: str, shared: np.ndarray, directions: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """What :func:`~scvenn.screening.weak_effects` reads, some cells at a time."""
    rng = np.random.default_rng(scvi.settings.seed)
    n_raw = net.likelihood(modality).n_outputs * len(net.likelihood(modality).mean_)
    for part, tensors in cells.minibatches([modality], "Weak effects"):
        signs = torch.as_tensor(rng.choice([-1.0, 1.0], n_raw))
        latent = torch.as_tensor(shared[part])
        gradient, curvature = network.decoder_gradient(net, tensors, modality, latent, signs)
        yield directions[part], gradient.cpu().numpy(), curvature.cpu().numpy()
