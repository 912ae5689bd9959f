"""Weights are fetched over https alone, checked before they have a name, and no larger than they can be."""

import hashlib
import http.server
import shutil
import ssl
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from harness.model.pretrained import Pretrained
from harness.system.errors import SetupError


@pytest.fixture(scope="module")
def certificate(tmp_path_factory) -> Path:
    if shutil.which("openssl") is None:
        pytest.skip("openssl makes the server's certificate")
    path = tmp_path_factory.mktemp("tls") / "server.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=localhost",
         "-addext", "subjectAltName=DNS:localhost", "-keyout", str(path), "-out", f"{path}.crt"],
        check=True, capture_output=True,
    )  # fmt: skip
    path.write_bytes(path.read_bytes() + Path(f"{path}.crt").read_bytes())
    return path


class Answers(http.server.BaseHTTPRequestHandler):
    """/good gives the file, /short half of it, /large too much, /plain leads to http."""

    content = b"the published weights"
    plain = "http://localhost:1/"
    asked: list[str] = []  # noqa: RUF012

    def do_GET(self) -> None:
        self.asked.append(self.path)
        if self.path == "/plain":
            self.send_response(302)
            self.send_header("Location", self.plain)
            self.end_headers()
            return
        content = self.content * (10 if self.path == "/large" else 1)
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[: len(content) // 2] if self.path == "/short" else content)

    def log_message(self, *words: object) -> None:
        """Nothing to stderr."""


@pytest.fixture
def server(certificate, monkeypatch, tmp_path) -> Iterator[str]:
    """Its address. The harness trusts its certificate."""
    served = http.server.ThreadingHTTPServer(("localhost", 0), Answers)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    served.socket = context.wrap_socket(served.socket, server_side=True)
    thread = threading.Thread(target=served.serve_forever, daemon=True)
    thread.start()
    monkeypatch.setenv("SSL_CERT_FILE", f"{certificate}.crt")
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))
    yield f"https://localhost:{served.server_address[1]}"
    served.shutdown()
    served.server_close()
    thread.join()


def left(tmp_path: Path) -> list[str]:
    return sorted(path.name for path in (tmp_path / "cache").rglob("*") if path.is_file())


def published(url: str, **changes: object) -> Pretrained:
    sha256 = hashlib.sha256(Answers.content).hexdigest()
    known = Pretrained(name="weights", file="weights.pth", sha256=sha256, url=url, largest=2 * len(Answers.content))
    return replace(known, **changes)


def test_the_right_file_is_kept_under_its_name(server, tmp_path):
    assert published(f"{server}/good").get().read_bytes() == Answers.content
    assert left(tmp_path) == ["weights.pth"]


@pytest.mark.parametrize("path", ["/short", "/large", "/plain"])
def test_half_a_file_too_much_and_a_way_to_http_leave_nothing_behind(server, tmp_path, path):
    file = published(f"{server}{path}")
    with pytest.raises(SetupError, match=f"could not be downloaded.*{file.sha256}"):
        file.get()
    assert left(tmp_path) == []


def test_another_file_than_the_pinned_one_leaves_nothing_behind(server, tmp_path):
    with pytest.raises(SetupError, match="what came was"):
        published(f"{server}/good", sha256="0" * 64).get()
    assert left(tmp_path) == []


def test_a_certificate_that_nobody_vouches_for_is_refused(server, tmp_path, monkeypatch):
    monkeypatch.delenv("SSL_CERT_FILE")
    with pytest.raises(SetupError, match="could not be downloaded"):
        published(f"{server}/good").get()
    assert left(tmp_path) == []
