"""Which parts of a MuData are read, remembered for as long as the MuData lives."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, cast

import pandas as pd
from anndata import AnnData
from mudata import MuData

from scvenn._arguments import check_names
from scvenn.data.checks import as_list, check_mudata, choose_modalities
from scvenn.data.columns import check_column_name
from scvenn.data.fields import ColumnField, ModalityField, NumberField, ObservedField
from scvenn.data.keys import Keys
from scvenn.data.manager import AlignedManager
from scvenn.data.registry import Registry
from scvenn.likelihoods import LIKELIHOODS


class _SetUp:
    """The last set-up of one MuData, for all classes; holds the data weakly.

    Copies of a MuData carry its mark, and are set up with the same arguments: these stay when the
    data is gone, and nothing else does.
    """

    def __init__(self, mdata: MuData, manager: AlignedManager) -> None:
        self.mdata = weakref.ref(mdata)
        self.arguments = manager.registry["setup_args"]
        manager.adata = None
        self.manager: AlignedManager | None = manager
        weakref.finalize(mdata, self.forget)

    def is_of(self, mdata: MuData) -> bool:
        """Whether it is of this very MuData, and not of one that it was copied from."""
        return self.mdata() is mdata

    def forget(self) -> None:
        """Drop all but the arguments."""
        self.manager = None

    def manager_of(self, mdata: MuData) -> AlignedManager | None:
        """The manager if it still describes this very MuData, else None."""
        if self.manager is None or not self.is_of(mdata) or self.manager.is_outdated(mdata):
            return None
        return self.manager


# by the mark that scvi-tools puts into ``mdata.uns``
_SETUPS: dict[str, _SetUp] = {}


class SetUpMixin:
    """Set-up of :class:`~scvenn.SharedPrivateModel`, one for all classes."""

    # scvi-tools' part of the class
    _get_setup_method_args: Callable[..., dict]

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
        """Choose what is read from a MuData; needed only where the defaults do not fit.

        Cells are matched by ``obs_names``; a cell may lack some of the modalities. Nothing is
        changed but ``mdata.uns["_scvi_uuid"]``, by which a copy is recognised: a set-up holds for
        all scvenn classes and for copies, until another one is made. Where the data was changed
        since, it is made anew with the same arguments.

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
            Column of ``mdata.obs``, or of the modalities' ``obs``, with classes that a linear
            classifier is to predict from the shared latent.
        unlabeled_category
            Value of that column that means "not known", as NaN does.
        batch_key
            Column with the batch. It is an input of the decoders, so that the latents need not
            encode it.
        categorical_covariate_keys, continuous_covariate_keys
            Further inputs of the decoders: categories, such as the donor, and numbers, such as a
            fraction of mitochondrial counts. Columns are looked for in ``mdata.obs``, then in
            the modalities' ``obs``; every cell needs a value.
        **kwargs
            Used by scvi-tools when a model is loaded.

        Raises
        ------
        TypeError
            If ``mdata`` is not a MuData, a matrix is not one of numbers, or there is no argument of
            a name.
        ValueError
            If names are unknown or repeated, cells do not overlap, values do not fit the
            likelihood, or there is an ``unlabeled_category`` and no ``labels_key``.

        Examples
        --------
        >>> import scvenn
        >>> mdata = scvenn.datasets.simulate_counts(n_obs=50, n_features=20)
        >>> scvenn.MMVAEpp.setup_mudata(mdata, likelihoods={"atac": "poisson"})
        """
        setup_method_args = cls._get_setup_method_args(**locals())
        source_registry = kwargs.get("source_registry")
        if source_registry is None:  # else these are of scvi-tools
            check_names("setup_mudata", kwargs, setup_method_args["setup_args"])
            if unlabeled_category is not None and labels_key is None:
                raise ValueError(
                    f"unlabeled_category={unlabeled_category!r} is a value of the column of "
                    "labels, and no column was named. Pass labels_key=... as well."
                )
        check_mudata(mdata, may_be_view=False)
        arguments = _plain(setup_method_args["setup_args"])
        setup_method_args["setup_args"] = arguments
        if source_registry is None:
            names = choose_modalities(mdata, arguments["modalities"])
        else:  # new data may lack some of the modalities
            names = Registry(source_registry).modalities
        manager = AlignedManager(fields_of(names, **arguments), setup_method_args)
        manager.register_fields(mdata, **kwargs)
        if (before := _SETUPS.get(mdata.uns.get(Keys.SCVI_UUID, ""))) and before.is_of(mdata):
            before.forget()
        mark = manager.registry[Keys.SCVI_UUID]
        mdata.uns[Keys.SCVI_UUID] = mark
        _SETUPS[mark] = _SetUp(mdata, manager)

    @classmethod
    def _get_most_recent_anndata_manager(
        cls, adata: MuData, required: bool = False
    ) -> AlignedManager | None:
        """A manager of a MuData, for one model: the last set-up, made anew if the data changed.

        Where scvi-tools looks for it; a MuData that was never set up gets the defaults.
        """
        check_mudata(adata, may_be_view=False)
        known = _SETUPS.get(adata.uns.get(Keys.SCVI_UUID, ""))
        manager = None if known is None else known.manager_of(adata)
        if manager is None:
            cls.setup_mudata(adata, **({} if known is None else known.arguments))
            manager = _SETUPS[adata.uns[Keys.SCVI_UUID]].manager
        return cast(AlignedManager, manager).bound_to(adata, model=cls.__name__)

    def _register_manager_for_instance(self, adata_manager: AlignedManager) -> None:
        """Keep nothing: scvi-tools' store would hold the data for as long as the process lives."""


def fields_of(
    names: list[str],
    *,
    layers: Mapping[str, str | None] | None,
    likelihoods: Mapping[str, str] | Literal["auto"],
    labels_key: str | None,
    unlabeled_category: Any,
    batch_key: str | None,
    modalities: list[str] | None,
    categorical_covariate_keys: list[str] | None = None,
    continuous_covariate_keys: list[str] | None = None,
) -> list[Any]:
    """Fields that the arguments of a set-up ask for."""
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


def _plain(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of a set-up as plain lists, dictionaries and text.

    They are kept and saved, and views such as ``mdata.mod.keys()`` would keep the data as well.
    """
    plain = dict(arguments)
    for name, value in arguments.items():
        if value is None:
            continue
        if name.endswith("_keys") or name == "modalities":
            plain[name] = as_list(value, name)
        elif isinstance(value, str):
            plain[name] = str(value)
        elif name in ("labels_key", "batch_key"):
            check_column_name(value, name)
        elif isinstance(value, Mapping | pd.Series):
            found = dict(value.items())
            plain[name] = dict(
                zip(as_list(found, name), as_list(found.values(), name), strict=True)
            )
    return plain


def _columns(value: list[str] | None, argument: str) -> list[str]:
    """Names of columns, after checking that none is repeated."""
    names = value or []
    if len(set(names)) < len(names):
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
