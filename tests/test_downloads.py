"""Downloads from a server that answers whatever a test has it answer."""

import hashlib
import io
import logging
import os
import re
import tarfile
import threading
import time
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import requests
from requests.exceptions import InvalidSchema

from scvenn import _downloads
from scvenn._downloads import Remote, fetch
from tests.files import forks, in_child

CONTENT = bytes(range(256)) * 5000
MEMBER = "folder/data.h5mu"


def digest(content):
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def answer(request, content=CONTENT, *, sent=None, status=200, **headers):
    """Answer with a content, or with the first bytes of it."""
    request.send_response(status)
    for name, value in {"Content-Length": len(content), **headers}.items():
        if value is not None:
            request.send_header(name.replace("_", "-"), str(value))
    request.end_headers()
    request.wfile.write(content[:sent])


class Server(ThreadingHTTPServer):
    """A server on this machine: its answers by path, and the paths that were asked for."""

    block_on_close = False

    def __init__(self):
        self.answers, self.asked = {}, []
        super().__init__(("127.0.0.1", 0), Request)

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}"

    def remote(self, how=answer, name="data.h5", **others):
        self.answers[f"/{name}"] = how
        return Remote(f"{self.url}/{name}", **({"digest": digest(CONTENT)} | others))


class Request(BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.asked.append(self.path)
        self.server.answers[self.path](self)

    def log_message(self, *_):
        pass


@contextmanager
def serving():
    with Server() as server:
        threading.Thread(target=partial(server.serve_forever, 0.01), daemon=True).start()
        try:
            yield server
        finally:
            server.shutdown()


@pytest.fixture
def server(monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    with serving() as server:
        yield server


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache" / "scvenn"


def archive_of(content):
    """A tar.gz with one member."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as archive:
        info = tarfile.TarInfo(MEMBER)
        info.size = len(content)
        archive.addfile(info, io.BytesIO(content))
    return file.getvalue()


@pytest.fixture
def member(server):
    """A member of an archive."""
    whole = archive_of(CONTENT)
    return server.remote(
        partial(answer, content=whole),
        "a.tar.gz",
        digest=digest(whole),
        member=MEMBER,
        member_digest=digest(CONTENT),
    )


def refused(remote, cache):
    """Why a download is refused; nothing of it may be kept."""
    with pytest.raises(ConnectionError) as error:
        fetch(remote, cache)
    assert not [path for path in cache.rglob("*") if path.is_file()]
    assert not list(cache.glob(".*"))
    assert f"put it into {cache}, or set the environment variable SCVENN_DATA" in str(error.value)
    return str(error.value)


# ------------------------------------------------------------------------------- whole files


def test_a_file_is_downloaded_once(server, cache):
    remote = server.remote()
    for _ in range(2):
        path = fetch(remote, cache)
        assert path == cache / "data.h5"
        assert path.read_bytes() == CONTENT
    assert server.asked == ["/data.h5"]


def test_others_may_read_what_was_downloaded(server, cache):
    before = os.umask(0o022)
    try:
        assert fetch(server.remote(), cache).stat().st_mode & 0o777 == 0o644
    finally:
        os.umask(before)


def test_a_member_of_an_archive_is_extracted_once(server, member, cache):
    path = fetch(member, cache)
    assert path == cache / "a.tar.gz.untar" / MEMBER
    assert path.read_bytes() == CONTENT
    (cache / "a.tar.gz").unlink()
    assert fetch(member, cache) == path
    assert server.asked == ["/a.tar.gz"]


def test_an_archive_that_was_put_into_the_cache_is_not_downloaded(server, member, cache):
    cache.mkdir(parents=True)
    (cache / "a.tar.gz").write_bytes(archive_of(CONTENT))
    # gzip writes the time
    remote = member._replace(digest=digest((cache / "a.tar.gz").read_bytes()))
    assert fetch(remote, cache).read_bytes() == CONTENT
    assert server.asked == []


@pytest.mark.parametrize("damage", [b"", CONTENT[:-1], CONTENT[:-1] + b"\0", b"x" + CONTENT])
def test_a_damaged_file_of_the_cache_is_fetched_again(server, cache, damage, caplog):
    remote = server.remote()
    path = fetch(remote, cache)
    path.write_bytes(damage)
    with caplog.at_level(logging.INFO, "scvi.scvenn"):
        fetch(remote, cache)
    assert path.read_bytes() == CONTENT
    assert f"{path} is damaged, or was changed: expected the sha256 {digest(CONTENT)[7:]}, " in (
        caplog.text
    )
    assert digest(damage)[7:] in caplog.text
    assert server.asked == ["/data.h5"] * 2


def test_a_damaged_member_is_extracted_again_without_a_download(server, member, cache, caplog):
    path = fetch(member, cache)
    path.write_bytes(CONTENT[:100])
    assert fetch(member, cache).read_bytes() == CONTENT
    assert f"{path} is damaged" in caplog.text
    assert server.asked == ["/a.tar.gz"]


def test_a_damaged_file_stays_until_another_one_is_whole(server, cache):
    remote = server.remote()
    path = fetch(remote, cache)
    path.write_bytes(b"other")
    server.remote(partial(answer, sent=1000))
    with pytest.raises(ConnectionError):
        fetch(remote, cache)
    assert path.read_bytes() == b"other"


# ------------------------------------------------------------------------------- answers


def cut(request):
    answer(request, sent=len(CONTENT) // 2)


def cut_without_notice(request):
    answer(request, CONTENT[: len(CONTENT) // 2], Content_Length=None)


def corrupted(request):
    answer(request, CONTENT[:-1] + b"\0")


def a_page_to_log_in(request):
    answer(request, b"<html>Please log in</html>", Content_Type="text/html")


def silent(request):
    time.sleep(1)


def stalled(request):
    answer(request, sent=2000)
    request.wfile.flush()
    time.sleep(1)


def missing(request):
    answer(request, b"gone", status=404)


def broken(request):
    answer(request, b"oops", status=500)


def nonsense(request):
    request.wfile.write(b"\x00\xff" * 100)


def no_length(request):
    answer(request, Content_Length="many")


def in_circles(request):
    answer(request, b"", status=302, Location=request.path)


def to_a_file(request):
    answer(request, b"", status=302, Location="file:///etc/hostname")


def to_nowhere(request):
    answer(request, b"", status=301, Location="http://")


NOT_OURS = "is not the file that scvenn was tested with: expected the sha256 "
ANSWERS = {
    cut: "the connection ended before the file did",
    cut_without_notice: NOT_OURS,
    corrupted: NOT_OURS,
    a_page_to_log_in: NOT_OURS,
    silent: "nothing came for 0.2 seconds",
    stalled: "nothing came for 0.2 seconds",
    missing: "the server answered with the status 404",
    broken: "the server answered with the status 500",
    nonsense: "",
    no_length: "",
    in_circles: "Exceeded 30 redirects",
    to_a_file: "to file:///etc/hostname, which is not https",
    to_nowhere: "",
}


@pytest.mark.parametrize("how", ANSWERS, ids=lambda how: how.__name__)
def test_nothing_is_kept_of_another_answer_and_the_message_says_what_came(
    server, cache, how, monkeypatch
):
    monkeypatch.setattr(_downloads, "PATIENCE", 0.2)
    message = refused(server.remote(how), cache)
    assert f"{server.url}/data.h5" in message
    assert ANSWERS[how] in message


def test_the_message_of_a_wrong_digest_has_both_digests_and_the_size(server, cache):
    wrong = CONTENT[:-1] + b"\0"
    message = refused(server.remote(corrupted), cache)
    assert (
        f"expected the {digest(CONTENT).replace(':', ' ')}, found {digest(wrong)[7:]} " in message
    )
    assert "(1,280,000 bytes). It was not kept." in message


def test_a_wrong_archive_is_not_unpacked(server, member, cache):
    server.remote(partial(answer, content=archive_of(b"other")), "a.tar.gz")
    assert "a.tar.gz from http" in refused(member, cache)


def test_a_wrong_member_of_the_right_archive_is_refused(member, cache):
    with pytest.raises(ConnectionError, match=f"{MEMBER} from .* is not the file that"):
        fetch(member._replace(member_digest=digest(b"other")), cache)
    assert not (cache / "a.tar.gz.untar" / MEMBER).exists()


def test_a_server_that_is_not_there_cannot_be_reached(server, cache):
    remote = server.remote()._replace(url="http://127.0.0.1:9/data.h5")
    assert "data.h5: the server cannot be reached. Try again, or fetch" in refused(remote, cache)


# ------------------------------------------------------------------------------- redirects


def test_another_host_may_have_the_file(server, cache):
    with serving() as other:
        target = other.remote().url
        remote = server.remote(partial(answer, content=b"", status=302, Location=target))
        assert fetch(remote, cache).read_bytes() == CONTENT
    assert (server.asked, other.asked) == (["/data.h5"], ["/data.h5"])


def test_another_host_may_not_have_another_file(server, cache):
    with serving() as other:
        target = other.remote(corrupted).url
        remote = server.remote(partial(answer, content=b"", status=302, Location=target))
        assert NOT_OURS in refused(remote, cache)


@pytest.mark.parametrize(
    ("target", "allowed"),
    [
        ("https://other.org/x", True),
        ("/x", True),
        ("//other.org/x", True),
        ("http://pypi.org/x", False),
        ("ftp://pypi.org/x", False),
        ("file:///etc/passwd", False),
    ],
)
def test_https_leads_to_https_only(target, allowed):
    response = requests.Response()
    response.url, response.status_code = "https://pypi.org/data", 302
    response.headers["location"] = target
    if allowed:
        _downloads._check_redirect(response)
    else:
        with pytest.raises(InvalidSchema, match="which is not https"):
            _downloads._check_redirect(response)


# ------------------------------------------------------------------------------- proxies


def test_a_proxy_of_the_environment_is_used(server, cache, monkeypatch):
    url = "http://data.invalid/data.h5"
    server.answers[url] = answer
    monkeypatch.setenv("http_proxy", server.url)
    assert fetch(Remote(url, digest(CONTENT)), cache).read_bytes() == CONTENT
    assert server.asked == [url]


def test_a_host_of_no_proxy_is_reached_without_it(server, cache, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    assert fetch(server.remote(), cache).read_bytes() == CONTENT


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_proxy_that_is_not_there_is_named(server, cache, monkeypatch, scheme):
    monkeypatch.setenv(f"{scheme}_proxy", "http://user:secret@127.0.0.1:9")
    message = refused(Remote(f"{scheme}://data.invalid/data.h5", digest(CONTENT)), cache)
    assert "the proxy named by the environment variable https_proxy or http_proxy" in message
    assert "secret" not in message


# ------------------------------------------------------------------------------- the cache


@forks
def test_two_processes_may_download_at_once(server, member, cache):
    both = threading.Barrier(2)
    whole = archive_of(CONTENT)
    member = member._replace(digest=digest(whole))

    def together(request):
        both.wait(10)  # until both have asked
        answer(request, whole)

    server.answers["/a.tar.gz"] = together
    children = [in_child(lambda: fetch(member, cache)) for _ in range(2)]
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0]
    assert fetch(member, cache).read_bytes() == CONTENT
    assert sorted(path.name for path in cache.iterdir()) == ["a.tar.gz", "a.tar.gz.untar"]
    assert len(server.asked) == 2


@forks
def test_the_next_download_removes_what_a_killed_one_left(server, cache):
    started = threading.Event()

    def endless(request):
        answer(request, sent=2000)
        started.set()
        time.sleep(1)

    remote = server.remote(endless)
    child = in_child(lambda: fetch(remote, cache))
    assert started.wait(10)
    while not list(cache.glob(".scvenn-draft-*/*")):
        time.sleep(0.01)
    os.kill(child, 9)
    os.waitpid(child, 0)
    assert not (cache / "data.h5").exists()
    fetch(server.remote(), cache)
    assert [path.name for path in cache.iterdir()] == ["data.h5"]


def test_a_cache_that_cannot_be_made_is_named(server, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"The folder .*file/scvenn for downloads cannot be made"):
        fetch(server.remote(), tmp_path / "file" / "scvenn")


def test_every_data_set_has_a_digest_of_the_file_and_of_the_member():
    from scvenn.datasets import _REAL

    for _, remote in _REAL.values():
        digests = [remote.digest, *([remote.member_digest] if remote.member else [])]
        assert all(re.fullmatch(r"sha256:[0-9a-f]{64}|md5:[0-9a-f]{32}", one) for one in digests)
        assert remote.url.startswith("https://")
