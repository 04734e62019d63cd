"""Predictions of one modality from others, a minibatch of cells at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from scvenn import network
from scvenn._arguments import check_number
from scvenn.data import Cells, Keys, Registry, Tensors, as_list, plain, quoted


@dataclass(frozen=True)
class Prediction:
    """What is predicted from what, after a check of its names.

    Parameters
    ----------
    sources, target
        Modalities to read, and the one to predict.
    columns
        Positions of the target's features to return, (d,).
    batch
        A batch that all cells are decoded as, by its number; None for their own.
    library_size
        Sum of the counts of every cell; None for the cells' own.
    """

    sources: list[str]
    target: str
    columns: np.ndarray
    batch: int | None = None
    library_size: float | None = None

    @classmethod
    def of(
        cls,
        found: Registry,
        source: str | Sequence[str],
        target: str,
        *,
        features: str | Sequence[str] | None = None,
        transform_batch: Any = None,
        library_size: float | None = None,
    ) -> Prediction:
        """From the arguments of a user.

        Raises
        ------
        ValueError
            If a modality, feature or batch is unknown, or the library size is not above 0.
        """
        if library_size is not None:
            check_number("library_size", library_size, "None or a finite number above 0", above=0)
        target = check_modality(found, target, "target")
        batch = None
        if transform_batch is not None:
            batch = found.code_of_batch(transform_batch, argument="transform_batch")
        return cls(
            check_modalities(found, source, "source"),
            target,
            choose_features(found, target, features),
            batch,
            library_size,
        )

    def blocks(
        self, net: network.SharedPrivateVAE, cells: Cells
    ) -> Iterator[tuple[slice, np.ndarray]]:
        """Positions of a minibatch among the cells, and its prediction (B, d)."""
        for part, tensors, given in self._given(net, cells):
            mean = network.means(net, tensors, self.target, given)
            yield part, mean[:, self.columns].cpu().numpy()

    def values(self, net: network.SharedPrivateVAE, cells: Cells) -> np.ndarray:
        """Prediction of all cells, (n, d)."""
        values = np.empty((len(cells), len(self.columns)), np.float32)
        for part, block in self.blocks(net, cells):
            values[part] = block
        return values

    def some_at_a_time(self, net: network.SharedPrivateVAE, cells: Cells) -> SomeFeatures:
        """Predictions of all features, to be asked for in blocks of features."""
        parts = [given for _, _, given in self._given(net, cells)]
        given = network.Given(*(torch.cat(each) for each in zip(*parts, strict=True)))
        return SomeFeatures(net, cells, self.target, given, batch=self.batch)

    def _given(
        self, net: network.SharedPrivateVAE, cells: Cells
    ) -> Iterator[tuple[slice, Tensors, network.Given]]:
        """Positions of a minibatch, its tensors, and what it is predicted from."""
        read = list(dict.fromkeys([*self.sources, self.target]))
        for part, tensors in cells.minibatches(read, f"Predicting {self.target}"):
            given = network.given_sources(
                net, tensors, self.sources, self.target, library_size=self.library_size
            )
            yield part, tensors | batch_tensor(self.batch, len(tensors[Keys.OBSERVED])), given


class SomeFeatures:
    """Means of a modality in cells whose latents are known, some features at a time.

    However many blocks of features are asked for, cells are encoded once and each feature is
    decoded twice at most: the means of counts depend on the sum over all features.

    Parameters
    ----------
    net
        The networks.
    cells
        Whose covariates the decoder sees.
    modality
        What is decoded.
    given
        From what, for all n cells.
    batch
        A batch that all cells are decoded as, by its number; None for their own.
    """

    def __init__(
        self,
        net: network.SharedPrivateVAE,
        cells: Cells,
        modality: str,
        given: network.Given,
        *,
        batch: int | None = None,
    ) -> None:
        self._net, self._cells, self._modality = net, cells, modality
        self._given, self._batch = given, batch
        self._normaliser: Tensor | None = None  # (n, W)

    def values(self, features: slice) -> np.ndarray:
        """Means of the features at these positions, (n, d)."""
        n_features = len(self._cells.found.features(self._modality))
        start, stop, _ = features.indices(n_features)
        values = np.empty((len(self._cells), stop - start), np.float32)
        if stop - start == n_features:
            for part, tensors, given in self._minibatches():
                mean = network.means(self._net, tensors, self._modality, given)
                values[part] = mean.cpu().numpy()
            return values
        if self._normaliser is None:
            self._normaliser = self._find_normaliser()
        for part, tensors, given in self._minibatches():
            of_cells = self._normaliser[part]
            mean = network.means(self._net, tensors, self._modality, given, features, of_cells)
            values[part] = mean.cpu().numpy()
        return values

    def of_other_cells(self, seed: int) -> SomeFeatures:
        """Predictions with latents exchanged between cells: what is predicted by chance.

        The library size and the covariates of a cell stay its own, as these are known. Cells
        exchange latents with those of which the same was read.
        """
        rng, given = np.random.default_rng(seed), self._given
        known = given.shared.isfinite().all(1)
        kinds = (known.long() + 2 * given.same_view.flatten().long()).cpu().numpy()
        order, by_name = np.arange(len(kinds)), self._cells.names.argsort()
        for kind in np.unique(kinds):
            rows = by_name[kinds[by_name] == kind]  # whatever the order of the cells
            order[rows] = rng.permutation(rows)
        other = given._replace(shared=given.shared[order], private=given.private[order])
        return SomeFeatures(self._net, self._cells, self._modality, other, batch=self._batch)

    def _find_normaliser(self) -> Tensor:
        found = [
            network.normalisers(self._net, tensors, self._modality, given)
            for _, tensors, given in self._minibatches()
        ]
        return torch.cat(found)

    def _minibatches(self) -> Iterator[tuple[slice, Tensors, network.Given]]:
        """Positions of a minibatch, the tensors of its covariates, and what is known of it."""
        for part, tensors in self._cells.minibatches([], f"Predicting {self._modality}"):
            covariates = tensors | batch_tensor(self._batch, len(tensors[Keys.OBSERVED]))
            yield part, covariates, network.Given(*(of[part] for of in self._given))


def batch_tensor(batch: int | None, n_cells: int) -> dict[str, Tensor]:
    """The tensor of a minibatch whose cells are all of one batch; nothing for None."""
    return {} if batch is None else {Keys.BATCH: torch.full((n_cells, 1), batch)}


def check_modalities(
    found: Registry, modalities: str | Sequence[str] | None, argument: str
) -> list[str]:
    """Names of modalities, a user's argument, as a list; None means all.

    Raises
    ------
    ValueError
        If one is unknown or named twice, or there is none.
    """
    known = found.modalities
    if modalities is None:
        return known
    one = isinstance(modalities, str) or not isinstance(modalities, Iterable)
    names: list[Any] = [modalities] if one else list(modalities)
    if not names or any(name not in known for name in names) or len(set(names)) < len(names):
        raise ValueError(
            f"{argument}={modalities!r}: expected one or more of the model's modalities {known}, "
            "each once."
        )
    return names


def check_modality(found: Registry, modality: str, argument: str = "modality") -> str:
    """The name of one modality, a user's argument.

    Raises
    ------
    ValueError
        If it is unknown, or not one name.
    """
    if modality not in found.modalities:
        raise ValueError(
            f"{argument}={modality!r}: expected one of the model's modalities {found.modalities}."
        )
    return modality


def choose_features(
    found: Registry, modality: str, features: str | Sequence[str] | None
) -> np.ndarray:
    """Positions of features by their names; None means all.

    Raises
    ------
    ValueError
        If one is unknown, or they have no order.
    """
    names = pd.Index(found.features(modality))
    if features is None:
        return np.arange(len(names))
    asked = [features] if isinstance(features, str) else as_list(features, "features")
    columns = names.get_indexer(asked)
    if (columns < 0).any():
        unknown = [name for name, column in zip(asked, columns, strict=True) if column < 0]
        if others := [plain(name) for name in unknown if not isinstance(name, str)]:
            text = [str(name) for name in asked]
            remedy = f"Write features={text}" if set(text) <= set(names) else "List names"
            raise ValueError(
                f"features: expected names, which are text, such as {quoted(names, 3)} of "
                f"{modality!r}; found {others[0]!r} ({type(others[0]).__name__}). {remedy}."
            )
        raise ValueError(
            f"features: {quoted(unknown)} not found among the {len(names)} features of "
            f"{modality!r}, such as {quoted(names, 3)}."
        )
    return columns
