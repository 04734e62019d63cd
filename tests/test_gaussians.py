"""Products and mixtures of diagonal Gaussians."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from jaxtyping import TypeCheckError
from torch.distributions import Normal, kl_divergence

from scvenn.network.gaussians import (
    Gaussian,
    kl_to_standard_normal,
    mixture_of_experts,
    product_of_experts,
    rsample,
)

seeds = st.integers(0, 2**16)


def draw(seed, n_experts, n_cells=4, size=3):
    generator = torch.Generator().manual_seed(seed)
    loc = torch.randn(n_experts, n_cells, size, generator=generator)
    var = torch.rand(n_experts, n_cells, size, generator=generator) + 0.1
    observed = torch.rand(n_experts, n_cells, generator=generator) < 0.6
    return Gaussian(loc, var), observed


@given(seeds, st.integers(1, 5))
def test_the_log_densities_of_a_product_add_up(seed, n_experts):
    experts, observed = draw(seed, n_experts)
    product = product_of_experts(experts, observed, prior_expert=True)
    x, y = torch.zeros(4, 3), torch.ones(4, 3)

    def contrast(gaussian):  # free of the constant of the product
        density = Normal(gaussian.loc, gaussian.var.sqrt())
        return density.log_prob(x) - density.log_prob(y)

    prior = contrast(Gaussian(torch.zeros(4, 3), torch.ones(4, 3)))
    parts = torch.where(observed.unsqueeze(-1), contrast(experts), 0.0).sum(0) + prior
    torch.testing.assert_close(contrast(product), parts, rtol=1e-3, atol=1e-3)


@given(seeds, st.booleans())
def test_an_unobserved_expert_changes_nothing(seed, prior_expert):
    experts, observed = draw(seed, 3)
    garbage = Gaussian(
        torch.where(observed.unsqueeze(-1), experts.loc, torch.inf),
        torch.where(observed.unsqueeze(-1), experts.var, 1e-30),
    )
    for pooled in (
        lambda e: product_of_experts(e, observed, prior_expert=prior_expert).loc,
        lambda e: product_of_experts(e, observed, prior_expert=prior_expert).var,
        lambda e: mixture_of_experts(e, observed, torch.tensor([1.0, 2.0, 3.0])).loc,
        lambda e: mixture_of_experts(e, observed, torch.tensor([1.0, 2.0, 3.0])).var,
    ):
        assert torch.equal(pooled(experts), pooled(garbage))


@given(seeds)
def test_one_expert_is_its_own_product(seed):
    experts, _ = draw(seed, 1)
    product = product_of_experts(experts, torch.ones(1, 4, dtype=torch.bool))
    torch.testing.assert_close(product.loc, experts.loc[0])
    torch.testing.assert_close(product.var, experts.var[0])


def test_a_product_of_nothing_is_the_prior():
    experts, _ = draw(0, 2)
    for prior_expert in (True, False):
        product = product_of_experts(
            experts, torch.zeros(2, 4, dtype=torch.bool), prior_expert=prior_expert
        )
        assert not product.loc.any()
        assert (product.var == 1).all()


@given(seeds)
def test_kl_equals_torchs(seed):
    gaussian, _ = draw(seed, 1)
    density = Normal(gaussian.loc, gaussian.var.sqrt())
    expected = kl_divergence(density, Normal(0.0, 1.0)).sum(-1)
    torch.testing.assert_close(kl_to_standard_normal(gaussian), expected)


def test_samples_have_the_gaussians_moments():
    gaussian = Gaussian(torch.full((20_000, 1), 2.0), torch.full((20_000, 1), 9.0))
    sample = rsample(gaussian)
    assert abs(sample.mean() - 2) < 0.1
    assert abs(sample.std() - 3) < 0.1


def test_a_mixture_has_the_moments_of_its_samples():
    """The variance holds what experts disagree about."""
    experts, _ = draw(0, 3)
    observed = torch.tensor([[True] * 4, [True, True, False, False], [True, False, True, False]])
    weights = torch.tensor([0.5, 0.3, 0.2])
    found = mixture_of_experts(experts, observed, weights)
    n = 100_000
    for cell in range(4):
        chosen = torch.multinomial(weights * observed[:, cell], n, replacement=True)
        sample = rsample(Gaussian(experts.loc[chosen, cell], experts.var[chosen, cell]))
        torch.testing.assert_close(found.loc[cell], sample.mean(0), atol=0.02, rtol=0)
        torch.testing.assert_close(found.var[cell], sample.var(0), atol=0, rtol=0.03)


def test_a_mixture_of_nothing_is_the_prior():
    experts, _ = draw(0, 2)
    mixture = mixture_of_experts(experts, torch.zeros(2, 4, dtype=torch.bool), torch.ones(2))
    assert not mixture.loc.any()
    assert (mixture.var == 1).all()


@given(seeds)
def test_products_of_several_selections_are_those_of_each(seed):
    experts, observed = draw(seed, 3)
    selections = torch.stack([observed, ~observed])  # (2, E, B)
    together = product_of_experts(experts, selections, prior_expert=True)
    for i, selection in enumerate(selections):
        alone = product_of_experts(experts, selection, prior_expert=True)
        torch.testing.assert_close(together.loc[i], alone.loc)
        torch.testing.assert_close(together.var[i], alone.var)


def test_shapes_in_annotations_are_checked():
    """In tests alone; see the hook in conftest.py."""
    experts, observed = draw(0, 2)
    with pytest.raises(TypeCheckError):
        product_of_experts(experts, observed.float())
    with pytest.raises(TypeCheckError):
        Gaussian(torch.zeros(4, 3), torch.ones(4, 1))
