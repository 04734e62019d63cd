"""What two or more modalities of the same cells share, and what each keeps to itself.

>>> import scvenn
>>> mdata = scvenn.datasets.simulate_counts(n_obs=200, n_features=20)
>>> model = scvenn.MMVAEpp(mdata)
>>> model.train(max_epochs=1, enable_progress_bar=False)
>>> mdata.obsm["X_shared"].shape
(200, 10)
"""

import os
from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from scvenn import datasets, metrics, testing
    from scvenn import plotting as pl
    from scvenn import preprocessing as pp
    from scvenn.data import read_lazy
    from scvenn.models import (
        MMVAE,
        MVAE,
        MMVAEpp,
        MoPoEVAE,
        SharedPrivateModel,
        choose_latent_sizes,
        convert_legacy,
        paper_setting,
    )
    from scvenn.objective import Objective, Penalty, Term

__version__ = version("scvenn")

# The same bits on one thread and on several: with this, MKL, by which PyTorch multiplies matrices
# on most CPUs, sums in one order. It is read at the first product. Source: oneMKL Developer Guide,
# "Strict CNR Mode".
os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")

__all__ = [
    "MMVAE",
    "MVAE",
    "MMVAEpp",
    "MoPoEVAE",
    "Objective",
    "Penalty",
    "SharedPrivateModel",
    "Term",
    "choose_latent_sizes",
    "convert_legacy",
    "datasets",
    "metrics",
    "paper_setting",
    "pl",
    "pp",
    "read_lazy",
    "testing",
]

# Public names are imported when they are first used: torch and scanpy take seconds, for which
# `scvenn --help` need not wait.
_MODULES = {
    "datasets": "scvenn.datasets",
    "metrics": "scvenn.metrics",
    "pl": "scvenn.plotting",
    "pp": "scvenn.preprocessing",
    "testing": "scvenn.testing",
}
_HOMES = dict.fromkeys(("Objective", "Penalty", "Term"), "scvenn.objective")
_HOMES["read_lazy"] = "scvenn.data"


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return import_module(_MODULES[name])
    if name in __all__:
        return getattr(import_module(_HOMES.get(name, "scvenn.models")), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """What users see: not the rooms behind the public names."""
    return [*__all__, "__version__"]
