"""What latents mean: variance they explain, features they move, and cells they matter in.

*Shared alone* is what the model predicts across views: a private latent of zero and, in a model
that screens, the cross-view decoder. The shared latent is that of all modalities of a cell, the
predicted one among them.

Shapes: ``n`` cells, ``B`` cells of a minibatch, ``D`` features, ``K`` size of a latent.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch

from scvenn import network
from scvenn.data import Cells, Keys, Tensors
from scvenn.likelihoods import dense
from scvenn.network import SharedPrivateVAE
from scvenn.readouts.embeddings import Embedding, embed

# Cells with a value other than 0 that a feature needs to be ranked.
_LEAST_CELLS = 10
# Parts of the cells left out in turn for standard errors, and how many errors a gain is above 0 in
# features that are listed.
_FOLDS, _CLEAR = 10, 2.0
# Rounds of expectation maximisation of shrinkage, and standard errors that are those of rounding.
_ROUNDS, _CERTAIN = 50, 1e-6

# Name of what covariates alone predict, beside what latents do.
_COVARIATES = "covariates"

# Latents to decode, (n, K) each: shared, and private or None for shared alone.
Latents = tuple[np.ndarray, np.ndarray | None]


def variance_explained(net: SharedPrivateVAE, cells: Cells) -> pd.DataFrame:
    """The table of :meth:`scvenn.SharedPrivateModel.variance_explained`."""
    shared, private = embed(net, cells, net.modalities)
    rows = []
    for m in net.modalities:
        measured = cells.observed(m)
        if measured.sum() < 2:
            continue
        s, p = shared[measured], private[m][measured]
        latents: dict[str, Latents] = {
            **_without_latents(net, s),
            "shared": (s, None),
            "private": (np.zeros_like(s), p),
            "both": (s, p),
            **{f"shared_{k}": (_at_mean(s, k), p) for k in range(s.shape[1])},
            **{f"private_{k}": (s, _at_mean(p, k)) for k in range(p.shape[1])},
        }
        one_fold = np.zeros(measured.sum(), int)
        residual, total = _sums(net, cells.take(measured), m, latents, one_fold).squares(
            slice(None)
        )
        r2 = {latent: float(_r2(of.sum(), total.sum())) for latent, of in residual.items()}
        first = ("shared", "private", "both")
        rows += [(m, latent, r2[latent]) for latent in first]
        rows.append((m, "overlap", r2["shared"] + r2["private"] - r2["both"]))
        rows += [(m, latent, r2["both"] - r2[latent]) for latent in r2 if latent not in first]
    return pd.DataFrame(rows, columns=["modality", "latent", "r2"])


def loadings(
    net: SharedPrivateVAE,
    cells: Cells,
    modality: str,
    latent: Literal["shared", "private"],
    columns: np.ndarray,
    scale: Literal["data", "log"],
) -> pd.DataFrame:
    """The table of :meth:`scvenn.SharedPrivateModel.loadings`, of cells with the modality."""
    names = cells.found.features(modality)
    latents = embed(net, cells, net.modalities)
    loading = matrix_of_loadings(net, cells, latents, modality, latent, scale)
    dimensions = [f"{latent}_{k}" for k in range(len(loading))]
    return pd.DataFrame(
        {
            "feature": np.tile(names[columns], len(dimensions)),
            "dimension": np.repeat(dimensions, len(columns)),
            "loading": loading[:, columns].ravel(),
        }
    )


def matrix_of_loadings(
    net: SharedPrivateVAE,
    cells: Cells,
    latents: Embedding,
    modality: str,
    latent: Literal["shared", "private"],
    scale: Literal["data", "log"] = "data",
) -> np.ndarray:
    """Loadings of all features of a modality, in cells that have it, by their latents: (K, D)."""
    shared, privates = latents
    private = privates[modality] if latent == "private" else None
    moved = shared if private is None else private  # (n, K)
    slope = np.zeros((moved.shape[1], len(cells.found.features(modality))))
    for part, tensors in cells.minibatches([], "Loadings"):
        given = _tensors((shared, private), part)
        slope += network.slopes(net, tensors, modality, *given, scale=scale).cpu().numpy()
    return slope / len(cells) * moved.std(0, ddof=1)[:, None]


def gains(net: SharedPrivateVAE, cells: Cells, modality: str) -> pd.DataFrame:
    """What ``shared`` and the private latent add to the prediction of each feature.

    The table behind :meth:`scvenn.SharedPrivateModel.shared_features` and ``private_features``, of
    cells that have the modality and another.

    Returns
    -------
    A row for each feature, with the columns ``n_cells`` and, of ``shared`` and ``private`` each,
    ``gain_...``, ``error_...``, ``score_...`` and ``listed_...``.
    """
    others = [m for m in net.modalities if m != modality]
    from_others, _ = embed(net, cells, others)
    shared, private = embed(net, cells, net.modalities)
    latents: dict[str, Latents] = {
        **_without_latents(net, from_others),
        "from others": (from_others, None),
        "shared": (shared, None),
        "both": (shared, private[modality]),
    }
    folds = cells.names.argsort().argsort() % _FOLDS  # whatever the order of the cells
    sums = _sums(net, cells, modality, latents, folds)

    def found(kept: np.ndarray) -> np.ndarray:
        """Gains of shared and of private, (2, D), in some folds."""
        residual, total = sums.squares(kept)
        r2 = {name: _r2(of, total) for name, of in residual.items()}
        # a prediction that is worse than the mean is no reason to praise the private latent
        return np.stack([r2["from others"], r2["both"] - r2["shared"].clip(min=0)])

    every = np.unique(folds)
    gain = found(every)
    without = np.stack([found(every[every != fold]) for fold in every])  # (folds, 2, D)
    error = np.sqrt((len(every) - 1) / len(every) * np.square(without - without.mean(0)).sum(0))
    enough = (sums.n_nonzero >= _LEAST_CELLS) & np.isfinite(gain + error).all(0)
    table = pd.DataFrame(
        {"feature": cells.found.features(modality), "n_cells": sums.n_nonzero.astype(int)}
    )
    by_shared = gain[0] >= gain[1]
    for k, (latent, most) in enumerate({"shared": by_shared, "private": ~by_shared}.items()):
        score = np.full(len(table), np.nan)
        score[enough] = _shrunken(gain[k, enough], error[k, enough])
        table[f"gain_{latent}"], table[f"error_{latent}"] = gain[k], error[k]
        table[f"score_{latent}"] = score
        table[f"listed_{latent}"] = enough & most & (gain[k] > _CLEAR * error[k])
    return table


def _shrunken(gain: np.ndarray, error: np.ndarray) -> np.ndarray:
    """Expected gains, (D,), given how large those of all features are.

    Gains are taken for a mixture of normal distributions around 0, of which one is of no gain and
    others are each twice as wide as the one before; how many gains are of which is estimated by
    expectation maximisation. Source: adaptive shrinkage (Stephens, Biostatistics 18:275, 2017).
    """
    uncertain = error > _CERTAIN
    if not uncertain.any():
        return gain
    g, e = gain[uncertain, None], error[uncertain, None]
    narrowest, widest = e.min() / 4, max(2 * np.abs(g).max(), e.min())
    widths = narrowest * 2.0 ** np.arange(np.ceil(np.log2(widest / narrowest)) + 1)
    variance = np.square(np.concatenate([[0.0], widths]))  # (K,) of the components
    total = variance + np.square(e)  # (D, K)
    log_density = -0.5 * (np.log(total) + np.square(g) / total)
    density = np.exp(log_density - log_density.max(1, keepdims=True))
    weight = np.full(len(variance), 1 / len(variance))
    for _ in range(_ROUNDS):
        of_component = weight * density
        of_component /= of_component.sum(1, keepdims=True)
        weight = of_component.mean(0)
    shrunken = gain.copy()
    shrunken[uncertain] = (of_component * variance / total).sum(1) * g[:, 0]
    return shrunken


def contributions(net: SharedPrivateVAE, cells: Cells) -> pd.DataFrame:
    """What :meth:`scvenn.SharedPrivateModel.write_contributions` writes, of all cells."""
    shared, private = embed(net, cells, net.modalities)
    found = pd.DataFrame(index=cells.names)
    for m in cells.modalities:
        measured = np.flatnonzero(cells.observed(m))
        s, p = shared[measured], private[m][measured]
        latents: list[Latents] = [_baseline(net, s), (s, None), (s, p)]
        due = np.full((len(cells), 2), np.nan)  # to shared, to private
        for part, tensors in cells.take(measured).minibatches([], "Contributions"):
            baseline, alone, both = (_decoded(net, m, tensors, of, part) for of in latents)
            due[measured[part], 0] = np.square(alone - baseline).sum(1)
            due[measured[part], 1] = np.square(both - alone).sum(1)
        total = due.sum(1, keepdims=True)
        names = [Keys.contribution(latent, m) for latent in ("shared", "private")]
        # where neither moves anything, each accounts for half
        found[names] = np.where(total == 0, 0.5, due / np.where(total == 0, 1, total))
    return found


# --------------------------------------------------------------------------------------------
# Helpers
# --------------------------------------------------------------------------------------------


def _baseline(net: SharedPrivateVAE, shared: np.ndarray) -> Latents:
    """The mean of the shared latent over the training cells, for cells with these, (n, K)."""
    mean = net.reference.shared_mean.cpu().numpy()  # (K,), or (0,) in files of 0.1
    return np.broadcast_to(mean if len(mean) else shared.mean(0), shared.shape), None


def _without_latents(net: SharedPrivateVAE, shared: np.ndarray) -> dict[str, Latents]:
    """What decoders know of cells from covariates alone; nothing where there are none."""
    has_covariates = net.continuous or any(n > 1 for n in net.n_categories.values())
    return {_COVARIATES: _baseline(net, shared)} if has_covariates else {}


def _decoded(
    net: SharedPrivateVAE,
    modality: str,
    tensors: Tensors,
    latents: Latents,
    part: slice,
) -> np.ndarray:
    """Prediction of a minibatch on the scale of regression, (B, D), given latents of all cells."""
    mean = network.decode(net, tensors, modality, *_tensors(latents, part)).cpu().numpy()
    return net.likelihood(modality).regression_scale(mean, np.ones((len(mean), 1)))


@dataclass(frozen=True)
class _Sums:
    """Sums over cells that squares around means are made of, in each of F folds of the cells."""

    # number, sum and sum of squares, (F, 3, D): of residuals given latents, and of values
    residuals: dict[str, np.ndarray]
    values: np.ndarray
    varies: np.ndarray  # (D,)
    n_nonzero: np.ndarray  # (D,)

    def squares(self, folds: np.ndarray | slice) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """Squares around their mean of residuals and of values, (D,), over some of the folds.

        Values count relative to what covariates predict of them: what latents explain is a part of
        that. Values that are constant have a sum of exactly 0.
        """
        residual = {name: _around_mean(of[folds]) for name, of in self.residuals.items()}
        total = np.where(self.varies, _around_mean(self.values[folds]), 0.0)
        if _COVARIATES in residual:
            total = np.minimum(total, residual.pop(_COVARIATES))
        return residual, total


def _sums(
    net: SharedPrivateVAE,
    cells: Cells,
    modality: str,
    latents: Mapping[str, Latents],
    folds: np.ndarray,
) -> _Sums:
    """Predict all cells from each of the latents, some cells at a time, and add up.

    ``folds``: number of each cell's fold, (n,).
    """
    likelihood, n_features = net.likelihood(modality), len(cells.found.features(modality))
    n_folds = int(folds.max()) + 1
    residuals = {name: np.zeros((n_folds, 3, n_features)) for name in latents}
    values, n_nonzero = np.zeros((n_folds, 3, n_features)), np.zeros(n_features)
    lowest, highest = np.full(n_features, np.inf), np.full(n_features, -np.inf)
    has, share = ~cells.lacking(modality), cells.share_measured(modality)
    for part, tensors in cells.minibatches([modality], "Predicting", values=True):
        raw = dense(tensors[Keys.x(modality)]).numpy()  # (B, D); NaN where not observed
        library = raw[:, has].sum(1, keepdims=True, dtype=np.float64) / share
        x = likelihood.regression_scale(raw, library).astype(np.float64)
        for name, of in latents.items():
            _add(residuals[name], x - _decoded(net, modality, tensors, of, part), folds[part])
        _add(values, x, folds[part])
        n_nonzero += (np.isfinite(raw) & (raw != 0)).sum(0)
        lowest = np.fmin(lowest, np.fmin.reduce(x, 0))
        highest = np.fmax(highest, np.fmax.reduce(x, 0))
    return _Sums(residuals, values, highest > lowest, n_nonzero)


def _add(sums: np.ndarray, values: np.ndarray, folds: np.ndarray) -> None:
    """Add values of cells, (B, D), to the sums, (F, 3, D), of their folds, without NaN."""
    for fold in np.unique(folds):
        own = values[folds == fold]
        sums[fold] += np.stack(
            [np.isfinite(own).sum(0), np.nansum(own, 0), np.nansum(np.square(own), 0)]
        )


def _around_mean(sums: np.ndarray) -> np.ndarray:
    """Sum of squares around the mean, (D,), from the sums of folds, (F, 3, D)."""
    count, total, squares = sums.sum(0)
    return squares - np.square(total) / count.clip(min=1)


def _at_mean(latent: np.ndarray, k: int) -> np.ndarray:
    """A latent, (n, K), with one dimension at its mean."""
    changed = latent.copy()
    changed[:, k] = latent[:, k].mean()
    return changed


def _tensors(latents: Latents, part: slice) -> list[Any]:
    """Latents of some of the cells."""
    return [None if z is None else torch.tensor(z[part]) for z in latents]


def _r2(residual: Any, total: Any) -> np.ndarray:
    """R² from sums of squares; NaN where nothing varies."""
    return np.where(total > 0, 1 - residual / np.where(total > 0, total, 1), np.nan)
