"""Work on parts of a modality, side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

_Part = TypeVar("_Part")
_Result = TypeVar("_Result")


def in_threads(function: Callable[[_Part], _Result], parts: Sequence[_Part]) -> Iterator[_Result]:
    """Results of parts, in order, by as many threads as PyTorch has.

    As many results as threads are held at a time. Their number changes no bit of what is added up
    in this order. For functions that let other threads work: compiled ones, products of scipy.
    """
    at_once = min(torch.get_num_threads(), len(parts))
    if at_once <= 1:
        yield from map(function, parts)
        return
    with ThreadPoolExecutor(at_once) as pool:
        for start in range(0, len(parts), at_once):
            yield from pool.map(function, parts[start : start + at_once])
