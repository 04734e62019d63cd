"""The contract of a likelihood.

Shapes: ``B`` cells, ``D`` features, ``T`` terms, ``R = n_outputs * D`` raw parameters, ``G`` points
of a grid.
"""

from __future__ import annotations

import copy
import inspect
import pickle
from collections.abc import Callable
from functools import partial

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from scvenn.likelihoods import LIKELIHOODS, FeatureStats, Likelihood
from scvenn.testing.cases import B, Case, D, T, masks
from scvenn.testing.promises import check_promises, require, require_equal, require_finite
from scvenn.testing.shortcuts import SHORTCUTS

# Draws of each value: their distribution is then off by about 0.003, and never by this.
_N_DRAWS = 20_000
_MOST_OFF = 0.02
# What the values of a domain may be, wide domains first.
_VALUES: tuple[Callable[[np.random.Generator], np.ndarray], ...] = (
    lambda rng: rng.normal(3, 2, (B, D)),
    lambda rng: rng.gamma(2, 1.5, (B, D)),
    lambda rng: rng.beta(20, 30, (B, D)),
    lambda rng: rng.poisson(3, (B, D)),
    lambda rng: 1 + rng.poisson(3, (B, D)),
    lambda rng: rng.integers(0, 2, (B, D)),
)
# Raw parameters with which no value of the domain may do harm.
_EXTREME_PARAMETERS = (-50.0, 0.0, 50.0)


def check_likelihood(cls: type[Likelihood], *, values: np.ndarray | None = None) -> None:
    """Check that a likelihood keeps what the package relies on.

    Parameters
    ----------
    cls
        The class, at the top level of a module. It need not be in ``LIKELIHOODS``.
    values
        Typical values, (6, 4); None for ones that are made up. Needed for a domain that holds
        neither real numbers, positive ones, fractions, counts nor 0 and 1.

    Raises
    ------
    AssertionError
        At the first promise that is broken. The message names the promise and what was found.
    ValueError
        If this is no class of a likelihood, or the values are no numbers.

    Examples
    --------
    >>> from scvenn.likelihoods import LIKELIHOODS
    >>> check_likelihood(LIKELIHOODS["poisson"])

    Notes
    -----
    Distributions are compared with 20,000 draws of each value, the same draws at every call.
    """
    if not (isinstance(cls, type) and issubclass(cls, Likelihood)):
        raise ValueError(f"check_likelihood({cls!r}): expected a subclass of Likelihood.")
    part, rng = f"likelihood {cls.__name__}", np.random.default_rng(0)
    made_up = [make(rng) for make in _VALUES]
    check_promises(part, [_judges_each_value], cls, made_up[0])
    if values is None:
        values = next((x for x in made_up if cls.in_domain(x).all()), None)
    elif np.asarray(values).dtype.kind not in "biuf":
        raise ValueError(f"values={values!r}: expected an array of numbers.")
    if values is None or np.shape(values) != (B, D):
        raise AssertionError(
            f"{cls.__name__}: no typical values to check it with. Pass values=..., an array of "
            f"shape {(B, D)} in the domain."
        )
    case = Case(cls, np.asarray(values, dtype=np.float32))
    check_promises(part, _CHECKS, case)


# --------------------------------------------------------------------------------------------
# What it declares
# --------------------------------------------------------------------------------------------


def _judges_each_value(cls: type[Likelihood], values: np.ndarray) -> None:
    """in_domain gives True or False for each value of an array."""
    inside = cls.in_domain(values)
    require(
        isinstance(inside, np.ndarray) and inside.shape == values.shape and inside.dtype == bool,
        f"Of values of shape {values.shape} it gives {inside!r:.60}.",
    )


def _declarations(case: Case) -> None:
    """It declares name, summary, domain and allows_missing, and the others in their types."""
    cls = case.cls
    for attribute in ("name", "summary", "domain"):
        value = getattr(cls, attribute, None)
        require(isinstance(value, str) and value, f"{attribute} is {value!r}, no text.")
    for attribute in (
        "allows_missing",
        "discrete",
        "cross_view_noise",
        "binary",
        "scores_parts",
        "scores_rows",
        "means_of_some",
        "reads_sparse",
        "sparse_on_regression_scale",
        "squares_inform",
    ):
        value = getattr(cls, attribute, None)
        require(isinstance(value, bool), f"{attribute} is {value!r}, neither True nor False.")
    rank = cls.inferred_rank
    require(rank is None or isinstance(rank, int | float), f"inferred_rank is {rank!r}.")
    same = [other.name for other in LIKELIHOODS.values() if other.inferred_rank == rank]
    same = [] if rank is None else [name for name in same if name != cls.name]
    require(not same, f"inferred_rank is {rank!r}, as that of {same}.")
    require(cls.n_outputs >= 1, f"n_outputs is {cls.n_outputs!r}.")


def _own_name(case: Case) -> None:
    """No other likelihood has its name."""
    other = LIKELIHOODS.get(case.cls.name, case.cls)
    # one that was defined anew, as in a notebook, replaces itself
    is_own = other.__qualname__ == case.cls.__qualname__
    require(is_own, f"name is {case.cls.name!r}, as that of {other.__name__}.")


def _constructor(case: Case) -> None:
    """It is built from stats and n_batches=None."""
    found = str(inspect.signature(case.cls).replace(return_annotation=inspect.Signature.empty))
    parameters = inspect.signature(case.cls).parameters
    require(list(parameters) == ["stats", "n_batches"], f"The signature is {found}.")
    require(parameters["n_batches"].default is None, f"The signature is {found}.")


def _domain(case: Case) -> None:
    """in_domain judges element by element, and agrees with discrete and binary."""
    inside = case.cls.in_domain(case.values)
    require(
        inside.shape == (B, D) and inside.dtype == bool,
        f"Of values of shape {(B, D)} it gives {inside.dtype} of shape {inside.shape}.",
    )
    require(inside.all(), f"It refuses {case.values[~inside][:1]} of the typical values.")
    for flag, refused in (("discrete", [0.5]), ("binary", [0.5, 2.0])):
        found = case.cls.in_domain(np.array(refused))
        if getattr(case.cls, flag):
            require(not found.any(), f"{flag} is True, and of {refused} it accepts {found}.")


def _unit_and_effect(case: Case) -> None:
    """The unit is above 0, and the effect of a difference changes its sign with its direction."""
    likelihood = case.build()
    require(likelihood.unit.shape == (D,), f"unit has the shape {tuple(likelihood.unit.shape)}.")
    require((likelihood.unit > 0).all(), f"unit is {likelihood.unit.tolist()}.")
    means = likelihood.mean(case.raw(likelihood), case.library).detach()
    one, other = (mean.numpy() for mean in means[:2])
    forth, back = (likelihood.effect.compare(*pair, 0.01) for pair in ((one, other), (other, one)))
    require_finite(effect=torch.as_tensor(forth))
    require_equal("effect", torch.as_tensor(forth), -torch.as_tensor(back))
    require(likelihood.effect.default_delta > 0, f"{likelihood.effect}: default_delta.")


# --------------------------------------------------------------------------------------------
# Shapes, finite values, purity
# --------------------------------------------------------------------------------------------


def _shapes(case: Case) -> None:
    """Its results have a value for each term, cell and feature, in single precision."""
    likelihood, x, library = case.build(), case.x, case.library
    raw = case.raw(likelihood)
    of_all = torch.ones(B, 1, dtype=torch.bool)
    for name, found, expected in (
        ("log_prob", likelihood.log_prob(raw, x, library), (T, B, D)),
        ("mean", likelihood.mean(raw, library), (T, B, D)),
        ("sample", likelihood.sample(raw, library), (T, B, D)),
        ("scaled_mean", likelihood.scaled_mean(raw), (T, B, D)),
        ("linear_predictor", likelihood.linear_predictor(raw), (T, B, D)),
        ("total", likelihood.total(raw, x, of_all, library), (T, B)),
        ("encoder_input", likelihood.encoder_input(x), (B, D)),
        ("start", likelihood.start(), (raw.shape[-1],)),
    ):
        require(found.shape == expected, f"{name} has the shape {tuple(found.shape)}: {expected}?")
        require(found.dtype == torch.float32, f"{name} is of type {found.dtype}.")


def _nothing_overflows(case: Case) -> None:
    """Values and gradients are finite for all values of the domain and raw parameters up to 50."""
    likelihood = case.build()
    for spread in (1.0, 10.0):
        raw = case.raw(likelihood, spread).requires_grad_()
        _require_all_finite(likelihood, raw, case.x)
    shape = T, B, likelihood.n_outputs * D
    for _ in range(20):
        x = _drawn_from(case.extremes, (B, D))
        raw = _drawn_from(torch.tensor(_EXTREME_PARAMETERS), shape).requires_grad_()
        _require_all_finite(likelihood, raw, x)


def _require_all_finite(likelihood: Likelihood, raw: Tensor, x: Tensor) -> None:
    library = x.sum(-1, keepdim=True).clamp(min=1)
    likelihood.zero_grad()
    log_prob = likelihood.log_prob(raw, x, library)
    log_prob.sum().backward()
    require_finite(
        log_prob=log_prob,
        log_prob_of_cross_view=likelihood.log_prob(raw, x, library, cross_view=True),
        mean=likelihood.mean(raw, library),
        sample=likelihood.sample(raw.detach(), library),
        encoder_input=likelihood.encoder_input(x),
        **{f"gradient_{k}": gradient for k, gradient in _gradients(likelihood, raw).items()},
    )
    drawn = likelihood.sample(raw.detach(), library)
    require(not drawn.requires_grad, "sample has a gradient.")
    inside = likelihood.in_domain(drawn.numpy())
    require(inside.all(), f"sample draws {drawn[~torch.as_tensor(inside)][:1].tolist()}.")


def _gradients(likelihood: Likelihood, raw: Tensor) -> dict[str, Tensor]:
    """Gradients of the raw parameters and of what is learned."""
    found = {"raw": raw, **dict(likelihood.named_parameters())}
    return {k: torch.zeros_like(p) if p.grad is None else p.grad.clone() for k, p in found.items()}


def _drawn_from(values: Tensor, shape: tuple[int, ...]) -> Tensor:
    return values[torch.randint(len(values), shape)]


def _constant_features(case: Case) -> None:
    """A feature that is constant in training, at whatever value, does no harm."""
    for value in case.extremes.tolist():
        stats = FeatureStats(np.full(D, value), np.ones(D), 1.0)
        likelihood = case.cls(stats)
        x, start = torch.full((B, D), value), likelihood.start().expand(B, -1)
        library = x.sum(-1, keepdim=True).clamp(min=1)
        require_finite(
            start=start,
            log_prob_at_start=likelihood.log_prob(start, x, library),
            encoder_input=likelihood.encoder_input(x),
        )


def _nothing_is_changed(case: Case) -> None:
    """Its methods change none of their arguments."""
    likelihood, raw = case.build(), case.raw(case.build())
    given = raw, case.x, case.library
    before = [tensor.clone() for tensor in given]
    likelihood.log_prob(*given)
    likelihood.total(*given[:2], torch.ones(B, D, dtype=torch.bool), given[2])
    likelihood.mean(raw, given[2])
    likelihood.sample(raw, given[2])
    likelihood.encoder_input(given[1])
    if likelihood.cross_view_noise:
        likelihood.cross_view_misses(raw, given[1], torch.ones(T, B, 1, dtype=torch.bool))
    for name, now, then in zip(("raw", "x", "library"), given, before, strict=True):
        require_equal(name, now, then, rtol=0, atol=0)


# --------------------------------------------------------------------------------------------
# What was measured, in terms, parts and batches
# --------------------------------------------------------------------------------------------


def _terms_are_independent(case: Case) -> None:
    """A term is scored as if it were alone."""
    likelihood, x, library = case.build(), case.x, case.library
    raw = case.raw(likelihood)
    together = likelihood.log_prob(raw, x, library)
    require_equal("log_prob", together[1], likelihood.log_prob(raw[1], x, library))


def _total_is_a_sum(case: Case) -> None:
    """The total sums log_prob over what was measured; nothing else reaches it or a gradient."""
    likelihood, library = case.build(), case.library
    for measured in masks():
        found = []
        for instead in (case.x.flip(0), likelihood.mean_):
            x = torch.where(measured, case.x, instead)
            raw = torch.linspace(-1, 1, T * B * likelihood.n_outputs * D)
            raw = raw.reshape(T, B, -1).requires_grad_()
            likelihood.zero_grad()
            total = likelihood.total(raw, x, measured, library)
            total.sum().backward()
            found.append({"total": total, **_gradients(likelihood, raw)})
            expected = (likelihood.log_prob(raw, case.x, library) * measured).sum(-1)
            require_equal("total", total, expected)
        for name, value in found[0].items():
            require_equal(name, value, found[1][name], rtol=0, atol=0)


def _missing_values(case: Case) -> None:
    """Where single values may be missing, nothing depends on the library size, then NaN."""
    if not case.cls.allows_missing:
        return
    likelihood, x, library = case.build(), case.x, case.library
    raw = case.raw(likelihood)
    for name, of in (
        ("log_prob", lambda size: likelihood.log_prob(raw, x, size)),
        ("mean", lambda size: likelihood.mean(raw, size)),
    ):
        require_equal(name, of(library * torch.nan), of(library), rtol=0, atol=0)
    one_missing = case.values.copy()
    one_missing[0, 0] = np.nan
    found = likelihood.regression_scale(one_missing, case.library.numpy() * np.nan)
    require(
        np.array_equal(np.isnan(found), np.isnan(one_missing)),
        "regression_scale: NaN where a value is there, or a value where it is missing.",
    )


def _batches(case: Case) -> None:
    """A batch with a noise of its own is scored as by a likelihood of that batch alone."""
    both, alone = case.build(n_batches=2), case.build()
    batch, raw = torch.arange(B) % 2, case.raw(both)
    of_both, of_one = both.state_dict(), alone.state_dict()
    require(list(of_both) == list(of_one), f"{list(of_both)} are learned, not {list(of_one)}.")
    own = [name for name in of_both if of_both[name].shape != of_one[name].shape]
    for name in own:
        expected = (2, *of_one[name].shape)
        require(of_both[name].shape == expected, f"{name} is not of the shape {expected}.")
    found = both.log_prob(raw, case.x, case.library, batch)
    across = both.log_prob(raw, case.x, case.library, batch, cross_view=True)
    for number in (0, 1):
        alone.load_state_dict({k: v[number] if k in own else v for k, v in of_both.items()})
        rows = batch == number
        one = alone.log_prob(raw, case.x, case.library)
        require_equal(f"log_prob of batch {number}", found[:, rows], one[:, rows])
        one = alone.log_prob(raw, case.x, case.library, cross_view=True)
        require_equal(f"log_prob across views of batch {number}", across[:, rows], one[:, rows])
    require(both.sample(raw, case.library, batch).shape == (T, B, D), "sample: another shape.")


def _cross_view_noise(case: Case) -> None:
    """The noise of cross-view predictions can be updated and stays finite."""
    if not case.cls.cross_view_noise:
        return
    for n_batches in (None, 2):
        likelihood = case.build(n_batches)
        batch = None if n_batches is None else torch.arange(B) % n_batches
        raw = case.raw(likelihood, 10.0)
        for measured in (*masks(), torch.zeros(B, 1, dtype=torch.bool)):
            counts = measured.expand(T, *measured.shape)
            misses = likelihood.cross_view_misses(raw, case.x, counts, batch)
            likelihood.update_cross_view_noise(misses)
            likelihood.set_held_out_noise(misses)
            log_prob = likelihood.log_prob(raw, case.x, case.library, batch, cross_view=True)
            require_finite(log_prob=log_prob)


# --------------------------------------------------------------------------------------------
# The distribution
# --------------------------------------------------------------------------------------------


def _predictions_start_at_the_mean(case: Case) -> None:
    """The start predicts the mean of each feature, or the same part, at least 0.4, of each."""
    likelihood = case.cls(FeatureStats(case.values.mean(0), case.values.std(0) + 0.1, 1.0))
    mean = torch.as_tensor(case.values).mean(0)  # (D,)
    found = likelihood.mean(likelihood.start(), mean.sum(0, keepdim=True)).detach()
    part = (found @ mean / (mean @ mean)).item()
    require(0.4 < part < 1.1, f"It predicts {found.tolist()} for {mean.tolist()}.")
    require_equal("mean(start)", found, part * mean, rtol=0.05, atol=1e-3)


def _samples_and_density_agree(case: Case) -> None:
    """exp(log_prob), per unit, is the density of what sample draws, and adds up to 1."""
    likelihood = case.build()
    _densities_agree(case, likelihood, likelihood.log_prob, likelihood.sample)
    if likelihood.cross_view_noise:
        raw = case.raw(likelihood, 10.0)
        misses = likelihood.cross_view_misses(raw, case.x, torch.ones(T, B, 1, dtype=torch.bool))
        likelihood.update_cross_view_noise(misses)
        of_both = (partial(f, cross_view=True) for f in (likelihood.log_prob, likelihood.sample))
        _densities_agree(case, likelihood, *of_both)


def _densities_agree(
    case: Case,
    likelihood: Likelihood,
    log_prob_of: Callable[..., Tensor],
    sample: Callable[..., Tensor],
) -> None:
    raw, library = case.raw(likelihood)[0], torch.full((B, 1), 12.0)
    for b in range(B):
        draws = _draws(sample, raw[b], library[b])
        if len(draws[:, 0].unique()) < len(draws) / 2 and not likelihood.discrete:
            return  # a mixture with single points: no density to be added up
        grid = _grid(draws, likelihood.discrete)  # (G, D)
        with torch.no_grad():
            log_prob = log_prob_of(
                raw[b].expand(len(grid), -1), grid, library[b].expand(len(grid), 1)
            )
        density = (log_prob.exp() / likelihood.unit).double()
        if likelihood.discrete:
            inside = torch.as_tensor(likelihood.in_domain(grid.numpy()))
            up_to = torch.where(inside, density, 0.0).cumsum(0)  # (G, D)
        else:
            slices = torch.diff(grid.double(), dim=0) * (density[1:] + density[:-1]) / 2
            up_to = torch.cat([torch.zeros(1, D), slices.cumsum(0)])
        drawn = torch.stack(
            [
                torch.searchsorted(column.sort()[0], points.contiguous(), right=True)
                for column, points in zip(draws.T, grid.T, strict=True)
            ],
            dim=1,
        ) / len(draws)
        off = (up_to - drawn).abs().amax(0)
        require(
            (off < _MOST_OFF).all(),
            f"The probability of being at most a value differs by {off.max():.3f} between log_prob "
            f"and {len(draws)} samples, and log_prob adds up to {up_to[-1].tolist()}.",
        )


def _draws(sample: Callable[..., Tensor], raw: Tensor, library: Tensor) -> Tensor:
    """Values of one cell, (draws, D), given its raw parameters (R,) and library size (1,)."""
    return sample(raw.expand(_N_DRAWS, -1), library.expand(_N_DRAWS, 1))


def _grid(draws: Tensor, discrete: bool) -> Tensor:
    """Points (G, D) that cover draws of each feature: every integer, or a fine grid."""
    low, high = draws.amin(0), draws.amax(0)
    if discrete:
        return torch.arange(low.min().item(), high.max().item() + 1).unsqueeze(1).expand(-1, D)
    even = low + (high - low) * torch.linspace(0, 1, 4001).unsqueeze(1)
    dense = torch.quantile(draws, torch.linspace(0, 1, 2001), dim=0)  # fine where values are
    return torch.cat([even, dense]).sort(0)[0]


def _mean_is_that_of_samples(case: Case) -> None:
    """The mean is that of what sample draws."""
    likelihood = case.build()
    raw, library = case.raw(likelihood)[0], torch.full((B, 1), 12.0)
    mean = likelihood.mean(raw, library).detach()
    for b in range(B):
        draws = _draws(likelihood.sample, raw[b], library[b]).double()
        tolerance = 5 * draws.std(0) / _N_DRAWS**0.5 + 2e-3 * mean[b].abs()
        off = (draws.mean(0) - mean[b]).abs()
        require(
            (off < tolerance).all(),
            f"mean is {mean[b].tolist()}, that of {_N_DRAWS} samples {draws.mean(0).tolist()}.",
        )


# --------------------------------------------------------------------------------------------
# Regression, loadings
# --------------------------------------------------------------------------------------------


def _regression_scale(case: Case) -> None:
    """regression_scale gives the same finite numbers however values are stored."""
    likelihood, library = case.build(), case.library.numpy()
    values = case.values * (np.arange(B * D).reshape(B, D) % 3 > 0)  # zeros
    if not likelihood.in_domain(values).all():
        values = case.values
    expected = likelihood.regression_scale(values, library)
    require(isinstance(expected, np.ndarray), "Of an array it gives none.")
    require_finite(regression_scale=torch.as_tensor(expected))
    for store in (sp.csr_matrix, sp.csc_matrix, np.asfortranarray, np.float64):
        found = likelihood.regression_scale(store(values), library)
        sparse = sp.issparse(found)
        keeps = sp.issparse(store(values)) and likelihood.sparse_on_regression_scale
        require(sparse == keeps, f"Of {store.__name__} it gives {type(found).__name__}.")
        dense = torch.as_tensor(found.toarray() if sparse else found)
        require_equal(store.__name__, dense, torch.as_tensor(expected), rtol=1e-6, atol=1e-7)
    if likelihood.sparse_on_regression_scale:
        zeros = likelihood.regression_scale(np.zeros((B, D)), np.zeros((B, 1)))
        require(not zeros.any(), f"sparse_on_regression_scale: 0 becomes {zeros[0, 0]}.")


def _scaled_mean(case: Case) -> None:
    """scaled_mean is the mean on the scale of regression, in units."""
    likelihood = case.build()
    raw, library = case.raw(likelihood)[0], likelihood.library_
    mean = likelihood.mean(raw, library).detach().numpy()
    expected = torch.as_tensor(likelihood.regression_scale(mean, library.numpy())) / likelihood.unit
    require_equal("scaled_mean", likelihood.scaled_mean(raw), expected, rtol=1e-4, atol=1e-5)


def _linear_predictor(case: Case) -> None:
    """linear_predictor is finite and moves with the raw parameters."""
    likelihood = case.build()
    raw = case.raw(likelihood).requires_grad_()
    predicted = likelihood.linear_predictor(raw)
    (gradient,) = torch.autograd.grad(predicted.square().sum(), raw)
    require_finite(linear_predictor=predicted, gradient=gradient)
    require(gradient.any(), "It does not depend on the raw parameters.")


# --------------------------------------------------------------------------------------------
# Saved and copied
# --------------------------------------------------------------------------------------------


def _state(case: Case) -> None:
    """All that it learned or was given is in its state_dict."""
    likelihood, raw = case.build(), case.raw(case.build())
    if likelihood.cross_view_noise:
        misses = likelihood.cross_view_misses(raw, case.x, torch.ones(T, B, 1, dtype=torch.bool))
        likelihood.update_cross_view_noise(misses)
        likelihood.set_held_out_noise(misses)
    other = case.cls(FeatureStats(np.full(D, 0.5), np.full(D, 0.7), 3.0))
    other.load_state_dict(likelihood.state_dict())
    _require_same(case, other, likelihood, raw)


def _copies(case: Case) -> None:
    """It can be pickled and copied."""
    likelihood, raw = case.build(), case.raw(case.build())
    for other in (pickle.loads(pickle.dumps(likelihood)), copy.deepcopy(likelihood)):
        _require_same(case, other, likelihood, raw)


def _require_same(case: Case, found: Likelihood, expected: Likelihood, raw: Tensor) -> None:
    x, library = case.x, case.library
    for name, of in (
        ("log_prob", lambda one: one.log_prob(raw, x, library)),
        ("log_prob across views", lambda one: one.log_prob(raw, x, library, cross_view=True)),
        ("mean", lambda one: one.mean(raw, library)),
        ("encoder_input", lambda one: one.encoder_input(x)),
        ("start", lambda one: one.start()),
        (
            "regression_scale",
            lambda one: torch.as_tensor(one.regression_scale(x.numpy(), library.numpy())),
        ),
    ):
        require_equal(name, of(found), of(expected), rtol=0, atol=0)


_CHECKS = (
    _declarations,
    _constructor,
    _domain,
    _shapes,
    _unit_and_effect,
    _nothing_overflows,
    _constant_features,
    _nothing_is_changed,
    _terms_are_independent,
    _total_is_a_sum,
    _missing_values,
    _batches,
    _cross_view_noise,
    _predictions_start_at_the_mean,
    _samples_and_density_agree,
    _mean_is_that_of_samples,
    _regression_scale,
    _scaled_mean,
    _linear_predictor,
    _state,
    _copies,
    *SHORTCUTS,
    _own_name,
)
