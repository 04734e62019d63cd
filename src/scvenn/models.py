"""The published models: one objective each; everything else is shared."""

from __future__ import annotations

from scvenn._model import SharedPrivateModel
from scvenn.objective import mmvae, mmvaepp, mopoe, mvae


class MVAE(SharedPrivateModel):
    r"""Multimodal VAE with a product of experts.

    .. math:: L = L_{\mathrm{all} \to \mathrm{all}} + \sum_m L_{m \to m}

    The first term multiplies the posteriors of all modalities and the prior; the others train
    each encoder alone. Nothing is ever decoded across views (paper, eq. 1; Wu & Goodman, NeurIPS
    2018). See :class:`~scvenn.SharedPrivateModel` for the arguments.

    Examples
    --------
    >>> import scvenn
    >>> model = scvenn.MVAE(scvenn.datasets.simulate_counts(n_obs=50, n_features=20))
    """

    _recipe = staticmethod(mvae)


class MMVAE(SharedPrivateModel):
    r"""Multimodal VAE with a mixture of experts.

    .. math:: L = \frac{1}{M} \sum_m L_{m \to \mathrm{all}}

    Each modality alone explains all of them (paper, eq. 3; Shi et al., NeurIPS 2019). See
    :class:`~scvenn.SharedPrivateModel` for the arguments.

    Examples
    --------
    >>> import scvenn
    >>> model = scvenn.MMVAE(scvenn.datasets.simulate_counts(n_obs=50, n_features=20))
    """

    _recipe = staticmethod(mmvae)


class MoPoEVAE(SharedPrivateModel):
    r"""Multimodal VAE with a mixture of products of experts.

    .. math:: L = \sum_{\emptyset \ne S \subseteq \mathrm{all}}
              L_{S \to S} + L_{S \to \mathrm{rest}}

    Every subset of the modalities, its posteriors multiplied with the prior, explains itself and
    the rest (paper, eq. 4; Sutter et al., ICLR 2021). The number of subsets doubles with each
    modality. See :class:`~scvenn.SharedPrivateModel` for the arguments.

    Examples
    --------
    >>> import scvenn
    >>> model = scvenn.MoPoEVAE(scvenn.datasets.simulate_counts(n_obs=50, n_features=20))
    """

    _recipe = staticmethod(mopoe)


class MMVAEpp(SharedPrivateModel):
    r"""MMVAE++: a mixture of experts whose shared latent learns across views only.

    .. math:: L = \frac{1}{M} \sum_m L_{m \to \mathrm{all}},
              \quad \text{with } \log p(x_m \mid \mathrm{sg}[s], p_m) \text{ in term } m

    As :class:`~scvenn.MMVAE`, but no gradient of a same-view likelihood reaches the sample of the
    shared latent: what only one modality knows has no reason to be there (paper, section 3.2;
    Märtens & Yau, MLCB 2023). See :class:`~scvenn.SharedPrivateModel` for the arguments.

    Examples
    --------
    >>> import scvenn
    >>> model = scvenn.MMVAEpp(scvenn.datasets.simulate_counts(n_obs=50, n_features=20))
    """

    _recipe = staticmethod(mmvaepp)
