"""Downloads from a local server: resumed after any fault, never accepted with a wrong checksum."""

import hashlib
import http.server
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from mace_mm.data.fetch import SPICE_RELEASES, Release, fetch, read_releases
from mace_mm.errors import ConfigError, DataError

CONTENT = np.random.default_rng(0).bytes(3_000_000)
QUICK = dict(wait=0.01, timeout=10.0)


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves CONTENT; the server's attributes say how badly."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):  # noqa: N802
        server = self.server
        start = 0
        wanted = self.headers.get("Range")
        server.requests.append(wanted)
        if "missing" in self.path:
            self.send_error(404)
            return
        if server.busy:
            server.busy -= 1
            self.send_error(503)
            return
        if wanted and server.ranges:
            start = int(wanted.removeprefix("bytes=").rstrip("-"))
            if start >= len(CONTENT):
                self.send_error(416)
                return
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(CONTENT) - 1}/{len(CONTENT)}")
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(CONTENT) - start))
        self.end_headers()
        body = CONTENT[start:]
        if server.drop_after:
            body = body[: server.drop_after]
        for k in range(0, len(body), 50_000):
            self.wfile.write(body[k : k + 50_000])
            time.sleep(server.delay)
        if len(body) < len(CONTENT) - start:
            self.close_connection = True

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.requests, server.ranges, server.drop_after = [], True, 0
    server.busy, server.delay = 0, 0.0
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def release(server, name="data.hdf5", content=CONTENT, kind="sha256", size=None):
    digest = hashlib.new(kind, content).hexdigest()
    url = f"http://127.0.0.1:{server.server_address[1]}/files/{name}?download=1"
    return Release(url=url, checksum=f"{kind}:{digest}", size=size)


@pytest.mark.parametrize("kind", ["md5", "sha256"])
def test_a_download_is_whole_and_not_repeated(server, tmp_path, kind):
    seen = []
    path = fetch(release(server, kind=kind), tmp_path / "new", progress=lambda *a: seen.append(a))
    assert path.name == "data.hdf5" and path.read_bytes() == CONTENT
    assert seen[-1] == (len(CONTENT), len(CONTENT)) and server.requests == [None]
    assert fetch(release(server, kind=kind), tmp_path / "new") == path
    assert len(server.requests) == 1 and list(path.parent.iterdir()) == [path]


def test_dropped_connections_are_resumed(server, tmp_path):
    server.drop_after = 700_000
    server.busy = 2
    path = fetch(release(server), tmp_path, **QUICK)
    assert path.read_bytes() == CONTENT
    starts = [r for r in server.requests if r]
    assert starts[0] == "bytes=700000-" and len(server.requests) == 7


def test_a_server_without_ranges_starts_over(server, tmp_path):
    server.ranges = False
    (tmp_path / "data.hdf5.partial").write_bytes(CONTENT[:1000])
    assert fetch(release(server), tmp_path, **QUICK).read_bytes() == CONTENT
    assert server.requests == ["bytes=1000-"]


@pytest.mark.parametrize("size", [None, len(CONTENT)])
def test_a_complete_partial_file_is_only_verified(server, tmp_path, size):
    (tmp_path / "data.hdf5.partial").write_bytes(CONTENT)
    path = fetch(release(server, size=size), tmp_path, **QUICK)
    assert path.read_bytes() == CONTENT and len(server.requests) == (size is None)


def test_a_wrong_checksum_is_refused_and_removed(server, tmp_path):
    with pytest.raises(DataError, match="checksum must be sha256:.*got sha256:.*removed"):
        fetch(release(server, content=b"other"), tmp_path, **QUICK)
    assert list(tmp_path.iterdir()) == []
    # A partial file with one wrong byte ends the same way, and the next call succeeds.
    (tmp_path / "data.hdf5.partial").write_bytes(b"x" + CONTENT[1:5000])
    with pytest.raises(DataError, match="removed"):
        fetch(release(server), tmp_path, **QUICK)
    assert fetch(release(server), tmp_path, **QUICK).read_bytes() == CONTENT


def test_another_file_of_that_name_is_left_alone(server, tmp_path):
    (tmp_path / "data.hdf5").write_bytes(b"precious")
    with pytest.raises(DataError, match="move it away"):
        fetch(release(server), tmp_path, **QUICK)
    assert (tmp_path / "data.hdf5").read_bytes() == b"precious" and not server.requests


def test_failures_are_errors_and_keep_the_bytes(server, tmp_path):
    with pytest.raises(DataError, match="404"):
        fetch(release(server, name="missing"), tmp_path, **QUICK)
    server.busy = 99
    (tmp_path / "data.hdf5.partial").write_bytes(CONTENT[:1000])
    with pytest.raises(DataError, match="503.*1000 bytes are kept"):
        fetch(release(server), tmp_path, attempts=2, **QUICK)
    closed = Release(url="http://127.0.0.1:9/file.hdf5", checksum="md5:" + "0" * 32)
    with pytest.raises(DataError, match="could not be downloaded"):
        fetch(closed, tmp_path, attempts=1, **QUICK)


def test_no_room_is_said_before_the_disk_is_full(server, tmp_path, monkeypatch):
    import mace_mm.data.fetch as module

    usage = type("Usage", (), {"free": 1_000_000})
    monkeypatch.setattr(module.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(DataError, match="0.0 GB are needed"):
        fetch(release(server), tmp_path, **QUICK)


def test_a_killed_download_goes_on(server, tmp_path):
    server.delay = 0.02
    wanted = release(server)
    code = (
        "from mace_mm.data.fetch import Release, fetch\n"
        f"fetch(Release(url={wanted.url!r}, checksum={wanted.checksum!r}), {str(tmp_path)!r})"
    )
    process = subprocess.Popen([sys.executable, "-c", code])
    partial = tmp_path / "data.hdf5.partial"
    while process.poll() is None and not (partial.exists() and partial.stat().st_size > 1_000_000):
        time.sleep(0.01)
    process.kill()
    assert process.wait() == -9 and partial.exists()
    kept = partial.stat().st_size
    server.delay = 0.0
    assert fetch(wanted, tmp_path, **QUICK).read_bytes() == CONTENT
    assert server.requests[-1] == f"bytes={kept}-" and kept > 0


def test_releases_are_configuration(tmp_path):
    assert SPICE_RELEASES["2.0.1"].file_name == "SPICE-2.0.1.hdf5"
    assert all(r.url.startswith("https://zenodo.org/records/") for r in SPICE_RELEASES.values())
    path = tmp_path / "releases.yaml"
    path.write_text(f"'3.0':\n  url: https://example.org/a.hdf5\n  checksum: md5:{'a' * 32}\n")
    assert read_releases(path)["3.0"].size is None
    bad = {
        "'3.0': {url: https://example.org/a}": "needs url and checksum",
        "[1, 2]": "expected settings",
        "a: [": "releases.yaml",
        f"'3': {{url: 'ftp://x', checksum: 'md5:{'a' * 32}'}}": "http or https",
        "'3': {url: 'https://x', checksum: 'md5:12'}": "hexadecimal digits",
        f"'3': {{url: 'https://x', checksum: 'md5:{'a' * 32}', sise: 3}}": "unknown keys sise",
    }
    for text, message in bad.items():
        path.write_text(text)
        with pytest.raises(ConfigError, match=message):
            read_releases(path)
