"""The one model class: its constructor, and the data that it reads."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import numpy as np
import scvi
from mudata import MuData
from scvi.model.base import VAEMixin

from scvenn._threads import respect_limits
from scvenn._warnings import warn
from scvenn.data import (
    AlignedManager,
    Indices,
    SetUpMixin,
    check_mudata,
    choose_rows,
    fields_of,
    hashes_of,
    moved,
    warn_of_renamed,
)
from scvenn.models.mapping import MappingMixin
from scvenn.models.minifying import MinifyingMixin
from scvenn.models.refused import refuses_what_does_not_work
from scvenn.models.saving import SavingMixin
from scvenn.models.training import TrainingMixin
from scvenn.network import Design, SharedPrivateVAE
from scvenn.objective import Objective

_VERSIONS_OF = ("scvenn", "torch", "scvi-tools", "anndata", "mudata", "numpy")


def _positions(part: str, which: str) -> property:
    """Positions of some cells, which follow cells that were filtered or reordered in place."""
    name = f"{part}_indices_"  # where scvi-tools has them

    def read(self: SharedPrivateModel) -> np.ndarray | None:
        if self.adata is not None and self.adata_manager.cells_moved:
            self._find_cells_by_name()
        return getattr(self, name)

    def write(self: SharedPrivateModel, rows: np.ndarray | None) -> None:
        setattr(self, name, rows)

    return property(
        read,
        write,
        doc=f"Positions of the {which} cells in ``mdata.obs_names``, (n,); None before training.",
    )


@refuses_what_does_not_work
class SharedPrivateModel(
    SetUpMixin, MinifyingMixin, MappingMixin, TrainingMixin, VAEMixin, SavingMixin
):
    """Multimodal VAE with shared and private latents, for an objective of your own.

    The ready-made objectives have classes of their own: :class:`~scvenn.MVAE`,
    :class:`~scvenn.MMVAE`, :class:`~scvenn.MoPoEVAE` and :class:`~scvenn.MMVAEpp`.

    Parameters
    ----------
    adata
        MuData with two or more modalities. One that was not set up with :meth:`setup_mudata` is
        set up with its defaults.
    registry
        For loading; leave it out.
    objective
        The terms to train, for :class:`~scvenn.SharedPrivateModel` only. The published models have
        their own, and refuse another.
    n_shared
        Size of the shared latent.
    n_private
        Size of the private latents: one number, or one for each modality by name.
    n_hidden
        Width of the hidden layers of every network.
    n_layers
        Number of hidden layers of every network.
    dropout_rate
        Dropout in the hidden layers. None: with ``screen`` 0.1 in the networks of modalities of
        counts or 0/1 values; else 0, as in the paper.
    label_weight
        Weight of the labels' log-likelihood; ``"auto"`` is the largest modality's number of
        features. Used only with ``setup_mudata(labels_key=...)``.
    encode_covariates
        Deprecated: whether the encoders see the batch and other covariates as the decoders do.
        ``shared`` then holds no less of the batch.
    absent_private
        What a cross-view decoder gets for its private latent while training: ``"zero"``; a sample
        of the ``"prior"``; or ``"learned"``, a sample of a Gaussian whose mean is 0 and whose
        scales are learned, one for each modality (as MMVAE+: Palumbo et al., ICLR 2023).
        Predictions always use zero, and so must a model that screens: its cross-view decoders read
        the shared latent alone.
    screen
        Whether ``shared`` is kept to features that other modalities predict. They are found in
        the training cells before training (see :meth:`get_shared_scores`); ``shared`` then has
        encoders that read, and cross-view decoders that predict, only such features (for
        ``"normal"`` with a noise of their own). None: yes for :class:`~scvenn.MMVAEpp`, no for the
        others, as in the paper.
    modality_weights
        Weight of each modality's log-likelihood. None: 1 for all. ``"auto"``: the mean number of
        features over the modality's own, so that a modality does not dominate the shared latent
        by its number of features alone. Or weights by modality; those left out are 1.
    kl_weight_shared
        Weight of the KL of the shared latent relative to that of the private ones. None: 0.1
        with ``screen``, else 1, as in the paper.
    decoder
        ``"mlp"``; or ``"linear"`` for decoders without hidden layers, whose weights are the
        :meth:`loadings` of the features (as LDVAE: Svensson et al., Bioinformatics 2020).
    dispersion
        ``"feature"``: each feature's noise (the standard deviation of ``normal``, theta of negative
        binomials, the precision of ``beta``) is the same in all cells. ``"feature-batch"``: each
        batch has its own.
    start_at_means
        Whether decoders predict the means of the features before they have learned anything; else
        they start around 0, as in the paper's code, and have to learn which genes are common and
        which peaks are rare. Cross-view decoders of models that screen always start at the means.

    Raises
    ------
    TypeError
        If ``adata`` is not a MuData.
    ValueError
        If the data cannot be set up, an argument is out of range, or the objective does not fit
        the modalities.

    Examples
    --------
    >>> import scvenn
    >>> mdata = scvenn.datasets.simulate_counts(n_obs=50, n_features=20)
    >>> rna_leads = scvenn.Objective(
    ...     terms=(
    ...         scvenn.Term(encode=("rna",), decode=("rna", "atac")),
    ...         scvenn.Term(encode=("atac",), decode=("atac",), detach_shared=("atac",)),
    ...     ),
    ... )
    >>> model = scvenn.SharedPrivateModel(mdata, objective=rna_leads)

    Notes
    -----
    Source: Märtens & Yau, "Disentangling shared and private latent factors in multimodal
    Variational Autoencoders", MLCB 2023, arXiv 2403.06338.
    """

    _module_cls = SharedPrivateVAE
    _recipe: ClassVar[staticmethod[[Sequence[str]], Objective] | None] = None
    _screens: ClassVar[bool] = False

    def __init__(
        self,
        adata: MuData | None = None,
        registry: dict | None = None,
        *,
        objective: Objective | None = None,
        n_shared: int = 10,
        n_private: int | Mapping[str, int] = 10,
        n_hidden: int = 128,
        n_layers: int = 1,
        dropout_rate: float | None = None,
        label_weight: float | Literal["auto"] = "auto",
        encode_covariates: bool = False,
        absent_private: Literal["zero", "prior", "learned"] = "zero",
        screen: bool | None = None,
        kl_weight_shared: float | None = None,
        modality_weights: Mapping[str, float] | Literal["auto"] | None = None,
        decoder: Literal["mlp", "linear"] = "mlp",
        dispersion: Literal["feature", "feature-batch"] = "feature",
        start_at_means: bool = True,
    ) -> None:
        if registry is None:  # else it is loaded, its data after it
            check_mudata(adata, may_be_view=False)
            if encode_covariates:
                warn(
                    "encode_covariates=True is deprecated and will be removed: the shared latent "
                    "then holds no less of the batch. Embeddings are corrected for "
                    "the batch in any case (batch_key of setup_mudata).",
                    FutureWarning,
                )
        super().__init__(adata, registry)
        respect_limits()

        self.init_params_ = self._get_init_params(locals())
        arguments = dict(self.init_params_["non_kwargs"])
        found = self._found
        objective = self._objective_of(arguments.pop("objective"))
        design = Design.of(arguments, found=found, objective=objective, screens=self._screens)
        self.module = SharedPrivateVAE(
            objective,
            {m: found.likelihood(m) for m in found.modalities},
            {m: found.stats(m) for m in found.modalities},
            design,
            n_categories=found.n_categories,
            continuous=found.continuous,
            n_classes=len(found.classes),
        ).float()  # whatever PyTorch's default is
        self._model_summary_string = (
            f"{type(self).__name__} of {', '.join(found.modalities)}: n_shared {design.n_shared}, "
            f"n_private {dict(design.n_private)}, n_hidden {n_hidden}, n_layers {n_layers}"
            + (", linear decoders" if decoder == "linear" else "")
            + (f", {len(found.classes)} label classes" if found.classes else "")
        )
        self.versions_ = {
            "python": platform.python_version(),
            **{package: importlib.metadata.version(package) for package in _VERSIONS_OF},
        }
        self.seed_ = scvi.settings.seed

    def _objective_of(self, objective: Objective | None) -> Objective:
        """The objective to train, checked: the class's own, or what was passed."""
        recipe, modalities = type(self)._recipe, self._found.modalities
        if recipe is not None and objective is not None:
            raise ValueError(
                f"{type(self).__name__} has its own objective: leave out objective=..., or use "
                "scvenn.SharedPrivateModel."
            )
        chosen = objective if recipe is None else recipe(modalities)
        if chosen is None:
            raise ValueError(
                "SharedPrivateModel needs an objective: pass objective=scvenn.Objective(...), or "
                "use MVAE, MMVAE, MoPoEVAE or MMVAEpp, which have one."
            )
        if not isinstance(chosen, Objective):
            raise ValueError(
                "objective: expected a scvenn.Objective, such as scvenn.Objective(terms=(...,)); "
                f"found {type(chosen).__name__}."
            )
        chosen.validate(modalities)
        return chosen

    # ----------------------------------------------------------------- data to read

    train_indices = _positions("train", "training")
    validation_indices = _positions("validation", "validation")
    test_indices = _positions("test", "test")

    @property
    def adata(self) -> MuData | None:
        """The data of the model; None where it was loaded without."""
        return self._adata

    @adata.setter
    def adata(self, adata: Any) -> None:
        raise TypeError(
            "The data of a model cannot be replaced. Pass other data to its methods, such as "
            "predict('rna', 'atac', mdata), or load the model with it: load(dir_path, mdata)."
        )

    def _manager_of(self, mdata: MuData | None) -> AlignedManager:
        if mdata is not None and mdata is not self.adata:
            check_mudata(mdata, may_be_view=True)
            warn_of_renamed(mdata, self.modalities)
            fields = fields_of(self.modalities, **self._found.arguments)
            return AlignedManager.reading(fields, self.registry_, mdata)
        if self.adata is None:
            raise ValueError(
                "This model was loaded without data. Pass mdata, or load it with "
                "load(dir_path, mdata)."
            )
        self._find_cells_by_name()
        return self.adata_manager.snapshot()

    def _find_cells_by_name(self, *, labels: bool = False) -> None:
        manager = self.adata_manager
        names = manager.adata.obs_names
        before = manager.check_unchanged(labels=labels)
        if before is None or self.train_indices_ is None:
            return
        for part in ("train", "validation", "test"):
            rows = getattr(self, f"{part}_indices_")
            if rows is not None:
                setattr(self, f"{part}_indices_", moved(rows, before, names))
        self.cells_ = hashes_of(names)

    def _validate_anndata(self, adata: MuData | None = None, copy_if_view: bool = True) -> MuData:
        """For scvi-tools' methods: the data to read, checked."""
        self.module.eval()
        return self._manager_of(adata).adata

    def _make_data_loader(self, adata: MuData, indices: Indices | None = None, **how: Any) -> Any:
        """For scvi-tools' methods: a loader of cells, which may be a mask or names as well."""
        rows = choose_rows(adata, indices)
        if not len(rows):
            raise ValueError("indices chooses no cells; expected at least one.")
        return super()._make_data_loader(adata, rows, **how)

    def get_anndata_manager(self, adata: MuData, required: bool = False) -> AlignedManager:
        """For scvi-tools' methods: a manager of the model's own data, or of other data."""
        return self.adata_manager if adata is self.adata else self._manager_of(adata)
