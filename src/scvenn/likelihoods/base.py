"""What every likelihood offers, and what it is told of the data.

Shapes: ``B`` cells, ``D`` features.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

# Number of each cell's batch, (B,); None where batches have no noise of their own.
Batch = Tensor | None


@dataclass(frozen=True)
class FeatureStats:
    """What a likelihood needs to know of its modality's observed values.

    Parameters
    ----------
    mean
        Mean of each feature, (D,).
    scale
        Standard deviation of each feature, 1 where it is constant, (D,).
    library
        Median over cells of a cell's sum of values; above 0.
    """

    mean: np.ndarray
    scale: np.ndarray
    library: float


class Parts(NamedTuple):
    """Raw parameters (..., B, R) of which some are the same whatever was decoded."""

    raw: Tensor  # of those that are not, (..., B, P)
    positions: Tensor  # of these among all, (P,)
    baseline: Tensor  # what all would be without them, (R,) or (B, R)
    rest: Tensor  # positions of the others, (R - P,)

    def whole(self) -> Tensor:
        """All parameters, (..., B, R)."""
        if not len(self.rest):
            return self.raw
        everywhere = self.baseline.expand(*self.raw.shape[:-1], -1)
        return everywhere.index_copy(-1, self.positions, self.raw)


class Likelihood(nn.Module):
    """A distribution of the values of one modality.

    Parameters
    ----------
    stats
        Summary of the training data.
    n_batches
        Number of batches that each have a noise of their own; None for one noise of all cells.
    """

    name: str
    domain: str
    allows_missing: bool
    discrete: bool = False  # counts, or 0 and 1
    of_counts: bool = False  # means are compared by their ratio, not by their difference
    # whether a density needs nothing of its feature, so that some features can be scored apart
    separable: bool = False
    n_outputs: int = 1
    mean_: Tensor
    scale_: Tensor
    library_: Tensor

    def __init__(self, stats: FeatureStats, n_batches: int | None = None) -> None:
        super().__init__()
        self.n_batches = n_batches
        self.register_buffer("mean_", torch.as_tensor(stats.mean, dtype=torch.float32))
        self.register_buffer("scale_", torch.as_tensor(stats.scale, dtype=torch.float32))
        self.register_buffer("library_", torch.tensor(float(stats.library)))

    @torch.no_grad()
    def set_stats(self, stats: FeatureStats) -> None:
        """Take over the statistics of other cells, before anything is learned.

        Parameters that start from statistics start anew.

        Parameters
        ----------
        stats
            Summary of the cells that will be trained on, of the same D features.
        """
        self.mean_.copy_(torch.as_tensor(stats.mean))
        self.scale_.copy_(torch.as_tensor(stats.scale))
        self.library_.fill_(stats.library)

    def _of_noise(self, start: Tensor) -> Tensor:
        """Where a parameter of the noise starts: (D,) as given, or that for each batch."""
        return start if self.n_batches is None else start.repeat(self.n_batches, 1)

    def _of_cells(self, noise: Tensor, batch: Batch) -> Tensor:
        """That parameter for the cells of a minibatch: (D,) for all, or (B, D)."""
        return noise if self.n_batches is None else noise[batch]

    @staticmethod
    def in_domain(values: np.ndarray) -> np.ndarray:
        """Which of these (finite) values the distribution can produce, element by element."""
        raise NotImplementedError

    def encoder_input(self, x: Tensor) -> Tensor:
        """Values as the encoder reads them, same shape as ``x``."""
        raise NotImplementedError

    def start(self) -> Tensor:
        """Raw parameters that predict the mean of each feature, where there are such.

        Where predictions start: a rare peak is thousands of steps away from a logit of 0.

        Returns
        -------
        Shape (n_outputs * D,).
        """
        return self.mean_.new_zeros(self.n_outputs * len(self.mean_))

    def linear_scale(self, values: Any, library: np.ndarray) -> Any:
        """Values on which linear regression makes sense, such as logarithms of counts.

        Parameters
        ----------
        values
            Some features, (B, D), an array or sparse; NaN where not observed.
        library
            Sum over all features of each cell, (B, 1).
        """
        return values

    def log_prob(
        self, raw: Tensor, x: Tensor, library: Tensor, batch: Batch = None, cross_view: bool = False
    ) -> Tensor:
        """Log-likelihood of each value, in nats.

        Parameters
        ----------
        raw
            Output of the decoder, (..., B, n_outputs * D).
        x
            Values, (B, D), without NaN.
        library
            Sum of each cell's values, (B, 1); used by likelihoods of counts.
        batch
            Number of each cell's batch, (B,); needed where batches have a noise of their own.
        cross_view
            Whether this is a prediction from other modalities with a noise of its own; only
            ``"normal"`` tells the two apart.

        Returns
        -------
        Shape (..., B, D).
        """
        raise NotImplementedError

    def total(
        self,
        output: Tensor | Parts,
        x: Tensor,
        measured: Tensor,
        library: Tensor,
        batch: Batch = None,
        cross_view: bool = False,
    ) -> Tensor:
        """Log-likelihood of each cell, (..., B): the sum over what was measured.

        Parameters
        ----------
        output
            Output of the decoder, (..., B, n_outputs * D), or its parts. Of a :attr:`separable`
            likelihood, what is the same whatever was decoded is then scored once.
        measured
            Which values count; boolean, (B, D), or (B, 1) for all or none of a cell.
        x, library, batch, cross_view
            As in :meth:`log_prob`.
        """
        if isinstance(output, Parts) and self.separable:

            def of(raw: Tensor, features: Tensor) -> Tensor:
                some = measured.index_select(-1, features) if measured.shape[-1] > 1 else measured
                values = x.index_select(-1, features)
                return self.total(raw, values, some, library, batch, cross_view)

            baseline = output.baseline.index_select(-1, output.rest).expand(len(x), -1)
            return of(output.raw, output.positions) + of(baseline, output.rest)
        raw = output.whole() if isinstance(output, Parts) else output
        values = self.log_prob(raw, x, library, batch=batch, cross_view=cross_view)
        if measured.shape[-1] > 1:
            values = torch.where(measured, values, 0.0)
        return torch.where(measured.any(-1), values.sum(-1), 0.0)

    def follow_cross_view(
        self, raw: Tensor, x: Tensor, measured: Tensor, batch: Batch = None
    ) -> None:
        """Learn from a minibatch by how much cross-view predictions miss.

        Parameters
        ----------
        raw
            Outputs of the cross-view decoder, (T, B, n_outputs * D).
        x
            Values, (B, D), without NaN.
        measured
            Which values count; boolean, (B, D) or (B, 1).
        batch
            As in :meth:`log_prob`.
        """

    def mean(self, raw: Tensor, library: Tensor) -> Tensor:
        """Expected value on the scale of the data, (..., B, D)."""
        raise NotImplementedError

    def sample(self, raw: Tensor, library: Tensor, batch: Batch = None) -> Tensor:
        """Draw at random what :meth:`log_prob` describes, on the scale of the data.

        Each entry is drawn by itself, without gradient. ``raw`` holds no NaN.

        Returns
        -------
        Shape (..., B, D).
        """
        raise NotImplementedError
