"""How many threads computations may use: never more than the process has cores."""

from __future__ import annotations

import logging
import math
import os
from pathlib import Path

import torch

logger = logging.getLogger("scvi.scvenn")

_CGROUP = Path("/sys/fs/cgroup")


def usable_cores() -> int:
    """Cores that this process may use: by its affinity, and by the quota of its container.

    Sources: sched_getaffinity(2); "cpu.max" of cgroup v2, "cpu.cfs_quota_us" and
    "cpu.cfs_period_us" of v1, in the documentation of Linux.
    """
    by_affinity = getattr(os, "sched_getaffinity", None)  # on Linux
    cores = len(by_affinity(0)) if by_affinity else os.cpu_count() or 1
    for quota_file, period_file in (
        (_CGROUP / "cpu.max", None),
        (_CGROUP / "cpu/cpu.cfs_quota_us", _CGROUP / "cpu/cpu.cfs_period_us"),
    ):
        try:
            quota, *rest = quota_file.read_text().split()
            period = rest[0] if period_file is None else period_file.read_text()
            quota_in_cores = float(quota) / float(period)
        except (OSError, ValueError, IndexError, ZeroDivisionError):  # no such file, or no limit
            continue
        if quota_in_cores > 0:
            cores = min(cores, math.ceil(quota_in_cores))
    return max(1, cores)


def respect_limits() -> None:
    """Lower torch's number of threads to the cores that may be used.

    Threads without a core of their own wait for each other at every step, and training takes many
    times as long. Torch counts the cores of the machine, also in a container that may use a few.
    """
    cores, threads = usable_cores(), torch.get_num_threads()
    if threads > cores:
        logger.info(
            "Threads: %d instead of %d, as this process may use %s of the machine.",
            cores,
            threads,
            "1 core" if cores == 1 else f"{cores} cores",
        )
        torch.set_num_threads(cores)
