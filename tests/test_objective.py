"""Terms, objectives and the four recipes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import scvenn
from scvenn import Objective, Penalty, Term
from scvenn.objective import mmvae, mmvaepp, mopoe, mvae

RECIPES = [mvae, mmvae, mmvaepp, mopoe]
names = st.lists(st.text(min_size=1, max_size=5), min_size=2, max_size=5, unique=True)


def test_mvae_at_two_modalities():
    assert mvae(["a", "b"]) == Objective(
        (Term(("a", "b"), ("a", "b")), Term(("a",), ("a",)), Term(("b",), ("b",))),
        prior_expert=True,
        reduction="sum",
    )


def test_mmvae_at_two_modalities():
    assert mmvae(["a", "b"]) == Objective(
        (Term(("a",), ("a", "b")), Term(("b",), ("a", "b"))), reduction="mean"
    )


def test_mmvaepp_detaches_the_encoded_modality_only():
    assert mmvaepp(["a", "b"]) == Objective(
        (Term(("a",), ("a", "b"), ("a",)), Term(("b",), ("a", "b"), ("b",))), reduction="mean"
    )


def test_mopoe_at_two_modalities():
    assert mopoe(["a", "b"]) == Objective(
        (
            Term(("a",), ("a",)),
            Term(("a",), ("b",)),
            Term(("b",), ("b",)),
            Term(("b",), ("a",)),
            Term(("a", "b"), ("a", "b")),
        ),
        prior_expert=True,
        reduction="sum",
    )


@given(names)
def test_mopoe_runs_each_decoder_once_for_each_subset(modalities):
    objective = mopoe(modalities)
    for m in modalities:
        rows = sum(m in term.decode for term in objective.terms)
        assert rows == 2 ** len(modalities) - 1


@pytest.mark.parametrize("recipe", RECIPES)
@given(modalities=names)
def test_every_recipe_fits_any_number_of_modalities(recipe, modalities):
    recipe(modalities).validate(modalities)


@given(names)
def test_same_view_and_cross_view_part_the_decoded_modalities(modalities):
    for term in mmvaepp(modalities).terms:
        assert [m for m in term.decode if not term.is_cross_view(m)] == list(term.encode)


def test_encode_sets_are_distinct():
    assert mopoe(["a", "b"]).encode_sets == (("a",), ("b",), ("a", "b"))


def test_only_products_of_several_experts_are_pooled():
    assert [recipe("ab").pools_experts for recipe in RECIPES] == [True, False, False, True]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"encode": "rna", "decode": ("rna",)}, "expected a tuple"),
        ({"encode": (), "decode": ("rna",)}, "at least one"),
        ({"encode": ("rna",), "decode": ()}, "at least one"),
        ({"encode": ("a", "a"), "decode": ("a",)}, "more than once"),
        ({"encode": ("a",), "decode": ("a",), "detach_shared": ("b",)}, "that are decoded"),
    ],
)
def test_a_term_that_makes_no_sense_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Term(**arguments)


def test_an_objective_without_terms_is_refused():
    with pytest.raises(ValueError, match="one or more"):
        Objective(())


def test_an_unknown_reduction_is_refused():
    with pytest.raises(ValueError, match="'sum' or 'mean'"):
        Objective((Term(("a",), ("a",)),), reduction="median")


@pytest.mark.parametrize(
    ("terms", "message"),
    [
        ([Term(("a",), ("a", "b", "c"))], r"names \['c'\]"),
        ([Term(("a", "b"), ("a",))], r"\['b'\] decoded"),
        ([Term(("a",), ("a", "b"))], r"\['b'\] encoded"),
    ],
)
def test_an_objective_must_fit_the_modalities(terms, message):
    with pytest.raises(ValueError, match=message):
        Objective(terms).validate(["a", "b"])


def test_mopoe_of_many_modalities_is_refused():
    with pytest.raises(
        ValueError, match="found 30 modalities, expected at most 10: .* would have 2,147,483,645"
    ):
        mopoe([f"m{i}" for i in range(30)])
    assert len(mopoe("abcdefghij").terms) == 2**11 - 3


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Objective(terms=Term(("a",), ("a",))), "found a Term. Pass terms=.*comma"),
        (lambda: Term({"a", "b"}, ("a",)), "found a set, which has no order"),
        (
            lambda: Objective((Term(("a",), ("a",)),), prior_expert="no"),
            "prior_expert='no'.: expected True or False",
        ),
    ],
)
def test_slips_in_writing_an_objective_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_weight_may_be_a_number_of_numpy():
    assert Penalty("own", np.float32(0.5), lambda latents: 0).weight == 0.5


def test_an_objective_is_no_name():
    mdata = scvenn.datasets.simulate_counts(40, n_features=8)
    with pytest.raises(ValueError, match=r"expected a scvenn.Objective, .* found str"):
        scvenn.SharedPrivateModel(mdata, objective="mmvae")
