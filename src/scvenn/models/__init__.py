"""The published models, the class that they share, and how they are trained, saved and sized.

In reading order: ``published`` (a docstring and an objective each), ``base`` (the constructor, and
which data is read), ``training`` (what precedes and follows the training of the networks),
``training_arguments`` (checks and defaults of ``train()``), ``splitting`` (which cells are held
out), ``runner`` (what is added to scvi-tools' runner), ``history`` (the records of training),
``processes`` (several devices), ``messages`` and ``duration`` (what a training says, and how long
it will take), ``divergence`` (the message where a loss is not finite), ``encoding``, ``value_file``
and ``model_file`` (what a saved model is), ``file_checks`` (what it must hold), ``saving``,
``checkpoint`` (a killed training goes on), ``minifying`` (models for sharing, without counts),
``mapping`` (new batches, donors and panels), ``legacy`` (files of 0.1), ``refused`` (methods of
scvi-tools that make no sense here), ``latent_sizes`` and ``side_by_side`` (how large latents should
be, by trainings in several processes).
"""

from scvenn.models.base import SharedPrivateModel
from scvenn.models.latent_sizes import LatentSizes, choose_latent_sizes
from scvenn.models.legacy import convert_legacy
from scvenn.models.published import MMVAE, MVAE, MMVAEpp, MoPoEVAE, paper_setting
from scvenn.models.saving import class_of

__all__ = [
    "MMVAE",
    "MVAE",
    "LatentSizes",
    "MMVAEpp",
    "MoPoEVAE",
    "SharedPrivateModel",
    "choose_latent_sizes",
    "class_of",
    "convert_legacy",
    "paper_setting",
]
