"""The loss over terms: what reaches it and what must not."""

import dataclasses

import numpy as np
import pytest
import scvi
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import scvenn
from scvenn import network
from scvenn.network import gaussians
from tests.conftest import MODELS, QUIET, three_modalities

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
    monkeypatch.setattr(gaussians, "rsample", lambda gaussian: gaussian.loc)
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
    monkeypatch.setattr(gaussians, "rsample", lambda gaussian: gaussian.loc)
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
    pairs = []
    for key, value in metrics.items():
        encode, arrow, decode = key.removeprefix("log_likelihood_").partition("->")
        if arrow and decode not in encode.split("+"):
            pairs.append(value)
    total = metrics["log_likelihood_cross_view"]
    torch.testing.assert_close(total.nan_to_num(), torch.stack(pairs).nansum(0))
    assert torch.equal(total.isnan(), torch.stack(pairs).isnan().all(0))
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
            model.module.restrict(m, reads=np.arange(20) < 15, predicts=np.arange(20) < 10)
    losses(model.module, minibatch(model)).loss.backward()
    for key, parameter in model.module.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.any(), key


def test_sg_keeps_the_gradient_of_the_kl():
    module, tensors = cached("MMVAEpp")
    (kl,) = losses(module, tensors).kl_local.values()
    for branch in module.branches:
        (gradient,) = torch.autograd.grad(kl.sum(), branch.shared_head.weight, retain_graph=True)
        assert gradient.any()


def test_an_absent_private_latent_is_zero_or_a_prior_sample():
    for choice, varies in (("zero", False), ("prior", True)):
        module = built("MMVAE", absent_private=choice).module
        drawn = module.branches[0].absent(torch.ones(5, 2))
        assert bool(drawn.any()) == varies


def test_a_learned_absent_private_latent_starts_as_the_prior():
    """The same loss to the last bit, with scales that have a gradient."""
    found = {}
    for choice in ("prior", "learned"):
        scvi.settings.seed = 0
        model = built("MMVAE", absent_private=choice, n_hidden=8)
        found[choice] = losses(model.module.eval(), minibatch(model)).loss
    assert torch.equal(found["prior"], found["learned"])
    scales = [branch.absent.log_scale for branch in model.module.branches]
    assert all(g.abs().min() > 0 for g in torch.autograd.grad(found["learned"], scales))


def test_noise_in_place_of_an_absent_private_latent_is_learned_to_be_small():
    """Where the decoder uses a private latent, noise in its place can only mislead."""
    scvi.settings.seed = 0
    mdata = scvenn.datasets.simulate_counts(
        200, modalities={"a": "normal", "b": "normal"}, n_features=12, n_shared_features=3
    )
    model = scvenn.MMVAE(mdata, absent_private="learned", n_private=2, n_hidden=16)
    model.train(40, early_stopping=False, plan_kwargs={"lr": 1e-2}, **QUIET)
    for branch in model.module.branches:
        assert (branch.absent.log_scale < -0.2).all()


def of_a_rare_and_a_common_gene(**kwargs):
    """An untrained model without screening, and how far apart it decodes the two genes' logits."""
    mdata = scvenn.datasets.simulate_counts(60, n_features=20)
    mdata["rna"].X[:, 0] = 0
    mdata["rna"].X[:2, 0] = 1
    mdata["rna"].X[:, 1] = 500
    model = scvenn.MMVAE(mdata, n_hidden=8, **kwargs)
    model.module.set_stats({m: model._found.stats(m) for m in model.modalities})  # changes nothing
    bias = model.module.branch("rna").decoder.out.bias
    return model, float(bias[1] - bias[0])


def test_decoders_start_at_the_means():
    model, difference = of_a_rare_and_a_common_gene()
    start = model.module.likelihood("rna").start()
    assert difference == pytest.approx(float(start[1] - start[0]), abs=1)
    assert difference > 5


def test_decoders_of_the_paper_start_around_zero():
    assert abs(of_a_rare_and_a_common_gene(start_at_means=False)[1]) < 1
    assert scvenn.paper_setting()[0]["start_at_means"] is False


def test_decoders_that_correct_a_prediction_start_around_zero():
    mdata = scvenn.datasets.simulate_counts(60, n_features=20)
    decoder = scvenn.MMVAEpp(mdata, n_hidden=8).module.branch("rna").decoder
    assert decoder.out.bias.abs().max() < 1


def test_cross_view_predictions_start_at_the_mean():
    """Of predicted features as well, whose last layer adds something small to it."""
    model = built("MMVAEpp", n_shared=3, n_private=2, n_hidden=8)
    predicts = np.arange(20) < 10
    model.module.restrict("rna", reads=predicts, predicts=predicts)
    module, tensors = model.module.eval(), minibatch(model)
    likelihood = module.likelihood("rna")
    raw = module.branches[0].cross_decoder(torch.zeros(1, 3), module.covariates(tensors)[:1])
    torch.testing.assert_close(raw[0, 10:], likelihood.start()[10:])
    assert (raw[0] - likelihood.start()).abs().max() < 1
    assert likelihood.start().std() > 0.1


def test_features_that_are_not_predicted_teach_shared_nothing():
    """Not even a gradient: values and predictions of such features do not concern it."""
    model = built("MMVAEpp", n_shared=3, n_private=2, n_hidden=8)
    for m in model.modalities:
        model.module.restrict(m, reads=np.full(20, True), predicts=np.arange(20) < 5)
    module, tensors = model.module.eval(), minibatch(model)
    n_cells = len(tensors["batch"])
    decoder = module.branches[0].cross_decoder
    with torch.no_grad():
        decoder.shift += torch.randn(decoder.shift.shape)
    raw = decoder(torch.randn(n_cells, 3), module.covariates(tensors))  # (B, D)
    baseline = decoder.baseline + module.covariates(tensors) @ decoder.shift
    assert torch.equal(raw[:, 5:], baseline[:, 5:])
    for m in model.modalities:
        model.module.restrict(m, reads=np.full(20, True), predicts=np.full(20, False))
    (reconstruction,) = losses(module, tensors).reconstruction_loss.values()
    reconstruction.sum().backward()
    for branch in module.branches:
        assert not branch.shared_head.weight.grad.any()
        assert not branch.shared_hidden.fc_layers[0][0].by_feature.grad.any()
        assert branch.cross_decoder.baseline.grad.any()


def test_shared_reads_only_what_it_is_restricted_to():
    model = built("MMVAEpp", n_shared=3, n_private=2, n_hidden=8)
    module, tensors = model.module.eval(), minibatch(model)
    some = np.arange(20) < 10
    module.restrict("rna", reads=some, predicts=some)
    other = {**tensors, "X_rna": tensors["X_rna"].clone()}
    other["X_rna"][:, 10:] += 1
    embedded = [network.embed(module, t, ["rna"]) for t in (tensors, other)]
    assert torch.equal(embedded[0][0].nan_to_num(), embedded[1][0].nan_to_num())
    assert not torch.equal(embedded[0][1]["rna"].nan_to_num(), embedded[1][1]["rna"].nan_to_num())


def test_private_reads_what_shared_leaves_over():
    """Where the cross-view prediction is right, its encoder sees zeros; where not observed, too."""
    model = built("MMVAEpp", n_shared=3, n_private=2, n_hidden=8)
    module, tensors = model.module.eval(), minibatch(model)
    view, branch = module.read(tensors).views["rna"], module.branch("rna")
    shared, covariates = torch.randn(len(tensors["batch"]), 3), module.covariates(tensors)
    raw = branch.cross_decoder(shared, covariates)
    exact = dataclasses.replace(view, x=branch.likelihood.mean(raw, view.library))

    def left_over_of(view):
        x = branch.likelihood.encoder_input(view.x)
        return branch.left_over(x, view, shared, covariates)

    left_over = left_over_of(exact)
    torch.testing.assert_close(left_over, torch.zeros_like(left_over))
    left_over = left_over_of(view)
    assert not view.observed.all()
    assert not left_over[~view.observed].any()
    assert left_over[view.observed].any(1).all()


def predicted(module, tensors, sources, target):
    given = network.given_sources(module, tensors, sources, target)
    return network.means(module, tensors, target, given)


def test_a_same_view_prediction_corrects_the_cross_view_one():
    """What the cross-view decoder gives is added, and not taught by what is left over."""
    model = built("MMVAEpp", n_shared=3, n_private=2, n_hidden=8)
    module, tensors = model.module.eval(), minibatch(model)
    before = predicted(module, tensors, ["rna"], "rna")
    with torch.no_grad():
        for parameter in module.branches[0].decoder.out.parameters():
            parameter.zero_()
    shared = network.embed(module, tensors, ["rna"])[0].clone()
    library = module.read(tensors, ["rna"]).views["rna"].library
    raw = module.branches[0].cross_decoder(shared, module.covariates(tensors))
    expected = module.likelihood("rna").mean(raw, library)
    after = predicted(module, tensors, ["rna"], "rna")
    torch.testing.assert_close(after, expected, equal_nan=True)
    assert not torch.equal(before.nan_to_num(), after.nan_to_num())


def test_a_prediction_across_views_runs_no_same_view_decoder():
    model = built("MMVAEpp", n_shared=3, n_private=2, n_hidden=8)
    module, tensors = model.module.eval(), minibatch(model)
    runs = []
    module.branch("meth").decoder.register_forward_hook(lambda *args: runs.append(1))
    predicted(module, tensors, ["rna"], "meth")
    assert not runs
    predicted(module, tensors, ["rna", "meth"], "meth")
    assert runs


@pytest.mark.parametrize("name", ["MMVAE", "MMVAEpp"])
def test_the_joint_posterior_of_a_mixture_holds_the_part_between_experts(name):
    model = built(name, n_shared=3, n_private=2, n_hidden=8)
    module, tensors = model.module.eval(), minibatch(model)
    module.set_learned_after_training(expert_weights=np.array([0.5, 0.3, 0.2]))
    joint, _, minibatch_ = network.posteriors(module, tensors, module.modalities)
    alone = [network.posteriors(module, tensors, [m])[0] for m in module.modalities]
    whole = torch.stack([view.observed for view in minibatch_.views.values()]).all(0)
    assert whole.any()
    loc, var = (torch.stack([getattr(q, k)[whole] for q in alone]) for k in ("loc", "var"))
    weights = torch.tensor([0.5, 0.3, 0.2])[:, None, None]
    second = (weights * (var + loc.square())).sum(0)
    torch.testing.assert_close(joint.var[whole], second - (weights * loc).sum(0).square())


def test_what_is_learned_after_training_is_saved_with_the_parameters():
    model = built("MMVAEpp", n_shared=3, n_private=2, n_hidden=8)
    slope = np.arange(60.0).reshape(3, 20)
    model.module.set_learned_after_training(
        expert_weights=np.array([1.0, 2.0, 3.0]), weak_effects={"meth": (np.ones(3), slope)}
    )
    other = built("MMVAEpp", n_shared=3, n_private=2, n_hidden=8).module
    other.load_state_dict(model.module.state_dict())
    assert other.expert_weights.tolist() == [1, 2, 3]
    moved = other.branch("meth").cross_decoder.of_baselines(torch.full((1, 3), 2.0))
    torch.testing.assert_close(moved[0], torch.tensor(slope.sum(0), dtype=torch.float32))
    assert not other.branch("rna").cross_decoder.slope.any()


def test_the_noise_across_views_is_learned_in_training_only():
    mdata = scvenn.datasets.simulate_gp(40, n_private_features=(5, 5))
    model = scvenn.MMVAEpp(mdata, n_hidden=8)
    tensors = minibatch(model)
    noise = model.module.likelihood("view1").cross_view_variance
    losses(model.module.eval(), tensors)
    assert (noise == 1).all()
    losses(model.module.train(), tensors)
    assert (noise != 1).any()


def test_held_out_cells_scale_the_noise_across_views():
    mdata = scvenn.datasets.simulate_gp(60, n_private_features=(5, 5))
    scales = {}
    for train_size in (0.5, 1.0):
        model = scvenn.MMVAEpp(mdata, n_hidden=8)
        model.train(20, train_size=train_size, write_obsm=False, early_stopping=False)
        scales[train_size] = model.module.likelihood("view2").held_out_ratio
    assert (scales[0.5] != 1).all()
    assert (scales[1.0] == 1).all()  # no cells were held out


def test_predictions_from_what_was_not_observed_do_not_enter_the_noise():
    mdata = scvenn.datasets.simulate_gp(40, n_private_features=(5, 5))
    model = scvenn.MMVAEpp(mdata, n_hidden=8)
    module, tensors = model.module.eval(), minibatch(model)
    inferred = module.inference(module.read(tensors))
    given = {name: inferred[name] for name in ("minibatch", "shared", "private")}
    none = torch.zeros_like(inferred["active"])
    misses = module.generative(**given, active=none)["misses"]
    assert not any(of_modality.any() for of_modality in misses.values())


def test_batch_reaches_decoders_and_on_request_encoders():
    for encode_covariates in (False, True):
        model = built("MMVAE", encode_covariates=encode_covariates)
        module, tensors = model.module.eval(), minibatch(model)
        other = {**tensors, "batch": 1 - tensors["batch"]}
        sources = module.modalities
        same = torch.equal(*(network.embed(module, t, sources)[0] for t in (tensors, other)))
        assert same == (not encode_covariates)
        assert not torch.equal(*(predicted(module, t, sources, "rna") for t in (tensors, other)))


def test_modality_names_may_be_anything():
    """Names that a ModuleDict would refuse."""
    mdata = scvenn.datasets.simulate_counts(
        40, n_features=8, n_shared_features=4, modalities={"type": "nb", "a.b": "bernoulli"}
    )
    model = scvenn.MMVAEpp(mdata)
    assert losses(model.module, minibatch(model)).loss.isfinite()
