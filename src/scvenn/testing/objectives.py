"""The contract of an objective, checked with tiny models of it.

Shapes: ``B`` cells, ``D`` features, ``M`` modalities.
"""

from __future__ import annotations

import logging
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from anndata import AnnData
from mudata import MuData
from torch import Tensor

from scvenn.data import Keys, Tensors
from scvenn.models import SharedPrivateModel
from scvenn.objective import Objective
from scvenn.testing.promises import check_promises, require, require_equal, require_finite

B, D = 48, 5
_SIZES: dict[str, Any] = {"n_shared": 2, "n_private": 2, "n_hidden": 8}
_QUIET: dict[str, Any] = {"accelerator": "cpu", "enable_progress_bar": False, "logger": False}


def check_objective(objective: Objective, *, modalities: Sequence[str] | None = None) -> None:
    """Check that models can be trained by an objective, and that cells may lack modalities.

    Parameters
    ----------
    objective
        What is checked. Tiny models of it are trained for one epoch on made-up real values.
    modalities
        Names of the modalities that it is for, at least two; None for those that its terms name.

    Raises
    ------
    AssertionError
        At the first promise that is broken. The message names the promise and what was found.
    ValueError
        If this is no objective.

    Examples
    --------
    >>> from scvenn import Objective, Term
    >>> terms = [Term(("rna",), ("rna", "adt")), Term(("adt",), ("rna", "adt"))]
    >>> check_objective(Objective(tuple(terms)), modalities=["rna", "adt"])
    """
    if not isinstance(objective, Objective):
        raise ValueError(f"check_objective({objective!r:.60}): expected a scvenn.Objective.")
    named = [m for term in objective.terms for m in (*term.encode, *term.decode)]
    case = _Case(objective, tuple(dict.fromkeys(named) if modalities is None else modalities))
    with _without_messages():
        check_promises("objective", _CHECKS, case)


@contextmanager
def _without_messages() -> Iterator[None]:
    """Made-up data are logged by nobody, and warned of by nobody."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)


@dataclass(frozen=True)
class _Case:
    """An objective, and the modalities that it is for."""

    objective: Objective
    modalities: tuple[str, ...]

    def data(self) -> MuData:
        """Real values of B cells; half of the cells lack one of the modalities."""
        rng = np.random.default_rng(0)
        z = rng.normal(size=(B, 2))
        names, cells = np.array([f"cell{i}" for i in range(B)]), np.arange(B)
        found = {}
        for i, m in enumerate(self.modalities):
            x = z @ rng.normal(size=(2, D)) + rng.normal(size=(B, D))
            adata = AnnData(x.astype(np.float32))
            adata.obs_names, adata.var_names = names, [f"{m}_{j}" for j in range(D)]
            found[m] = adata[cells % (2 * len(self.modalities)) != i].copy()
        return MuData(found)

    def model(self, *, screen: bool = False) -> SharedPrivateModel:
        return SharedPrivateModel(self.data(), objective=self.objective, screen=screen, **_SIZES)

    @property
    def has_cross_view(self) -> bool:
        return any(t.is_cross_view(m) for t in self.objective.terms for m in t.decode)


def _minibatch(model: SharedPrivateModel) -> dict[str, Tensor]:
    """All cells of a model's data."""
    return next(iter(model._make_data_loader(model.adata, batch_size=B)))


def _losses(model: SharedPrivateModel, tensors: Tensors) -> dict[str, Tensor]:
    """The loss, and its parts of each cell, (B,); with the same random numbers at each call."""
    torch.manual_seed(0)
    output = model.module(tensors)[2]
    return {
        "loss": output.loss,
        "reconstruction": sum(output.reconstruction_loss.values()),
        "kl": sum(output.kl_local.values()),
    }


def _covers_all(case: _Case) -> None:
    """Its terms encode and decode each of the modalities, and no other."""
    case.objective.validate(case.modalities)


def _losses_are_finite(case: _Case) -> None:
    """The loss of every cell is finite, whichever modalities it lacks."""
    model = case.model()
    losses = _losses(model, _minibatch(model))
    require_finite(**losses)
    require(losses["reconstruction"].shape == (B,), "There is no loss of each cell.")


def _every_network_learns(case: _Case) -> None:
    """Every parameter of a model gets a gradient that is finite and not 0."""
    model = case.model()
    _losses(model, _minibatch(model))["loss"].backward()
    gradients = {name: p.grad for name, p in model.module.named_parameters()}
    none = [name for name, gradient in gradients.items() if gradient is None or not gradient.any()]
    require(not none, f"There is none of {none}.")
    require_finite(**{name: g for name, g in gradients.items() if g is not None})


def _unobserved_values_do_not_matter(case: _Case) -> None:
    """Values of a modality that a cell lacks reach neither the loss nor a gradient."""
    model, found = case.model(), []
    tensors = _minibatch(model)
    observed = tensors[Keys.OBSERVED].bool()  # (B, M)
    for value in (0.0, 7.0, torch.nan):
        garbled = dict(tensors)
        for i, m in enumerate(case.modalities):
            key = Keys.x(m)
            garbled[key] = torch.where(observed[:, i : i + 1], tensors[key], value)
        model.module.zero_grad()
        losses = _losses(model, garbled)
        losses["loss"].backward()
        gradients = {k: p.grad for k, p in model.module.named_parameters()}
        found.append({**losses, **gradients})
    for other in found[1:]:
        for name, value in found[0].items():
            require_equal(name, other[name], value, rtol=0, atol=0)


def _cells_are_independent(case: _Case) -> None:
    """The loss of a cell depends neither on the values of another nor on what that one lacks."""
    model = case.model()
    tensors = _minibatch(model)
    before = _losses(model, tensors)
    changed = {key: value.clone() for key, value in tensors.items()}
    for m in case.modalities:
        changed[Keys.x(m)][-1] += 3
    changed[Keys.OBSERVED][-1, 1:] = 0
    after = _losses(model, changed)
    for name in ("reconstruction", "kl"):
        require_equal(name, after[name][:-1], before[name][:-1])
    require(not torch.equal(after["kl"][-1], before["kl"][-1]), "The cell's own loss is the same.")


def _order_does_not_matter(case: _Case) -> None:
    """The order of cells does not matter."""
    model = case.model()
    model.module.eval()
    tensors, order = _minibatch(model), torch.randperm(B)
    shuffled = {key: value[order] for key, value in tensors.items()}
    before, after = (_losses(model, given)["kl"] for given in (tensors, shuffled))
    require_equal("kl", after, before[order])


def _trains(case: _Case) -> None:
    """A model trains for an epoch, with screening too if a term is cross-view."""
    for screen in (False, True)[: 1 + case.has_cross_view]:
        model = case.model(screen=screen)
        model.train(1, batch_size=16, train_size=0.8, **_QUIET)
        for name, parameter in model.module.named_parameters():
            require_finite(**{name: parameter.detach()})
        shared = torch.as_tensor(model.get_shared_representation())
        require(shared.shape == (B, 2), f"The shared representation is {tuple(shared.shape)}.")
        require_finite(shared=shared)


def _is_saved(case: _Case) -> None:
    """A saved model gives the same embeddings when it is loaded."""
    model = case.model()
    model.train(1, batch_size=16, train_size=0.8, **_QUIET)
    with tempfile.TemporaryDirectory() as folder:
        model.save(f"{folder}/model")
        loaded = SharedPrivateModel.load(f"{folder}/model", model.adata, accelerator="cpu")
    expected, found = (one.get_shared_representation() for one in (model, loaded))
    require_equal("shared", torch.as_tensor(found), torch.as_tensor(expected))


_CHECKS = (
    _covers_all,
    _losses_are_finite,
    _every_network_learns,
    _unobserved_values_do_not_matter,
    _cells_are_independent,
    _order_does_not_matter,
    _trains,
    _is_saved,
)
