"""Files from the network: kept once their digest was found right, whole or not at all."""

from __future__ import annotations

import hashlib
import logging
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urljoin, urlsplit

import pooch
from requests import Response
from requests import exceptions as requests_errors
from tqdm import tqdm

from scvenn._progress import bars_are_off
from scvenn._whole_files import draft

logger = logging.getLogger("scvi.scvenn")

# Seconds without a single byte after which a download is ended.
PATIENCE = 30


class Remote(NamedTuple):
    """A file on the network, or one member of an archive there.

    Digests are texts such as ``sha256:2518c0…``.
    """

    url: str
    digest: str
    member: str | None = None
    member_digest: str = ""

    @property
    def name(self) -> str:
        """Of the file that is downloaded."""
        return self.url.rsplit("/", 1)[-1]

    def path(self, cache: Path) -> Path:
        """Where the file, or the member, is kept."""
        return cache / f"{self.name}.untar" / self.member if self.member else cache / self.name


def fetch(remote: Remote, cache: Path) -> Path:
    """A file of the cache; downloaded if it is not there, or is not what it should be.

    Several processes may do this at once: each downloads under a name of its own, and renames the
    file when it is whole.

    Raises
    ------
    ConnectionError
        If the file cannot be downloaded, or another one came.
    OSError
        If the cache cannot be written.
    """
    if remote.member is None:
        return _kept(remote, cache, remote.digest, lambda path: _download(remote, cache, path))
    archive = remote._replace(member=None)
    return _kept(
        remote,
        cache,
        remote.member_digest,
        lambda path: _extract(fetch(archive, cache), str(remote.member), path),
    )


def _kept(remote: Remote, cache: Path, digest: str, make: Callable[[Path], None]) -> Path:
    """A file of the cache that has a digest; made if there is none."""
    path = remote.path(cache)
    kind, _, expected = digest.partition(":")
    if path.is_file():
        if (found := _digest(path, kind)) == expected:
            return path
        logger.warning(
            f"{path} is damaged, or was changed: expected the {kind} {expected}, found {found}. "
            "It is fetched again."
        )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(
            f"The folder {path.parent} for downloads cannot be made: {error.strerror}. Give "
            f"permission to write there, or {_instead(cache)}"
        ) from error
    with draft(path, by_all=True) as unfinished:
        make(unfinished)
        if (found := _digest(unfinished, kind)) != expected:
            raise ConnectionError(
                f"{remote.member or remote.name} from {remote.url} is not the file that scvenn was "
                f"tested with: expected the {kind} {expected}, found {found} "
                f"({unfinished.stat().st_size:,} bytes). It was not kept. Something on the way "
                f"may have replaced or cut it, such as a proxy. Try again, or {_instead(cache)}"
            )
    return path


def _digest(path: Path, kind: str) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, kind).hexdigest()


def _extract(archive: Path, member: str, path: Path) -> None:
    """Write one member of an archive to a file."""
    with tarfile.open(archive) as members, path.open("wb") as file:
        source = members.extractfile(member)
        assert source is not None  # the digest of the archive was checked
        shutil.copyfileobj(source, file)


def _download(remote: Remote, cache: Path, path: Path) -> None:
    """Download to a path, through the proxies that ``https_proxy`` and ``no_proxy`` name."""
    logger.info(f"downloading {remote.url}")
    # pooch asks whether the bar is true, which one without a total cannot say
    hidden = bars_are_off() or None  # None: where there is no terminal
    with tqdm(desc=remote.name, total=1, unit="B", unit_scale=True, disable=hidden) as bar:
        get = pooch.HTTPDownloader(
            progressbar=bar,
            chunk_size=1 << 20,
            timeout=PATIENCE,
            headers={"Accept-Encoding": "identity"},  # else archives may come unpacked
            hooks={"response": _check_redirect},
        )
        try:
            get(remote.url, str(path), None)
        except (requests_errors.RequestException, ValueError) as error:
            raise ConnectionError(
                f"Could not download {remote.url}: {_reason(error)}. Try again, or "
                f"{_instead(cache)}"
            ) from error


def _check_redirect(answer: Response, **_: Any) -> None:
    """Refuse to be led from https to anything less, such as http or a file.

    Raises
    ------
    requests.exceptions.InvalidSchema
        If the answer does so.
    """
    if answer.is_redirect:
        target = urljoin(answer.url, answer.headers["location"])
        if urlsplit(target).scheme not in {"https", urlsplit(answer.url).scheme}:
            raise requests_errors.InvalidSchema(
                f"the server leads from {answer.url} to {target}, which is not https"
            )


def _reason(error: Exception) -> str:
    """Why a download failed."""
    if isinstance(error, requests_errors.HTTPError) and error.response is not None:
        return f"the server answered with the status {error.response.status_code}"
    if isinstance(error, requests_errors.Timeout) or "timed out" in str(error):
        return f"nothing came for {PATIENCE} seconds"
    for kind, reason in _REASONS.items():
        if isinstance(error, kind):
            return reason
    return str(error)


_REASONS = {
    requests_errors.ProxyError: "the proxy named by the environment variable https_proxy or "
    "http_proxy cannot be reached, or refused; no_proxy names servers to reach without it",
    requests_errors.SSLError: "the certificate of the server is not trusted",
    requests_errors.ChunkedEncodingError: "the connection ended before the file did",
    requests_errors.ConnectionError: "the server cannot be reached",
}


def _instead(cache: Path) -> str:
    """What else can be done."""
    return (
        f"fetch the file elsewhere and put it into {cache}, or set the environment variable "
        "SCVENN_DATA to a folder that holds the data set."
    )
