"""Processes that train one model together, each on a device of its own.

PyTorch is not imported here, so that ``--help`` does not wait for it.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

_in_step: ContextVar[bool] = ContextVar("in_step", default=False)


def is_first_process() -> bool:
    """Whether this process is the one that shows messages and writes files.

    All are, but for the others of a training on several devices.
    """
    dist = sys.modules.get("torch.distributed")
    if dist is None or not (dist.is_available() and dist.is_initialized()):
        return True
    return bool(dist.get_rank() == 0)


@contextmanager
def one_step_of_all(several: bool) -> Iterator[None]:
    """Inside, if there are ``several`` processes, all compute the same step on their own cells."""
    token = _in_step.set(several)
    try:
        yield
    finally:
        _in_step.reset(token)


def sum_of_all(of_one: Tensor) -> Tensor:
    """The sum over the processes of a step; outside of a step of several, what one has."""
    if _in_step.get():
        sys.modules["torch.distributed"].all_reduce(of_one)
    return of_one


for _name in ("scvi.scvenn", "scvi.scvenn.interrupts"):  # what one logs, not all need to
    logging.getLogger(_name).addFilter(lambda _: is_first_process())
