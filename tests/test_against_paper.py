"""Losses and gradients against the paper's public implementation.

``data/paper_losses.npz`` was made by running that implementation: two Gaussian views (7 and 5
features), a binary label, 40 cells; private size 2, shared size 3; one hidden layer of 16,
LeakyReLU; posterior means instead of samples, label weight 100, KL weight 0.7. Its losses are sums
over terms and means over cells.
"""

from pathlib import Path

import numpy as np
import pytest
import torch

import scvenn
from scvenn.likelihoods import FeatureStats
from scvenn.network import Design, SharedPrivateVAE, gaussians

GOLDEN = dict(np.load(Path(__file__).parent / "data" / "paper_losses.npz"))
MODELS = {
    "MVAE": scvenn.MVAE,
    "MMVAE": scvenn.MMVAE,
    "MMVAEpp": scvenn.MMVAEpp,
    "MoPoEVAE": scvenn.MoPoEVAE,
}
VIEWS = ("0", "1")
N_SHARED, N_PRIVATE = 3, 2
KL_WEIGHT = 0.7


def tensor(name):
    return torch.as_tensor(GOLDEN[name], dtype=torch.float32)


def paper_parameters(module):
    """The module's parameters by the names of the file, and how their gradients are read.

    The file keeps apart what one of our matrices holds: location and scale of a posterior, and
    the parts of the decoder's first layer that read the private and the shared latent.
    """
    found = {}
    for i, v in enumerate(VIEWS):
        branch = module.branches[i]
        decoder = branch.decoder
        first, last = branch.hidden.fc_layers[0][0], decoder.hidden.fc_layers[0][0]
        for part in ("weight", "bias"):
            found[f"dec{v}.out.{part}"] = (getattr(decoder.out, part), np.s_[:])
            for name, head, size in (
                ("shared", branch.shared_head, N_SHARED),
                ("private", branch.private_head, N_PRIVATE),
            ):
                whole = getattr(head, part)
                found[f"enc{v}.{name}_loc.{part}"] = (whole, np.s_[:size])
                found[f"enc{v}.{name}_rawscale.{part}"] = (whole, np.s_[size:])
        # first layers hold their weights feature by feature
        found[f"enc{v}.hidden.weight"] = (first.by_feature, np.s_[:])
        found[f"enc{v}.hidden.bias"] = (first.bias, np.s_[:])
        found[f"dec{v}.hidden.weight_shared"] = (last.by_feature, np.s_[:N_SHARED])
        found[f"dec{v}.hidden.weight_private"] = (last.by_feature, np.s_[N_SHARED:])
        found[f"dec{v}.hidden.bias"] = (last.bias, np.s_[:])
        found[f"noise{v}"] = (branch.likelihood.raw_scale, np.s_[:])
    if module.label_head is not None:
        found["label.weight_shared"] = (module.label_head.logits.weight, np.s_[:])
        found["label.bias"] = (module.label_head.logits.bias, np.s_[:])
    return found


def in_our_layout(key, theirs, ours):
    """An array of the file as our parameter is laid out."""
    transposed = ".hidden.weight" in key
    return (theirs.T if transposed else theirs).reshape(ours.shape)


def build(name, supervised):
    """The module of a model with the file's parameters."""
    objective = MODELS[name]._recipe(VIEWS)
    stats = {
        v: FeatureStats(np.zeros(n, np.float32), np.ones(n, np.float32), 1.0)
        for v, n in zip(VIEWS, (7, 5), strict=True)
    }
    module = SharedPrivateVAE(
        objective,
        dict.fromkeys(VIEWS, "normal"),
        stats,
        Design(
            n_shared=N_SHARED,
            n_private=dict.fromkeys(VIEWS, N_PRIVATE),
            n_hidden=16,
            n_layers=1,
            dropout_rate=dict.fromkeys(VIEWS, 0.0),
            modality_weights=dict.fromkeys(VIEWS, 1.0),
            encode_covariates=False,
            label_weight=100.0,
            absent_private="zero",
            decoder="mlp",
            dispersion="feature",
            start_at_means=False,
            screen=False,
            kl_weight_shared=1.0,
        ),
        n_categories={},
        continuous=[],
        n_classes=2 if supervised else 0,
    )
    with torch.no_grad():
        for key, (parameter, index) in paper_parameters(module).items():
            if not key.startswith("noise"):
                parameter[index] = in_our_layout(key, tensor(f"param/{key}"), parameter[index])
    return module


def loss_of(module):
    """Sum over terms, mean over cells."""
    tensors = {
        "X_0": tensor("x0"),
        "X_1": tensor("x1"),
        "observed": torch.ones(40, 2),
        "batch": torch.zeros(40, 1),
        "labels": tensor("y"),
    }
    _, _, losses = module(tensors, loss_kwargs={"kl_weight": KL_WEIGHT})
    terms = len(module.objective.terms)
    return losses.loss * (terms if module.objective.reduction == "mean" else 1)


@pytest.fixture(autouse=True)
def _posterior_means(monkeypatch):
    monkeypatch.setattr(gaussians, "rsample", lambda gaussian: gaussian.loc)


cases = pytest.mark.parametrize(
    ("name", "mode"), [(n, mode) for n in MODELS for mode in ("unsupervised", "supervised")]
)


@cases
def test_loss_equals_the_papers(name, mode):
    module = build(name, mode == "supervised")
    expected = GOLDEN[f"{name}/{mode}/loss"]
    assert loss_of(module).item() == pytest.approx(float(expected), rel=1e-4)


@cases
def test_every_gradient_equals_the_papers(name, mode):
    module = build(name, mode == "supervised")
    loss_of(module).backward()
    parameters = paper_parameters(module)
    prefix = f"{name}/{mode}/grad/"
    expected = {k.removeprefix(prefix): v for k, v in GOLDEN.items() if k.startswith(prefix)}
    assert set(expected) == set(parameters)
    for key, (parameter, index) in parameters.items():
        ours = parameter.grad[index].numpy()
        theirs = in_our_layout(key, expected[key], ours)
        scale = np.abs(theirs).max()
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4 * scale, err_msg=key)


def test_same_view_likelihood_moves_no_shared_encoder_in_mmvaepp():
    """Without cross-view decoders and KL, nothing but sg[.] decides about this gradient."""
    module = build("MMVAEpp", supervised=False)
    inputs = module._get_inference_input(
        {
            "X_0": tensor("x0"),
            "X_1": tensor("x1"),
            "observed": torch.ones(40, 2),
            "batch": torch.zeros(40, 1),
        }
    )
    outputs = module.inference(**inputs)
    names = ("minibatch", "shared", "private", "active")
    decoded = module.generative(**{name: outputs[name] for name in names})
    scores = module._log_likelihoods(
        decoded["decoded"], outputs["minibatch"], weight=torch.ones(2, 40)
    )
    for t, m in enumerate(VIEWS):  # term t encodes m and decodes both
        head = module.branch(m).shared_head.weight
        gradients = {}
        for decoded_modality, (scored,) in scores.items():
            of_term = scored.log_likelihood[t].sum()
            (gradients[decoded_modality],) = torch.autograd.grad(
                of_term, head, retain_graph=True, allow_unused=True
            )
        assert gradients[m] is None or not gradients[m].any()
        assert gradients[VIEWS[1 - t]].any()
