"""Results that are whole or not there."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from uuid import uuid4

from scvenn._processes import is_first_process

try:
    import fcntl
except ImportError:  # on Windows drafts of killed runs stay
    fcntl = None  # type: ignore[assignment]

# How the names of temporary folders start.
_PREFIX = ".scvenn-draft-"
# What HDF5 and other libraries write into messages of errors that have no number.
_FULL = ("No space left on device", "File too large", "Disk quota exceeded")


@contextmanager
def draft(path: Path, *, by_all: bool = False) -> Iterator[Path]:
    """A temporary name beside a path, renamed to it once all is written and on the disk.

    Drafts that killed runs left in the same folder are removed.

    Parameters
    ----------
    path
        What the file or folder will be called.
    by_all
        Whether each process of a training on several devices keeps what it writes, and not the
        first one alone.

    Raises
    ------
    OSError
        If the file cannot be written, for example because the disk is full. What was at the path
        before is still there.
    """
    _remove_abandoned(path.parent)
    try:
        with _folder_in(path.parent) as folder:
            unfinished = folder / path.name
            yield unfinished
            if not (by_all or is_first_process()):
                return
            for part in [*unfinished.rglob("*"), unfinished]:
                _to_disk(part)
            os.replace(unfinished, path)
    except Exception as error:  # of a full disk, HDF5 raises errors of many kinds
        if reason := _reason(error):
            before = "the one that was there is unchanged" if path.exists() else "nothing was left"
            raise OSError(f"{path} could not be written: {reason}; {before}.") from error
        raise
    _to_disk(path.parent)


def make_folder(folder: Path) -> None:
    """Make a folder and those above it.

    Raises
    ------
    FileExistsError
        If there is a file in its place, or in that of one above it.
    """
    for place in (folder, *folder.parents):
        if place.exists():
            if not place.is_dir():
                raise FileExistsError(f"{place} is a file; expected a folder, or nothing, there.")
            break
    folder.mkdir(parents=True, exist_ok=True)


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Wait until no other run writes to a folder, and let none do so inside."""
    if fcntl is None:
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # some network drives know no locks
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def reserve(path: Path, n_bytes: int) -> None:
    """Check that there is room for a file, by making one of that size and removing it.

    For HDF5, which must not meet a full disk.

    Parameters
    ----------
    path
        Of a file that is not there yet.
    n_bytes
        How much it will take, about.

    Raises
    ------
    OSError
        If there is not so much room, or a file may not be so large.
    """
    try:
        with path.open("wb") as file:
            if _allocated(file.fileno(), n_bytes):
                return
        if shutil.disk_usage(path.parent).free < n_bytes:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    finally:
        path.unlink(missing_ok=True)


def _allocated(handle: int, n_bytes: int) -> bool:
    """Give a file room, which knows of quotas, too; False where the system cannot."""
    if not hasattr(os, "posix_fallocate"):
        return False
    try:
        os.posix_fallocate(handle, 0, n_bytes)
    except OSError as error:
        if error.errno in (errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL):
            return False
        raise
    return True


def why_not_writable(path: Path) -> str | None:
    """Why nothing can be written to a path; None if it can, which only a try shows."""
    try:
        with suppress(FileNotFoundError):
            path.lstat()  # an error if the name is too long
        with _folder_in(path.parent):
            return None
    except OSError as error:
        return error.strerror


def _to_disk(path: Path) -> None:
    """Wait until a file, or the list of files in a folder, would outlast a loss of power."""
    is_folder = path.is_dir()
    # not every system can do this for folders
    with suppress(OSError) if is_folder else nullcontext():
        handle = os.open(path, os.O_RDONLY if is_folder else os.O_RDWR)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _reason(error: Exception) -> str | None:
    """Why a file could not be written; None for other errors."""
    numbers = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM)
    if isinstance(error, OSError) and error.errno in numbers:
        return os.strerror(error.errno)
    return next((text for text in _FULL if text in str(error)), None)


@contextmanager
def _folder_in(parent: Path) -> Iterator[Path]:
    """A temporary folder that is locked, so that others see that its run is alive."""
    # named before it is made: a signal that comes in between leaves nothing behind
    folder, lock = parent / f"{_PREFIX}{uuid4().hex[:12]}", None
    try:
        while lock is None:
            folder.mkdir(mode=0o700, exist_ok=True)
            lock = _lock(folder)  # None if another run took the folder for an abandoned one
        yield folder
    finally:
        try:
            shutil.rmtree(folder, ignore_errors=True)
        except BaseException:  # a signal that came meanwhile
            shutil.rmtree(folder, ignore_errors=True)
            raise
        finally:
            if lock is not None:
                _unlock(lock)


def _remove_abandoned(parent: Path) -> None:
    """Remove drafts in a folder whose runs were killed: nobody has locked them."""
    if fcntl is None:
        return
    for folder in parent.glob(f"{_PREFIX}*"):
        if (lock := _lock(folder)) is not None:
            shutil.rmtree(folder, ignore_errors=True)
            _unlock(lock)


def _lock(folder: Path) -> int | None:
    """Lock a folder; None if another run has locked it, or it is gone."""
    if fcntl is None:
        return -1
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return None
    with suppress(OSError):
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if folder.exists():
            return handle
    os.close(handle)
    return None


def _unlock(lock: int) -> None:
    if lock >= 0:
        os.close(lock)
