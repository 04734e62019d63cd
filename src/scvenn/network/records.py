"""What the history records of a minibatch, (B,) each; NaN for cells that it does not concern.

Shapes: ``B`` cells, ``M`` modalities, ``S`` encoded subsets of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from scvenn.data import Keys
from scvenn.network.plan import Plan


class Scored(NamedTuple):
    """Log-likelihood of one modality by one of its decoders."""

    rows: list[int]  # of the modality's part of the plan
    from_shared: bool  # whether the decoder is the one that reads `shared` alone
    log_likelihood: Tensor  # (rows, B); 0 where the modality was not measured


def of_terms(
    plan: Plan,
    scores: Mapping[str, list[Scored]],
    watched: Mapping[str, list[Scored]],
    kl_shared: Float[Tensor, "S B"],
    kl_private: Mapping[str, Float[Tensor, " B"]],
    active: Bool[Tensor, "S B"],
    observed: Mapping[str, Bool[Tensor, " B"]],
) -> dict[str, Tensor]:
    """KLs, the log-likelihood of each modality given each subset, and the sum across views."""
    n = plan.n_encoded
    records = {Keys.KL_SHARED: _where(active[:n], kl_shared[:n]).nanmean(0)}
    for m, kl in kl_private.items():
        records[plan.kl_names[m]] = _where(observed[m], kl)
    cross_view = []
    for decodings, scored in ((plan.trained, scores), (plan.watched, watched)):
        for m, of_modality in scored.items():
            decoding = decodings[m]
            for rows, from_shared, log_likelihood in of_modality:
                for row, value in zip(rows, log_likelihood, strict=True):
                    across = decoding.cross_view[row]
                    if from_shared and not across:
                        continue  # same-view: what both latents give is recorded
                    record = _where(active[decoding.subsets[row]] & observed[m], value)
                    records[decoding.names[row]] = record
                    if across:
                        cross_view.append(record)
    if not cross_view:
        return records
    pairs = torch.stack(cross_view)  # (pairs, B)
    records[Keys.CROSS_VIEW] = _where(~pairs.isnan().all(0), pairs.nansum(0))
    return records


def of_labels(
    plan: Plan,
    log_likelihood: Float[Tensor, "S B"],
    right: Float[Tensor, "S B"],
    concerned: Bool[Tensor, "S B"],
) -> dict[str, Tensor]:
    """Log-likelihood and accuracy of labels, averaged over the encoded subsets."""
    values = {Keys.LABEL_LOG_LIKELIHOOD: log_likelihood, Keys.LABEL_ACCURACY: right}
    return {
        name: _where(concerned, value)[: plan.n_encoded].nanmean(0)
        for name, value in values.items()
    }


def _where(condition: Tensor, value: Tensor) -> Tensor:
    return torch.where(condition, value.detach(), torch.nan)
