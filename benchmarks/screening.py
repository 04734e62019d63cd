"""How often screening calls features shared that are not: the numbers of docs/beyond.md.

    python benchmarks/screening.py

Independent modalities, in which every call is false, and modalities that share two factors in some
of their features. All values are normal; each row has seeds of its own.
"""

from __future__ import annotations

import numpy as np

from scvenn.screening import RealValues, screen

# Cells, features of either modality, shared ones among them, and number of repetitions.
CASES = (
    (200, 30, 0, 40),
    (200, 100, 0, 40),
    (200, 1000, 0, 40),
    (300, 10, 3, 20),
    (300, 200, 5, 20),
    (300, 1000, 5, 20),
    (300, 1000, 20, 20),
)
# Of a shared feature, the part of the variance that the factors make.
SHARED_VARIANCE = 0.5


def simulated(n: int, d: int, n_shared: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Values of two modalities, (n, d) each, whose first features share two factors."""
    factors = rng.normal(size=(n, 2))
    found = []
    for _ in range(2):
        x = rng.normal(size=(n, d))
        signal = factors @ rng.normal(size=(2, n_shared))
        x[:, :n_shared] *= np.sqrt(1 - SHARED_VARIANCE)
        x[:, :n_shared] += np.sqrt(SHARED_VARIANCE) * signal / signal.std(0)
        found.append(x.astype(np.float32))
    return found


def called(n: int, d: int, n_shared: int, seed: int) -> np.ndarray:
    """Which features of the first modality are called shared, (d,)."""
    rng = np.random.default_rng(seed)
    target, source = (RealValues(x) for x in simulated(n, d, n_shared, rng))
    return screen(target, [source], rng).shared


if __name__ == "__main__":
    print(
        "| cells | features | shared | runs with a false call | false calls | shared ones found |"
    )
    print("|---|---|---|---|---|---|")
    for n, d, n_shared, n_runs in CASES:
        calls = np.array([called(n, d, n_shared, seed) for seed in range(n_runs)])
        false, right = calls[:, n_shared:].sum(1), calls[:, :n_shared].sum(1)
        share = np.mean(false / np.maximum(1, calls.sum(1)))
        found = f"{right.mean() / n_shared:.2f}" if n_shared else "–"
        print(f"| {n} | {d} | {n_shared} | {np.mean(false > 0):.3f} | {share:.3f} | {found} |")
