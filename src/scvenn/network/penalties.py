"""What penalties of an objective are computed from, and what they give.

Shapes: ``B`` cells, ``K`` latent size, ``S`` encoded subsets of the modalities.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from scvenn.network.gaussians import Sampled
from scvenn.network.minibatch import Minibatch
from scvenn.network.plan import Plan
from scvenn.objective import Latents, Penalty


def latents_of(
    plan: Plan,
    minibatch: Minibatch,
    shared: Sampled,
    private: Mapping[str, Sampled],
    active: Bool[Tensor, "S B"],
) -> Latents:
    """Samples and posterior means: 0, without gradient, where nothing was observed."""
    observed = {m: view.observed for m, view in minibatch.views.items()}
    encoded = [*enumerate(plan.subsets[: plan.n_encoded])]
    return Latents(
        shared={s: _where(active[i], shared.z[i]) for i, s in encoded},
        shared_mean={s: _where(active[i], shared.posterior.loc[i]) for i, s in encoded},
        private={m: _where(observed[m], p.z) for m, p in private.items()},
        private_mean={m: _where(observed[m], p.posterior.loc) for m, p in private.items()},
        observed=observed,
        covariates=minibatch.covariates,
        batch=minibatch.batch,
    )


def _where(there: Bool[Tensor, " B"], latent: Float[Tensor, "B K"]) -> Float[Tensor, "B K"]:
    return torch.where(there.unsqueeze(-1), latent, 0.0)


def value_of(penalty: Penalty, latents: Latents) -> Float[Tensor, " B"]:
    """Value of a penalty for each cell, checked."""
    value = penalty.value(latents)
    expected = tuple(latents.batch.shape)
    if not isinstance(value, Tensor) or tuple(value.shape) != expected:
        shape = f" of shape {tuple(value.shape)}" if isinstance(value, Tensor) else ""
        raise ValueError(
            f"The value of penalty {penalty.name!r}: expected a tensor with one number for each "
            f"cell of the minibatch, of shape {expected}; found {type(value).__name__}{shape}."
        )
    return value
