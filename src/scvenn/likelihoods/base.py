"""What every likelihood declares and offers, and the statistics of the data that it gets.

Shapes: ``B`` cells, ``D`` features.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor, nn

from scvenn.likelihoods.baselines import ReadMean
from scvenn.likelihoods.last_layer import (
    WeightedRows,
    score_a_few_at_a_time,
    total_of_last_layer,
)
from scvenn.likelihoods.outputs import LastLayer, Parts
from scvenn.likelihoods.rows import Rows, SparseRows, dense

# Number of each cell's batch, (B,); None where batches have no noise of their own.
Batch = Tensor | None


@dataclass(frozen=True)
class FeatureStats:
    """Summary of a modality's observed values, for its likelihood.

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


def share_of(measured: Any, mean: Any) -> Any:
    """Part of a cell's counts that is of the measured features, on average over cells, (..., 1).

    Parameters
    ----------
    measured
        Which features were measured, boolean, (..., D).
    mean
        Mean of each feature in training, (D,); both arrays or both tensors.
    """
    of_measured = (measured * mean).sum(-1)[..., None]
    return of_measured.clip(min=np.finfo(np.float32).tiny) / mean.sum()


def _difference(mean_a: np.ndarray, mean_b: np.ndarray, pseudocounts: float) -> np.ndarray:
    return mean_a - mean_b


def _log_fold_change(mean_a: np.ndarray, mean_b: np.ndarray, pseudocounts: float) -> np.ndarray:
    return np.log2(mean_a + pseudocounts) - np.log2(mean_b + pseudocounts)


@dataclass(frozen=True)
class Effect:
    """How the means of a feature in two groups of cells are compared.

    Parameters
    ----------
    name
        Beginning of the columns of a table that hold it.
    compare
        The effect of two arrays of means of the same shape, in units of :attr:`Likelihood.unit`,
        and a number of pseudocounts.
    default_delta
        Least effect that counts where a user names none.
    has_pseudocounts
        Whether the effect depends on them.
    """

    name: str
    compare: Callable[[np.ndarray, np.ndarray, float], np.ndarray]
    default_delta: float
    has_pseudocounts: bool


DIFFERENCE = Effect("difference", _difference, default_delta=0.25, has_pseudocounts=False)
# of means that are probabilities or fractions
DIFFERENCE_OF_FRACTIONS = replace(DIFFERENCE, default_delta=0.05)
LOG_FOLD_CHANGE = Effect("lfc", _log_fold_change, default_delta=0.25, has_pseudocounts=True)


class Likelihood(nn.Module):
    """A distribution of the values of one modality.

    A subclass defines :meth:`in_domain`, :meth:`encoder_input`, :meth:`log_prob`, :meth:`sample`,
    and :meth:`mean` or, with ``means_of_some``, :meth:`mean_of_some`. It declares below what else
    depends on it: no other part of the package asks which likelihood it has. Tensors that are
    learned are parameters, others buffers.
    ``scvenn.testing.check_likelihood`` tests all of it.

    Parameters
    ----------
    stats
        Statistics of the training data.
    n_batches
        Number of batches that each have a noise of their own; None for one noise of all cells.

    Attributes
    ----------
    name
        Key in ``LIKELIHOODS``, and what users write. A plain string in the body of the class.
    summary
        A short phrase for the command line and the documents, in the same form.
    domain
        Which values are allowed, for messages: "... needs <domain>, found ...".
    allows_missing
        Whether single values may be missing. Nothing may then depend on a cell's library size,
        which is NaN where one is.
    inferred_rank
        Likelihoods with a rank are tried for ``likelihoods="auto"``, the least first; the first
        whose domain holds all values is taken. None: only on request. A number that no other has.
    discrete
        Whether values are counts, or 0 and 1. Networks that are screened then have dropout.
    cross_view_noise
        Whether predictions from other modalities have a noise of their own. Then
        :meth:`cross_view_misses`, :meth:`update_cross_view_noise` and :meth:`set_held_out_noise`
        are defined, and :meth:`log_prob` and :meth:`sample` depend on ``cross_view``.
    binary
        Whether values are 0 or 1 and ``mean`` is a probability, so that AUROC is defined.
    n_outputs
        Number of raw parameters of each feature.
    scores_parts
        Whether :meth:`total_of_parts` is defined.
    scores_rows
        Whether :meth:`score_rows` is defined.
    means_of_some
        Whether :meth:`mean_of_some` is defined.
    reads_sparse
        Whether encoders read 0 as 0 and every value by itself, so that few values are read of a
        modality most of whose values are 0.
    effect
        How means of two groups are compared.
    sparse_on_regression_scale
        Whether 0 is 0 on the regression scale, so that values stay sparse. Screening then neither
        standardises nor squares them: standardised rare features would be mostly noise.
    squares_inform
        Whether squares of values on that scale add to what the values themselves predict: not of 0
        and 1, and little of counts, most of which are 0 and 1.
    """

    name: str
    summary: str
    domain: str
    allows_missing: bool
    inferred_rank: float | None = None
    discrete: bool = False
    cross_view_noise: bool = False
    binary: bool = False
    n_outputs: int = 1
    scores_parts: bool = False
    scores_rows: bool = False
    means_of_some: bool = False
    reads_sparse: bool = False
    effect: Effect = DIFFERENCE
    sparse_on_regression_scale: bool = False
    squares_inform: bool = True

    mean_: Tensor
    scale_: Tensor
    library_: Tensor

    def __init__(self, stats: FeatureStats, n_batches: int | None = None) -> None:
        super().__init__()
        self.n_batches = n_batches
        self.register_buffer("mean_", torch.as_tensor(stats.mean, dtype=torch.float32))
        self.register_buffer("scale_", torch.as_tensor(stats.scale, dtype=torch.float32))
        self.register_buffer("library_", torch.tensor(float(stats.library)))

    @property
    def unit(self) -> Tensor:
        """What counts as 1, (D,): densities are per unit, differences of means in units.

        That of the data by default; a likelihood that standardises has ``scale_``, standard
        deviations.
        """
        return torch.ones_like(self.scale_)

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
        """Raw parameters that predict the mean of each feature, or the same part of each.

        Predictions start here: a rare peak is thousands of steps away from a logit of 0.

        Returns
        -------
        Shape (n_outputs * D,).
        """
        return self.mean_.new_zeros(self.n_outputs * len(self.mean_))

    def regression_scale(self, values: Any, library: np.ndarray) -> Any:
        """Values on a scale on which linear regression makes sense, such as logarithms of counts.

        The numbers do not depend on how values are stored.

        Parameters
        ----------
        values
            Some features, (B, D), an array or sparse; NaN where not observed.
        library
            Sum over all features of each cell, (B, 1), or (1,) for all cells.

        Returns
        -------
        Shape (B, D), float32: CSR where ``values`` are sparse and zeros stay zero, else an array.
        """
        if sp.issparse(values) and self.sparse_on_regression_scale:
            csr = sp.csr_matrix(values)
            if not csr.has_canonical_format:
                csr = csr.copy()  # the data of others are not changed
                csr.sum_duplicates()
            of_rows = np.broadcast_to(np.reshape(library, (-1, 1)), (csr.shape[0], 1))
            of_entries = np.repeat(of_rows, np.diff(csr.indptr))
            data = self._regression_scale(csr.data.astype(np.float32), of_entries)
            return sp.csr_matrix((data, csr.indices, csr.indptr), csr.shape, dtype=np.float32)
        dense = values.toarray() if sp.issparse(values) else values
        result = self._regression_scale(np.asarray(dense, dtype=np.float32), library)
        return result.astype(np.float32, copy=False)

    def _regression_scale(self, values: np.ndarray, library: np.ndarray) -> np.ndarray:
        """Values on the regression scale, element by element.

        ``values``, of single precision, and ``library`` broadcast.
        """
        return values

    def scaled_mean(self, raw: Tensor) -> Tensor:
        """Mean on the scale of :meth:`regression_scale`, of cells with the median library size.

        In units of :attr:`unit`, (..., B, D). Axes are ordered by its variance, and loadings on the
        scale of the data are its slopes: features count by how much of the data they move.

        Parameters
        ----------
        raw
            Output of the decoder, (..., B, n_outputs * D).
        """
        return self.mean(raw, self.library_) / self.unit

    def linear_predictor(self, raw: Tensor) -> Tensor:
        """What a linear decoder would predict linearly, (..., B, D), of the raw parameters.

        Loadings are its slopes: the standardised mean, the logit or the logarithm of the mean. The
        first raw parameter of each feature by default.
        """
        return raw.chunk(self.n_outputs, -1)[0]

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
            Whether this is a prediction from other modalities, which may have a noise of its own
            (:attr:`cross_view_noise`).

        Returns
        -------
        Shape (..., B, D).
        """
        raise NotImplementedError

    def noise(self) -> tuple[Tensor, ...]:
        """Parameters of the noise that are learned, (D,) or (n_batches, D) each."""
        return ()

    def dispersions(self) -> tuple[nn.Parameter, ...]:
        """Learned logarithms of a dispersion, which training moves faster than other parameters.

        In steps that suit a network, a short training ends before they are where they belong, and
        the model expects other noise than there is.
        """
        return ()

    def constant(self, x: SparseRows, batch: Batch) -> Tensor:
        """The part of the log-likelihood that depends on no raw parameter, (B,)."""
        return self.library_.new_zeros(1)

    def score_rows(
        self, raw: Tensor, rows: WeightedRows, by_noise: Sequence[Tensor] | None
    ) -> Tensor:
        """Log-likelihood of some cells, (n,), and its gradients, in place and without autograd.

        Without what :meth:`constant` gives.

        Parameters
        ----------
        raw
            Raw parameters, (n, n_outputs * D), which become the gradients by them.
        rows
            What was measured.
        by_noise
            To each, of the shapes of :meth:`noise`, the gradient by that parameter is added, of the
            sum over the cells of their log-likelihood times their weight; None if not wanted.
        """
        raise NotImplementedError

    def total(
        self,
        output: Tensor | Parts | LastLayer,
        x: Rows,
        measured: Tensor,
        library: Tensor,
        batch: Batch = None,
        cross_view: bool = False,
        weight: Tensor | None = None,
    ) -> Tensor:
        """Log-likelihood of each cell, (..., B): the sum over what was measured.

        Parameters
        ----------
        output
            Output of the decoder, (..., B, n_outputs * D), or its parts; or its last layer, then
            with T latents, (T, B, n_outputs * D).
        measured
            Which values count; boolean, (B, D), or (B, 1) for all or none of a cell.
        x
            Values, (B, D), without NaN, dense or sparse.
        library, batch, cross_view
            As in :meth:`log_prob`.
        weight
            What the gradient of the loss by each of the results will be, (T, B), up to a common
            factor. With it, a last layer is scored by :meth:`score_rows` where that is defined and
            values are sparse.
        """
        # what skips zeros is worth its detours where most values are 0, of cells as a whole
        if isinstance(x, SparseRows) and measured.shape[-1] == 1:
            if isinstance(output, Parts) and self.scores_parts and len(output.rest):
                return self.total_of_parts(output, x, measured, library, batch)
            if isinstance(output, LastLayer) and weight is not None and self._scores_rows_of(x):
                total = total_of_last_layer(self, output, x, measured, library, batch, weight)
                return total + torch.where(measured.squeeze(-1), self.constant(x, batch), 0.0)
        raw = output if isinstance(output, Tensor) else output.whole()
        values = self.log_prob(raw, dense(x), library, batch=batch, cross_view=cross_view)
        if measured.shape[-1] > 1:
            values = torch.where(measured, values, 0.0)
        return torch.where(measured.any(-1), values.sum(-1), 0.0)

    def gradient(
        self, raw: Tensor, x: Rows, measured: Tensor, library: Tensor, batch: Batch = None
    ) -> Tensor:
        """Gradient of what :meth:`total` gives of a cross-view prediction, by raw parameters.

        Parameters
        ----------
        raw
            Output of the decoder, (B, n_outputs * D).
        x, measured, library, batch
            As in :meth:`total`.

        Returns
        -------
        Shape (B, n_outputs * D).
        """
        if isinstance(x, SparseRows) and measured.shape[-1] == 1 and self._scores_rows_of(x):
            found, alike = raw.detach().clone(), raw.new_ones(len(raw))
            with torch.no_grad():
                rows = WeightedRows(x, library, batch, alike)
                score_a_few_at_a_time(self, found, rows, by_noise=None)
            return torch.where(measured, found, 0.0)
        raw = raw.detach().requires_grad_()
        with torch.enable_grad():
            total = self.total(raw, x, measured, library, batch, cross_view=True)
            (gradient,) = torch.autograd.grad(total.sum(), raw)
        return gradient

    def total_of_parts(
        self, output: Parts, x: SparseRows, measured: Tensor, library: Tensor, batch: Batch
    ) -> Tensor:
        """What :meth:`total` gives of parts, some of which are baselines, with less work.

        ``measured``: of each cell all is measured or nothing, (B, 1).
        """
        raise NotImplementedError

    def _scores_rows_of(self, x: SparseRows) -> bool:
        """Whether rows are scored at once, which is written for CPUs."""
        return self.scores_rows and x.values.device.type == "cpu"

    def read_mean(self, output: Parts, library: Tensor) -> ReadMean:
        """Means as an encoder reads them, without gradients.

        Parameters
        ----------
        output
            Output of a decoder, (B, n_outputs * D).
        library
            Sum of each cell's values, (B, 1).
        """
        rows = self.encoder_input(self.mean(output.whole(), library))  # (B, D)
        every = torch.eye(len(rows), dtype=rows.dtype, device=rows.device)
        return ReadMean(every, rows, rows[:, :0], output.positions[:0])

    def cross_view_misses(
        self, raw: Tensor, x: Tensor, measured: Tensor, batch: Batch = None
    ) -> Tensor:
        """How far predictions across views miss the values of a minibatch, as sums over cells.

        Sums of several minibatches are added, and then given to one of the next two methods.

        Parameters
        ----------
        raw
            Outputs of the cross-view decoder, (T, B, n_outputs * D).
        x
            Values, (B, D), without NaN.
        measured
            Which values count in which predictions; boolean, (T, B, D) or (T, B, 1).
        batch
            As in :meth:`log_prob`.
        """
        raise NotImplementedError

    def update_cross_view_noise(self, misses: Tensor) -> None:
        """Move the noise of cross-view predictions towards what a training minibatch shows."""
        raise NotImplementedError

    def set_held_out_noise(self, misses: Tensor) -> None:
        """Scale that noise to what all held-out cells show."""
        raise NotImplementedError

    def mean(self, raw: Tensor, library: Tensor) -> Tensor:
        """Expected value on the scale of the data, (..., B, D)."""
        return self.mean_of_some(raw, library, slice(None), self.normaliser(raw))

    def normaliser(self, raw: Tensor) -> Tensor:
        """What the mean of a feature depends on besides its own parameters, (..., B, W).

        Nothing by default, so that W is 0.

        Parameters
        ----------
        raw
            Output of the decoder, (..., B, n_outputs * D).
        """
        return raw[..., :0]

    def mean_of_some(
        self, raw: Tensor, library: Tensor, features: slice, normaliser: Tensor
    ) -> Tensor:
        """Expected value of some features on the scale of the data, (..., B, d).

        Parameters
        ----------
        raw
            Raw parameters of these features, (..., B, n_outputs * d).
        library
            Sum over all features of each cell, (B, 1), or (1,) for all cells.
        features
            Positions of the d features among all D.
        normaliser
            What :meth:`normaliser` gives of all features, (..., B, W).
        """
        raise NotImplementedError

    def sample(
        self, raw: Tensor, library: Tensor, batch: Batch = None, cross_view: bool = False
    ) -> Tensor:
        """Draw at random what :meth:`log_prob` describes, on the scale of the data.

        Each entry is drawn by itself, without gradient. ``raw`` holds no NaN. The arguments are
        those of :meth:`log_prob`.

        Returns
        -------
        Shape (..., B, D).
        """
        raise NotImplementedError
