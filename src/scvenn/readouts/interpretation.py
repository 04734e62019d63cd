"""What latents mean: variance they explain, features they move, and cells they matter in.

*Shared alone* is what the model predicts across views: a private latent of zero and, in a model
that screens, the cross-view decoder. The shared latent is that of all modalities of a cell, the
predicted one among them.

Shapes: ``n`` cells, ``B`` cells of a minibatch, ``D`` features, ``K`` size of a latent.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch

from scvenn import network
from scvenn.data import Cells, Keys, Tensors
from scvenn.likelihoods import dense
from scvenn.network import SharedPrivateVAE
from scvenn.readouts.embeddings import embed

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
            "shared": (s, None),
            "private": (np.zeros_like(s), p),
            "both": (s, p),
            **{f"shared_{k}": (_at_mean(s, k), p) for k in range(s.shape[1])},
            **{f"private_{k}": (s, _at_mean(p, k)) for k in range(p.shape[1])},
        }
        residual, total = _squares(net, cells.take(measured), m, latents)
        r2 = {latent: float(_r2(of.sum(), total.sum())) for latent, of in residual.items()}
        first = ("shared", "private", "both")
        rows += [(m, latent, r2[latent]) for latent in first]
        rows.append((m, "overlap", r2["shared"] + r2["private"] - r2["both"]))
        rows += [(m, latent, r2["both"] - r2[latent]) for latent in latents if latent not in first]
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
    shared, privates = embed(net, cells, net.modalities)
    private = privates[modality] if latent == "private" else None
    moved = shared if private is None else private  # (n, K)
    names = cells.found.features(modality)
    slope = np.zeros((moved.shape[1], len(names)))
    for part, tensors in cells.minibatches([], "Loadings"):
        latents = _tensors((shared, private), part)
        slope += network.slopes(net, tensors, modality, *latents, scale=scale).cpu().numpy()
    loading = slope / len(cells) * moved.std(0, ddof=1)[:, None]  # (K, D)
    dimensions = [f"{latent}_{k}" for k in range(len(loading))]
    return pd.DataFrame(
        {
            "feature": np.tile(names[columns], len(dimensions)),
            "dimension": np.repeat(dimensions, len(columns)),
            "loading": loading[:, columns].ravel(),
        }
    )


def r2_of_views(net: SharedPrivateVAE, cells: Cells, modality: str) -> tuple[np.ndarray, ...]:
    """R² of each feature, (D,), from the other modalities and from its own.

    Of cells that have the modality and another.
    """
    others = [m for m in net.modalities if m != modality]
    cross, _ = embed(net, cells, others)
    own, private = embed(net, cells, [modality])
    latents: dict[str, Latents] = {"cross": (cross, None), "same": (own, private[modality])}
    residual, total = _squares(net, cells, modality, latents)
    return _r2(residual["cross"], total), _r2(residual["same"], total)


def contributions(net: SharedPrivateVAE, cells: Cells) -> pd.DataFrame:
    """What :meth:`scvenn.SharedPrivateModel.write_contributions` writes, of all cells."""
    shared, private = embed(net, cells, net.modalities)
    found = pd.DataFrame(index=cells.names)
    for m in cells.modalities:
        measured = np.flatnonzero(cells.observed(m))
        s, p = shared[measured], private[m][measured]
        latents: list[Latents] = [(np.broadcast_to(s.mean(0), s.shape), None), (s, None), (s, p)]
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


def _squares(
    net: SharedPrivateVAE, cells: Cells, modality: str, latents: Mapping[str, Latents]
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Squares around their mean, summed over cells, of residuals given latents and of values.

    Some cells at a time, so that as many features fit as in training. Arrays are (D,); values that
    are constant have a sum of exactly 0.
    """
    likelihood, n_features = net.likelihood(modality), len(cells.found.features(modality))
    sums = {name: np.zeros((2, n_features)) for name in latents}  # of residuals, their squares
    sums_of_values, count = np.zeros((2, n_features)), np.zeros(n_features)
    lowest, highest = np.full(n_features, np.inf), np.full(n_features, -np.inf)
    for part, tensors in cells.minibatches([modality], "Predicting"):
        raw = dense(tensors[Keys.x(modality)]).numpy()  # (B, D); NaN where not observed
        library = raw.sum(1, keepdims=True, dtype=np.float64)
        x = likelihood.regression_scale(raw, library).astype(np.float64)
        for name, of in latents.items():
            sums[name] += _sums(x - _decoded(net, modality, tensors, of, part))
        sums_of_values += _sums(x)
        count += np.isfinite(x).sum(0)
        lowest = np.fmin(lowest, np.fmin.reduce(x, 0))
        highest = np.fmax(highest, np.fmax.reduce(x, 0))

    def around_mean(total: np.ndarray, squares: np.ndarray) -> np.ndarray:
        return squares - np.square(total) / count.clip(min=1)

    residual = {name: around_mean(*of) for name, of in sums.items()}
    return residual, np.where(highest > lowest, around_mean(*sums_of_values), 0.0)


def _at_mean(latent: np.ndarray, k: int) -> np.ndarray:
    """The same latent, (n, K), with one dimension at its mean."""
    changed = latent.copy()
    changed[:, k] = latent[:, k].mean()
    return changed


def _sums(values: np.ndarray) -> np.ndarray:
    """Sums over cells of values and of their squares, (2, D), without those that are NaN."""
    return np.stack([np.nansum(values, 0), np.nansum(np.square(values), 0)])


def _tensors(latents: Latents, part: slice) -> list[Any]:
    """Latents of some of the cells."""
    return [None if z is None else torch.tensor(z[part]) for z in latents]


def _r2(residual: Any, total: Any) -> np.ndarray:
    """R² from sums of squares; NaN where nothing varies."""
    return np.where(total > 0, 1 - residual / np.where(total > 0, total, 1), np.nan)
