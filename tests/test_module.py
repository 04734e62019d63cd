"""The loss over terms: what reaches it and what must not."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import scvenn
from scvenn import _module
from tests.conftest import MODELS, three_modalities

INCOMPLETE = three_modalities(missing=0.3, n_obs=60)


def minibatch(model):
    """All cells of the model's data as one minibatch."""
    loader = model._make_data_loader(model.adata, batch_size=model.adata.n_obs)
    return next(iter(loader))


def built(name, **kwargs):
    mdata = INCOMPLETE.copy()
    scvenn.MMVAEpp.setup_mudata(
        mdata, labels_key="cell_type", unlabeled_category="type0", batch_key="batch"
    )
    return MODELS[name](mdata, **kwargs)


CACHE = {}


def cached(name):
    """One model of each class, for tests that do not change it."""
    if name not in CACHE:
        model = built(name, n_shared=3, n_private=2, n_hidden=8)
        CACHE[name] = model.module.eval(), minibatch(model)
    return CACHE[name]


def losses(module, tensors, seed=0):
    torch.manual_seed(seed)
    return module(tensors)[2]


@pytest.mark.parametrize("name", list(MODELS))
@given(value=st.floats(allow_nan=True, allow_infinity=True, width=32), seed=st.integers(0, 99))
@settings(deadline=None, max_examples=25)
def test_values_of_unobserved_entries_never_change_the_loss(name, value, seed):
    module, tensors = cached(name)
    observed = tensors["observed"].bool()
    garbled = dict(tensors)
    for i, m in enumerate(module.modalities):
        x = tensors[f"X_{m}"].clone()
        x[~observed[:, i]] = value
        garbled[f"X_{m}"] = x
    before, after = losses(module, tensors, seed), losses(module, garbled, seed)
    assert torch.equal(before.loss, after.loss)
    assert before.loss.isfinite()


@pytest.mark.parametrize("name", list(MODELS))
def test_unobserved_entries_get_no_gradient(name):
    module, tensors = cached(name)
    x = tensors["X_meth"].clone().requires_grad_()
    losses(module, {**tensors, "X_meth": x}).loss.backward()
    measured = tensors["observed"][:, module.modalities.index("meth")].bool().unsqueeze(1)
    unobserved = ~(measured & ~tensors["X_meth"].isnan())
    assert unobserved.any()
    assert not x.grad[unobserved].any()
    assert x.grad[~unobserved].any()


@pytest.mark.parametrize("name", list(MODELS))
def test_cells_do_not_influence_each_other(name, monkeypatch):
    monkeypatch.setattr(_module, "rsample", lambda gaussian: gaussian.loc)
    module, tensors = cached(name)
    together = losses(module, tensors)
    alone = losses(module, {k: v[:1] for k, v in tensors.items()})
    for part in ("reconstruction_loss", "kl_local"):
        (whole,) = getattr(together, part).values()
        (first,) = getattr(alone, part).values()
        torch.testing.assert_close(whole[:1], first)


@pytest.mark.parametrize("name", list(MODELS))
def test_cells_without_label_leave_the_label_term(name):
    module, tensors = cached(name)
    unlabelled = tensors["labels"].view(-1) < 0
    assert unlabelled.any()
    assert not unlabelled.all()
    torch.manual_seed(0)
    _, _, output = module(tensors)
    assert output.extra_metrics["log_likelihood_labels"].isnan()[unlabelled].all()
    assert not output.extra_metrics["log_likelihood_labels"].isnan()[~unlabelled].any()
    other = {**tensors, "labels": torch.full_like(tensors["labels"], -1)}
    torch.manual_seed(0)
    without = module(other)[2]
    gap = output.loss - without.loss
    assert gap > 0  # minus a log-probability, times its weight
    (rec,), (rec_without,) = (o.reconstruction_loss.values() for o in (output, without))
    assert torch.equal(rec, rec_without)


def test_mean_objectives_average_over_the_terms_left(monkeypatch):
    """A cell with one modality of three has the loss of that modality's own term."""
    monkeypatch.setattr(_module, "rsample", lambda gaussian: gaussian.loc)
    module, tensors = cached("MMVAE")
    only = tensors["observed"].clone()
    only[:, 1:] = 0
    only[:, 0] = 1
    output = losses(module, {**tensors, "observed": only})
    (reconstruction,) = output.reconstruction_loss.values()
    expected = -output.extra_metrics["log_likelihood_rna->rna"]
    torch.testing.assert_close(reconstruction, expected)


@pytest.mark.parametrize("name", list(MODELS))
def test_every_pair_of_modalities_is_recorded(name):
    module, tensors = cached(name)
    metrics = losses(module, tensors).extra_metrics
    for a in module.modalities:
        assert f"kl_private_{a}" in metrics
        for b in module.modalities:
            assert f"log_likelihood_{a}->{b}" in metrics
    assert all(not value.requires_grad for value in metrics.values())


def test_records_concern_the_cells_that_have_both_modalities():
    module, tensors = cached("MMVAEpp")
    observed = tensors["observed"].bool()
    record = losses(module, tensors).extra_metrics["log_likelihood_rna->peaks"]
    assert torch.equal(~record.isnan(), observed[:, 0] & observed[:, 2])


@pytest.mark.parametrize("name", list(MODELS))
def test_every_parameter_is_trained(name):
    model = built(name, n_shared=3, n_private=2, n_hidden=8)
    if model.module.screened:
        for m in model.modalities:
            model.module.open_gates(m, np.full(20, 0.5), np.full(20, 0.5))
    losses(model.module, minibatch(model)).loss.backward()
    for key, parameter in model.module.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.any(), key


def test_sg_keeps_the_gradient_of_the_kl():
    module, tensors = cached("MMVAEpp")
    (kl,) = losses(module, tensors).kl_local.values()
    for encoder in module.encoders:
        (gradient,) = torch.autograd.grad(kl.sum(), encoder.shared.weight, retain_graph=True)
        assert gradient.any()


def test_an_absent_private_latent_is_zero_or_a_prior_sample():
    for choice, varies in (("zero", False), ("prior", True)):
        module = built("MMVAE", absent_private=choice).module
        drawn = module._absent(torch.ones(5, 2))
        assert bool(drawn.any()) == varies


def test_closed_gates_teach_shared_nothing():
    """Not even a gradient: values and predictions of such features do not concern it."""
    model = built("MMVAEpp", n_shared=3, n_private=2, n_hidden=8)
    for m in model.modalities:
        model.module.open_gates(m, np.ones(20), np.zeros(20))
    output = losses(model.module.train(), minibatch(model))
    (reconstruction,) = output.reconstruction_loss.values()
    reconstruction.sum().backward()
    for encoder, decoder in zip(model.module.encoders, model.module.cross_decoders, strict=True):
        assert not encoder.shared.weight.grad.any()
        assert not encoder.hidden_shared.fc_layers[0][0].weight.grad.any()
        assert not decoder.out.weight.grad.any()
        assert decoder.baseline.grad.any()


def test_shared_reads_a_feature_as_far_as_its_gate_is_open():
    model = built("MMVAEpp", n_shared=3, n_private=2, n_hidden=8)
    module, tensors = model.module.eval(), minibatch(model)
    gate = np.arange(20) < 10
    module.open_gates("rna", gate, gate)
    other = {**tensors, "X_rna": tensors["X_rna"].clone()}
    other["X_rna"][:, 10:] += 1
    embedded = [module.embed(t, ["rna"]) for t in (tensors, other)]
    assert torch.equal(embedded[0][0].nan_to_num(), embedded[1][0].nan_to_num())
    assert not torch.equal(embedded[0][1]["rna"].nan_to_num(), embedded[1][1]["rna"].nan_to_num())


def test_batch_reaches_decoders_and_on_request_encoders():
    for encode_covariates in (False, True):
        model = built("MMVAE", encode_covariates=encode_covariates)
        module, tensors = model.module.eval(), minibatch(model)
        other = {**tensors, "batch": 1 - tensors["batch"]}
        sources = module.modalities
        same = torch.equal(module.embed(tensors, sources)[0], module.embed(other, sources)[0])
        assert same == (not encode_covariates)
        predicted = [module.predict(t, sources, "rna") for t in (tensors, other)]
        assert not torch.equal(*predicted)


def test_modality_names_may_be_anything():
    """Names that a ModuleDict would refuse."""
    mdata = scvenn.datasets.simulate_counts(
        40, n_features=8, n_shared_features=4, modalities={"type": "nb", "a.b": "bernoulli"}
    )
    model = scvenn.MMVAEpp(mdata)
    assert losses(model.module, minibatch(model)).loss.isfinite()
