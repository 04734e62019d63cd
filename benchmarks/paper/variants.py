"""scvenn's default with one of its parts taken away: what the ablation trains.

A part that is no option of the package is taken away by replacing a function of it while the model
is trained and scored.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any
from unittest.mock import patch

import numpy as np
from torch import Tensor

from scvenn import likelihoods, network, screening
from scvenn.models import training
from scvenn.readouts import shared_features

# Arguments of the constructor and of `train`, for variants that are options.
OPTIONS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "no screening, no networks of its own": ({"screen": False, "kl_weight_shared": 0.1}, {}),
    "KL of shared weighs 1": ({"kl_weight_shared": 1.0}, {}),
    "dropout of 0.1": ({"dropout_rate": 0.1}, {}),
    "dropout of 0.2": ({"dropout_rate": 0.2}, {}),
    "n_shared = 2": ({"n_shared": 2}, {}),
    "n_shared = 20": ({"n_shared": 20}, {}),
    "stops on the cross-view log-likelihood": (
        {},
        {
            "early_stopping_monitor": "log_likelihood_cross_view_validation",
            "early_stopping_mode": "max",
        },
    ),
}


def _found(**every: bool) -> Any:
    """Screening that calls every feature shared, or related."""
    screen = shared_features.screen

    def changed(*args: Any, **kwargs: Any) -> screening.Screening:
        found = screen(*args, **kwargs)
        return found._replace(**{name: np.full(len(found.score), True) for name in every})

    return patch.object(shared_features, "screen", changed)


def _one_noise() -> Any:
    """One noise scale of each feature, learned, for both kinds of prediction."""
    log_prob = likelihoods.Normal.log_prob

    def changed(self: Any, raw: Tensor, x: Tensor, library: Tensor, **further: Any) -> Tensor:
        return log_prob(self, raw, x, library, **{**further, "cross_view": False})

    return patch.object(likelihoods.Normal, "log_prob", changed)


def _noise_of_training_cells() -> Any:
    """The noise of cross-view predictions is that of training cells."""
    return patch.object(likelihoods.Normal, "set_held_out_noise", lambda self, misses: None)


def _no_agreement() -> Any:
    """No same-view likelihood given `shared` alone."""
    over_decoders = network.SharedPrivateVAE._over_decoders

    def changed(self: Any, scores: Any) -> Tensor:
        kept = {}
        for m, scored in scores.items():
            across = self._plan.trained[m].cross_view
            kept[m] = []
            for of in scored:
                chosen = [i for i, row in enumerate(of.rows) if not of.from_shared or across[row]]
                rows = [of.rows[i] for i in chosen]
                kept[m].append(of._replace(rows=rows, log_likelihood=of.log_likelihood[chosen]))
        return over_decoders(self, kept)

    return patch.object(network.SharedPrivateVAE, "_over_decoders", changed)


def _private_reads_all() -> Any:
    """The private encoder reads the values themselves."""

    def changed(self: Any, x: Tensor, *args: Any) -> Tensor:
        return x

    return patch.object(network.ScreenedBranch, "left_over", changed)


def _alike() -> Any:
    """The embedding is the plain mean of what the modalities say."""
    return patch.object(training, "weigh_experts", lambda net, held_out, train: None)


REPLACED: dict[str, Callable[[], Any]] = {
    "shared predicts every feature": lambda: _found(shared=True),
    "shared reads every feature": lambda: _found(related=True),
    "shared reads and predicts every feature": lambda: _found(shared=True, related=True),
    "screening without squares": lambda: patch.object(
        screening.RealValues, "squares", lambda self: None
    ),
    "one noise scale": _one_noise,
    "noise of training cells": _noise_of_training_cells,
    "no same-view prediction from shared alone": _no_agreement,
    "private reads the values themselves": _private_reads_all,
    "modalities weigh alike": _alike,
}


@contextmanager
def variant(name: str) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Take a part away; gives arguments of the constructor and of ``train``. ``""``: nothing."""
    unknown = name and name not in OPTIONS and name not in REPLACED
    if unknown:
        raise ValueError(f"no variant {name!r}; there are {[*OPTIONS, *REPLACED]}")
    with REPLACED.get(name, nullcontext)():
        yield OPTIONS.get(name, ({}, {}))
