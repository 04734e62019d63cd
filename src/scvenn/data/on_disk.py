"""A matrix that stays in its file: rows are read when they are asked for."""

from __future__ import annotations

import os
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

import h5py
import numpy as np
import scipy.sparse as sp
import zarr
from anndata.abc import CSCDataset, CSRDataset

from scvenn.data.matrices import Matrix, align, canonical_rows, rows_at_once

# Rows between two rows that are wanted are read along if they are no more: one long read takes less
# time than two short ones.
_GAP = 16


def is_on_disk(stored: Any) -> bool:
    """Whether a matrix of an AnnData is in a file, of HDF5 or zarr, and not in memory."""
    return isinstance(stored, CSRDataset | CSCDataset | h5py.Dataset | zarr.Array)


class DiskMatrix:
    """Stands where CSR or a dense array stands; ``matrix[rows]`` gives one of these.

    Rows are read in the order of the file, whatever the order in which they are asked for, and
    checked as those of a matrix in memory are.

    Parameters
    ----------
    stored
        A dense array, or anndata's CSR, in a file.
    modality, where
        For messages: the name, and the expression that gives the matrix.
    rows, columns
        What there is of the matrix, as positions in the file; None for all. -1 in ``rows`` is a row
        of zeros.

    Raises
    ------
    ValueError
        If it is stored as CSC, of which no row can be read without reading all.
    OSError
        If the file was closed.
    """

    dtype = np.dtype(np.float32)

    def __init__(
        self,
        stored: Any,
        modality: str,
        where: str,
        rows: np.ndarray | None = None,
        columns: np.ndarray | None = None,
    ) -> None:
        self._file = _File(stored, modality, where)
        if isinstance(stored, CSCDataset):
            raise ValueError(
                f"modality {modality!r}: {where} is stored in {self._file.name} by columns (CSC), "
                "so that reading a cell would take reading all. Read the modality into memory, "
                f"mdata.mod[{modality!r}] = mdata[{modality!r}].to_memory(); or write a file with "
                "the matrix as CSR, by .tocsr(), and open that."
            )
        if len(stored.shape) != 2:
            raise TypeError(
                f"modality {modality!r}: {where} is in {self._file.name} with {len(stored.shape)} "
                "dimensions; expected a matrix."
            )
        self._stored, self._modality, self._where = stored, modality, where
        self._is_sparse = isinstance(stored, CSRDataset)
        n_rows, self._width = stored.shape
        self._rows = np.arange(n_rows) if rows is None else rows
        self._columns = np.arange(self._width) if columns is None else columns

    @property
    def shape(self) -> tuple[int, int]:
        """Number of rows and columns."""
        return len(self._rows), len(self._columns)

    def aligned(self, rows: np.ndarray, columns: np.ndarray) -> DiskMatrix:
        """The matrix with rows and columns in a new order, as :func:`~.matrices.align` gives it."""
        in_file = np.append(self._rows, -1)[rows]
        wanted = in_file, np.append(self._columns, -1)[columns]
        return DiskMatrix(self._stored, self._modality, self._where, *wanted)

    def __getitem__(self, rows: np.ndarray) -> Matrix:
        """Some rows, by positions, a mask or a slice: CSR or dense, in single precision."""
        in_file = self._rows[rows]
        wanted = np.unique(in_file[in_file >= 0])
        found = np.where(in_file < 0, -1, np.searchsorted(wanted, in_file))
        return align(self._read(wanted), found, self._columns)

    def _read(self, wanted: np.ndarray) -> Matrix:
        """Rows at positions in the file, which ascend."""
        width = rows_at_once(self._width)
        ends = (np.diff(wanted) > _GAP) | (np.diff(wanted // width) > 0)
        blocks = []
        for part in np.split(wanted, np.flatnonzero(ends) + 1):
            start, stop = (int(part[0]), int(part[-1]) + 1) if len(part) else (0, 0)
            block = self._between(start, stop)
            blocks.append(canonical_rows(block, part - start, self._modality, self._where))
        if len(blocks) == 1:
            return blocks[0]
        return sp.vstack(blocks, format="csr") if sp.issparse(blocks[0]) else np.vstack(blocks)

    def _between(self, start: int, stop: int) -> Any:
        """Rows that follow each other, as they are stored.

        Raises
        ------
        OSError
            If they cannot be read.
        ValueError
            If the file is not what it was.
        """
        try:
            block = self._sparse(start, stop) if self._is_sparse else self._stored[start:stop]
        except Exception as error:  # each library has its own
            self._file.check(self._modality)
            raise OSError(
                f"modality {self._modality!r}: rows {start} to {stop} of {self._where} cannot be "
                f"read from {self._file.name} ({error}). If the file was closed, open it again. If "
                "it was cut off or is damaged, make or copy it again."
            ) from error
        self._file.check(self._modality)
        return block

    def _sparse(self, start: int, stop: int) -> sp.csr_matrix:
        """Rows of CSR that follow each other.

        The same as ``self._stored[start:stop]``, for which anndata 0.12 looks up the version of
        scipy each time, which takes ten times as long as reading.
        """
        *parts, ends = self._parts
        ends = ends[start : stop + 1]
        values, columns = (part[ends[0] : ends[-1]] for part in parts)
        shape = (stop - start, self._width)
        return sp.csr_matrix((values, columns, ends - ends[0]), shape=shape)

    @cached_property
    def _parts(self) -> tuple[Any, Any, np.ndarray]:
        """Values and columns of CSR, which stay in the file, and where each row begins."""
        group = self._stored.group
        return group["data"], group["indices"], np.asarray(group["indptr"][:])

    def __reduce__(self) -> Any:
        """Refuse to be copied to another process: an open file cannot be."""
        raise TypeError(
            f"modality {self._modality!r} is in {self._file.name}, and an open file cannot be sent "
            "to another process. Read with none: scvi.settings.dl_num_workers = 0."
        )


class _File:
    """The file of a matrix, and how it looked when it was opened for reading.

    A file that was cut off gives zeros instead of an error in HDF5, and so does a part that is
    missing in zarr. Time and size tell.
    """

    def __init__(self, stored: Any, modality: str, where: str) -> None:
        if isinstance(stored, CSRDataset | CSCDataset):
            stored = stored.group
        if isinstance(stored, h5py.Dataset | h5py.Group):
            if not stored:  # as h5py says that it was closed
                raise OSError(
                    f"modality {modality!r}: the file of {where} was closed. Open it again: "
                    "mudata.read_h5mu(path, backed=True)."
                )
            self.name = str(stored.file.filename)
            self._paths = [path for path in (Path(self.name),) if path.is_file()]
        else:
            self.name = str(stored.store_path)
            folder = Path(unquote(urlparse(self.name).path))
            # a part that is removed or written anew changes the time of its folder
            inside = ("", "c", "data", "data/c", "indices", "indices/c", "indptr", "indptr/c")
            self._paths = [folder / part for part in inside if (folder / part).is_dir()]
        self._looked = self._look()

    def _look(self) -> list[tuple[int, ...]]:
        stats = [os.stat(path) for path in self._paths]
        return [(found.st_ino, found.st_size, found.st_mtime_ns) for found in stats]

    def check(self, modality: str) -> None:
        """Raise unless the file is what it was when reading began."""
        remedy = (
            "What was read of it may be wrong, and nothing of it was kept. Open a file that stays "
            "as it is, and start anew; train(checkpoint=...) goes on from the last checkpoint if "
            "the data is the same."
        )
        try:
            looks = self._look()
        except OSError as error:
            raise OSError(
                f"modality {modality!r}: {self.name} was removed while it was read ({error}). "
                f"{remedy}"
            ) from error
        if looks != self._looked:
            raise ValueError(
                f"modality {modality!r}: {self.name} was changed while it was read. {remedy}"
            )
