"""Cells known by their names: a position is good for one order of one MuData."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd


def hashes_of(names: Iterable[Any]) -> np.ndarray:
    """A number (n,) for each name, the same in every version and on every machine."""
    digests = (hashlib.blake2b(str(name).encode(), digest_size=8).digest() for name in names)
    return np.frombuffer(b"".join(digests), dtype="<u8").astype(np.uint64)


def moved(rows: np.ndarray, before: np.ndarray, now: np.ndarray) -> np.ndarray:
    """Where the cells at some positions among those ``before`` are ``now``; without those gone."""
    found = pd.Index(now).get_indexer(before[np.asarray(rows, dtype=int)])
    return found[found >= 0]
