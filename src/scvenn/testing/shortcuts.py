"""Promises of the shortcuts that a likelihood may offer: they give what the plain way gives.

Shapes: ``B`` cells, ``D`` features, ``T`` terms, ``R = n_outputs * D`` raw parameters, ``H`` units.
"""

from __future__ import annotations

from itertools import product

import scipy.sparse as sp
import torch
from torch import Tensor

from scvenn.likelihoods import LastLayer, Likelihood, Parts, Rows, SparseRows
from scvenn.testing.cases import B, Case, D, T, masks
from scvenn.testing.promises import require_equal

H = 5


def _parts(n_outputs: int, shape: tuple[int, ...], group: Tensor | None) -> Parts:
    """Parts of an output, every second feature of which is predicted; (..., B, R)."""
    width = n_outputs * D
    every = torch.arange(width)
    raw = torch.randn(*shape, width // 2, requires_grad=True)
    n_groups = 1 if group is None else int(group.max()) + 1
    baseline = torch.randn(n_groups, width, requires_grad=True)
    return Parts(raw, every[1::2], baseline, every[::2], group)


def _as_read(likelihood: Likelihood, x: Tensor) -> Rows:
    """Values (B, D) as a minibatch holds them where few are not 0."""
    return SparseRows.of(sp.csr_matrix(x.numpy())) if likelihood.reads_sparse else x


def _groups() -> tuple[Tensor | None, ...]:
    """One group of cells, two, and one for each cell."""
    return None, torch.arange(B) % 2, torch.arange(B)


def _parts_make_the_whole(case: Case) -> None:
    """An output in parts is scored as the whole, and has the same gradients."""
    likelihood, x, library = case.build(), case.x, case.library
    stored = _as_read(likelihood, x)
    for measured, group in product(masks(), _groups()):
        parts = _parts(likelihood.n_outputs, (T, B), group)
        learned = [parts.raw, parts.baseline, *likelihood.parameters()]
        totals = [
            likelihood.total(output, values, measured, library)
            for output, values in ((parts, stored), (parts.whole(), x))
        ]
        require_equal("total", *totals)
        gradients = [
            torch.autograd.grad(t.sum(), learned, allow_unused=True, materialize_grads=True)
            for t in totals
        ]
        for found, expected in zip(*gradients, strict=True):
            require_equal("gradient", found, expected, rtol=1e-4, atol=1e-4)


def _a_last_layer_is_its_output(case: Case) -> None:
    """A last layer is scored as what it gives, with the same gradients, whatever its weights."""
    likelihood, library = case.build(n_batches=2), case.library
    batch = torch.arange(B) % 2
    width = likelihood.n_outputs * D
    for measured, group, few in product(masks(), _groups(), (False, True)):
        x = torch.where(measured, case.x, likelihood.mean_)
        fixed = _parts(likelihood.n_outputs, (T, B), group)
        hidden = torch.randn(T, B, H, requires_grad=True)
        layer = torch.randn(width, H, requires_grad=True), torch.randn(width, requires_grad=True)
        weight = torch.rand(T, B) * (torch.rand(T, B) < 0.7) if few else torch.rand(T, B)
        learned = [hidden, *layer, *likelihood.parameters()]
        last = LastLayer(hidden, *layer, fixed)
        gradients = []
        for output, values in ((last, _as_read(likelihood, x)), (last.whole(), x)):
            total = likelihood.total(output, values, measured, library, batch, weight=weight)
            require_equal("shape of total", torch.tensor(total.shape), torch.tensor([T, B]))
            loss = -3 * (weight * total).sum()  # the weights are known up to a factor
            found = torch.autograd.grad(loss, learned, allow_unused=True, materialize_grads=True)
            gradients.append((loss.detach(), *found))
        for found, expected in zip(*gradients, strict=True):
            require_equal("loss or gradient", found, expected, rtol=1e-4, atol=1e-3)


def _sparse_values_are_the_same(case: Case) -> None:
    """Sparse values are scored as dense ones are."""
    likelihood, library = case.build(), case.library
    if not likelihood.reads_sparse:
        return
    cells, _ = masks()
    x = torch.where(cells, case.x, 0.0)
    parts = _parts(likelihood.n_outputs, (T, B), None)
    for output in (parts, parts.whole()):
        found = [
            likelihood.total(output, values, cells, library)
            for values in (x, _as_read(likelihood, x))
        ]
        require_equal("total", *found)


def _zeros_are_read_as_zeros(case: Case) -> None:
    """An encoder that reads sparse values reads 0 as 0 and every value by itself."""
    likelihood = case.build()
    if not likelihood.reads_sparse:
        return
    read = likelihood.encoder_input(case.x)
    require_equal("encoder_input(0)", likelihood.encoder_input(torch.zeros(3)), torch.zeros(3))
    require_equal("encoder_input", likelihood.encoder_input(case.x.flatten()), read.flatten())


def _a_mean_is_read_as_it_is(case: Case) -> None:
    """Means in few numbers are those that an encoder would read."""
    likelihood, library = case.build(), case.library
    for group in _groups():
        parts = _parts(likelihood.n_outputs, (B,), group)
        with torch.no_grad():
            found = likelihood.read_mean(parts, library).dense()
            expected = likelihood.encoder_input(likelihood.mean(parts.whole(), library))
        require_equal("read_mean", found, expected, rtol=1e-4, atol=1e-5)


def _means_of_some_are_those_of_all(case: Case) -> None:
    """Means of some features are those among the means of all."""
    likelihood, library = case.build(), case.library
    if not likelihood.means_of_some:
        return
    raw = case.raw(likelihood)
    by_output = raw.unflatten(-1, (likelihood.n_outputs, D))
    for features in (slice(0, 1), slice(1, D)):
        found = likelihood.mean_of_some(
            by_output[..., features].flatten(-2), library, features, likelihood.normaliser(raw)
        )
        require_equal("mean_of_some", found, likelihood.mean(raw, library)[..., features])


SHORTCUTS = (
    _parts_make_the_whole,
    _a_last_layer_is_its_output,
    _sparse_values_are_the_same,
    _zeros_are_read_as_zeros,
    _a_mean_is_read_as_it_is,
    _means_of_some_are_those_of_all,
)
