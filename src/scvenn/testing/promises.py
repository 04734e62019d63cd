"""A contract is a list of functions, each of which checks the promise that its docstring states."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor


def check_promises(part: str, checks: Sequence[Callable[..., None]], *args: Any) -> None:
    """Run the checks of a contract, in their order.

    Parameters
    ----------
    part
        Name of what is checked, for the message.
    checks
        Functions of ``args`` that raise an exception where the promise is broken.
    *args
        What they are called with.

    Raises
    ------
    AssertionError
        At the first promise that is broken. The message starts with the promise.
    """
    for check in checks:
        promise = (inspect.getdoc(check) or check.__name__).splitlines()[0]
        with torch.random.fork_rng(devices=[]):  # users' random numbers are not touched
            torch.manual_seed(0)
            try:
                check(*args)
            except Exception as error:
                what = "" if isinstance(error, AssertionError) else f"{type(error).__name__}: "
                raise AssertionError(f"{part} breaks a promise: {promise} {what}{error}") from error


def require(condition: Any, found: str) -> None:
    """Raise an ``AssertionError`` that describes what was found, unless a condition holds."""
    if not condition:
        raise AssertionError(found)


def require_finite(**tensors: Tensor) -> None:
    """Raise an ``AssertionError`` unless all values of tensors, given by name, are finite."""
    for name, tensor in tensors.items():
        bad = tensor[~tensor.isfinite()]
        require(not len(bad), f"{name} holds {bad[:1].tolist()}, of {bad.numel()} such values.")


def require_equal(
    name: str,
    found: Tensor,
    expected: Tensor,
    *,
    rtol: float | None = None,
    atol: float | None = None,
) -> None:
    """Raise an ``AssertionError`` unless tensors are equal up to a tolerance; NaN equals NaN.

    Where none is given it is that of :func:`torch.testing.assert_close`.
    """
    torch.testing.assert_close(
        found,
        expected,
        rtol=rtol,
        atol=atol,
        equal_nan=True,
        msg=lambda text: f"{name}: {text}",
    )
