"""Networks that have more categories of covariates than those that they learned from.

What is of a category that was not learned from is the mean of those that were.

Shapes: ``V`` columns of covariates, or batches, before and ``W`` after.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import chain
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from scvenn.data import Keys
from scvenn.network.vae import SharedPrivateVAE


class _Rows(NamedTuple):
    """What the parameters of categories are made of."""

    mix: Float[Tensor, "W V"]  # of those before: themselves, or their mean for a new category
    is_new: Bool[Tensor, " W"]

    @classmethod
    def of_categories(cls, before: int, after: int, *, has_columns: bool = True) -> _Rows:
        """Of one covariate; ``has_columns``: whether its categories had parameters before."""
        mix = torch.zeros(after, before)
        mix[:before] = torch.eye(before)
        mix[before:] = 1 / max(1, before)
        return cls(mix if has_columns else mix[:, :0], torch.arange(after) >= before)


@torch.no_grad()
def take_over(new: SharedPrivateVAE, old: SharedPrivateVAE) -> dict[str, Tensor]:
    """Give networks all that others learned, which have fewer categories of covariates.

    What is of a new category starts at the mean of the categories that were there before. Shifts of
    batches in latents are not taken over.

    Parameters
    ----------
    new, old
        The networks. The categories of ``old`` are the first ones of ``new``.

    Returns
    -------
    For each parameter or buffer that grew, by its name, which of its entries are of new categories.
    """
    n_batches = (net.n_categories[Keys.BATCH] for net in (old, new))
    batches = _Rows.of_categories(*n_batches)
    columns = _columns(new, old)
    before, grown = dict(learned_tensors(old)), {}
    for name, tensor in learned_tensors(new):
        found = before[name].to(tensor)
        if found.shape == tensor.shape:
            tensor.copy_(found)
            continue
        rows = batches if ".likelihood." in name else columns
        (axis,) = (i for i, n in enumerate(found.shape) if n != tensor.shape[i])
        # with covariates first, of which the last ones are: inputs of a layer are latents, too
        into, of = tensor.movedim(axis, 0), found.movedim(axis, 0)
        n_others = len(into) - len(rows.is_new)
        into[:n_others] = of[:n_others]
        into[n_others:] = torch.tensordot(rows.mix.to(of), of[n_others:], 1)
        is_new = torch.zeros_like(tensor, dtype=torch.bool)
        is_new.movedim(axis, 0)[n_others:][rows.is_new] = True
        grown[name] = is_new
    return grown


@torch.no_grad()
def fill_in(
    network: SharedPrivateVAE, modality: str, learned: Mapping[str, Bool[np.ndarray, " V"]]
) -> None:
    """Set what is of categories in which a modality was never measured to the mean of the others.

    These parameters had no gradient, and are as at the random start.

    Parameters
    ----------
    network
        The trained networks, which change.
    modality
        Which one.
    learned
        For each covariate of two or more categories, in their order: which of them training cells
        with this modality have.
    """
    mixes = {key: _mean_for_others(torch.as_tensor(found)) for key, found in learned.items()}
    columns = torch.block_diag(*mixes.values(), torch.eye(len(network.continuous)))  # (V, V)
    branch = network.branch(modality)
    for view in branch.of_covariates():
        view.copy_(columns.to(view) @ view)
    likelihood = branch.likelihood
    if likelihood.n_batches is not None and Keys.BATCH in mixes:
        batches = mixes[Keys.BATCH]
        for tensor in chain(likelihood.parameters(), likelihood.buffers()):
            if tensor.dim() == 2 and len(tensor) == len(batches):  # (n_batches, D)
                tensor.copy_(batches.to(tensor) @ tensor)


def _mean_for_others(learned: Bool[Tensor, " V"]) -> Float[Tensor, "V V"]:
    """The matrix that replaces rows by the mean of those that were learned, if there are any."""
    mix = torch.eye(len(learned))
    if learned.any():
        mix[~learned] = learned.float() / learned.sum()
    return mix


def learned_tensors(network: SharedPrivateVAE) -> Iterator[tuple[str, Tensor]]:
    """Parameters and buffers by their names, but for what is learned of latents after training."""
    for name, tensor in chain(network.named_parameters(), network.named_buffers()):
        if "_correction." not in name and not name.startswith("reference."):
            yield name, tensor


def _columns(new: SharedPrivateVAE, old: SharedPrivateVAE) -> _Rows:
    """Of all columns of covariates, in their order; see :class:`MinibatchReader`."""
    blocks = [
        # without a column of batches, all cells are of one
        _Rows.of_categories(max(1, before), after, has_columns=before > 1)
        for before, after in zip(old.n_categories.values(), new.n_categories.values(), strict=True)
        if after > 1
    ]
    n = len(new.continuous)
    blocks.append(_Rows(torch.eye(n), torch.zeros(n, dtype=torch.bool)))
    return _Rows(
        torch.block_diag(*(block.mix for block in blocks)),
        torch.cat([block.is_new for block in blocks]),
    )
