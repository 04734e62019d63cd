"""Read what HDF5 may hang or crash on: ``python probe.py FILE``.

HDF5 believes what a file says of itself. Where a block of it was zeroed or changed, a read may
never return, or end the process, and nothing in the process can help that. So a command has
another process read the file first: its groups, attributes and texts, which are found through
addresses in the file. Numbers are most of a file, and need not be read: what is wrong there is an
error, or not to be seen.
"""

import sys
from typing import Any

import h5py

# Texts that are read at once.
_ROWS = 100_000


def probe(path: str) -> None:
    """Read the structure of an HDF5 file, its attributes and its texts.

    Raises
    ------
    OSError, RuntimeError, KeyError, ValueError
        Whatever h5py has of a damaged file.
    """
    with h5py.File(path) as file:
        _read("/", file)
        file.visititems(_read)


def _read(_: str, part: Any) -> None:
    dict(part.attrs)
    if isinstance(part, h5py.Dataset):
        part.id.get_storage_size()  # visits the list of its chunks
        if part.ndim and h5py.check_string_dtype(part.dtype):
            for start in range(0, len(part), _ROWS):
                part[start : start + _ROWS]


if __name__ == "__main__":
    try:
        probe(sys.argv[1])
    except Exception as error:
        sys.exit(str(error))
