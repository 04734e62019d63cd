"""The last layer of a decoder and the likelihood of what it gives, in one pass.

A decoder of 100,000 peaks has most of its arithmetic here, and most of its memory: logits and their
gradients, for each cell and feature. Computed together, a few rows at a time, they need one array
that is made once and used again; nothing else has that size.

Shapes: ``T`` latents that were decoded, ``B`` cells, ``H`` units, ``R`` raw parameters, ``n`` rows.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Protocol, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from scvenn.likelihoods.outputs import LastLayer, Parts
from scvenn.likelihoods.rows import ENTRIES_IN_CACHE, SparseRows, some_cells

# Entries of the array that is used again: 64 MB of single precision.
_BUFFER = 2**24

_buffers = threading.local()


class WeightedRows(NamedTuple):
    """What was measured in some cells, (n, ...) each, and how much each of them weighs."""

    x: SparseRows  # (n, D)
    library: Tensor  # (n, 1)
    batch: Tensor | None  # (n,)
    weight: Tensor  # gradient of the loss by the log-likelihood of each, (n,)

    def part(self, start: int, stop: int) -> WeightedRows:
        """Some of them."""
        batch = None if self.batch is None else self.batch[start:stop]
        library, weight = self.library[start:stop], self.weight[start:stop]
        return WeightedRows(self.x.between(start, stop), library, batch, weight)

    def add_weighted(self, total: Tensor, values: Tensor) -> None:
        """Add values (n, D), by their weights, to what is summed over cells or over batches."""
        if total.ndim == 1:
            total.addmv_(values.T, self.weight)
        else:
            total.index_add_(0, cast(Tensor, self.batch), values * self.weight.unsqueeze(1))


class ScoresRows(Protocol):
    """A likelihood that scores rows at once; see :class:`Likelihood`."""

    def noise(self) -> tuple[Tensor, ...]:
        """Parameters of the noise that are learned."""

    def score_rows(
        self, raw: Tensor, rows: WeightedRows, by_noise: Sequence[Tensor] | None
    ) -> Tensor:
        """Log-likelihood of some cells, and its gradients in place."""


def total_of_last_layer(
    likelihood: ScoresRows,
    layer: LastLayer,
    x: SparseRows,
    measured: Tensor,
    library: Tensor,
    batch: Tensor | None,
    weight: Tensor,
) -> Tensor:
    """Log-likelihood of each cell, (T, B), as :meth:`Likelihood.total` gives it.

    Parameters
    ----------
    likelihood
        One that scores rows at once.
    layer, x, measured, library, batch
        As in :meth:`Likelihood.total`; of each cell all is measured, or nothing.
    weight
        What the gradient of the loss by each of the results will be, (T, B), up to a factor that is
        the same for all. Gradients by the weights of the layer are summed up while rows are scored,
        which is before that is known. Where it is 0, so is the result.
    """
    cells = x, measured, library, batch, weight
    with torch.autocast("cpu", enabled=False):
        hidden = layer.hidden.to(layer.weight.dtype)
        return _TotalOfLastLayer.apply(
            hidden, layer.weight, layer.bias, layer.fixed, likelihood, cells, *likelihood.noise()
        )


def score_a_few_at_a_time(
    likelihood: ScoresRows, raw: Tensor, rows: WeightedRows, by_noise: Sequence[Tensor] | None
) -> Tensor:
    """As the likelihood's ``score_rows``, of so few rows in one go that they stay in a cache."""
    step = max(1, ENTRIES_IN_CACHE // raw.shape[1])
    starts = range(0, len(raw), step)
    scored = [
        likelihood.score_rows(raw[i : i + step], rows.part(i, i + step), by_noise) for i in starts
    ]
    return torch.cat(scored)


class _Gradients(NamedTuple):
    """Gradients that were summed up in the forward pass, of the shapes of what they are by."""

    by_hidden: Tensor  # of each row, not weighted
    by_weights: Tensor
    by_bias: Tensor
    by_noise: list[Tensor]


class _TotalOfLastLayer(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weights: Tensor,
        bias: Tensor,
        fixed: Parts | None,
        likelihood: ScoresRows,
        cells: tuple[SparseRows, Tensor, Tensor, Tensor | None, Tensor],
        *noise: Tensor,
    ) -> Tensor:
        x, measured, library, batch, weight = cells
        layer = LastLayer(hidden, weights, bias, fixed)
        total = hidden.new_zeros(hidden.shape[:2])  # (T, B)
        found = None
        if any(ctx.needs_input_grad):
            by_noise = [torch.zeros_like(values) for values in noise]
            found = _Gradients(
                torch.zeros_like(hidden),
                torch.empty_like(weights),
                torch.zeros_like(bias),
                by_noise,
            )
        beta = 0  # the first product is written, not added: nothing need be zero before it
        size = max(1, _BUFFER // len(bias))
        for t, chosen in _chunks(measured.squeeze(-1) & (weight != 0), size):
            raw = _buffer(len(chosen), len(bias), hidden)
            layer.into(raw, t, chosen)
            rows = WeightedRows(
                some_cells(x, chosen),
                library.index_select(0, chosen),
                None if batch is None else batch.index_select(0, chosen),
                weight[t].index_select(0, chosen),
            )
            to_noise = None if found is None else found.by_noise
            total[t, chosen] = score_a_few_at_a_time(likelihood, raw, rows, to_noise)
            if found is not None:  # raw holds the gradient of each row by its parameters
                found.by_hidden[t, chosen] = raw @ weights
                weighted = hidden[t].index_select(0, chosen) * rows.weight.unsqueeze(1)
                torch.addmm(found.by_weights, raw.T, weighted, beta=beta, out=found.by_weights)
                beta = 1
                found.by_bias.addmv_(raw.T, rows.weight)
        if found is not None and beta == 0:  # no cell counts
            found.by_weights.zero_()
        ctx.found, ctx.weight = found, weight
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.found is None:
            raise RuntimeError("Gradients of a last layer that was scored can be asked for once.")
        by_hidden, by_weights, by_bias, by_noise = ctx.found
        ctx.found = None  # so that they become gradients of parameters without being copied
        factor = _common_factor(gradient, ctx.weight)
        if factor != 1:
            for values in (by_weights, by_bias, *by_noise):
                values.mul_(factor)
        by_hidden.mul_(gradient.unsqueeze(-1))
        return (by_hidden, by_weights, by_bias, None, None, None, *by_noise)


def _chunks(counted: Tensor, size: int) -> Iterator[tuple[int, Tensor]]:
    """A latent and positions of some cells that count (T, B), at most ``size`` at a time."""
    for t, of_latent in enumerate(counted):
        for part in of_latent.nonzero().squeeze(1).split(size):
            if len(part):
                yield t, part


def _buffer(n_rows: int, n_columns: int, like: Tensor) -> Tensor:
    """An array to be written into, (n_rows, n_columns), the same one at each call of a thread."""
    size = n_rows * n_columns
    kept = getattr(_buffers, "kept", None)
    if kept is None or len(kept) < size or kept.dtype != like.dtype:
        with torch.inference_mode(False):  # a read-out may be the first to ask
            kept = _buffers.kept = torch.empty(size, dtype=like.dtype, device=like.device)
    return kept[:size].view(n_rows, n_columns)


def _common_factor(gradient: Tensor, weight: Tensor) -> float:
    """By what the weights must be multiplied to give the gradient."""
    if torch.equal(gradient, weight):
        return 1.0
    factor = (gradient * weight).sum() / weight.square().sum()
    if not torch.allclose(gradient, factor * weight, rtol=1e-4):
        raise RuntimeError("The log-likelihoods were weighed otherwise than announced.")
    return float(factor)
