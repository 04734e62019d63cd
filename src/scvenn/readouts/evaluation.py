"""How well a trained model separates what is shared from what is private, in one table."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from itertools import permutations, product

import numpy as np
import pandas as pd
import scipy.sparse as sp

from scvenn import metrics
from scvenn._warnings import warn
from scvenn.data import Cells, quoted, row_sums
from scvenn.network import SharedPrivateVAE
from scvenn.readouts.embeddings import embed
from scvenn.readouts.predictions import Prediction

# Scores of a probe for labels.
_LABEL_METRICS = ("auc", "balanced_accuracy")

# Forms of the relation by which planted latents are looked for.
_RECOVERY = ("linear", "knn")

# Values (cells times features) that are held dense at a time.
_BLOCK = 20_000_000


def evaluate(
    net: SharedPrivateVAE, train: Cells, test: Cells, labels: pd.Series | None
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

    Returns
    -------
    The table of :meth:`scvenn.SharedPrivateModel.evaluate`.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=metrics.UNDEFINED)  # one warning below
        rows = [*_score_predictions(net, test), *_score_latents(net, train, test, labels)]
    table = pd.DataFrame(rows, columns=metrics.EVALUATION_COLUMNS)
    undefined = table[table["value"].isna()]
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
    return table


def _score_predictions(net: SharedPrivateVAE, cells: Cells) -> Iterator[tuple]:
    """Per-feature scores of every source and target that the data has."""
    present = cells.modalities
    for target in present:
        scored = {"r2": metrics.r2, "pearson": metrics.pearson}
        if net.likelihood(target).binary:
            scored["auroc"] = metrics.auroc
        choices: list[tuple[str, str, str | list[str]]] = [
            *(("cross", m, m) for m in present if m != target),
            ("same", target, target),
            ("joint", "all", present),
        ]
        predictions = [
            Prediction.of(cells.found, source, target).some_at_a_time(net, cells)
            for _, _, source in choices
        ]
        names = cells.found.features(target)
        for features, truth in _blocks(net, [cells], target):
            for (view, label, _), prediction in zip(choices, predictions, strict=True):
                predicted = prediction.values(features)
                for name, score in scored.items():
                    scores = score(truth, predicted)
                    for feature, value in zip(names[features], scores, strict=True):
                        yield name, view, label, target, feature, value


def _blocks(
    net: SharedPrivateVAE, parts: Sequence[Cells], modality: str, *, regression_scale: bool = False
) -> Iterator[tuple[slice, np.ndarray]]:
    """Positions and dense values (cells of all parts, features) of some features at a time.

    NaN where not observed; on the scale of the data, or on that for linear regression.
    """
    n_features = len(parts[0].found.features(modality))
    observed = np.concatenate([cells.observed(modality) for cells in parts])
    matrices = [cells.matrix(modality) for cells in parts]
    library = np.vstack([row_sums(x) for x in matrices])
    width = max(1, _BLOCK // max(1, len(observed)))
    if width < n_features:  # many slices of columns
        matrices = [x.tocsc() if sp.issparse(x) else x for x in matrices]
    for start in range(0, n_features, width):
        features = slice(start, min(start + width, n_features))
        block = [x[:, features] for x in matrices]
        dense = np.vstack([x.toarray() if sp.issparse(x) else x for x in block])
        dense = np.where(observed[:, None], dense, np.nan)
        if regression_scale:
            dense = net.likelihood(modality).regression_scale(dense, library)
        yield features, dense


# --------------------------------------------------------------------------------------------
# Latents
# --------------------------------------------------------------------------------------------


def _score_latents(
    net: SharedPrivateVAE, train: Cells, test: Cells, labels: pd.Series | None
) -> Iterator[tuple]:
    """Scores of embeddings. Arrays hold the training cells first, then those to score."""
    parts = [train, test]
    fitted, scored = np.arange(len(train)), len(train) + np.arange(len(test))
    split = {"train": fitted, "test": scored}
    # a regression needs two cells
    sources = [m for m in test.modalities if all(cells.observed(m).sum() > 1 for cells in parts)]
    embedded = [embed(net, cells, sources, batch_corrected=True) for cells in parts]
    latents = {"shared": np.vstack([shared for shared, _ in embedded])}
    latents |= {f"private_{m}": np.vstack([z[m] for _, z in embedded]) for m in sources}

    def paired(one: np.ndarray, other: np.ndarray) -> bool:
        """Whether two training and two test cells have both latents, of the other any value."""
        both = np.isfinite(one).all(1) & np.isfinite(other).any(1)
        return min(both[fitted].sum(), both[scored].sum()) > 1

    for source, target in permutations(latents, 2):
        if "shared" in (source, target):
            values = metrics.ridge_r2(latents[source], latents[target], **split)
            for k, value in enumerate(values):
                yield "leakage_r2", "latent", source, target, f"{target}_{k}", value
    for source, m in product(latents, sources):
        own = f"private_{m}"
        if source in ("shared", own) or not paired(latents[source], latents[own]):
            continue
        like_a_latent = m == "shared" or m.startswith(("private_", "modality "))
        target = f"modality {m}" if like_a_latent else m
        names = test.found.features(m)
        for features, values in _blocks(net, parts, m, regression_scale=True):
            scores = metrics.ridge_r2(latents[source], values, **split)
            for feature, value in zip(names[features], scores, strict=True):
                yield "leakage_r2", "latent", source, target, feature, value
    if labels is not None:
        yield from _score_labels(latents, labels, fitted, scored)
    for target in ("z_shared", *(f"z_private_{m}" for m in sources)):
        if all(target in cells.mdata.obsm for cells in parts):
            truth = np.vstack([_planted(cells, target) for cells in parts])
            for source, latent in latents.items():
                recovered = dict.fromkeys(_RECOVERY, np.nan)
                if paired(latent, truth):
                    recovered = metrics.recovery_r2(latent, truth, **split)
                for form, value in recovered.items():
                    yield f"recovery_{form}_r2", "latent", source, target, None, value


def _planted(cells: Cells, key: str) -> np.ndarray:
    """A planted latent, (n, L), however it is stored; NaN where it is not finite."""
    stored = cells.mdata.obsm[key]
    values = np.asarray(stored.toarray() if sp.issparse(stored) else stored, dtype=np.float64)
    return np.where(np.isfinite(values), values, np.nan)[cells.rows]


def _score_labels(
    latents: Mapping[str, np.ndarray], labels: pd.Series, fitted: np.ndarray, scored: np.ndarray
) -> Iterator[tuple]:
    """Scores of a probe for labels; what cannot be scored is left out, and one warning says so."""
    left_out: dict[str, list[str]] = {}  # reasons, and the latents that they hold for
    for source, latent in latents.items():
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
        scores = dict.fromkeys(_LABEL_METRICS, np.nan)
        if n_classes > 1:
            scores = metrics.probe_scores(latent, known, train=fitted, test=scored)
        else:
            reason = (
                "there are no scores, as a probe needs two labels or more among the training cells "
                f"(found {quoted(train.unique())}) and the same among the scored cells (found "
                f"{quoted(test.unique())})"
            )
            left_out.setdefault(reason, []).append(source)
        for metric, value in scores.items():
            yield metric, "latent", source, labels.name, None, value
    if left_out:
        reasons = "; ".join(f"of {quoted(of, 9)}, {why}" for why, of in left_out.items())
        warn(f"evaluate(labels_key={labels.name!r}): {reasons}.")
