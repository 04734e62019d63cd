"""What two or more modalities of the same cells share, and what each keeps to itself.

>>> import scvenn
>>> mdata = scvenn.datasets.simulate_counts(n_obs=200, n_features=20)
>>> model = scvenn.MMVAEpp(mdata)
>>> model.train(max_epochs=1, enable_progress_bar=False)
>>> mdata.obsm["X_shared"].shape
(200, 10)
"""

from importlib.metadata import version

from scvenn import datasets, metrics
from scvenn import plotting as pl
from scvenn._latent_sizes import choose_latent_sizes
from scvenn._model import SharedPrivateModel
from scvenn.models import MMVAE, MVAE, MMVAEpp, MoPoEVAE, paper_setting
from scvenn.objective import Objective, Term

__version__ = version("scvenn")

__all__ = [
    "MMVAE",
    "MVAE",
    "MMVAEpp",
    "MoPoEVAE",
    "Objective",
    "SharedPrivateModel",
    "Term",
    "choose_latent_sizes",
    "datasets",
    "metrics",
    "paper_setting",
    "pl",
]
