"""How well a trained model separates what is shared from what is private, in one table."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import permutations, product

import numpy as np
import pandas as pd
import scipy.sparse as sp

from scvenn import metrics
from scvenn._warnings import warn
from scvenn.data import Cells, Keys, quoted, stored_latent
from scvenn.network import SharedPrivateVAE
from scvenn.readouts.axes import LEAST_VARIANCE
from scvenn.readouts.embeddings import embed
from scvenn.readouts.predictions import Prediction
from scvenn.readouts.shared_features import LEAST_GROUP, batches_of
from scvenn.screening import FDR, shuffled_within, threshold

# Scores of a probe for labels.
_LABEL_METRICS = ("auc", "balanced_accuracy")

# Forms of the relation by which planted latents are looked for.
_RECOVERY = ("linear", "knn")

# Shuffles of cells within groups.
_SHUFFLES = 10

# Of the shuffles that say what is expected by chance: the same model always has the same scores.
_SEED = 0

# Values (cells times features) that are held dense at a time.
_BLOCK = 20_000_000


def evaluate(
    net: SharedPrivateVAE,
    train: Cells,
    test: Cells,
    *,
    labels: pd.Series | None = None,
    groups: pd.Series | None = None,
) -> pd.DataFrame:
    """Score predictions and embeddings on cells that were not trained on.

    Parameters
    ----------
    net
        The trained networks.
    train, test
        Cells on which probes and regressions are fitted, and those that are scored.
    labels
        Of the training cells, then of those to score; missing where not known. None for no probe.
    groups
        Of the same cells, likewise: scores within them are added. None for no such
        scores.

    Returns
    -------
    The table of :meth:`scvenn.SharedPrivateModel.evaluate`.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=metrics.UNDEFINED)  # one warning below
        of_test = None if groups is None else groups.iloc[len(train) :]
        within = None if of_test is None else _Within(net, test, of_test)
        rows = [*_score_predictions(net, test, within)]
        rows += _score_latents(net, train, test, labels, groups)
    table = pd.DataFrame(rows, columns=[*metrics.EVALUATION_COLUMNS, "by_chance"])
    _warn_of_undefined(table, train, test)
    if within is not None:
        table = pd.concat([table.assign(group=None), within.table()], ignore_index=True)
    return table


def _warn_of_undefined(table: pd.DataFrame, train: Cells, test: Cells) -> None:
    """One warning for each reason why scores are NaN."""
    undefined = table[table["value"].isna()]
    apart = [
        (source, target)
        for source, target in permutations(test.modalities, 2)
        if (test.observed(source) & test.observed(target)).sum() < 2
    ]
    if apart:
        named = ", ".join(f"{target!r} from {source!r}" for source, target in apart)
        warn(
            f"evaluate(): scores of {named} are NaN, as fewer than two of the {len(test)} scored "
            "cells have both."
        )
        pairs = pd.MultiIndex.from_frame(undefined[["source", "target"]])
        undefined = undefined[~(undefined["view"].eq("cross") & pairs.isin(apart))]
    of_features = undefined.dropna(subset="feature").groupby("target", sort=False)["feature"]
    if len(of_features):
        named = "; ".join(f"{m!r}: {quoted(names)}" for m, names in of_features.unique().items())
        warn(
            f"evaluate(): some scores are NaN, of features that are constant over the "
            f"{len(test)} scored cells or were measured in fewer than two of them: {named}."
        )
    # labels have a warning of their own
    recovery = undefined[undefined["metric"].isin([f"recovery_{form}_r2" for form in _RECOVERY])]
    if len(recovery):
        sources = recovery.groupby("target", sort=False)["source"].unique()
        named = "; ".join(f"of {target!r} from {quoted(of, 9)}" for target, of in sources.items())
        warn(
            f"evaluate(): scores of recovery are NaN, {named}: the planted latent is constant over "
            f"the {len(test)} scored cells, or fewer than two of them or of the {len(train)} "
            "training cells have both."
        )


def _score_predictions(
    net: SharedPrivateVAE, cells: Cells, within: _Within | None
) -> Iterator[tuple]:
    """Per-feature scores of every source and target that the data has.

    ``within`` gets the predictions across views, if there is one.
    """
    present = cells.modalities
    for target in present:
        metrics_of = {"r2": metrics.r2, "pearson": metrics.pearson}
        if net.likelihood(target).binary:
            metrics_of["auroc"] = metrics.auroc
        choices: list[tuple[str, str, str | list[str]]] = [
            *(("cross", m, m) for m in present if m != target),
            ("same", target, target),
            ("joint", "all", present),
        ]
        predictions = [
            Prediction.of(cells.found, source, target).some_at_a_time(net, cells)
            for _, _, source in choices
        ]
        of_others = [prediction.of_other_cells(_SEED) for prediction in predictions]
        names = cells.found.features(target)
        if within is not None:
            to_scale = partial(
                net.likelihood(target).regression_scale, library=cells.library(target)
            )
        for features, truth in _blocks(net, [cells], target):
            for (view, label, _), prediction, other in zip(
                choices, predictions, of_others, strict=True
            ):
                predicted = prediction.values(features)
                if within is not None and view == "cross":
                    # a prediction has the library size of its cell, which says something of each
                    # count: on the scale of regression, the library size is divided out
                    scaled = to_scale(truth), to_scale(predicted)
                    within.add(label, target, names[features], *scaled)
                shuffled = other.values(features)
                for name, score in metrics_of.items():
                    scores, by_chance = (score(truth, of) for of in (predicted, shuffled))
                    rows = zip(names[features], scores, by_chance, strict=True)
                    for feature, *of_feature in rows:
                        yield name, view, label, target, feature, *of_feature


class _Within:
    """How well features are predicted within groups of cells, and where that is no accident.

    Decoders know the covariates of a cell, which are not what modalities share: truth and
    predictions count relative to their means over the cells of a batch in the group, and without
    what continuous covariates explain of them. A correlation is *shared* if it is above what
    shuffles of the predictions among these cells reach, at a false discovery rate of 5 % over the
    features of a target.

    Parameters
    ----------
    net
        The trained networks, of which covariates are used.
    cells
        Those that are scored. They are shuffled in the order of their names.
    groups
        Of the cells, missing where not known.
    """

    def __init__(self, net: SharedPrivateVAE, cells: Cells, groups: pd.Series) -> None:
        self.by_name = cells.names.argsort()
        ordered = cells.take(self.by_name)
        # -1 where unknown
        self.codes, self.names = pd.factorize(groups.iloc[self.by_name], sort=True)
        pairs = np.column_stack([self.codes, batches_of(net, ordered)])
        self.strata = np.unique(pairs, axis=0, return_inverse=True)[1].ravel()
        columns = [ordered.column(key) for key in net.continuous]
        self.continuous = np.hstack([np.zeros((len(ordered), 0)), *columns])  # (n, V)
        # by source, target and group: the features, and their scores: of the cells, then shuffled
        self.scores: dict[tuple[str, str, str], list[tuple[np.ndarray, np.ndarray]]] = {}

    def add(
        self, source: str, target: str, names: np.ndarray, truth: np.ndarray, predicted: np.ndarray
    ) -> None:
        """Score some features, (d,), from values and predictions of all cells, (n, d).

        All features of a source and target are shuffled alike.
        """
        truth, predicted = truth[self.by_name], predicted[self.by_name]
        has_both = np.isfinite(truth).any(1) & np.isfinite(predicted).any(1)
        rows = np.flatnonzero(has_both & (self.codes >= 0))
        codes, strata = self.codes[rows], self.strata[rows]
        covariates = _less_group_means(self.continuous[rows], strata)
        x, y = (
            _less_covariates(_less_group_means(v[rows], strata), covariates)
            for v in (truth, predicted)
        )
        parts = {"all": np.arange(len(rows))}
        sizes = np.bincount(codes, minlength=len(self.names))
        for i in np.flatnonzero(sizes >= LEAST_GROUP):
            parts[str(self.names[i])] = np.flatnonzero(codes == i)
        for name, of_part in parts.items():
            if len(of_part) < 2:
                continue
            rng = np.random.default_rng(_SEED)
            orders = [np.arange(len(of_part))]
            orders += [shuffled_within(strata[of_part], rng) for _ in range(_SHUFFLES)]
            a, b = x[of_part], y[of_part]
            found = [metrics.r2(a, b), metrics.r2(a, b[orders[1]])]
            found += [metrics.pearson(a, b[order]) for order in orders]
            key = (source, target, name)
            self.scores.setdefault(key, []).append((names, np.array(found)))

    def table(self) -> pd.DataFrame:
        """Rows of the evaluation, with a column for the group."""
        parts = []
        for (source, target, group), blocks in self.scores.items():
            names = np.concatenate([names for names, _ in blocks])
            r2, r2_shuffled, pearson, *shuffled = np.hstack([scores for _, scores in blocks])
            shared = pearson > threshold(pearson, np.array(shuffled), FDR)
            of_metric = {
                "r2_within": (r2, r2_shuffled),
                "pearson_within": (pearson, shuffled[0]),
                "shared_within": (shared, np.full(len(names), np.nan)),
            }
            for metric, (values, by_chance) in of_metric.items():
                part = pd.DataFrame(
                    {"feature": names, "value": values.astype(float), "by_chance": by_chance}
                )
                parts.append(
                    part.assign(
                        metric=metric, view="cross", source=source, target=target, group=group
                    )
                )
        columns = [*metrics.EVALUATION_COLUMNS, "by_chance", "group"]
        return pd.concat(parts)[columns] if parts else pd.DataFrame(columns=columns)


def _less_group_means(values: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """Values (n, d) relative to the mean of the cell's group; NaN stays."""
    result = np.empty_like(values, dtype=np.float64)
    for code in np.unique(codes):
        rows = codes == code
        of_group = values[rows].astype(np.float64)
        known = np.isfinite(of_group)
        mean = np.where(known, of_group, 0.0).sum(0) / np.maximum(1, known.sum(0))
        result[rows] = of_group - mean
    return result


def _less_covariates(values: np.ndarray, covariates: np.ndarray) -> np.ndarray:
    """What a regression of values (n, d) on covariates (n, V) leaves over; NaN stays."""
    if not covariates.shape[1]:
        return values
    result = values.copy()
    # features that were measured in the same cells are regressed together
    patterns, pattern = np.unique(np.isfinite(values), axis=1, return_inverse=True)
    for i, rows in enumerate(patterns.T):
        measured = np.ix_(rows, pattern.ravel() == i)
        slope = np.linalg.lstsq(covariates[rows], values[measured], rcond=None)[0]
        result[measured] -= covariates[rows] @ slope
    return result


def _blocks(
    net: SharedPrivateVAE, parts: Sequence[Cells], modality: str, *, regression_scale: bool = False
) -> Iterator[tuple[slice, np.ndarray]]:
    """Positions and dense values (cells of all parts, features) of some features at a time.

    NaN where not observed; on the scale of the data, or on that for linear regression.
    """
    n_features = len(parts[0].found.features(modality))
    observed = [cells.observed(modality)[:, None] for cells in parts]  # (n, 1) each
    lacking = [cells.lacking(modality) for cells in parts]  # (D,) each
    matrices = [cells.matrix(modality) for cells in parts]
    if regression_scale:
        library = np.vstack([cells.library(modality) for cells in parts])
    width = max(1, _BLOCK // max(1, sum(map(len, parts))))
    if width < n_features:  # many slices of columns
        matrices = [x.tocsc() if sp.issparse(x) else x for x in matrices]
    for start in range(0, n_features, width):
        features = slice(start, min(start + width, n_features))
        block = []
        for matrix, has_it, lacks in zip(matrices, observed, lacking, strict=True):
            some = matrix[:, features]
            dense = some.toarray() if sp.issparse(some) else some
            block.append(np.where(has_it & ~lacks[features], dense, np.nan))
        dense = np.vstack(block)
        if regression_scale:
            dense = net.likelihood(modality).regression_scale(dense, library)
        yield features, dense


# --------------------------------------------------------------------------------------------
# Latents
# --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Latents:
    """Embeddings, (n, K) each by name: the training cells first, then those to score.

    NaN for cells without the modality. Dimensions that do not vary are 0: a regression scales
    dimensions alike, and would read rounding as much as all others.
    """

    of_cells: dict[str, np.ndarray]
    of_others: dict[str, np.ndarray]  # exchanged between cells: what is expected by chance
    varies: dict[str, np.ndarray]  # which dimensions do, (K,)
    # positions of the training cells and of those to score, sorted by name: ties between neighbours
    # and exchanges of latents must not depend on the order of the data
    fitted: np.ndarray
    scored: np.ndarray

    @classmethod
    def of(
        cls, net: SharedPrivateVAE, train: Cells, test: Cells, sources: Sequence[str]
    ) -> _Latents:
        """The shared latent given the sources, and their private latents."""
        fitted, scored = train.names.argsort(), len(train) + test.names.argsort()
        embedded = [embed(net, cells, sources, batch_corrected=True) for cells in (train, test)]
        latents = {"shared": np.vstack([shared for shared, _ in embedded])}
        latents |= {f"private_{m}": np.vstack([z[m] for _, z in embedded]) for m in sources}
        varies = {name: _varying(z[fitted]) for name, z in latents.items()}
        latents = {name: z * varies[name] for name, z in latents.items()}
        others = {name: _of_other_cells(z, fitted, scored) for name, z in latents.items()}
        return cls(latents, others, varies, fitted, scored)

    @property
    def split(self) -> dict[str, np.ndarray]:
        """Positions of the cells to fit on and to score, as regressions take them."""
        return {"train": self.fitted, "test": self.scored}

    def of_pairs(self, one: np.ndarray, other: np.ndarray) -> dict[str, np.ndarray] | None:
        """Those that have one latent and any value of another; None if too few for a regression."""
        both = np.isfinite(one).all(1) & np.isfinite(other).any(1)
        split = {part: cells[both[cells]] for part, cells in self.split.items()}
        return split if min(map(len, split.values())) > 1 else None


def _score_latents(
    net: SharedPrivateVAE,
    train: Cells,
    test: Cells,
    labels: pd.Series | None,
    groups: pd.Series | None,
) -> Iterator[tuple]:
    """Scores of embeddings."""
    parts = [train, test]
    # a regression needs two cells
    sources = [m for m in test.modalities if all(cells.observed(m).sum() > 1 for cells in parts)]
    if not sources:
        raise ValueError(
            f"evaluate() found no modality of {test.found.modalities} that two or more of the "
            f"{len(test)} cells to score and two of the {len(train)} training cells have. Choose "
            "others with indices=... or pass new data."
        )
    latents = _Latents.of(net, train, test, sources)
    yield from _leakage_between_latents(latents)
    yield from _leakage_to_features(net, parts, sources, latents)
    if groups is not None:
        yield from _leakage_within(latents, groups)
    if labels is not None:
        yield from _score_labels(latents, labels)
    yield from _recovery(parts, sources, latents)


def _leakage_between_latents(latents: _Latents) -> Iterator[tuple]:
    """How well each dimension of a private latent is predicted from shared, and the other way."""
    for source, target in permutations(latents.of_cells, 2):
        if "shared" not in (source, target):
            continue
        values, by_chance = (
            metrics.ridge_r2(of[source], latents.of_cells[target], **latents.split)
            for of in (latents.of_cells, latents.of_others)
        )
        for k in np.flatnonzero(latents.varies[target]):
            name = f"{target}_{k}"
            yield "leakage_r2", "latent", source, target, name, values[k], by_chance[k]


def _leakage_to_features(
    net: SharedPrivateVAE, parts: Sequence[Cells], sources: Sequence[str], latents: _Latents
) -> Iterator[tuple]:
    """How well each private latent predicts the features of the other modalities."""
    for source, m in product(latents.of_cells, sources):
        own = f"private_{m}"
        if source in ("shared", own):
            continue
        split = latents.of_pairs(latents.of_cells[source], latents.of_cells[own])
        if split is None:
            continue
        like_a_latent = m == "shared" or m.startswith(("private_", "modality "))
        target = f"modality {m}" if like_a_latent else m
        names = parts[0].found.features(m)
        for features, values in _blocks(net, parts, m, regression_scale=True):
            # the same cells are fitted on whichever features are read together
            train = split["train"]
            values[train] = metrics.with_means(values[train])
            scores, by_chance = (
                metrics.ridge_r2(of[source], values, **split)
                for of in (latents.of_cells, latents.of_others)
            )
            for feature, *of_feature in zip(names[features], scores, by_chance, strict=True):
                yield "leakage_r2", "latent", source, target, feature, *of_feature


def _recovery(parts: Sequence[Cells], sources: Sequence[str], latents: _Latents) -> Iterator[tuple]:
    """How much of planted latents each latent holds, where the data has them."""
    for target in (Keys.shared("z"), *(Keys.private(m, "z") for m in sources)):
        if not all(target in cells.mdata.obsm for cells in parts):
            continue
        truth = _planted(parts, target)
        for source, latent in latents.of_cells.items():
            recovered = [dict.fromkeys(_RECOVERY, np.nan)] * 2
            if latents.of_pairs(latent, truth) is not None:
                recovered = [
                    metrics.recovery_r2(of[source], truth, **latents.split)
                    for of in (latents.of_cells, latents.of_others)
                ]
            for form in _RECOVERY:
                of_form = [of[form] for of in recovered]
                yield f"recovery_{form}_r2", "latent", source, target, None, *of_form


def _varying(latent: np.ndarray) -> np.ndarray:
    """Which dimensions of a latent (n, K) vary by more than rounding; all if none does, (K,)."""
    known = latent[np.isfinite(latent).all(1)].astype(np.float64)
    variance = known.var(0) if len(known) else np.zeros(latent.shape[1])
    found = variance > LEAST_VARIANCE * variance.max(initial=0)
    return found if found.any() else np.ones_like(found)


def _of_other_cells(latent: np.ndarray, *parts: np.ndarray) -> np.ndarray:
    """A latent, exchanged between the cells of each part that have it."""
    rng, result = np.random.default_rng(_SEED), latent.copy()
    for cells in parts:
        known = cells[np.isfinite(latent[cells]).all(1)]
        result[known] = latent[rng.permutation(known)]
    return result


def _leakage_within(latents: _Latents, groups: pd.Series) -> Iterator[tuple]:
    """Leakage between shared and private latents relative to the means of groups."""
    codes = np.asarray(pd.factorize(groups)[0])

    def of_groups(z: np.ndarray) -> np.ndarray:
        result = np.full_like(z, np.nan)
        for cells in (latents.fitted, latents.scored):  # each have means of their own
            known = cells[codes[cells] >= 0]
            result[known] = _less_group_means(z[known], codes[known])
        return result

    relative, shuffled = (
        {name: of_groups(z) for name, z in of.items()}
        for of in (latents.of_cells, latents.of_others)
    )
    for source, target in permutations(relative, 2):
        if "shared" not in (source, target):
            continue
        split = latents.of_pairs(relative[source], relative[target])
        if split is None:
            continue
        values, by_chance = (
            metrics.ridge_r2(of[source], relative[target], **split) for of in (relative, shuffled)
        )
        for k in np.flatnonzero(latents.varies[target]):
            name = f"{target}_{k}"
            yield "leakage_r2_within", "latent", source, target, name, values[k], by_chance[k]


def _planted(parts: Sequence[Cells], key: str) -> np.ndarray:
    """A planted latent of the cells of all parts, (n, L), however it is stored; NaN: not known."""
    found = [stored_latent(cells.mdata, key)[cells.rows].astype(np.float64) for cells in parts]
    if len({values.shape[1] for values in found}) > 1:
        sizes = " and ".join(str(values.shape[1]) for values in found)
        raise ValueError(
            f"evaluate(): mdata.obsm[{key!r}] has {sizes} dimensions in training cells and in "
            "cells to score; expected as many in both."
        )
    return np.vstack(found)


def _score_labels(latents: _Latents, labels: pd.Series) -> Iterator[tuple]:
    """Scores of a probe for labels; what cannot be scored is left out, and one warning says so."""
    fitted, scored = latents.fitted, latents.scored
    left_out: dict[str, list[str]] = {}  # reasons, and the latents that they hold for
    for source, latent in latents.of_cells.items():
        known = labels.where(np.isfinite(latent).all(1))
        train, test = known.iloc[fitted].dropna(), known.iloc[scored].dropna()
        untrained = test[~test.isin(train)]
        if len(untrained):
            reason = (
                f"{len(untrained)} of the scored cells are left out, as no training cell has their "
                f"labels {quoted(untrained.unique())}"
            )
            left_out.setdefault(reason, []).append(source)
            known = known.where(known.isin(train))
        n_classes = min(train.nunique(), known.iloc[scored].nunique())
        scores = by_chance = dict.fromkeys(_LABEL_METRICS, np.nan)
        if n_classes > 1:
            by_chance = {"auc": 0.5, "balanced_accuracy": 1 / known.iloc[scored].nunique()}
            scores = metrics.probe_scores(latent, known, train=fitted, test=scored)
        else:
            reason = (
                "there are no scores, as a probe needs two labels or more among the training cells "
                f"(found {quoted(train.unique())}) and the same among the scored cells (found "
                f"{quoted(test.unique())})"
            )
            left_out.setdefault(reason, []).append(source)
        for metric, value in scores.items():
            yield metric, "latent", source, labels.name, None, value, by_chance[metric]
    if left_out:
        reasons = "; ".join(f"of {quoted(of, 9)}, {why}" for why, of in left_out.items())
        warn(f"evaluate(labels_key={labels.name!r}): {reasons}.")
