"""Methods that scvi-tools' base classes bring along and that make no sense here."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

Model = TypeVar("Model")

# What to use instead of each.
_INSTEAD = {
    "convert_legacy_save": "scvenn.convert_legacy()",
    "data_registry": "the MuData itself, model.adata",
    "deregister_manager": "del: scvenn keeps data no longer than models and you do",
    "differential_abundance": "embed(), and a tool for neighbourhoods of cells on X_shared",
    "get_aggregated_posterior": "get_shared_representation() or get_private_representation()",
    "get_from_registry": "the MuData itself, model.adata",
    "get_marginal_ll": "get_elbo(), which is a lower bound of it",
    "get_setup_arg": "model.registry['setup_args']",
    "get_state_registry": "get_var_names(), and model.registry['setup_args']",
    "register_manager": "setup_mudata()",
    "setup_annbatch": "setup_mudata(), with the data in memory",
    "transfer_fields": "map_query() for new batches, or any read-out with new data",
    "update_setup_method_args": "setup_mudata()",
    "view_anndata_setup": "print(model) and model.registry['setup_args']",
    "view_registry": "model.registry",
    "view_setup_args": "load_registry(dir_path)['setup_args']",
    "view_setup_method_args": "model.registry['setup_args']",
}

# setup_anndata says what to use by itself
REFUSED = frozenset([*_INSTEAD, "setup_anndata"])


def _refusing(name: str, instead: str) -> Callable[..., None]:
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise TypeError(f"{name}() is not offered by scvenn's models. Use {instead}.")

    refuse.__name__ = name
    refuse.__doc__ = f"Not offered: use {instead}."
    return refuse


def refuses_what_does_not_work(cls: type[Model]) -> type[Model]:
    """Make a model class refuse what its bases cannot do, and hide it from completion."""
    for name, instead in _INSTEAD.items():
        # static: refused on the class as well as on a model
        setattr(cls, name, staticmethod(_refusing(name, instead)))
    every = cls.__dir__

    def shown(self: Any) -> Iterable[str]:
        # never an attribute that ends with "_": scvi-tools saves those that it finds by `dir`
        hidden = REFUSED | {"get_normalized_function_name"}  # which is of use to scvi-tools alone
        if getattr(vars(self).get("module"), "label_head", None) is None:
            hidden |= {"predict_labels"}
        if self.screening_ is None:
            hidden |= {"get_shared_scores"}
        return [name for name in every(self) if name not in hidden]

    cls.__dir__ = shown  # type: ignore[method-assign]
    return cls
