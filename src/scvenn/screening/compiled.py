"""Sums over the pairs of cells in which a sparse feature is not 0, compiled.

A feature costs half the square of its number of values; sparse products of scipy cost n for each
value. Both functions go from cell to cell, so that what they look up of n² numbers is a row that
stays in the cache.

This file is imported where it is used, as numba takes a second.

Features come in blocks, each with its values sorted by feature and by cell (CSC and CSR): where
each ends, the other index in order, and the values.

Shapes: ``n`` cells, ``D`` features.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numba import njit

from scvenn.screening.threads import in_threads

# Of a block of features: where each feature or cell ends, the other index, and the values.
Parts = tuple[np.ndarray, np.ndarray, np.ndarray]
Block = tuple[Parts, Parts]  # sorted by feature, and by cell


def quadratic_forms(blocks: Sequence[Block], forms: np.ndarray) -> np.ndarray:
    """yᵀAy of each feature y, with three symmetric matrices A, (n, n, 3); (D, 3)."""
    return np.vstack([*in_threads(lambda block: _quadratic_forms(*block, forms), blocks)])


def inner_products(blocks: Sequence[Block]) -> np.ndarray:
    """Inner products of the cells over all features, (n, n)."""
    of_blocks = in_threads(lambda block: _inner_products(*block), blocks)
    products = next(of_blocks)
    for of_block in of_blocks:
        products += of_block
    return products


@njit(cache=True, nogil=True, fastmath={"reassoc", "contract"})
def _quadratic_forms(by_feature: Parts, by_cell: Parts, forms: np.ndarray) -> np.ndarray:
    ends, cells, values = by_feature
    cell_ends, features, of_cells = by_cell
    found = np.zeros((len(ends) - 1, 3))
    seen = ends[:-1].copy()  # how far each feature was read: to the cells before this one
    for cell in range(len(cell_ends) - 1):
        row = forms[cell]  # (n, 3)
        for entry in range(cell_ends[cell], cell_ends[cell + 1]):
            feature, value = features[entry], of_cells[entry]
            first = second = third = np.float32(0)
            for other in range(ends[feature], seen[feature]):
                at, y = cells[other], values[other]
                first += row[at, 0] * y
                second += row[at, 1] * y
                third += row[at, 2] * y
            seen[feature] += 1
            found[feature, 0] += value * (2 * first + row[cell, 0] * value)
            found[feature, 1] += value * (2 * second + row[cell, 1] * value)
            found[feature, 2] += value * (2 * third + row[cell, 2] * value)
    return found


@njit(cache=True, nogil=True)
def _inner_products(by_feature: Parts, by_cell: Parts) -> np.ndarray:
    ends, cells, values = by_feature
    cell_ends, features, of_cells = by_cell
    n = len(cell_ends) - 1
    products = np.zeros((n, n))
    seen = ends[:-1].copy()
    for cell in range(n):
        row = products[cell]
        for entry in range(cell_ends[cell], cell_ends[cell + 1]):
            feature, value = features[entry], of_cells[entry]
            seen[feature] += 1
            for other in range(ends[feature], seen[feature]):
                row[cells[other]] += value * values[other]
        for other in range(cell):
            products[other, cell] = row[other]
    return products
