"""Which features differ between groups of cells, and through which of the latents."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd
import scvi
from mudata import MuData
from scvi.model.base import DifferentialComputation
from torch import Tensor, as_tensor
from tqdm.auto import tqdm

from scvenn import network
from scvenn.data.keys import Keys
from scvenn.data import as_text, find_categories, observed_cells
from scvenn.readouts.predictions import ReadoutsMixin, _numpy, _rows

# Values (draws times features) of the arrays that are compared at a time; there are about ten.
_BLOCK = 50_000_000

_THROUGH = ("shared", "private", "both")


class DifferentialMixin(ReadoutsMixin):
    """Differential expression and accessibility of :class:`~scvenn.SharedPrivateModel`.

    The comparison of two groups is scvi-tools' own, ``DifferentialComputation``. The loop around
    it is not: scvi-tools takes every cell that is not of one group for one of the other, and here
    some cells have no group, or lack the modality.
    """

    def differential(
        self,
        groupby: str,
        *,
        modality: str,
        through: Literal["shared", "private", "both"] = "both",
        group1: str | Sequence[str] | None = None,
        group2: str | None = None,
        mdata: MuData | None = None,
        indices: Sequence[int] | np.ndarray | None = None,
        delta: float | None = None,
        fdr: float = 0.05,
        batch_correction: bool = False,
        n_samples: int = 5000,
        pseudocounts: float = 0.01,
        batch_size: int | None = None,
    ) -> pd.DataFrame:
        r"""Features whose expected value differs between groups of cells, as a model sees it.

        .. math::

            r_j = e_j(h_j(z_a), h_j(z_b)), \qquad p_j = P(r_j \ge \delta) \text{ or }
            P(r_j < -\delta), \text{ whichever is larger}

        over pairs of cells, a of the first group and b of the second, drawn with replacement, and
        over the posteriors of their latents. What is decoded tells differences apart:

        =========== ====================================== ===================================
        ``through`` :math:`h(z)`                           cells
        =========== ====================================== ===================================
        shared      of shared alone, as across views       with any modality
        private     of the cell's private latent and, for  with the modality
                    all cells, the mean shared latent
        both        of both latents                        with the modality
        =========== ====================================== ===================================

        A difference through ``"shared"`` is one that the modalities have in common; one through
        ``"private"`` is this modality's own. The shared latent is that of all modalities of a
        cell, its mean that over the posterior means of all cells with the modality. How two means
        are compared, :math:`e`, depends on the likelihood:

        ======================= ========================================= =====================
        likelihood              :math:`e(h_a, h_b)`                       default of ``delta``
        ======================= ========================================= =====================
        of counts               :math:`\log_2 (h_a + c) - \log_2 (h_b     0.25
                                + c)`
        ``bernoulli``, ``beta`` :math:`h_a - h_b`, of probabilities or    0.05
                                fractions
        ``normal``              :math:`(h_a - h_b) / \mathrm{sd}_j`, the  0.25
                                standard deviation in training
        ======================= ========================================= =====================

        Counts are those of a cell with the median library size of training (``"nb_mixture"``, which
        knows no library size, as they are), and c are the ``pseudocounts``.

        Parameters
        ----------
        groupby
            Column of ``mdata.obs``, or of the modalities' ``obs``, with the groups.
        modality
            Whose features.
        through
            Which latents a difference may come from.
        group1
            One or more groups, each of which is compared with ``group2``; None for all.
        group2
            What they are compared with; None for all other cells that have a group.
        mdata
            Data to read; None for the training data.
        indices
            Positions or mask in ``mdata.obs_names``; None for all cells. These are descriptions of
            cells: they may have been trained on.
        delta
            Least difference that counts; None for the default of the table above.
        fdr
            Expected fraction of false discoveries among the features called different.
        batch_correction
            Whether both cells of a pair are decoded as if they were of the same batch, each batch
            in turn, instead of their own. Needs ``setup_mudata(batch_key=...)``.
        n_samples
            Number of pairs.
        pseudocounts
            Counts added before the logarithm, so that features that are hardly seen do not differ
            (a thousandth of them for the columns that begin with ``lfc``, as in scvi-tools).
        batch_size
            Cells per forward pass.

        Returns
        -------
        A tidy table, for each comparison the most certain differences first: ``comparison``,
        ``group1``, ``group2``, ``feature``; ``proba_de``, p above, ``proba_not_de``, and
        ``bayes_factor``, the logarithm of their ratio; ``scale1`` and ``scale2``, the means of the
        groups on the scale of the data; ``delta``; ``lfc_mean``, ``lfc_median``, ``lfc_std``,
        ``lfc_min`` and ``lfc_max`` of r and ``pseudocounts`` for counts, ``difference_mean``, ...
        for others; and ``is_de_fdr_<fdr>``.

        Raises
        ------
        ValueError
            If an argument is out of range, a modality or group is unknown, or a group has no cell
            that can be compared.

        Examples
        --------
        >>> import scvenn
        >>> mdata = scvenn.datasets.simulate_counts(n_obs=200, n_features=20)
        >>> model = scvenn.MMVAEpp(mdata)
        >>> model.train(1, enable_progress_bar=False)
        >>> table = model.differential(
        ...     "cell_type", modality="rna", through="shared", group1="type0", n_samples=100
        ... )
        >>> list(table.columns[:5])
        ['comparison', 'group1', 'group2', 'feature', 'proba_de']

        Notes
        -----
        Set ``scvi.settings.seed`` for draws that can be repeated. Counts are relative to all counts
        of a modality: where some features rise much, all others fall a little, and a feature of
        which nothing is shared can differ through ``"shared"`` by that. Sources: Boyeau et al.,
        PNAS 120:e2209124120 (2023), for the comparison and the false discovery rate; Ashuach et
        al., Cell Rep Methods 2:100182 (2022), for differences of probabilities.
        """
        (modality,) = self._known(modality)
        likelihood = self.module.likelihood(modality)
        effect = likelihood.effect
        if delta is None:
            delta = effect.default_delta
        _check_arguments(through, delta, fdr, n_samples, pseudocounts)
        batches = self._batches() if batch_correction else None
        mdata = self._given(mdata)
        cells = _rows(mdata, indices)
        groups = find_categories(mdata, groupby, f"groupby={groupby!r}").iloc[cells]
        needed = self.modalities if through == "shared" else [modality]
        measured = np.any([observed_cells(mdata, m) for m in needed], axis=0)[cells]
        comparable = measured & groups.notna().to_numpy()
        cells, groups = cells[comparable], groups[comparable]
        compared = _comparisons(groups.to_numpy(), groupby, group1, group2)

        names = self._feature_names(modality)
        unit = _numpy(likelihood.unit)  # differences of real values are in standard deviations
        draws = _Draws(self, mdata, modality, through, cells, batch_size)
        manager = self.get_anndata_manager(mdata)  # type: ignore[attr-defined]
        tables = []
        for first, second, in_first, in_second in tqdm(
            compared, desc=f"Comparing {groupby}", leave=False, delay=2
        ):
            parts = []
            for features in _blocks(len(names), n_samples):
                means = partial(draws.means, features=features, unit=unit[features])
                found = DifferentialComputation(means, None, manager).get_bayes_factors(
                    cells[in_first],
                    cells[in_second],
                    batchid1=batches,
                    batchid2=batches,
                    use_observed_batches=not batch_correction,
                    n_samples_overall=n_samples,
                    change_fn=effect.compare,
                    delta=delta,
                    pseudocounts=pseudocounts,
                )
                parts.append(pd.DataFrame(found))
            table = pd.concat(parts, ignore_index=True)
            table[["scale1", "scale2"]] = table[["scale1", "scale2"]].mul(unit, axis=0)
            labels = {"comparison": f"{first} vs {second}", "group1": first, "group2": second}
            table = pd.concat([pd.DataFrame({**labels, "feature": names}), table], axis=1)
            table = table.sort_values("proba_de", ascending=False, kind="stable")
            table[f"is_de_fdr_{fdr}"] = _expected_fdr(table["proba_de"].to_numpy()) <= fdr
            tables.append(table)
        result = pd.concat(tables, ignore_index=True)
        if not effect.has_pseudocounts:
            result = result.drop(columns="pseudocounts")
        return result.rename(columns=lambda name: name.replace("lfc_", f"{effect.name}_"))

    def _batches(self) -> list[str]:
        """Names of all batches."""
        state = self.registry_["field_registries"][Keys.BATCH]["state_registry"]  # type: ignore[attr-defined]
        if not len(state[Keys.CATEGORIES]):
            raise ValueError(
                "batch_correction=True: the model was set up without batch_key. Name the column "
                "with setup_mudata(mdata, batch_key=...) before building the model."
            )
        return list(state[Keys.CATEGORIES])


class _Posterior(NamedTuple):
    """A latent of cells, (n_obs, K); NaN for cells that were not embedded."""

    mean: np.ndarray
    sd: np.ndarray

    def draw(self, cells: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """One draw for each of the cells, (n_cells, K)."""
        noise = rng.standard_normal((len(cells), self.mean.shape[1]), dtype=np.float32)
        return self.mean[cells] + self.sd[cells] * noise


class _Draws:
    """Expected values of a modality given draws of the latents of cells.

    Cells are encoded once, however many groups they are compared in.

    Parameters
    ----------
    model, mdata, modality
        What is decoded.
    through
        From which latents.
    cells
        Positions of all cells that may be drawn.
    batch_size
        Cells per forward pass.
    """

    def __init__(
        self,
        model: ReadoutsMixin,
        mdata: MuData,
        modality: str,
        through: str,
        cells: np.ndarray,
        batch_size: int | None,
    ) -> None:
        self.model = model
        self.mdata = mdata
        self.modality = modality
        self.through = through
        self.batch_size = batch_size
        self.rng = np.random.default_rng(scvi.settings.seed)
        module = model.module
        sizes = module.n_shared, module.n_private[modality]
        self.shared, self.private = (
            _Posterior(*np.full((2, mdata.n_obs, k), np.nan, np.float32)) for k in sizes
        )
        every = model.modalities
        loader = model._minibatches(mdata, set(every), cells, batch_size, "Embeddings")
        for part, tensors in loader:
            q_shared, q_private, *_ = network.posteriors(module, tensors, every)
            for kept, q in ((self.shared, q_shared), (self.private, q_private[modality])):
                kept.mean[cells[part]] = _numpy(q.loc)
                kept.sd[cells[part]] = _numpy(q.var.sqrt())
        self.baseline = self.shared.mean[cells].mean(0)  # (K,)

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

        The first four arguments are as scvi-tools gives them.
        """
        drawn = self.rng.choice(indices, n_samples_overall)
        shared = self.shared.draw(drawn, self.rng)
        private = None if self.through == "shared" else self.private.draw(drawn, self.rng)
        if self.through == "private":
            shared = np.broadcast_to(self.baseline, shared.shape)
        replaced = self.model._batch_of(transform_batch)
        library = self.model.module.likelihood(self.modality).library_.item()
        values = np.empty((len(drawn), len(unit)), np.float32)
        loader = self.model._minibatches(adata, set(), drawn, self.batch_size, "Decoding")
        for part, tensors in loader:
            seen = {k: v.expand(len(tensors[k]), -1) for k, v in replaced.items()}
            latents = (None if z is None else _tensor(z[part]) for z in (shared, private))
            mean = network.decode(
                self.model.module, {**tensors, **seen}, self.modality, *latents, library
            )
            values[part] = _numpy(mean[:, features]) / unit
        return values


def _tensor(array: np.ndarray) -> Tensor:
    return as_tensor(np.ascontiguousarray(array))


def _check_arguments(
    through: str, delta: float, fdr: float, n_samples: int, pseudocounts: float
) -> None:
    if through not in _THROUGH:
        raise ValueError(f"through={through!r}: expected one of {list(_THROUGH)}.")
    if not delta > 0:
        raise ValueError(f"delta={delta!r}: expected None or a number above 0.")
    if not 0 < fdr < 1:
        raise ValueError(f"fdr={fdr!r}: expected a number between 0 and 1.")
    if n_samples < 1:
        raise ValueError(f"n_samples={n_samples!r}: expected a number of at least 1.")
    if not pseudocounts > 0:
        raise ValueError(f"pseudocounts={pseudocounts!r}: expected a number above 0.")


def _comparisons(
    groups: np.ndarray, groupby: str, group1: Any, group2: Any
) -> list[tuple[str, str, np.ndarray, np.ndarray]]:
    """Names of both groups of each comparison, and which of the cells are in them."""
    known = sorted(set(groups))
    second = None if group2 is None else as_text(group2)
    if group1 is None:
        firsts = [g for g in known if g != second]
    elif isinstance(group1, str) or not isinstance(group1, Sequence):
        firsts = [as_text(group1)]
    else:
        firsts = [as_text(g) for g in group1]
    asked = [*firsts, *([] if second is None else [second])]
    if unknown := [g for g in asked if g not in known]:
        raise ValueError(
            f"groupby={groupby!r}: {unknown} not found among the groups of the cells that can be "
            f"compared, {known}. Through 'private' or 'both' these are the cells in which the "
            "modality was measured."
        )
    if len(known) < 2 or second in firsts:
        raise ValueError(
            f"groupby={groupby!r}: expected two different groups to compare, found {asked} among "
            f"{known}."
        )
    return [
        (g, "Rest", groups == g, groups != g)
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
