"""What a user says is to be read from a MuData, and the memory of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Literal

from anndata import AnnData
from mudata import MuData

from scvenn.data.checks import check_mudata, choose_modalities
from scvenn.data.keys import Keys
from scvenn.data.registration import (
    AlignedManager,
    ColumnField,
    ModalityField,
    NumberField,
    ObservedField,
)
from scvenn.likelihoods import LIKELIHOODS


class SetUpMixin:
    """Set-up of :class:`~scvenn.SharedPrivateModel`, one for all classes."""

    # scvi-tools' part of the class
    _get_setup_method_args: Callable[..., dict]
    _setup_adata_manager_store: ClassVar[dict[str, AlignedManager]]
    register_manager: Callable[[AlignedManager], None]

    # How each MuData (by scvi-tools' uuid) was last set up, by whichever of the classes.
    _last_setup: ClassVar[dict[str, tuple[AlignedManager, dict[str, Any]]]] = {}

    @classmethod
    def setup_anndata(cls, adata: AnnData, *args: Any, **kwargs: Any) -> None:
        """Not offered: scvenn reads MuData.

        Raises
        ------
        TypeError
            Always.
        """
        raise TypeError(
            f"{cls.__name__} reads a MuData with two or more modalities, not an AnnData. Put them "
            "together with mudata.MuData({'rna': ..., 'atac': ...}) and call "
            f"{cls.__name__}.setup_mudata(mdata)."
        )

    @classmethod
    def setup_mudata(
        cls,
        mdata: MuData,
        *,
        modalities: Sequence[str] | None = None,
        layers: Mapping[str, str | None] | None = None,
        likelihoods: Mapping[str, str] | Literal["auto"] = "auto",
        labels_key: str | None = None,
        unlabeled_category: Any = None,
        batch_key: str | None = None,
        categorical_covariate_keys: Sequence[str] | None = None,
        continuous_covariate_keys: Sequence[str] | None = None,
        **kwargs: Any,
    ) -> None:
        """Say what is to be read from a MuData; needed only where the defaults do not fit.

        Cells are matched by ``obs_names``; a cell may lack some of the modalities. Nothing is
        changed but ``mdata.uns["_scvi_uuid"]`` and ``mdata.uns["_scvi_manager_uuid"]``. The set-up
        holds for all scvenn classes until another one is made.

        Parameters
        ----------
        mdata
            Data to set up.
        modalities
            Names in ``mdata.mod``; None for all.
        layers
            Layer to read instead of ``.X``, by modality.
        likelihoods
            By modality. Where none is given, it is inferred from the values and logged: only 0 and
            1 is ``"bernoulli"``, other non-negative integers ``"nb"`` (negative binomial), anything
            else ``"normal"``. Others have to be asked for: ``"poisson"``; ``"zinb"``, ``"nb"`` with
            additional zeros; ``"nb_mixture"``, counts of proteins with a background, as in totalVI;
            ``"beta"``, fractions from 0 to 1, such as of methylation.
        labels_key
            Column of ``mdata.obs``, or of the modalities' ``obs``, with classes that the shared
            latent shall tell apart.
        unlabeled_category
            Value of that column that means "not known", as NaN does.
        batch_key
            Column with the batch. The decoders see it, so that the latents need not hold it.
        categorical_covariate_keys, continuous_covariate_keys
            Further columns that the decoders see: categories, such as the donor, and numbers, such
            as a fraction of mitochondrial counts. Columns are looked for in ``mdata.obs``, then in
            the modalities' ``obs``; every cell needs a value.
        **kwargs
            Used by scvi-tools when a model is loaded.

        Raises
        ------
        TypeError
            If ``mdata`` is not a MuData, or a matrix is not one of numbers.
        ValueError
            If names are unknown or repeated, cells do not overlap, or values do not fit the
            likelihood.

        Examples
        --------
        >>> import scvenn
        >>> mdata = scvenn.datasets.simulate_counts(n_obs=50, n_features=20)
        >>> scvenn.MMVAEpp.setup_mudata(mdata, likelihoods={"atac": "poisson"})
        """
        setup_method_args = cls._get_setup_method_args(**locals())
        source_registry = kwargs.get("source_registry")
        check_mudata(mdata, may_be_view=False)
        if source_registry is None:
            names = choose_modalities(mdata, modalities)
        else:  # new data may lack some of the modalities
            names = source_registry["field_registries"][Keys.OBSERVED]["state_registry"][
                "modalities"
            ]
        known = cls._last_setup.get(mdata.uns.get(Keys.SCVI_UUID, ""))
        if known is not None and known[0].adata is not mdata:
            del mdata.uns[Keys.SCVI_UUID]  # a copy: it must not be taken for its original

        manager = AlignedManager(
            fields_of(names, **setup_method_args["setup_args"]), setup_method_args
        )
        manager.register_fields(mdata, **kwargs)
        cls.register_manager(manager)
        cls._last_setup[manager.adata_uuid] = (manager, setup_method_args["setup_args"])

    @classmethod
    def _find_or_make_setup(cls, mdata: MuData) -> None:
        """Make sure this class has a set-up of this very MuData."""
        check_mudata(mdata, may_be_view=False)
        known = cls._last_setup.get(mdata.uns.get(Keys.SCVI_UUID, ""))
        if known is None:
            cls.setup_mudata(mdata)
            return
        manager, arguments = known
        own = cls._setup_adata_manager_store.get(manager.adata_uuid)
        if manager.adata is not mdata or own is None or own.adata is not mdata:
            cls.setup_mudata(mdata, **arguments)


def fields_of(
    names: list[str],
    *,
    layers: Mapping[str, str | None] | None,
    likelihoods: Mapping[str, str] | Literal["auto"],
    labels_key: str | None,
    unlabeled_category: Any,
    batch_key: str | None,
    modalities: Sequence[str] | None,
    categorical_covariate_keys: Sequence[str] | None = None,
    continuous_covariate_keys: Sequence[str] | None = None,
) -> list[Any]:
    """What the arguments of a set-up say is to be read."""
    layer = _by_modality(layers, names, "layers")
    likelihood = _by_modality(None if likelihoods == "auto" else likelihoods, names, "likelihoods")
    for m, name in likelihood.items():
        if name not in LIKELIHOODS:
            raise ValueError(
                f"likelihoods={{{m!r}: {name!r}}}: expected one of {list(LIKELIHOODS)}."
            )
    categorical = _columns(categorical_covariate_keys, "categorical_covariate_keys")
    continuous = _columns(continuous_covariate_keys, "continuous_covariate_keys")
    return [
        *(ModalityField(m, layer.get(m), likelihood.get(m)) for m in names),
        ObservedField(names),
        ColumnField(Keys.BATCH, batch_key),
        *(ColumnField(Keys.categorical(key), key) for key in categorical),
        *(NumberField(key) for key in continuous),
        ColumnField(Keys.LABELS, labels_key, unlabeled_category),
    ]


def _columns(value: Sequence[str] | None, argument: str) -> list[str]:
    """Names of columns, after checking that they are a list without repetitions."""
    names = list(value or [])
    if isinstance(value, str) or len(set(names)) < len(names):
        raise ValueError(f"{argument}={value!r}: expected a list of columns, each once.")
    return names


def _by_modality(value: Any, modalities: list[str], argument: str) -> dict[str, Any]:
    """An argument given by modality, after checking its keys."""
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise ValueError(
            f"{argument}={value!r}: expected a dictionary such as {{{modalities[0]!r}: ...}}."
        )
    if unknown := [m for m in value if m not in modalities]:
        raise ValueError(
            f"{argument}={dict(value)}: {unknown} not found among the modalities {modalities}."
        )
    return dict(value)
