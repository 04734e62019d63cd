"""The sizes, weights and kinds of networks that make up a model, checked and complete."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from scvenn._arguments import check_choice, check_flags, check_number, check_positive, is_number
from scvenn.data import Registry
from scvenn.likelihoods import find_likelihood
from scvenn.objective import Objective

# One count carries little information about its mean: an encoder must add up many, and dropout
# keeps it from fitting single ones. Real values are predicted worse with it (docs/beyond.md).
_DROPOUT_OF_DISCRETE = 0.1

_KINDS = {
    "absent_private": ("zero", "prior", "learned"),
    "decoder": ("mlp", "linear"),
    "dispersion": ("feature", "feature-batch"),
}
_WEIGHT = "a finite number that is not negative"
_FLAGS = ("screen", "start_at_means", "encode_covariates")


@dataclass(frozen=True, kw_only=True)
class Design:
    """What the networks of a model are, after all defaults; see :class:`~scvenn.MMVAEpp`.

    Parameters
    ----------
    n_shared, n_private
        Latent sizes.
    n_hidden, n_layers
        Of the hidden layers of every network.
    dropout_rate
        Of the hidden layers of each modality's networks.
    label_weight
        Of the labels' log-likelihood.
    encode_covariates
        Whether covariates are inputs of the encoders, too.
    absent_private
        What a cross-view decoder gets for its private latent.
    screen
        Whether ``shared`` has networks of its own, for screened features.
    kl_weight_shared
        Of the KL of the shared latent relative to the private ones.
    modality_weights
        Of each modality's log-likelihood.
    decoder
        With hidden layers or linear.
    dispersion
        Whether a feature's noise is that of all cells or of each batch.
    start_at_means
        Whether decoders predict the means of the features before they have learned anything.
    """

    n_shared: int
    n_private: Mapping[str, int]
    n_hidden: int
    n_layers: int
    dropout_rate: Mapping[str, float]
    label_weight: float
    encode_covariates: bool
    absent_private: Literal["zero", "prior", "learned"]
    screen: bool
    kl_weight_shared: float
    modality_weights: Mapping[str, float]
    decoder: Literal["mlp", "linear"]
    dispersion: Literal["feature", "feature-batch"]
    start_at_means: bool

    @classmethod
    def of(
        cls, arguments: Mapping[str, Any], *, found: Registry, objective: Objective, screens: bool
    ) -> Design:
        """From the arguments of a model's constructor.

        Parameters
        ----------
        arguments
            By their names, but for the objective.
        found
            What the set-up of the data found.
        objective
            The terms to train.
        screens
            Whether the model screens unless asked otherwise.

        Raises
        ------
        ValueError
            If one is out of range, or does not fit the data, the objective or another one.
        """
        chosen = dict(arguments)
        check_positive(**{name: chosen[name] for name in ("n_shared", "n_hidden", "n_layers")})
        for name, kinds in _KINDS.items():
            check_choice(kinds, **{name: chosen[name]})
        if chosen["screen"] is None:
            chosen["screen"] = screens
        check_flags(**{name: chosen[name] for name in _FLAGS})
        if chosen["screen"]:
            _check_screening(objective, chosen["absent_private"])
        if chosen["dispersion"] == "feature-batch" and len(found.batches) < 2:
            raise ValueError(
                "dispersion='feature-batch' needs two or more batches; found one. Name the column "
                "of batches with setup_mudata(mdata, batch_key=...)."
            )
        n_features = {m: len(found.features(m)) for m in found.modalities}
        chosen["n_private"] = _private_sizes(chosen["n_private"], found.modalities)
        chosen["dropout_rate"] = _dropout_rates(chosen["dropout_rate"], chosen["screen"], found)
        chosen["label_weight"] = _label_weight(chosen["label_weight"], max(n_features.values()))
        chosen["kl_weight_shared"] = _kl_weight(chosen["kl_weight_shared"], chosen["screen"])
        chosen["modality_weights"] = _modality_weights(chosen["modality_weights"], n_features)
        return cls(**chosen)


def _check_screening(objective: Objective, absent_private: str) -> None:
    if not any(t.is_cross_view(m) for t in objective.terms for m in t.decode):
        raise ValueError(
            "screen=True: no term of the objective decodes a modality that it does not encode, so "
            "there is nothing to screen for."
        )
    if absent_private != "zero":
        raise ValueError(
            f"absent_private={absent_private!r}: expected 'zero', as the cross-view decoders of a "
            "model that screens read no private latent. Pass screen=False to use it."
        )


def _private_sizes(n_private: Any, modalities: list[str]) -> dict[str, int]:
    """One latent size for each modality."""
    if not isinstance(n_private, Mapping):
        n_private = dict.fromkeys(modalities, n_private)
    if set(n_private) != set(modalities):
        raise ValueError(
            f"n_private={dict(n_private)}: expected a size for each of {modalities}, and no other."
        )
    check_positive(**{f"n_private[{m!r}]": size for m, size in n_private.items()})
    return {m: n_private[m] for m in modalities}


def _dropout_rates(rate: Any, screen: bool, found: Registry) -> dict[str, float]:
    """One rate for each modality: that of all, or what improves predictions of its values."""
    if rate is not None:
        check_number("dropout_rate", rate, "0 <= dropout_rate < 1", least=0, below=1)
        return dict.fromkeys(found.modalities, rate)
    return {
        m: _DROPOUT_OF_DISCRETE if screen and find_likelihood(name).discrete else 0.0
        for m, name in ((m, found.likelihood(m)) for m in found.modalities)
    }


def _label_weight(weight: Any, most_features: int) -> float:
    if weight == "auto":
        return float(most_features)
    check_number("label_weight", weight, f"'auto' or {_WEIGHT}", least=0)
    return float(weight)


def _kl_weight(weight: Any, screen: bool) -> float:
    if weight is None:
        return 0.1 if screen else 1.0
    check_number("kl_weight_shared", weight, _WEIGHT, least=0)
    return float(weight)


def _modality_weights(weights: Any, n_features: dict[str, int]) -> dict[str, float]:
    """One weight for each modality, of what a user passed."""
    if weights is None:
        return dict.fromkeys(n_features, 1.0)
    if weights == "auto":
        return {m: float(np.mean([*n_features.values()])) / n for m, n in n_features.items()}
    if not isinstance(weights, Mapping) or not set(weights) <= set(n_features):
        raise ValueError(
            f"modality_weights={weights!r}: expected None, 'auto' or weights by modality, of "
            f"{list(n_features)}."
        )
    if wrong := {m: w for m, w in weights.items() if not (is_number(w) and 0 < w < np.inf)}:
        raise ValueError(f"modality_weights={wrong}: expected numbers above 0.")
    return {m: float(weights.get(m, 1.0)) for m in n_features}
