"""Penalties: what is added to the loss besides the terms."""

import dataclasses
from functools import partial

import numpy as np
import pytest
import scvi
import torch

import scvenn
from scvenn import Objective, Penalty
from scvenn.objective import mmvaepp, mvae
from tests.conftest import QUIET, three_modalities

INCOMPLETE = three_modalities(missing=0.3, n_obs=60)


def size_of_private(latents, modality="rna"):
    """Squared length of a private latent; of no concern to cells without the modality."""
    size = latents.private[modality].square().sum(1)
    return torch.where(latents.observed[modality], size, torch.nan)


def built(*penalties, recipe=mmvaepp):
    """A module with penalties, and all cells as one minibatch; the same weights in every call."""
    scvi.settings.seed = 0
    mdata = INCOMPLETE.copy()
    objective = dataclasses.replace(recipe(["rna", "meth", "peaks"]), penalties=penalties)
    model = scvenn.SharedPrivateModel(
        mdata, objective=objective, n_shared=3, n_private=2, n_hidden=8
    )
    loader = model._make_data_loader(adata=mdata, batch_size=mdata.n_obs)
    return model.module.eval(), next(iter(loader))


def losses(module, tensors):
    torch.manual_seed(0)
    return module(tensors)[2]


def test_a_penalty_adds_its_weighted_values_to_the_loss():
    module, tensors = built(Penalty("size", 3.0, size_of_private))
    found, without = losses(module, tensors), losses(*built())
    value = found.extra_metrics["size"]
    torch.testing.assert_close(found.loss - without.loss, 3 * value.nansum() / len(value))
    assert value.nansum() > 0
    for part in ("reconstruction_loss", "kl_local"):
        (ours,), (theirs,) = (getattr(o, part).values() for o in (found, without))
        assert torch.equal(ours, theirs)


def test_cells_it_does_not_concern_leave_the_record_and_no_nan_in_the_gradient():
    module, tensors = built(Penalty("size", 3.0, size_of_private))
    output = losses(module, tensors)
    observed = tensors["observed"][:, 0].bool()
    assert not observed.all()
    assert torch.equal(~output.extra_metrics["size"].isnan(), observed)
    output.loss.backward()
    assert all(p.grad.isfinite().all() for p in module.parameters() if p.grad is not None)


@pytest.mark.parametrize("recipe", [mmvaepp, mvae])
def test_latents_of_what_was_not_observed_are_zero(recipe):
    seen = []
    module, tensors = built(Penalty("spy", 1.0, partial(_remember, seen)), recipe=recipe)
    losses(module, tensors)
    (latents,) = seen
    observed = dict(zip(module.modalities, tensors["observed"].bool().T, strict=True))
    assert set(latents.shared) == set(module.objective.encode_sets)
    for m, there in observed.items():
        assert torch.equal(latents.observed[m], there)
        for z in (latents.private[m], latents.private_mean[m]):
            assert not z[~there].any()
            assert z[there].all()
    for subset in module.objective.encode_sets:
        there = torch.stack([observed[m] for m in subset]).any(0)
        for z in (latents.shared[subset], latents.shared_mean[subset]):
            assert not z[~there].any()
            assert z[there].all()
    assert latents.covariates.shape == (60, 0)
    assert not latents.batch.any()


def _remember(seen, latents):
    seen.append(latents)
    return torch.zeros(len(latents.batch))


@pytest.mark.parametrize("value", [torch.zeros(60, 3), torch.tensor(1.0), np.zeros(60), 2.0])
def test_a_value_of_another_shape_is_refused(value):
    module, tensors = built(Penalty("odd", 1.0, partial(_constant, value)))
    with pytest.raises(ValueError, match=r"penalty 'odd'.*of shape \(60,\); found"):
        losses(module, tensors)


def _constant(value, latents):
    return value


def test_training_records_a_penalty_and_saving_keeps_it(small):
    objective = dataclasses.replace(
        mmvaepp(["rna", "atac"]), penalties=[Penalty("size", 0.5, size_of_private)]
    )
    model = scvenn.SharedPrivateModel(small, objective=objective, n_hidden=8)
    model.train(2, **QUIET)
    for column in ("size_train", "size_validation"):
        assert (model.history[column].to_numpy(float) > 0).all()
    model.save("model")
    loaded = scvenn.SharedPrivateModel.load("model", small, penalties={"size": size_of_private})
    assert loaded.module.objective == objective
    loaded.train(1, **QUIET)
    for column in model.history:  # a penalty cannot be called as another column is
        name = column.removesuffix("_train").removesuffix("_validation")
        if name != "size":
            with pytest.raises(ValueError, match="history's own columns"):
                Penalty(name, 1.0, size_of_private)


def test_the_function_of_a_penalty_is_asked_for_only_to_train_further(small):
    penalty = Penalty("size", 0.5, lambda latents: latents.batch * 0.0)
    objective = dataclasses.replace(mmvaepp(["rna", "atac"]), penalties=[penalty])
    model = scvenn.SharedPrivateModel(small, objective=objective, n_hidden=8)
    model.train(1, **QUIET)
    model.save("model")
    loaded = scvenn.SharedPrivateModel.load("model", small)
    np.testing.assert_array_equal(
        loaded.get_shared_representation(), model.get_shared_representation()
    )
    with pytest.raises(ValueError, match=r"penalties=\{'size': function\}"):
        loaded.train(1, **QUIET)
    with pytest.raises(ValueError, match=r"^penalties=\['other'\]: the model has \['size'\]"):
        scvenn.SharedPrivateModel.load("model", small, penalties={"other": size_of_private})
    for wrong in ({"size": 3}, [size_of_private]):
        with pytest.raises(ValueError, match="penalties=.*expected a dictionary of functions"):
            scvenn.SharedPrivateModel.load("model", small, penalties=wrong)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": ""}, "name=''"),
        ({"name": 3}, "name=3"),
        ({"name": "kl_shared"}, "history's own columns"),
        ({"weight": np.nan}, "weight=nan.*finite"),
        ({"weight": "1"}, "weight='1'.*finite"),
        ({"value": 1.0}, "expected a function"),
    ],
)
def test_a_penalty_that_makes_no_sense_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Penalty(**{"name": "size", "weight": 1.0, "value": size_of_private, **arguments})


def test_an_objective_takes_penalties_of_different_names():
    penalty = Penalty("size", 1.0, size_of_private)
    terms = mmvaepp(["a", "b"]).terms
    with pytest.raises(ValueError, match="each must differ"):
        Objective(terms, penalties=(penalty, penalty))
    with pytest.raises(ValueError, match=r"expected scvenn\.Penalty"):
        Objective(terms, penalties=(size_of_private,))
