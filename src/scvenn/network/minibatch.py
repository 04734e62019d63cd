"""A minibatch as the networks read it; the one place where unobserved values are replaced.

Shapes: ``B`` cells, ``D`` features, ``V`` columns of covariates.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from scvenn.data import Keys, Tensors
from scvenn.likelihoods import Likelihood, Rows, SparseRows, dense, share_of
from scvenn.network.gaussians import Gaussian


class Encoded(NamedTuple):
    """What the encoder of a modality made of its values: all that minified data has of them."""

    shared: Gaussian  # (B, K)
    private: Gaussian  # (B, P)
    library: Float[Tensor, "B 1"]

    def joined(self) -> Float[Tensor, "B W"]:
        """One array, (B, 2 K + 2 P + 1)."""
        of_latents = [part for q in (self.shared, self.private) for part in (q.loc, q.var)]
        return torch.cat([*of_latents, self.library], dim=1)

    @classmethod
    def of(
        cls, values: Float[Tensor, "B W"], n_shared: int, n_private: int, *, modality: str
    ) -> Encoded:
        """The parts of such an array.

        Raises
        ------
        ValueError
            If it has other columns, or variances that are not above 0.
        """
        sizes = [n_shared, n_shared, n_private, n_private, 1]
        where = f"mdata[{modality!r}].obsm[{Keys.POSTERIOR!r}]"
        changed = "It was changed since minify_mudata() wrote it. Load the file again."
        if values.shape[1] != sum(sizes):
            raise ValueError(
                f"{where} has {values.shape[1]} columns, expected {sum(sizes)}. {changed}"
            )
        *parts, library = values.split(sizes, dim=1)
        found = cls(Gaussian(*parts[:2]), Gaussian(*parts[2:]), library)
        if not all((q.var > 0).all() for q in (found.shared, found.private)):
            raise ValueError(f"{where} has variances that are not above 0. {changed}")
        return found


@dataclass(frozen=True)
class View:
    """One modality of a minibatch, with harmless values where nothing was measured."""

    x: Rows  # (B, D)
    measured: Bool[Tensor, "B #D"]  # entries that count; (B, 1) where a cell has all or none
    library: Float[Tensor, "B 1"]
    observed: Bool[Tensor, " B"]
    lacks_features: bool = False  # whether the data lacks some of the model's
    encoded: Encoded | None = None  # of minified data; x then has no columns

    @classmethod
    def minified(
        cls, encoded: Encoded, observed: Bool[Tensor, " B"], likelihood: Likelihood
    ) -> View:
        """Read what the encoder made of values that are no longer there."""
        measured = observed.unsqueeze(-1)  # (B, 1)
        library = torch.where(measured, encoded.library, likelihood.library_)
        nothing = library.new_empty(len(library), 0)
        return cls(nothing, measured, library, observed, encoded=encoded)

    @classmethod
    def read(cls, x: Rows, observed: Bool[Tensor, " B"], likelihood: Likelihood) -> View:
        """Read values (B, D) of cells in which the modality was observed (B,) or not.

        Sparse ones stay sparse, unless single values are missing; where a cell was not observed,
        all are 0.
        """
        if isinstance(x, SparseRows) and not x.values.isnan().any():
            library = torch.where(
                observed.unsqueeze(-1), x.sums().clamp(min=1), likelihood.library_
            )
            return cls(x, observed.unsqueeze(-1), library, observed)
        x = dense(x).float()
        measured = observed.unsqueeze(-1)  # (B, 1)
        total, filler = x.sum(-1, keepdim=True), likelihood.mean_  # (B, 1); NaN where an entry is
        lacks_features = False
        if total.isnan().any():
            measured = measured & ~x.isnan()  # (B, D)
            if likelihood.discrete:  # features that this data lacks
                total = x.nansum(-1, keepdim=True) / share_of(measured, filler)
                filler, lacks_features = total * (filler / filler.sum()), True
        if not measured.all():
            x = torch.where(measured, x, filler)
            if likelihood.reads_sparse:  # then only values above 0 are looked at
                x = torch.where(observed.unsqueeze(-1), x, 0.0)
        # integer counts: the largest of 1 and the sum changes only cells without any count
        library = torch.where(observed.unsqueeze(-1), total.clamp(min=1), likelihood.library_)
        return cls(x, measured, library, observed, lacks_features)


@dataclass(frozen=True)
class Minibatch:
    """What the networks read of B cells."""

    views: dict[str, View]
    covariates: Float[Tensor, "B V"]
    batch: Int[Tensor, " B"]  # number of each cell's batch
    labels: Int[Tensor, " B"] | None  # -1 is unlabelled; None where labels were not read


class MinibatchReader:
    """From the tensors of a data loader to what the networks read.

    Parameters
    ----------
    modalities
        All of them, in their stored order.
    n_categories
        Number of categories of each categorical covariate, the batch among them, by the name of its
        tensor.
    continuous
        Names of the tensors of continuous covariates.
    sizes
        Of the shared and the private latent, for each modality.
    """

    def __init__(
        self,
        modalities: Sequence[str],
        n_categories: Mapping[str, int],
        continuous: Sequence[str],
        sizes: Mapping[str, tuple[int, int]],
    ) -> None:
        self._columns = {m: (i, Keys.x(m)) for i, m in enumerate(modalities)}
        self._sizes = dict(sizes)
        self._coded = {key: n for key, n in n_categories.items() if n > 1}
        self._continuous = list(continuous)
        self.n_covariates = sum(self._coded.values()) + len(self._continuous)

    def read(self, tensors: Tensors, likelihoods: Mapping[str, Likelihood]) -> Minibatch:
        """Read the modalities whose likelihoods are given; no unobserved value gets through."""
        views = {}
        for m, likelihood in likelihoods.items():
            i, key = self._columns[m]
            observed = tensors[Keys.OBSERVED][:, i].bool()
            posterior = tensors.get(Keys.posterior(m))
            if posterior is None:
                views[m] = View.read(tensors[key], observed, likelihood)
            else:
                encoded = Encoded.of(posterior, *self._sizes[m], modality=m)
                views[m] = View.minified(encoded, observed, likelihood)
        batch = tensors[Keys.BATCH].view(-1).long()
        labels = tensors[Keys.LABELS].view(-1).long() if Keys.LABELS in tensors else None
        return Minibatch(views, self.covariates(tensors), batch, labels)

    def covariates(self, tensors: Tensors) -> Float[Tensor, "B V"]:
        """A column for each category of a covariate that has two or more, and for each number."""
        observed = tensors[Keys.OBSERVED]  # (B, M)
        columns = [
            F.one_hot(tensors[key].view(-1).long(), n)  # (B, n)
            for key, n in self._coded.items()
        ]
        columns += [tensors[key] for key in self._continuous]
        return torch.cat([observed.new_zeros(len(observed), 0), *columns], dim=1).float()
