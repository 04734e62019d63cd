"""The published models, the class that they share, and how they are trained, saved and sized.

In reading order: ``published`` (a docstring and an objective each), ``base`` (the constructor and
``train``), ``training`` (what is added to scvi-tools' runner), ``divergence`` (what is said where
the loss is not finite), ``saving``, ``latent_sizes``.
"""

from scvenn.models.base import SharedPrivateModel
from scvenn.models.latent_sizes import LatentSizes, choose_latent_sizes
from scvenn.models.published import MMVAE, MVAE, MMVAEpp, MoPoEVAE, paper_setting

__all__ = [
    "MMVAE",
    "MVAE",
    "LatentSizes",
    "MMVAEpp",
    "MoPoEVAE",
    "SharedPrivateModel",
    "choose_latent_sizes",
    "paper_setting",
]
