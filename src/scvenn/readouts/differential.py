"""Which features differ between groups of cells, and through which of the latents.

The comparison of two groups is scvi-tools' own, ``DifferentialComputation``. The loop around it is
not: scvi-tools takes every cell that is not of one group for one of the other, and here some cells
have no group, or lack the modality.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import scvi
import torch
from mudata import MuData
from scvi.model.base import DifferentialComputation
from torch import Tensor

from scvenn import network
from scvenn._arguments import check_choice, check_flags, check_number, check_positive
from scvenn._progress import progress
from scvenn.data import Cells, as_list, as_text
from scvenn.readouts.predictions import SomeFeatures

# Values (draws times features) of the arrays that are compared at a time; there are about ten.
_BLOCK = 50_000_000

_THROUGH = ("shared", "private", "both")
# What the table calls all other groups, as scvi-tools does.
_REST = "Rest"


class Settings(NamedTuple):
    """Numbers of a comparison; see :meth:`scvenn.SharedPrivateModel.differential`."""

    through: str
    delta: float | None
    fdr: float
    n_samples: int
    pseudocounts: float
    batch_correction: bool

    def check(self) -> None:
        """Raise a ``ValueError`` if one is out of range."""
        check_choice(_THROUGH, through=self.through)
        if self.delta is not None:
            check_number("delta", self.delta, "None or a number above 0", above=0)
        check_number("fdr", self.fdr, "a number between 0 and 1", above=0, below=1)
        check_positive(n_samples=self.n_samples)
        check_flags(batch_correction=self.batch_correction)
        check_number("pseudocounts", self.pseudocounts, "a number above 0", above=0)


def differential(
    net: network.SharedPrivateVAE,
    cells: Cells,
    groups: pd.Series,
    modality: str,
    *,
    groupby: str,
    group1: str | Sequence[str] | None,
    group2: str | None,
    settings: Settings,
) -> pd.DataFrame:
    """Compare groups of cells; see :meth:`scvenn.SharedPrivateModel.differential`.

    Parameters
    ----------
    net
        The trained networks.
    cells, groups
        Which cells, and the group of each as text; missing where it has none.
    modality
        Whose features.
    groupby, group1, group2
        Name of the column, and the groups to compare.
    settings
        Numbers of the comparison, checked.
    """
    batches = _batches(cells) if settings.batch_correction else None
    needed = net.modalities if settings.through == "shared" else [modality]
    comparable = cells.observed(needed) & groups.notna().to_numpy()
    cells, groups = cells.take(comparable), groups[comparable]
    compared = _comparisons(groups.to_numpy(), groupby, group1, group2)

    likelihood, names = net.likelihood(modality), cells.found.features(modality)
    effect, unit = likelihood.effect, likelihood.unit.detach().cpu().numpy()
    draws = _Draws(net, cells, modality, settings.through)
    tables = []
    for first, second, in_first, in_second in progress(
        compared, description=f"Comparing {groupby}"
    ):
        parts = []
        draws.forget()
        for features in _blocks(len(names), settings.n_samples):
            means = partial(draws.means, features=features, unit=unit[features])
            found = DifferentialComputation(means, None, cells.manager).get_bayes_factors(
                np.flatnonzero(in_first),
                np.flatnonzero(in_second),
                batchid1=batches,
                batchid2=batches,
                use_observed_batches=batches is None,
                n_samples_overall=settings.n_samples,
                change_fn=effect.compare,
                delta=effect.default_delta if settings.delta is None else settings.delta,
                pseudocounts=settings.pseudocounts,
            )
            parts.append(pd.DataFrame(found))
        table = pd.concat(parts, ignore_index=True)
        table[["scale1", "scale2"]] = table[["scale1", "scale2"]].mul(unit, axis=0)
        labels = {"comparison": f"{first} vs {second}", "group1": first, "group2": second}
        table = pd.concat([pd.DataFrame({**labels, "feature": names}), table], axis=1)
        table = table.sort_values("proba_de", ascending=False, kind="stable")
        expected = _expected_fdr(table["proba_de"].to_numpy())
        table[f"is_de_fdr_{settings.fdr}"] = expected <= settings.fdr
        tables.append(table)
    result = pd.concat(tables, ignore_index=True)
    if not effect.has_pseudocounts:
        result = result.drop(columns="pseudocounts")
    return result.rename(columns=lambda name: name.replace("lfc_", f"{effect.name}_"))


def _batches(cells: Cells) -> list[str]:
    """Names of all batches."""
    if not cells.found.batches:
        raise ValueError(
            "batch_correction=True: the model was set up without batch_key. Name the column with "
            "setup_mudata(mdata, batch_key=...) before building the model."
        )
    return cells.found.batches


class _Posterior(NamedTuple):
    """A latent of cells, (n, K)."""

    mean: np.ndarray
    sd: np.ndarray

    def draw(self, cells: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """One draw for each of the cells, (n_cells, K)."""
        noise = rng.standard_normal((len(cells), self.mean.shape[1]), dtype=np.float32)
        return self.mean[cells] + self.sd[cells] * noise


class _Draws:
    """Expected values of a modality given draws of the latents of cells.

    Cells are encoded once, however many groups they are compared in. All features of a comparison
    are compared in the same draws.

    Parameters
    ----------
    net, modality
        The networks, and what is decoded.
    cells
        All cells that may be drawn.
    through
        From which latents.
    """

    def __init__(
        self, net: network.SharedPrivateVAE, cells: Cells, modality: str, through: str
    ) -> None:
        self.net, self.cells, self.modality, self.through = net, cells, modality, through
        self.rng = np.random.default_rng(scvi.settings.seed)
        sizes = net.n_shared, net.n_private[modality]
        self.shared, self.private = (
            _Posterior(*np.empty((2, len(cells), k), np.float32)) for k in sizes
        )
        for part, tensors in cells.minibatches(net.modalities, "Embeddings"):
            q_shared, q_private, _ = network.posteriors(net, tensors, net.modalities)
            for kept, q in ((self.shared, q_shared), (self.private, q_private[modality])):
                kept.mean[part] = q.loc.cpu().numpy()
                kept.sd[part] = q.var.sqrt().cpu().numpy()
        self.baseline = self.shared.mean.mean(0)  # (K,)
        self.drawn: dict[tuple[bytes, str | None], SomeFeatures] = {}

    def forget(self) -> None:
        """Make new draws from here on."""
        self.drawn.clear()

    def means(
        self,
        adata: MuData,
        indices: np.ndarray,
        transform_batch: str | None,
        n_samples_overall: int,
        *,
        features: slice,
        unit: np.ndarray,
    ) -> np.ndarray:
        """Expected values (n_samples_overall, features) of cells drawn among ``indices``.

        The first four arguments are as scvi-tools gives them; positions are among the cells.
        """
        key = np.asarray(indices).tobytes(), transform_batch
        if key not in self.drawn:
            self.drawn[key] = self._draw(indices, transform_batch, n_samples_overall)
        return self.drawn[key].values(features) / unit

    def _draw(
        self, indices: np.ndarray, transform_batch: str | None, n_samples: int
    ) -> SomeFeatures:
        """Draw cells, and their latents."""
        drawn = self.rng.choice(indices, n_samples)
        shared = self.shared.draw(drawn, self.rng)
        private = None if self.through == "shared" else self.private.draw(drawn, self.rng)
        if self.through == "private":
            shared = np.broadcast_to(self.baseline, shared.shape)
        batch = None
        if transform_batch is not None:
            batch = self.cells.found.code_of_batch(transform_batch, argument="transform_batch")
        library = self.net.likelihood(self.modality).library_.item()
        drawn_private = {} if private is None else {self.modality: _tensor(private)}
        z, turned = network.on_axes(self.net, _tensor(shared), drawn_private)
        n_private = self.net.n_private[self.modality]
        given = network.Given.latents(z, turned.get(self.modality), library, n_private)
        cells = self.cells.take(drawn)
        return SomeFeatures(self.net, cells, self.modality, given, batch=batch)


def _tensor(array: np.ndarray) -> Tensor:
    return torch.as_tensor(np.ascontiguousarray(array))


def _comparisons(
    groups: np.ndarray, groupby: str, group1: Any, group2: Any
) -> list[tuple[str, str, np.ndarray, np.ndarray]]:
    """Names of both groups of each comparison, and which of the cells are in them."""
    known = sorted(set(groups))
    if not (group2 is None or np.isscalar(group2)):
        raise ValueError(f"group2={group2!r}: expected one group, or None for all others.")
    second = None if group2 is None else as_text(group2)
    if group1 is None:
        firsts = [g for g in known if g != second]
    else:
        several = not np.isscalar(group1)  # a text is a scalar
        named = as_list(group1, "group1") if several else [group1]
        firsts = list(dict.fromkeys(map(as_text, named)))
    asked = [*firsts, *([] if second is None else [second])]
    if unknown := [g for g in asked if g not in known]:
        raise ValueError(
            f"groupby={groupby!r}: {unknown} not found among the groups of the cells that can be "
            f"compared, {known}. Through 'private' or 'both' these are the cells in which the "
            "modality was measured."
        )
    if len(known) < 2 or second in firsts or not firsts:
        raise ValueError(
            f"groupby={groupby!r}: expected two different groups to compare, found {asked} among "
            f"{known}."
        )
    if second is None and _REST in known:
        raise ValueError(
            f"groupby={groupby!r}: a group is named {_REST!r}, which stands for all other groups "
            "in the table. Rename it, or choose a group2 to compare with."
        )
    return [
        (g, _REST, groups == g, groups != g)
        if second is None
        else (g, second, groups == g, groups == second)
        for g in firsts
    ]


def _blocks(n_features: int, n_samples: int) -> list[slice]:
    """Some features at a time."""
    width = max(1, _BLOCK // n_samples)
    return [slice(start, start + width) for start in range(0, n_features, width)]


def _expected_fdr(probability: np.ndarray) -> np.ndarray:
    """Expected fraction of false ones among each feature and those before it."""
    return np.cumsum(1 - probability) / np.arange(1, len(probability) + 1)
