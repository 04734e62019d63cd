"""Which features are shared: known answers, in any storage, with modalities absent or not."""

import tracemalloc
import weakref

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import scvi
import torch
from anndata import AnnData
from hypothesis import example, given, settings
from hypothesis import strategies as st
from mudata import MuData
from sklearn.metrics import r2_score
from tqdm.auto import tqdm

import scvenn
from scvenn import _progress
from scvenn.screening import DiscreteValues, ExtremeValueError, RealValues, as_csr, compiled, screen
from scvenn.screening import values as screening_values
from scvenn.screening.features import _strata, threshold
from scvenn.screening.regression import (
    _PENALTIES,
    LeastSquares,
    Ridge,
    covariate_basis,
    gram,
    principal_components,
)
from tests.conftest import MODELS, QUIET, three_modalities


def screened(target, sources, seed=0, form=RealValues, **kwargs):
    """Screening of arrays, all of one form."""
    sources = [form(source) for source in sources]
    return screen(form(target), sources, np.random.default_rng(seed), **kwargs)


def left_out_in_turn(fit_and_predict, covariates, y):
    """R² of predictions of each cell by a fit to the others, against one on covariates alone."""
    n = len(y)
    columns = np.hstack([np.ones((n, 1)), covariates])
    residual, reference = np.empty_like(y), np.empty_like(y)
    for i in range(n):
        rest = np.arange(n) != i
        residual[i] = y[i] - fit_and_predict(rest, i, columns)
        reference[i] = y[i] - columns[i] @ np.linalg.lstsq(columns[rest], y[rest], rcond=None)[0]
    return 1 - np.square(residual).sum(0) / np.square(reference).sum(0)


@pytest.fixture
def few_cells():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(25, 4)), rng.normal(size=(25, 2))
    y[:, 0] += x[:, 0]
    batch = np.eye(3)[rng.integers(3, size=25)]
    return x, y + batch @ rng.normal(size=(3, 2)), batch


def test_the_short_cut_of_ridge_regression_equals_leaving_out_each_cell(few_cells):
    x, y, batch = few_cells
    kernel = gram(RealValues(x))
    scores = []
    for penalty in _PENALTIES:

        def fit_and_predict(rest, i, columns, penalty=penalty):
            # kernel ridge regression with free covariates: a linear system in both
            n, v = rest.sum(), columns.shape[1]
            system = np.zeros((n + v, n + v))
            system[:n, :n] = kernel[np.ix_(rest, rest)] + penalty * np.eye(n)
            system[:n, n:], system[n:, :n] = columns[rest], columns[rest].T
            right = np.vstack([y[rest], np.zeros((v, y.shape[1]))])
            solved = np.linalg.lstsq(system, right, rcond=None)[0]
            return kernel[i, rest] @ solved[:n] + columns[i] @ solved[n:]

        scores.append(left_out_in_turn(fit_and_predict, batch, y))
    ridge = Ridge.on([RealValues(x)], covariate_basis(25, batch))
    ridge.operators = ridge.operators[: len(_PENALTIES)]  # without those of squares
    found = ridge.r2(RealValues(y), np.arange(25)[None])[0]
    np.testing.assert_allclose(found, np.max(scores, axis=0), rtol=1e-3)


@pytest.mark.parametrize("form", [RealValues, DiscreteValues])
def test_the_short_cut_of_least_squares_equals_leaving_out_each_cell(few_cells, form):
    x, y, batch = few_cells
    y = np.round(y * 2)  # with zeros

    def fit_and_predict(rest, i, columns):
        both = np.hstack([columns, x])
        return both[i] @ np.linalg.lstsq(both[rest], y[rest], rcond=None)[0]

    expected = left_out_in_turn(fit_and_predict, batch, y)
    basis = covariate_basis(25, batch)
    whole = np.linalg.qr(np.hstack([basis, x]))[0]
    found = LeastSquares([whole], basis).r2(form(y), np.arange(25)[None])[0]
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize("regression", [Ridge, LeastSquares])
def test_another_order_pairs_other_cells(few_cells, regression):
    x, y, batch = few_cells
    basis = covariate_basis(25, batch)
    rng = [np.random.default_rng(0)] if regression is LeastSquares else []
    fit = regression.on([RealValues(x)], basis, *rng)
    order, own = np.random.default_rng(1).permutation(25), np.arange(25)
    np.testing.assert_allclose(
        fit.r2(RealValues(y), order[None]), fit.r2(RealValues(y[order]), own[None]), atol=1e-4
    )


@pytest.mark.parametrize("values", ["real", "with NaN", "counts", "few counts"])
@pytest.mark.parametrize("regression", [Ridge, LeastSquares])
def test_many_orders_are_scored_together_as_one_by_one(regression, values):
    x, batch = sparse_counts(0)
    rng = np.random.default_rng(0)
    if values == "few counts":
        y = DiscreteValues(x)
        assert y.entries is not None
    elif values == "counts":
        y = DiscreteValues(rng.poisson(1, (90, 7)))
        assert y.entries is None
    else:
        y = rng.normal(size=(90, 7))
        if values == "with NaN":
            y[:3, 2] = np.nan
        y = RealValues(y)
    more = (rng,) if regression is LeastSquares else ()
    fit = regression.on([RealValues(x)], covariate_basis(90, batch), *more)
    orders = np.array([rng.permutation(90) for _ in range(4)])
    one_by_one = [fit.r2(y, order[None])[0] for order in orders]
    np.testing.assert_allclose(fit.r2(y, orders), one_by_one, atol=1e-5)


def test_a_cell_alone_in_its_batch_is_left_out():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 5))
    y = x + 0.1 * rng.normal(size=x.shape)
    batch = np.eye(2)[[0] * 59 + [1]]
    y[59] = 1e3
    found = screened(y, [x], covariates=batch)
    assert (found.score > 0.9).all()


@given(seed=st.integers(0, 100))
def test_inner_products_are_those_of_standardised_features(seed):
    rng = np.random.default_rng(seed)
    x = rng.poisson(0.7, (12, 8)).astype(float)
    x[:, 0] = 3  # constant: counts for nothing
    x[:, 1] = np.arange(12)
    varying = x[:, x.std(0) > 0]
    z = (varying - varying.mean(0)) / varying.std(0)
    expected = z @ z.T / z.shape[1]
    for form in (RealValues, DiscreteValues):
        np.testing.assert_allclose(gram(form(x)), expected, atol=1e-5)
        assert np.diag(gram(form(x))).mean() == pytest.approx(1, rel=1e-5)


def sparse_counts(seed, n=90, d=60):
    """log1p of counts, 5 % of which are not 0, and batches of which one is a single cell."""
    rng = np.random.default_rng(seed)
    factor = rng.normal(size=(n, 1))
    x = np.log1p(rng.poisson(np.exp(-3.5 + factor * rng.normal(size=d))))
    x[:, 0] = 3 + 0.2 * factor[:, 0] + 0.1 * rng.normal(size=n)  # in every cell, and much of it
    x[:, 1] = 0
    batch = np.r_[2, rng.integers(2, size=n - 1)]
    return x, np.eye(3)[batch]


@given(seed=st.integers(0, 100))
@example(seed=53)  # a feature of the cell that covariates explain by themselves, and of no other
@settings(max_examples=20, deadline=None)
def test_what_skips_zeros_finds_the_scores_of_what_does_not(seed):
    x, batch = sparse_counts(seed)
    source = np.random.default_rng(seed).normal(size=(90, 4)) + x[:, :1]
    order = np.random.default_rng(seed).permutation(90)
    ridge = Ridge.on([RealValues(source)], covariate_basis(90, batch))
    assert DiscreteValues(x).entries is not None
    found = ridge.r2(DiscreteValues(x), order[None])[0]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(screening_values, "_LEAST_DENSE", 0.0)
        expected = ridge.r2(DiscreteValues(x), order[None])[0]
    assert np.isnan(found[1])
    np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize("regression", [Ridge, LeastSquares])
def test_what_is_in_no_scored_cell_has_no_score(regression):
    """The only cell of its batch is explained by covariates, and so is what it alone has."""
    x, batch = sparse_counts(0)
    alone = slice(2, 32)
    x[:, alone] = 0
    x[0, alone] = np.log1p(np.arange(1, 31))  # what is left of some is a rounding above 0
    rng = np.random.default_rng(0)
    more = (rng,) if regression is LeastSquares else ()
    fitted = regression.on([DiscreteValues(x[:, 32:])], covariate_basis(90, batch), *more)
    for order in (np.arange(90), *(rng.permutation(90) for _ in range(5))):
        # the cell of the target that is paired with the one that is not scored
        target = np.empty_like(x)
        target[order] = x
        score = fitted.r2(DiscreteValues(target), order[None])[0]
        assert np.isnan(score[alone]).all()
        assert np.isfinite(score[32:]).any()


@pytest.mark.parametrize("incomplete", [None, "cells", "entries"])
def test_sparse_inner_products_are_those_of_standardised_features(incomplete, monkeypatch):
    x, _ = sparse_counts(0)
    observed = np.arange(90) % 7 > 0 if incomplete == "cells" else None
    if incomplete == "entries":
        x[3, 5] = x[8, 0] = np.nan
    values = DiscreteValues(x, observed)
    assert (values.entries is None) == (incomplete is not None)
    found = gram(values)
    monkeypatch.setattr(screening_values, "_LEAST_DENSE", 0.0)
    np.testing.assert_allclose(found, gram(values), atol=1e-5)


@pytest.mark.parametrize(("form", "n_steps"), [(DiscreteValues, 104), (RealValues, 206)])
def test_the_progress_bar_reaches_its_end(form, n_steps, monkeypatch):
    """Two regressions, and of each one score and 50 chance scores; of squares as well."""
    closed = []

    class Bar(tqdm):
        def close(self):
            closed.append((self.desc, self.n, self.total))
            super().close()

    monkeypatch.setattr(_progress, "tqdm", Bar)
    rng = np.random.default_rng(0)
    screen(form(rng.poisson(1, (50, 8))), [form(rng.poisson(1, (50, 6)))], rng, name="rna")
    assert closed[0] == ("Screening rna", n_steps, n_steps)


def test_inner_products_of_few_blocks_are_held_at_a_time(monkeypatch):
    """Each is as large as the result; there are dozens of blocks of 100,000 features."""
    monkeypatch.setattr(screening_values, "_BLOCK_ENTRIES", 90)  # a feature in each block
    made, most = [], 0
    of_block = compiled._inner_products

    def watched(*block):
        nonlocal most
        products = of_block(*block)
        made.append(weakref.ref(products))
        most = max(most, sum(each() is not None for each in made))
        return products

    monkeypatch.setattr(compiled, "_inner_products", watched)
    gram(DiscreteValues(sparse_counts(0)[0]))
    assert len(made) > 20
    assert most <= 2 + torch.get_num_threads()


def test_threads_change_no_bit_of_sums_over_sparse_values(monkeypatch):
    monkeypatch.setattr(screening_values, "_BLOCK_ENTRIES", 90 * 7)  # some blocks of seven features
    x, batch = sparse_counts(0)
    found, n_threads = [], torch.get_num_threads()
    for threads in (1, 4):
        torch.set_num_threads(threads)
        values = DiscreteValues(x)
        assert len(values.entries) > 4
        order, basis = np.arange(90)[::-1], covariate_basis(90, batch)
        each = [Ridge.on([values], basis)]
        each += [LeastSquares.on([values], basis, np.random.default_rng(0))]
        found.append((gram(values), *(regression.r2(values, order[None]) for regression in each)))
    torch.set_num_threads(n_threads)
    for one, other in zip(*found, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("form", [RealValues, DiscreteValues])
def test_principal_components_are_those_of_what_covariates_leave(form):
    rng = np.random.default_rng(0)
    x = rng.poisson(1, (40, 12)).astype(float)
    batch = np.eye(2)[rng.integers(2, size=40)]
    basis = covariate_basis(40, batch)
    found = principal_components(form(x), basis, 3, rng)
    z = x if form is DiscreteValues else (x - x.mean(0)) / x.std(0)
    left = np.linalg.svd(z - basis @ basis.T @ z, full_matrices=False)[0][:, :3]
    np.testing.assert_allclose(np.abs(found.T @ left), np.eye(3), atol=1e-6)


def test_many_covariates_leave_components_of_few_features():
    rng = np.random.default_rng(0)
    basis = covariate_basis(60, np.eye(12)[rng.integers(12, size=60)])
    found = principal_components(RealValues(rng.normal(size=(60, 6))), basis, 10, rng)
    assert found.shape == (60, 4)


def test_components_of_many_sources_are_fewer_than_cells():
    rng = np.random.default_rng(0)
    sources = [RealValues(rng.normal(size=(30, 40))) for _ in range(3)]
    fit = LeastSquares.on(sources, covariate_basis(30, None), rng)
    target = RealValues(rng.normal(size=(30, 5)))
    assert np.isfinite(fit.r2(target, np.arange(30)[None])).all()


def test_a_relation_spread_over_many_sparse_features_is_found():
    """A programme that shifts the rate of every peak by little; no single peak predicts much."""
    rng = np.random.default_rng(0)
    z = rng.normal(size=(4000, 1))
    genes = rng.poisson(np.exp(0.5 * z * rng.normal(size=20)))
    peaks = rng.random((4000, 600)) < 0.03 * np.exp(0.5 * z * rng.normal(size=600))
    genes, peaks = (sp.csr_matrix(x.astype(np.float32)) for x in (genes, peaks))
    assert screened(peaks, [genes], form=DiscreteValues).shared.mean() > 0.3
    other = peaks[rng.permutation(4000)]
    assert screened(other, [genes], form=DiscreteValues).shared.mean() < 0.05


def test_missing_entries_count_as_the_mean():
    x = np.random.default_rng(0).normal(size=(10, 3))
    x[2, 1] = np.nan
    filled = x.copy()
    filled[2, 1] = np.nanmean(x[:, 1])
    np.testing.assert_allclose(gram(RealValues(x)), gram(RealValues(filled)), atol=1e-5)


@pytest.mark.parametrize("n_private", [20, 300])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_shared_features_are_found_and_private_ones_are_not(n_private, seed):
    mdata = scvenn.datasets.simulate_gp(400, n_private_features=(n_private, 50), seed=seed)
    for target, source in (("view1", "view2"), ("view2", "view1")):
        found = screened(mdata[target].X, [mdata[source].X])
        shared = mdata[target].var["shared"].to_numpy()
        assert found.shared[shared].all()
        # the private ones hang together: a chance relation of their latent is one of them all
        assert found.shared[~shared].mean() < 0.3
        assert np.nanmax(found.score) <= 1


@pytest.mark.parametrize("likelihood", ["nb", "poisson", "bernoulli"])
def test_shared_features_are_found_in_counts_and_peaks(likelihood):
    mdata = scvenn.datasets.simulate_counts(
        800, modalities={"rna": "nb", "other": likelihood}, n_features=100
    )
    x = {m: sp.csr_matrix(mdata[m].X).log1p() for m in mdata.mod}
    for target, source in (("rna", "other"), ("other", "rna")):
        found = screened(x[target], [x[source]], form=DiscreteValues)
        shared = mdata[target].var["shared"].to_numpy()
        assert found.shared[shared].mean() > 0.7
        assert found.shared[~shared].mean() < 0.15


def test_a_relation_without_a_linear_part_is_found():
    """One view is of z, the other of z² and |z|: no feature is correlated with any other's."""
    rng = np.random.default_rng(0)
    z = rng.uniform(-2, 2, (800, 2))
    odd = np.hstack([z, np.sin(z), z**3]) + 0.1 * rng.normal(size=(800, 6))
    even = np.hstack([z**2, np.abs(z), np.cos(z)]) + 0.1 * rng.normal(size=(800, 6))
    noise = rng.normal(size=(2, 800, 30))
    source, target = np.hstack([odd, noise[0]]), np.hstack([even, noise[1]])
    found = screened(target, [source])
    assert found.shared[:6].all()
    assert found.shared[6:].mean() < 0.1
    back = screened(source, [target])
    assert not back.shared[:6].any()  # z² does not predict the sign of z
    assert back.related[:6].all()
    assert back.related[6:].mean() < 0.1


def test_among_unrelated_modalities_next_to_nothing_is_called_shared():
    called = []
    for seed in range(10):
        x, y = np.random.default_rng(seed).normal(size=(2, 200, 40))
        called.append(screened(y, [x], seed).shared.sum())
    assert np.mean(called) < 1


def test_a_feature_is_shared_if_any_of_the_others_predicts_it():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 300, 5))
    target = np.hstack([x[:, :2], y[:, :2], rng.normal(size=(300, 6))])
    target += 0.3 * rng.normal(size=target.shape)
    found = screened(target, [x, y])
    assert found.shared[:4].all()
    assert not found.shared[4:].any()


def test_what_covariates_explain_is_not_shared():
    """Batches shift all features of both modalities, and nothing else is common to them."""
    rng = np.random.default_rng(0)
    batch = np.eye(3)[rng.integers(3, size=400)]
    x, y = (batch @ rng.normal(size=(3, 20)) + rng.normal(size=(400, 20)) for _ in range(2))
    y[:, 0] += x[:, 0] - batch @ batch.T @ x[:, 0] / batch.sum(0).mean()
    assert screened(y, [x]).shared.mean() > 0.8
    found = screened(y, [x], covariates=batch)
    assert found.shared[0]
    assert found.shared[1:].mean() < 0.1


def test_missing_values_of_the_target_do_not_matter():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 5))
    y = x + 0.3 * rng.normal(size=x.shape)
    whole = screened(y, [x]).score
    y[rng.random(y.shape) < 0.2] = np.nan
    np.testing.assert_allclose(screened(y, [x]).score, whole, atol=0.1)


def test_a_constant_feature_has_no_score_and_is_not_shared():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(50, 3))
    y = np.hstack([x, np.ones((50, 1))])
    for form in (RealValues, DiscreteValues):
        found = screened(y, [x], form=form)
        assert np.isnan(found.score[3])
        assert np.isfinite(found.score[:3]).all()
        assert not found.shared[3]


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 1000), exponent=st.integers(-12, 12))
def test_units_of_real_values_do_not_matter(seed, exponent):
    x, y = np.random.default_rng(seed).normal(size=(2, 40, 4))
    y[:, 0] += x[:, 0]
    units = 10.0 ** (exponent * np.array([1, 0, -1, 1]))
    plain, other = screened(y, [x]), screened(y * units, [x * units[::-1]])
    np.testing.assert_allclose(plain.score, other.score, atol=1e-4)


# ----------------------------------------------------------------- storage and absent modalities


def counts(rng, n, n_features, z):
    """At most 1,000, which half precision holds exactly."""
    rate = np.exp(0.7 * np.outer(z, rng.normal(size=n_features)))
    return np.minimum(rng.poisson(rate), 1000).astype(float)


def zeros_and_ones(rng, n, n_features, z):
    return np.minimum(counts(rng, n, n_features, z), 1)


def real(rng, n, n_features, z):
    """Multiples of 1/32, which half precision holds exactly; a third of them 0."""
    x = np.outer(z, rng.normal(size=n_features)) + rng.normal(size=(n, n_features))
    return np.round(x * 32) / 32 * (rng.random(x.shape) < 0.7)


KINDS = {counts: DiscreteValues, zeros_and_ones: DiscreteValues, real: RealValues}
STORAGES = {
    "csr": sp.csr_matrix,
    "csc": sp.csc_matrix,
    "coo": sp.coo_matrix,
    "csr_array": sp.csr_array,
    "float16": lambda x: x.astype(np.float16),
    "float32": lambda x: x.astype(np.float32),
    "fortran": np.asfortranarray,
}


def sample(rng, kinds, n=60):
    """Values with 5 % NaN, and which cells have them; the first modality is complete."""
    z = rng.normal(size=n)
    x = [kind(rng, n, rng.integers(3, 9), z) for kind in kinds]
    for values in x:
        values[rng.random(values.shape) < 0.05] = np.nan
    observed = rng.random((len(kinds), n)) < 0.7
    observed[0] = True
    return x, observed


@settings(max_examples=8, deadline=None)
@given(
    seed=st.integers(0, 2**16), kinds=st.lists(st.sampled_from([*KINDS]), min_size=2, max_size=4)
)
def test_storage_does_not_matter(seed, kinds):
    x, observed = sample(np.random.default_rng(seed), kinds)

    def found(store, absent):
        forms = []
        for kind, values, rows in zip(kinds, x, observed, strict=True):
            values = np.where(rows[:, None], values, absent)
            forms.append(KINDS[kind](store(values), rows))
        return screen(forms[0], forms[1:], np.random.default_rng(0))

    reference = found(np.asarray, np.nan)
    # rows of absent cells are not read
    for i, storage in enumerate(STORAGES.values()):
        other = found(storage, 7 * (i % 2))
        np.testing.assert_array_equal(other.shared, reference.shared)
        np.testing.assert_array_equal(other.related, reference.related)
        np.testing.assert_allclose(other.score, reference.score, atol=1e-4)


@given(seed=st.integers(0, 2**16), kind=st.sampled_from([*KINDS]))
def test_what_was_not_observed_counts_as_the_mean(seed, kind):
    rng = np.random.default_rng(seed)
    (_, x), (_, observed) = sample(rng, [kind, kind], n=30)
    observed[:2] = True
    x[0], x[1] = 1, 0  # no feature is constant or never observed
    known = observed[:, None] & ~np.isnan(x)
    mean = np.nanmean(np.where(known, x, np.nan), axis=0)
    filled = np.where(known, x, mean)
    standardised = (filled - filled.mean(0)) / filled.std(0)
    values = KINDS[kind](x, observed)
    expected = standardised if kind is real else filled
    left, right = rng.normal(size=(30, 2)), rng.normal(size=(x.shape[1], 2))
    for found, exact in (
        (values.times(right), expected @ right),
        (values.transposed_times(left), expected.T @ left),
        (values.squared_sums(left), np.square(expected).T @ left),
    ):
        np.testing.assert_allclose(found, exact, atol=1e-9)
    (block,) = values.blocks()
    np.testing.assert_allclose(block.standardised, standardised, atol=1e-9)
    if not known.all():
        np.testing.assert_array_equal(block.observed, known)
    # without the absent cells, nothing is left of them
    (block,) = values.rows(observed).blocks()
    (alone,) = KINDS[kind](x[observed]).blocks()
    np.testing.assert_array_equal(block.standardised, alone.standardised)


@pytest.mark.parametrize("n_modalities", [3, 4])
@pytest.mark.parametrize("make", [counts, real])
def test_a_modality_absent_at_one_site_shares_nothing_with_a_site_effect(make, n_modalities):
    """All features of the target differ between sites, and one source is there at one site only."""
    form, n_called = KINDS[make], []
    nothing = np.zeros(600)
    for seed in range(5):
        rng = np.random.default_rng(seed)
        site = np.arange(600) < 300
        target = make(rng, 600, 60, 2.0 * site)
        sources = [form(make(rng, 600, 60, nothing), site)]
        sources += [form(make(rng, 600, 30, nothing)) for _ in range(n_modalities - 2)]
        order = rng.permutation(600)
        sources = [source.rows(order) for source in sources]
        n_called.append(screen(form(target[order]), sources, rng).shared.sum())
    assert np.mean(n_called) <= 1.5


@pytest.mark.parametrize("storage", STORAGES.values(), ids=STORAGES)
@pytest.mark.parametrize("make", list(KINDS))
def test_shared_features_are_found_where_a_modality_is_absent_in_some_cells(make, storage):
    rng = np.random.default_rng(0)
    z, nothing = rng.normal(size=600), np.zeros(600)
    form, observed = KINDS[make], rng.random(600) < 0.6
    target, source, other = (make(rng, 600, 20, nothing) for _ in range(3))
    target[:, :10], source[:, :10] = make(rng, 600, 10, 2 * z), make(rng, 600, 10, 2 * z)
    sources = [form(storage(source), observed), form(storage(other))]
    found = screen(form(storage(target)), sources, np.random.default_rng(0))
    assert found.shared[:10].mean() >= 0.6
    assert found.shared[10:].sum() <= 1


def test_a_sparse_matrix_holds_each_entry_once():
    repeated = sp.coo_matrix(([1, 2, 3, 0], ([0, 0, 1, 1], [1, 1, 0, 1])), shape=(2, 2))
    unsorted = sp.csr_matrix((np.array([3, 1]), np.array([1, 0]), np.array([0, 2, 2])), (2, 2))
    for matrix in (repeated, unsorted):
        data = matrix.data.copy()
        csr, dense = as_csr(matrix), as_csr(matrix.toarray())
        for part in ("data", "indices", "indptr"):
            np.testing.assert_array_equal(getattr(csr, part), getattr(dense, part))
        np.testing.assert_array_equal(matrix.data, data)  # a copy was changed


def test_wide_sparse_counts_are_never_dense(monkeypatch):
    monkeypatch.setattr("scvenn.screening.values._BLOCK_ENTRIES", 2**18)
    n, n_features = 400, 20_000
    x = sp.random(n, n_features, 0.002, format="csr", random_state=0)
    source = DiscreteValues(np.random.default_rng(0).poisson(1, (n, 10)))
    tracemalloc.start()
    screen(DiscreteValues(x), [source], np.random.default_rng(0))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < n * n_features * 8 / 2  # bytes of half of the matrix


@pytest.mark.parametrize("form", [RealValues, DiscreteValues])
def test_an_extreme_value_is_named(form):
    x = np.random.default_rng(0).poisson(1, (20, 5)).astype(float)
    x[3, 2] = -1e200
    with pytest.raises(ExtremeValueError, match=r"found -1e\+200 in feature 2") as error:
        form(x)
    assert (error.value.feature, error.value.value) == (2, -1e200)


def test_covariates_that_are_not_finite_are_refused():
    x = np.random.default_rng(0).normal(size=(20, 5))
    with pytest.raises(ValueError, match="finite covariates"):
        screened(x, [x], covariates=np.full((20, 1), np.inf))


@pytest.mark.parametrize("n", [0, 1, 2, 3])
@pytest.mark.parametrize("form", [RealValues, DiscreteValues])
def test_next_to_no_cells_share_nothing(n, form):
    x = np.random.default_rng(0).poisson(1, (n, 5))
    found = screened(x, [x], form=form)
    assert not found.shared.any()


NULL = np.random.default_rng(0).exponential(0.02, 3000) - 0.03


@pytest.mark.parametrize(
    ("score", "null", "n_above"),
    [
        ([0.5, 0.6, 0.7], NULL, 3),
        ([0.5, 0.6, 0.7], 0.9 + NULL, 0),
        ([0.5, 0.6, 0.7], [-0.1, -0.1, -0.1], 0),  # as high as any of few is no evidence
        ([0.5, 0.6, 0.7], np.full(300, -0.1), 3),
        ([-0.3, -0.2, 0.7], -1 + NULL, 1),  # never below 0
        # 1 in 20 chance scores is above .03, and here are 50 of them: 48 others are not enough
        ([*np.full(48, 0.03), *np.zeros(952)], NULL, 0),
        ([*np.full(48, 0.5), *np.zeros(952)], NULL, 48),
        # the highest of many chance scores is one of them
        ([NULL.max() + 0.005, *NULL[:2999]], NULL, 0),
    ],
)
def test_thresholds(score, null, n_above):
    score = np.array(score)
    assert (score > threshold(score, np.array(null), fdr=0.04)).sum() == n_above


@pytest.mark.slow
@pytest.mark.parametrize("d", [10, 100, 1000])
def test_independent_modalities_share_nothing_nearly_always(d):
    """At a false discovery rate of 5 %, in 95 % of cases."""
    n_runs, wrong = 24, 0
    for seed in range(n_runs):
        rng = np.random.default_rng(seed)
        x, y = rng.normal(size=(2, 150, d)).astype(np.float32)
        wrong += screened(x, [y]).shared.any()
    assert wrong <= 4  # more in 1 of 100 cases


# ------------------------------------------------------------------------------- in a model


@pytest.fixture
def trained():
    scvi.settings.seed = 0
    mdata = scvenn.datasets.simulate_counts(400, n_features=40, missing=0.1)
    model = scvenn.MMVAEpp(mdata, screen=True, n_shared=3, n_private=2, n_hidden=16)
    model.train(3, **QUIET)
    return model


def test_scores_are_told_and_written(trained):
    table = trained.get_shared_scores()
    assert len(table) == 80
    for m, part in table.groupby("modality"):
        planted = trained.adata[m].var["shared"].to_numpy()
        assert part["shared"][planted].mean() > 0.7
        np.testing.assert_array_equal(
            trained.adata[m].var["scvenn_shared_score"].to_numpy(), part["score"].to_numpy()
        )


def test_scores_follow_the_features_of_new_data(trained):
    new = trained.adata.copy()
    new.mod["rna"] = new["rna"][:, ::-1].copy()
    del new["rna"].var["scvenn_shared_score"]
    trained.embed(new)
    np.testing.assert_array_equal(
        new["rna"].var["scvenn_shared_score"][::-1],
        trained.adata["rna"].var["scvenn_shared_score"],
    )


def test_only_training_cells_are_screened():
    """Values of other cells, however wild, change no score."""
    found, library = [], None
    for garble in (False, True):
        mdata = scvenn.datasets.simulate_counts(300, n_features=30)
        cells = np.random.default_rng(0).permutation(300)
        split = [cells[:200], cells[200:250], cells[250:]]
        if garble:
            for m in mdata.mod:
                x = mdata[m].X.toarray()
                x[cells[200:]] = np.random.default_rng(1).integers(0, 2, x[cells[200:]].shape)
                mdata[m].X = sp.csr_matrix(x)
        scvi.settings.seed = 0
        scvenn.MMVAEpp.setup_mudata(mdata, likelihoods={"rna": "nb", "atac": "bernoulli"})
        model = scvenn.MMVAEpp(mdata, screen=True)
        if library is not None:  # set-up knows all cells: the median library of counts
            model.module.likelihood("rna").library_.copy_(library)
        library = model.module.likelihood("rna").library_.clone()
        model.train(1, datasplitter_kwargs={"external_indexing": split}, **QUIET)
        found.append(model.get_shared_scores())
    np.testing.assert_array_equal(found[0]["score"], found[1]["score"])
    np.testing.assert_array_equal(found[0]["shared"], found[1]["shared"])


def test_a_seed_gives_the_same_scores():
    tables = []
    for _ in range(2):
        scvi.settings.seed = 3
        model = scvenn.MMVAEpp(three_modalities(missing=0.3), screen=True)
        model.train(1, **QUIET)
        tables.append(model.get_shared_scores())
    np.testing.assert_array_equal(tables[0]["score"], tables[1]["score"])


def test_scores_and_networks_are_saved(trained):
    trained.save("model")
    loaded = scvenn.MMVAEpp.load("model", trained.adata)
    np.testing.assert_array_equal(
        loaded.get_shared_scores()["score"], trained.get_shared_scores()["score"]
    )
    np.testing.assert_array_equal(
        loaded.predict("rna", "atac", return_numpy=True),
        trained.predict("rna", "atac", return_numpy=True),
    )


def test_training_further_keeps_what_was_screened(trained):
    """The networks of the features that were learned stay."""
    table = trained.get_shared_scores()
    weight = trained.module.branches[0].cross_decoder.out.weight.clone()
    trained.train(1, **QUIET)
    pd.testing.assert_frame_equal(trained.get_shared_scores(), table)
    torch.testing.assert_close(
        trained.module.branches[0].cross_decoder.out.weight, weight, atol=0.1, rtol=0
    )


def test_a_feature_that_is_not_shared_is_predicted_by_its_mean(trained):
    table = trained.get_shared_scores()
    private = table["feature"][(table["modality"] == "atac") & ~table["shared"]]
    without = {"atac": (np.zeros(3), np.zeros((3, 40)))}  # learned after training, if at all
    trained.module.set_learned_after_training(weak_effects=without)
    predicted = trained.predict("rna", "atac", features=list(private)).dropna()
    np.testing.assert_allclose(predicted - predicted.iloc[0], 0, atol=1e-6)


def test_rare_features_are_predicted_by_their_mean_from_the_start():
    """An epoch of five steps moves no logit from 0 to that of a peak of one cell in twenty."""
    mdata = scvenn.datasets.simulate_counts(600, n_features=60)
    rng = np.random.default_rng(0)
    mdata["atac"].X[:, 30:] = rng.random((600, 30)) < 0.05
    scvi.settings.seed = 0
    model = scvenn.MMVAEpp(mdata)
    model.train(1, train_size=0.8, **QUIET)
    predicted = model.predict("rna", "atac", return_numpy=True)[:, 30:]
    np.testing.assert_allclose(predicted, np.full_like(predicted, 0.05), atol=0.05)


def test_features_that_labels_predict_are_read_but_not_predicted():
    """A label that only the private programme of rna knows."""
    mdata = scvenn.datasets.simulate_counts(400, n_features=40)
    side = mdata.obsm["z_private_rna"][:, 0] > 0
    mdata.obs["side"] = np.where(side, "right", "left")
    n_related = {}
    for key in (None, "side"):
        scvenn.MMVAEpp.setup_mudata(mdata, labels_key=key)
        scvi.settings.seed = 0
        model = scvenn.MMVAEpp(mdata)
        model.train(1, **QUIET)
        table = model.get_shared_scores()
        private = ~mdata["rna"].var["shared"].to_numpy()
        rna = table[table["modality"] == "rna"][private]
        n_related[key] = rna["related"].sum()
        assert rna["shared"].mean() < 0.4
    assert n_related["side"] > n_related[None] + 5


def test_nothing_in_common_warns():
    mdata = scvenn.datasets.simulate_counts(200, n_features=20, n_shared_features=0)
    with pytest.warns(UserWarning, match="No feature of modality '.*' is predicted by"):
        scvenn.MMVAEpp(mdata, screen=True).train(1, **QUIET)


def test_errors_in_screening_name_the_modality(small, monkeypatch):
    def fails(*args, **kwargs):
        raise np.linalg.LinAlgError("Singular matrix.")

    monkeypatch.setattr("scvenn.readouts.shared_features.screen", fails)
    with pytest.raises(ValueError, match=r"'rna'.*Singular matrix.*screen=False") as error:
        scvenn.MMVAEpp(small, screen=True).train(1, **QUIET)
    assert type(error.value) is ValueError


def test_a_value_without_finite_variance_is_an_error_that_names_its_modality():
    rng = np.random.default_rng(0)
    views = {m: AnnData(rng.normal(size=(60, 12))) for m in ("one", "two")}
    views["one"].X[0, 3] = 1e200
    with pytest.raises(ValueError, match="'one'"):
        scvenn.MMVAEpp(MuData(views), screen=True).train(1, train_size=1.0, **QUIET)


def test_a_model_that_does_not_screen_has_no_scores(small):
    model = scvenn.MMVAEpp(small, screen=False)
    model.train(1, **QUIET)
    with pytest.raises(ValueError, match="screen=True"):
        model.get_shared_scores()
    assert "scvenn_shared_score" not in small["rna"].var


def test_an_objective_without_cross_view_terms_cannot_screen(small):
    with pytest.raises(ValueError, match="nothing to screen for"):
        scvenn.MVAE(small, screen=True)


@pytest.mark.parametrize("name", [n for n in MODELS if n != "MVAE"])
def test_every_objective_with_cross_view_terms_can_screen(name):
    mdata = three_modalities(missing=0.3)
    scvi.settings.seed = 0
    model = MODELS[name](mdata, screen=True, n_shared=3, n_private=2, n_hidden=16)
    model.train(3, **QUIET)
    assert np.isfinite(mdata.obsm["X_shared"]).all()
    assert np.isfinite(model.history["elbo_validation"].to_numpy(float)).all()


@pytest.mark.slow
def test_a_relation_without_a_linear_part_is_learned():
    """No worse than without screening, where one view knows z and the other even functions."""
    rng = np.random.default_rng(0)
    z = rng.uniform(-2, 2, (600, 2))
    odd = np.hstack([z, np.sin(z), z**3])
    even = np.hstack([z**2, np.abs(z), np.cos(z)])
    views = {}
    for m, signal in (("odd", odd), ("even", even)):
        private = rng.uniform(-2, 2, (600, 2)) @ rng.normal(size=(2, 20))
        x = np.hstack([signal / signal.std(0), private]) + 0.15 * rng.normal(size=(600, 26))
        views[m] = AnnData(x.astype(np.float32), obs=pd.DataFrame(index=map(str, range(600))))
    r2 = {}
    for kwargs in ({"screen": True}, {"screen": False}):
        mdata = MuData({m: view.copy() for m, view in views.items()})
        scvi.settings.seed = 0
        model = scvenn.MMVAEpp(mdata, **kwargs)
        model.train(40, train_size=0.8, plan_kwargs={"lr": 5e-3}, **QUIET)
        rows = model.validation_indices
        predicted = model.predict("odd", "even", indices=rows, return_numpy=True)[:, :6]
        r2[kwargs["screen"]] = r2_score(mdata["even"].X[rows][:, :6], predicted)
    assert r2[True] > 0.8
    assert r2[True] > r2[False] - 0.02


@pytest.mark.slow
@pytest.mark.parametrize("n_private", [20, 300])
def test_cross_view_predictions_keep_up_with_trees(n_private):
    """The published model has R² of 0.7 and 0 here; its private features fall below 0."""
    mdata = scvenn.datasets.simulate_gp(700, n_private_features=(n_private, 50))
    scvi.settings.seed = 0
    model = scvenn.MMVAEpp(mdata, screen=True)
    model.train(40, train_size=0.8, plan_kwargs={"lr": 5e-3}, **QUIET)
    rows = model.validation_indices
    for source, target in (("view1", "view2"), ("view2", "view1")):
        r2 = r2_score(
            mdata[target].X[rows],
            model.predict(source, target, indices=rows, return_numpy=True),
            multioutput="raw_values",
        )
        shared = mdata[target].var["shared"].to_numpy()
        assert np.median(r2[shared]) > 0.85
        assert np.median(r2[~shared]) > -0.05
    one, two = (model.get_shared_representation(from_modalities=m, indices=rows) for m in mdata.mod)
    # of all dimensions together: the last axes hardly vary
    one, two = ((z - z.mean(0)).ravel() for z in (one, two))
    assert np.corrcoef(one, two)[0, 1] > 0.9


@pytest.mark.parametrize("given", [None, "type"])
def test_a_noisy_batch_makes_no_feature_shared(given):
    """Its cells agree by chance more than others, in six of twelve data sets before."""
    n_called = 0
    for seed in range(6):
        rng = np.random.default_rng(seed)
        noisy = rng.random(300) < 0.3
        names = [f"cell{i}" for i in range(300)]
        modalities = {
            m: AnnData(
                (rng.normal(size=(300, 30)) * np.where(noisy, 3, 1)[:, None]).astype(np.float32),
                obs=pd.DataFrame(index=names),
                var=pd.DataFrame(index=[f"{m}_{j}" for j in range(30)]),
            )
            for m in ("rna", "meth")
        }
        mdata = MuData(modalities)
        mdata.obs["batch"] = np.where(noisy, "noisy", "other")
        mdata.obs["type"] = rng.choice(["A", "B"], 300)
        scvi.settings.seed = seed
        found = scvenn.pp.shared_features(mdata, batch_key="batch", given=given, inplace=False)
        n_called += found["shared"].any()
    assert n_called <= 1


def test_cells_are_shuffled_within_batches_and_those_of_small_ones_together():
    groups = np.repeat([0, 1], 50)
    batches = np.tile(np.repeat([0, 1, 2], [30, 10, 10]), 2)
    strata = _strata(100, groups, batches)
    assert [np.unique(strata[groups == g]).size for g in (0, 1)] == [2, 2]
    assert len(np.unique(strata)) == 4
    small = (groups == 0) & (batches > 0)
    assert len(np.unique(strata[small])) == 1
    np.testing.assert_array_equal(_strata(100, groups, None), groups)
    assert not _strata(100, None, None).any()
