"""The one model class: construction and training."""

from __future__ import annotations

import importlib.metadata
import logging
import platform
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import numpy as np
import scvi
from mudata import MuData
from scvi.model.base import UnsupervisedTrainingMixin, VAEMixin

from scvenn.data.checks import check_mudata
from scvenn.data.keys import Keys
from scvenn.data.registration import AlignedManager
from scvenn.data.setup import SetUpMixin, fields_of
from scvenn.likelihoods import LIKELIHOODS, FeatureStats
from scvenn.models.saving import SavingMixin, fingerprint
from scvenn.models.training import (
    BeforeTraining,
    HistoryPlan,
    KeptEpoch,
    Runner,
    Splitter,
    single_precision,
    stats_of_rows,
    step,
)
from scvenn.network.vae import SharedPrivateVAE
from scvenn.objective import Objective
from scvenn.readouts.differential import DifferentialMixin
from scvenn.readouts.labels import LabelsMixin
from scvenn.readouts.report import ReportMixin
from scvenn.readouts.sampling import SamplingMixin
from scvenn.readouts.writing import WritingMixin

logger = logging.getLogger("scvi.scvenn")

# One count says little of its mean: an encoder must add up many, and has to be kept from learning
# single ones by heart. Real values are the worse for it (docs/beyond.md).
_DROPOUT_OF_DISCRETE = 0.1
# Lightning's names of float32 networks, with or without steps in half precision.
_PRECISIONS = ("32-true", "32", "16-mixed", "16", "bf16-mixed", "bf16")
_VERSIONS_OF = ("scvenn", "torch", "scvi-tools", "anndata", "mudata", "numpy")


class SharedPrivateModel(
    SetUpMixin,
    LabelsMixin,
    SamplingMixin,
    ReportMixin,
    DifferentialMixin,
    WritingMixin,
    UnsupervisedTrainingMixin,
    VAEMixin,
    SavingMixin,
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
        The terms to train. Only for this class: the others have their own.
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
        Whether the encoders see the batch and other covariates as the decoders do.
    absent_private
        What a cross-view decoder gets for its private latent while training: ``"zero"``; a sample
        of the ``"prior"``; or ``"learned"``, a sample of a Gaussian whose mean is 0 and whose
        scales are learned, one for each modality (as MMVAE+: Palumbo et al., ICLR 2023).
        Predictions always use zero, and so must a model that screens: its cross-view decoders read
        the shared latent alone.
    screen
        Whether ``shared`` is kept to features that other modalities predict. They are found in
        the training cells before training (see :meth:`get_shared_scores`); ``shared`` then has
        encoders that read, and cross-view decoders that predict, only such features, with a
        noise of their own. None: yes for
        :class:`~scvenn.MMVAEpp`, no for the others, as in the paper.
    modality_weights
        Weight of each modality's log-likelihood. None: 1 for all. ``"auto"``: the mean number of
        features over the modality's own, so that a modality with more features has no more say in
        the shared latent for that alone. Or weights by modality; those left out are 1.
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
    _training_plan_cls = HistoryPlan
    _data_splitter_cls = Splitter
    _train_runner_cls = Runner
    _recipe: ClassVar[staticmethod[[Sequence[str]], Objective] | None] = None
    _screens: ClassVar[bool] = False
    best_epoch_: int = -1
    # positions of cells that an earlier training, with another split, was on
    earlier_train_indices_: Any = ()

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
    ) -> None:
        if adata is not None:
            self._find_or_make_setup(adata)
        super().__init__(adata, registry)

        fields = self.registry_["field_registries"]
        names: list[str] = fields[Keys.OBSERVED]["state_registry"]["modalities"]
        states = {m: fields[Keys.x(m)]["state_registry"] for m in names}
        n_classes = len(fields[Keys.LABELS]["state_registry"][Keys.CATEGORIES])

        recipe = type(self)._recipe
        if recipe is not None and objective is not None:
            raise ValueError(
                f"{type(self).__name__} has its own objective: leave out objective=..., or use "
                "scvenn.SharedPrivateModel."
            )
        chosen = objective if recipe is None else recipe(names)
        if chosen is None:
            raise ValueError(
                "SharedPrivateModel needs an objective: pass objective=scvenn.Objective(...), or "
                "use MVAE, MMVAE, MoPoEVAE or MMVAEpp, which have one."
            )
        chosen.validate(names)
        sizes = _private_sizes(n_private, names)
        _check_positive(n_shared=n_shared, n_hidden=n_hidden, n_layers=n_layers)
        if absent_private not in ("zero", "prior", "learned"):
            raise ValueError(
                f"absent_private={absent_private!r}: expected 'zero', 'prior' or 'learned'."
            )
        if decoder not in ("mlp", "linear"):
            raise ValueError(f"decoder={decoder!r}: expected 'mlp' or 'linear'.")
        n_categories = {
            key: len(fields[key]["state_registry"][Keys.CATEGORIES])
            for key in fields
            if key == Keys.BATCH or key.startswith(Keys.categorical(""))
        }
        if dispersion not in ("feature", "feature-batch"):
            raise ValueError(f"dispersion={dispersion!r}: expected 'feature' or 'feature-batch'.")
        if dispersion == "feature-batch" and n_categories[Keys.BATCH] < 2:
            raise ValueError(
                "dispersion='feature-batch' needs two or more batches; found one. Name the column "
                "of batches with setup_mudata(mdata, batch_key=...)."
            )
        if screen is None:
            screen = self._screens
        if screen and not any(t.is_cross_view(m) for t in chosen.terms for m in t.decode):
            raise ValueError(
                f"screen=True: no term of the objective of {type(self).__name__} decodes a "
                "modality that it does not encode, so there is nothing to screen for."
            )
        if screen and absent_private != "zero":
            raise ValueError(
                f"absent_private={absent_private!r}: a model that screens has cross-view decoders "
                "without a private latent, and nothing stands in for it. Pass screen=False."
            )
        if dropout_rate is not None and not 0 <= dropout_rate < 1:
            raise ValueError(f"dropout_rate={dropout_rate!r}: expected 0 <= dropout_rate < 1.")
        if kl_weight_shared is None:
            kl_weight_shared = 0.1 if screen else 1.0
        if kl_weight_shared < 0:
            raise ValueError(
                f"kl_weight_shared={kl_weight_shared!r}: expected a number that is not negative."
            )
        if label_weight == "auto":
            weight = float(max(len(state[Keys.COLUMN_NAMES]) for state in states.values()))
        elif isinstance(label_weight, int | float) and label_weight >= 0:
            weight = float(label_weight)
        else:
            raise ValueError(
                f"label_weight={label_weight!r}: expected 'auto' or a number that is not negative."
            )

        likelihoods: dict[str, str] = {m: state["likelihood"] for m, state in states.items()}
        self.module = SharedPrivateVAE(
            chosen,
            likelihoods,
            {
                m: FeatureStats(state["mean"], state["scale"], state["library"])
                for m, state in states.items()
            },
            n_shared=n_shared,
            n_private=sizes,
            n_hidden=n_hidden,
            n_layers=n_layers,
            dropout_rate=_dropout_rates(dropout_rate, screen, likelihoods),
            n_categories=n_categories,
            continuous=[key for key in fields if key.startswith(Keys.continuous(""))],
            encode_covariates=encode_covariates,
            n_classes=n_classes,
            label_weight=weight,
            absent_private=absent_private,
            screened=screen,
            decoder=decoder,
            dispersion=dispersion,
            kl_weight_shared=float(kl_weight_shared),
            modality_weights=_modality_weights(
                modality_weights, {m: len(state[Keys.COLUMN_NAMES]) for m, state in states.items()}
            ),
        )
        self._model_summary_string = (
            f"{type(self).__name__} of {', '.join(names)}: n_shared {n_shared}, "
            f"n_private {sizes}, n_hidden {n_hidden}, n_layers {n_layers}"
            + (", linear decoders" if decoder == "linear" else "")
            + (f", {n_classes} label classes" if n_classes else "")
        )
        self.versions_ = {
            "python": platform.python_version(),
            **{package: importlib.metadata.version(package) for package in _VERSIONS_OF},
        }
        self.seed_ = scvi.settings.seed
        self.init_params_ = self._get_init_params(locals())

    # ----------------------------------------------------------------- data to read

    def _validate_anndata(self, adata: MuData | None = None, copy_if_view: bool = True) -> MuData:
        """Return the data to read: what was passed, or the model's own."""
        self.module.eval()  # whatever came before, read-outs have no dropout
        if adata is not None:
            check_mudata(adata, may_be_view=True)
            return adata
        if self.adata is None:
            raise ValueError(
                "This model was loaded without data. Pass mdata, or load it with "
                "load(dir_path, mdata)."
            )
        return self.adata

    def get_anndata_manager(self, adata: MuData, required: bool = False) -> AlignedManager:
        """Manager of the model's own data, or of other data, which is only read."""
        if adata is self.adata:
            return self.adata_manager
        fields = fields_of(self.modalities, **self.registry_["setup_args"])
        return AlignedManager.reading(fields, self.registry_, adata)

    # ----------------------------------------------------------------- training

    def train(
        self,
        max_epochs: int | None = None,
        *,
        accelerator: str = "auto",
        devices: int | list[int] | str = "auto",
        train_size: float | None = None,
        validation_size: float | None = None,
        shuffle_set_split: bool = True,
        batch_size: int = 128,
        early_stopping: bool = True,
        write_obsm: bool = True,
        datasplitter_kwargs: dict[str, Any] | None = None,
        plan_kwargs: dict[str, Any] | None = None,
        **trainer_kwargs: Any,
    ) -> None:
        """Train with scvi-tools' runner, then write the embeddings.

        ``model.history`` holds, per epoch and for training and validation cells, the loss, the KL
        of the shared and private latents, and the log-likelihood (nats per cell) of each modality
        given each encoded one: ``log_likelihood_rna->atac_validation`` is how well the shared
        latent of ``rna`` predicts ``atac`` in cells that were not trained on, and
        ``log_likelihood_cross_view_validation`` is the sum over all such pairs.
        ``model.best_epoch_`` is the epoch whose weights the model has, counted over all trainings
        as in the history; -1 for the last.

        What likelihoods and screening take from the data, they take from training cells only.

        After Ctrl-C, or an error in a callback, the model has the weights of the best epoch so far
        (without early stopping: of the last that finished) and is as usable as any other, but no
        embeddings were written and, in a model that screens, the experts have equal weights.

        Set ``scvi.settings.seed`` before building the model for results that can be repeated; on
        CPU they are then bit-equal.

        Parameters
        ----------
        max_epochs
            Most passes through the training cells; None for about 4,000 steps in all, but no
            fewer than 20 epochs and no more than 400.
        accelerator, devices
            Where to train; see :class:`scvi.train.Trainer`.
        train_size, validation_size, shuffle_set_split
            How cells are split; see :class:`scvi.dataloaders.DataSplitter`. Without a
            ``train_size``, 0.9 of the cells are trained on. A model that is trained again keeps
            its split, unless another one is asked for; :meth:`evaluate` then refuses cells that
            were trained on in either.
        batch_size
            Cells per step.
        early_stopping
            Whether to stop when ``validation_loss`` has not fallen for a tenth of ``max_epochs``,
            and to return to the weights of its best epoch. It is watched once the weight of the
            KL has reached 1, and only where there are validation cells.
        write_obsm
            Whether to end with :meth:`embed`.
        datasplitter_kwargs
            Further arguments of :class:`scvi.dataloaders.DataSplitter`.
        plan_kwargs
            Further arguments of :class:`scvi.train.TrainingPlan`. Unlike its own defaults, Adam
            runs with eps 1e-8 and without weight decay, and the weight of the KL rises over the
            first tenth of ``max_epochs``.
        **trainer_kwargs
            Further arguments of :class:`scvi.train.Trainer`.

        Raises
        ------
        ValueError
            If the model has no data; ``max_epochs`` or ``batch_size`` is below 1; a model that
            screens is asked for another split than its first; or the loss is not finite. The model
            then has the weights of the best epoch so far.
        KeyboardInterrupt
            After Ctrl-C.
        """
        if self.adata is None:
            raise ValueError(
                "This model was loaded without data. Load it with load(dir_path, mdata) to train."
            )
        _check_positive(batch_size=batch_size)
        precision = trainer_kwargs.get("precision")
        if precision is not None and str(precision) not in _PRECISIONS:
            raise ValueError(
                f"precision={precision!r}: expected one of {list(_PRECISIONS)}. Networks and data "
                "are float32."
            )
        split: dict[str, Any] = {
            "train_size": 0.9 if train_size is None else train_size,
            "validation_size": validation_size,
            "shuffle_set_split": shuffle_set_split,
        }
        options = {**(datasplitter_kwargs or {})}
        used: dict[str, str] = {}
        splitter = Splitter(self.adata_manager, **split, batch_size=batch_size, **options)
        by_default = train_size is None and validation_size is None and shuffle_set_split
        if self._keeps_split(splitter, by_default and "external_indexing" not in options):
            parts = self.train_indices, self.validation_indices, self.test_indices
            options["external_indexing"] = [np.asarray(part) for part in parts]
            splitter = Splitter(self.adata_manager, batch_size=batch_size, **options)
            used = {name: (self.train_params_ or {}).get(name, "not recorded") for name in split}
        steps_per_epoch = -(-splitter.n_train // batch_size)
        if max_epochs is None:
            max_epochs = _default_max_epochs(steps_per_epoch)
        _check_positive(max_epochs=max_epochs)
        tenth = max(1, max_epochs // 10)
        plan = {
            "lr": 1e-3,
            "eps": 1e-8,
            "weight_decay": 0.0,
            "n_epochs_kl_warmup": tenth,
            **(plan_kwargs or {}),
        }
        trainer = {
            "check_val_every_n_epoch": 1,
            "log_every_n_steps": min(10, steps_per_epoch),
            "early_stopping_monitor": "validation_loss",
            "early_stopping_mode": "min",
            "early_stopping_patience": max(10, tenth),
            "early_stopping_warmup_epochs": plan["n_epochs_kl_warmup"] or 0,
            **trainer_kwargs,
        }
        early_stopping = early_stopping and splitter.n_val > 0
        kept = KeptEpoch(
            trainer["early_stopping_monitor"] if early_stopping else None,
            trainer["early_stopping_mode"],
            trainer["early_stopping_warmup_epochs"],
        )
        trainer["callbacks"] = [BeforeTraining(self._prepare), *(trainer.get("callbacks") or [])]
        # as text: callbacks and loggers may not be saved
        arguments = {"max_epochs": max_epochs, **split, "early_stopping": early_stopping}
        arguments |= {"batch_size": batch_size, **(datasplitter_kwargs or {})}
        arguments |= {**plan, **trainer_kwargs}
        used = {name: repr(value) for name, value in arguments.items()} | used
        self.module.train()  # loading and an earlier training leave it in evaluation mode
        with single_precision(self.module):
            try:
                with self.adata_manager.keep_aligned():
                    super().train(
                        max_epochs=max_epochs,
                        accelerator=accelerator,
                        devices=devices,
                        **split,
                        batch_size=batch_size,
                        early_stopping=early_stopping,
                        datasplitter_kwargs=options,
                        plan_kwargs=plan,
                        kept=kept,
                        **trainer,
                    )
            finally:
                if kept.n_finished:
                    self.train_params_ = used
            self._finish(write_obsm)

    def _keeps_split(self, splitter: Splitter, by_default: bool) -> bool:
        """Whether a training goes on with the training and held-out cells of the one before.

        Parameters
        ----------
        splitter
            The split that was asked for.
        by_default
            Whether nothing particular was asked for.
        """
        if not self.is_trained_ or self.trained_on_ != fingerprint(self.adata.obs_names):
            return False
        split = [self.train_indices, self.validation_indices, self.test_indices]
        if by_default or splitter.gives(split):
            return True
        if self.screening_ is not None:
            raise ValueError(
                "train() was asked for another split of the cells than that of the first training, "
                "whose training cells decided which features are shared. Leave out train_size, "
                "validation_size, shuffle_set_split and external_indexing to train on with the "
                "same cells, or train a new model."
            )
        logger.warning(
            "Another split of the cells than in the training before: cells that were trained on "
            "then may be validation cells now, which makes validation_loss too good. evaluate() "
            "refuses them."
        )
        return False

    def _prepare(self, train: np.ndarray) -> None:
        """Start from the training cells: their statistics, and which of their features are shared.

        Networks that have learned something keep what they started from.

        Parameters
        ----------
        train
            Positions of the training cells; no other cell is read.
        """
        if self.is_trained_:
            return
        before = {name: value.clone() for name, value in self.module.state_dict().items()}
        outcome = "The model was not trained."
        try:
            with step("summarising the training cells", outcome):
                self.module.set_stats(self._statistics_of(np.sort(train)))
            if self.module.screened:
                with step("screening the features", outcome):
                    self._screen(train)
        except BaseException:
            self.module.load_state_dict(before)
            raise

    def _statistics_of(self, rows: np.ndarray) -> dict[str, FeatureStats]:
        """Summary of each modality in some cells, given by their positions."""
        observed = self.adata_manager.get_from_registry(Keys.OBSERVED)[rows]  # (rows, M)
        return {
            m: stats_of_rows(
                self.adata_manager.get_from_registry(Keys.x(m)),
                rows[observed[:, i]],
                self._feature_names(m),
                m,
            )
            for i, m in enumerate(self.modalities)
        }

    def _finish(self, write_obsm: bool) -> None:
        """What follows when the networks no longer change; they are usable without it."""
        outcome = "The networks are trained; embeddings were not written: call model.embed()."
        try:
            if self.screening_ is not None:
                try:
                    with step("weighing the experts", outcome):
                        self._weigh_experts()
                    with step("estimating weak effects", outcome):
                        self._learn_faint(self.screening_)
                except BaseException:
                    self._forget_estimates()
                    raise
            if write_obsm:
                with step("embedding the cells", outcome):
                    self.embed()
        except KeyboardInterrupt:
            logger.warning("Interrupted after training. %s", outcome)
            raise


def _default_max_epochs(steps_per_epoch: int) -> int:
    """Epochs that make about 4,000 steps, at least 20 and at most 400."""
    return int(np.clip(round(4000 / steps_per_epoch), 20, 400))


def _check_positive(**values: Any) -> None:
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
            raise ValueError(f"{name}={value!r}: expected an integer of at least 1.")


def _dropout_rates(
    rate: float | None, screen: bool, likelihoods: Mapping[str, str]
) -> dict[str, float]:
    """One rate for each modality: that of all, or what does its kind of values good."""
    if rate is not None:
        return dict.fromkeys(likelihoods, rate)
    return {
        m: _DROPOUT_OF_DISCRETE if screen and LIKELIHOODS[name].discrete else 0.0
        for m, name in likelihoods.items()
    }


def _modality_weights(
    weights: Mapping[str, float] | Literal["auto"] | None, n_features: dict[str, int]
) -> dict[str, float]:
    """One weight for each modality."""
    if weights is None:
        return dict.fromkeys(n_features, 1.0)
    if weights == "auto":
        return {m: float(np.mean([*n_features.values()])) / n for m, n in n_features.items()}
    if not isinstance(weights, Mapping) or not set(weights) <= set(n_features):
        raise ValueError(
            f"modality_weights={weights!r}: expected None, 'auto' or a weight for some of "
            f"{list(n_features)}."
        )
    if wrong := {m: w for m, w in weights.items() if not (np.isfinite(w) and w > 0)}:
        raise ValueError(f"modality_weights={wrong}: expected numbers above 0.")
    return {m: float(weights.get(m, 1.0)) for m in n_features}


def _private_sizes(n_private: int | Mapping[str, int], modalities: list[str]) -> dict[str, int]:
    """One latent size for each modality."""
    if not isinstance(n_private, Mapping):
        n_private = dict.fromkeys(modalities, n_private)
    if set(n_private) != set(modalities):
        raise ValueError(
            f"n_private={dict(n_private)}: expected a size for each of {modalities}, and no other."
        )
    _check_positive(**{f"n_private[{m!r}]": size for m, size in n_private.items()})
    return {m: n_private[m] for m in modalities}
