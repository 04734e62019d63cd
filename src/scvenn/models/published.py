"""The published models: one objective each; everything else is shared."""

from __future__ import annotations

from typing import Any

from docrep import DocstringProcessor

from scvenn.models.base import SharedPrivateModel
from scvenn.objective import mmvae, mmvaepp, mopoe, mvae

# The docstring of each model lists the arguments, which are described in that of their base.
_arguments = DocstringProcessor()
_arguments.get_sections(SharedPrivateModel.__doc__, "model", ["Parameters"])


@_arguments.dedent
class MVAE(SharedPrivateModel):
    r"""Multimodal VAE with a product of experts.

    .. math:: L = L_{\mathrm{all} \to \mathrm{all}} + \sum_m L_{m \to m}

    The first term multiplies the posteriors of all modalities and the prior; the others train
    each encoder alone. No modality is decoded from another one (paper, eq. 1; Wu & Goodman,
    NeurIPS 2018).

    Parameters
    ----------
    %(model.parameters)s

    Examples
    --------
    >>> import scvenn
    >>> model = scvenn.MVAE(scvenn.datasets.simulate_counts(n_obs=50, n_features=20))
    """

    _recipe = staticmethod(mvae)


@_arguments.dedent
class MMVAE(SharedPrivateModel):
    r"""Multimodal VAE with a mixture of experts.

    .. math:: L = \frac{1}{M} \sum_m L_{m \to \mathrm{all}}

    Each modality alone predicts all of them (paper, eq. 3; Shi et al., NeurIPS 2019).

    Parameters
    ----------
    %(model.parameters)s

    Examples
    --------
    >>> import scvenn
    >>> model = scvenn.MMVAE(scvenn.datasets.simulate_counts(n_obs=50, n_features=20))
    """

    _recipe = staticmethod(mmvae)


@_arguments.dedent
class MoPoEVAE(SharedPrivateModel):
    r"""Multimodal VAE with a mixture of products of experts.

    .. math:: L = \sum_{\emptyset \ne S \subseteq \mathrm{all}}
              L_{S \to S} + L_{S \to \mathrm{rest}}

    Every subset of the modalities predicts itself and the rest. The posteriors of a subset are
    multiplied with the prior (paper, eq. 4; Sutter et al., ICLR 2021). The number of subsets
    doubles with each modality.

    Parameters
    ----------
    %(model.parameters)s

    Examples
    --------
    >>> import scvenn
    >>> model = scvenn.MoPoEVAE(scvenn.datasets.simulate_counts(n_obs=50, n_features=20))
    """

    _recipe = staticmethod(mopoe)


@_arguments.dedent
class MMVAEpp(SharedPrivateModel):
    r"""MMVAE++: a mixture of experts whose shared latent learns across views only.

    .. math:: L = \frac{1}{M} \sum_m L_{m \to \mathrm{all}},
              \quad \text{with } \log p(x_m \mid \mathrm{sg}[s], p_m) \text{ in term } m

    As :class:`~scvenn.MMVAE`, but no gradient of a same-view likelihood reaches the sample of the
    shared latent. Variation that helps to predict only its own modality is therefore left to the
    private latent (paper, section 3.2; Märtens & Yau, MLCB 2023).

    The defaults differ from the paper. Features are screened before training (``screen``), so that
    ``shared`` learns from features that the other modalities predict. The KL of ``shared`` has a
    smaller weight, and networks of counts and of 0/1 values have dropout. With
    :func:`~scvenn.paper_setting` the model is the paper's.

    Parameters
    ----------
    %(model.parameters)s

    Examples
    --------
    >>> import scvenn
    >>> model = scvenn.MMVAEpp(scvenn.datasets.simulate_counts(n_obs=50, n_features=20))
    """

    _recipe = staticmethod(mmvaepp)
    _screens = True


def paper_setting(
    model: type[SharedPrivateModel] = MMVAEpp, *, max_epochs: int = 100, lr: float = 1e-3
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Arguments for the setting of the paper's code.

    One hidden layer of 128, LeakyReLU, latents of size 2; Adam with eps 1e-8 and no weight decay;
    minibatches of 128; the weight of the KL rises linearly from 1e-5 to 1 over all epochs; labels
    weigh 100; while training, the absent private latent is zero (MMVAE, MMVAE++) or a sample of
    the prior (MVAE, MoPoE-VAE); four fifths of the cells are trained on, and the last epoch
    counts; no features are screened; decoders start around 0. scvenn's own defaults differ in the
    latent sizes, the warm-up, the number of epochs, the weight of the labels, the split, in
    stopping early, and in where decoders start; for MVAE and MoPoE-VAE in the absent private
    latent; for MMVAE++ in screening, dropout and the weight of the KL of ``shared``.

    Parameters
    ----------
    model
        The class the arguments are for.
    max_epochs
        Number of epochs, which the warm-up fits: 100 in the paper's code, 500 for few samples.
    lr
        Learning rate: 1e-3 on the paper's synthetic data, 1e-4 on real data.

    Returns
    -------
    Arguments of the constructor and arguments of ``train``.

    Examples
    --------
    >>> import scvenn
    >>> mdata = scvenn.datasets.simulate_gp(100)
    >>> model_kwargs, train_kwargs = scvenn.paper_setting(scvenn.MVAE, max_epochs=1)
    >>> model = scvenn.MVAE(mdata, **model_kwargs)
    >>> model.train(**train_kwargs, enable_progress_bar=False)

    Notes
    -----
    The paper's text and its code differ (the text has a label weight of 1,000); this follows the
    code. Dispersions of counts learn ten times as fast as they would there; the paper's data are
    all ``"normal"``. The code splits the cells stratified by label, which can be had with
    ``train(datasplitter_kwargs={"external_indexing": [train, validation, test]})``.
    """
    constructor = {
        "n_shared": 2,
        "n_private": 2,
        "n_hidden": 128,
        "n_layers": 1,
        "dropout_rate": 0.0,
        "label_weight": 100.0,
        "absent_private": "prior" if issubclass(model, MVAE | MoPoEVAE) else "zero",
        "screen": False,
        "kl_weight_shared": 1.0,
        "start_at_means": False,
    }
    train = {
        "max_epochs": max_epochs,
        "batch_size": 128,
        "train_size": 0.8,
        "early_stopping": False,
        "plan_kwargs": {
            "lr": lr,
            "eps": 1e-8,
            "weight_decay": 0.0,
            "n_epochs_kl_warmup": max_epochs,
            "min_kl_weight": 1e-5,
        },
    }
    return constructor, train
