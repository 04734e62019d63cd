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

from scvenn import likelihoods
from scvenn.network import ScreenedBranch, SharedPrivateVAE
from scvenn.readouts import shared_features as _shared_features
from scvenn.screening import features as _screening

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
    screen = _shared_features.screen

    def changed(*args: Any, **kwargs: Any) -> _screening.Screening:
        found = screen(*args, **kwargs)
        return found._replace(**{name: np.full(len(found.score), True) for name in every})

    return patch.object(_shared_features, "screen", changed)


def _one_noise() -> Any:
    """One noise scale of each feature, learned, for both kinds of prediction."""
    log_prob = likelihoods.Normal.log_prob

    def changed(self: Any, raw: Tensor, x: Tensor, library: Tensor, **further: Any) -> Tensor:
        return log_prob(self, raw, x, library, **{**further, "cross_view": False})

    return patch.object(likelihoods.Normal, "log_prob", changed)


def _no_agreement() -> Any:
    """No same-view likelihood given `shared` alone."""
    over_decoders = SharedPrivateVAE._over_decoders

    def across(self: Any, m: str, scored: Any) -> Any:
        rows = [r for r in scored.rows if self._plan.trained[m].cross_view[r]]
        kept = [scored.rows.index(row) for row in rows]
        return scored._replace(rows=rows, log_likelihood=scored.log_likelihood[kept])

    def changed(self: Any, scores: Any) -> Tensor:
        kept = {
            m: [across(self, m, one) if one.from_shared else one for one in of_modality]
            for m, of_modality in scores.items()
        }
        return over_decoders(self, kept)

    return patch.object(SharedPrivateVAE, "_over_decoders", changed)


def _private_reads_all() -> Any:
    """The private encoder reads the values themselves."""

    def changed(self: Any, x: Tensor, *args: Any) -> Tensor:
        return x

    return patch.object(ScreenedBranch, "left_over", changed)


def _alike() -> Any:
    """The embedding is the plain mean of what the modalities say."""
    model = _shared_features.SharedFeaturesMixin
    return patch.object(model, "_weigh_experts", lambda self: None)


REPLACED: dict[str, Callable[[], Any]] = {
    "shared predicts every feature": lambda: _found(shared=True),
    "shared reads every feature": lambda: _found(related=True),
    "shared reads and predicts every feature": lambda: _found(shared=True, related=True),
    "screening without squares": lambda: patch.object(_screening, "_squared", lambda matrix: None),
    "one noise scale": _one_noise,
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
