"""Weights are fetched over https alone, checked before they have a name, and no larger than they can be."""

import hashlib
import http.server
import shutil
import ssl
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.data.latents import vae
from harness.evaluation.networks import inception, transformers_networks
from harness.system.errors import HarnessError, SetupError


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
    """Its address. The harness trusts its certificate and pins the hash of what /good gives."""
    served = http.server.ThreadingHTTPServer(("localhost", 0), Answers)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    served.socket = context.wrap_socket(served.socket, server_side=True)
    thread = threading.Thread(target=served.serve_forever, daemon=True)
    thread.start()
    monkeypatch.setenv("SSL_CERT_FILE", f"{certificate}.crt")
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(inception, "SHA256", hashlib.sha256(Answers.content).hexdigest())
    yield f"https://localhost:{served.server_address[1]}"
    served.shutdown()
    served.server_close()
    thread.join()


def left(tmp_path: Path) -> list[str]:
    return sorted(path.name for path in (tmp_path / "cache").rglob("*") if path.is_file())


def test_the_right_file_is_kept_under_its_name(server, tmp_path, monkeypatch):
    monkeypatch.setattr(inception, "URL", f"{server}/good")
    assert inception._download().read_bytes() == Answers.content
    assert left(tmp_path) == [inception.FILE]


@pytest.mark.parametrize("path", ["/short", "/large", "/plain"])
def test_half_a_file_too_much_and_a_way_to_http_leave_nothing_behind(server, tmp_path, monkeypatch, path):
    monkeypatch.setattr(inception, "URL", f"{server}{path}")
    monkeypatch.setattr(inception, "LARGEST", 2 * len(Answers.content))
    with pytest.raises(SetupError, match=f"could not be downloaded.*{inception.SHA256}"):
        inception._download()
    assert left(tmp_path) == []


def test_another_file_than_the_pinned_one_leaves_nothing_behind(server, tmp_path, monkeypatch):
    monkeypatch.setattr(inception, "URL", f"{server}/good")
    monkeypatch.setattr(inception, "SHA256", "0" * 64)
    with pytest.raises(SetupError, match="what came was"):
        inception._download()
    assert left(tmp_path) == []


def test_a_certificate_that_nobody_vouches_for_is_refused(server, tmp_path, monkeypatch):
    monkeypatch.delenv("SSL_CERT_FILE")
    monkeypatch.setattr(inception, "URL", f"{server}/good")
    with pytest.raises(SetupError, match="could not be downloaded"):
        inception._download()
    assert left(tmp_path) == []


def test_every_published_file_is_fetched_by_https_and_pinned():
    published = [*vae.PUBLISHED.values()]
    assert published
    for each in published:
        assert len(each.sha256) == 64
    assert all(each.address(id).startswith("https://") for id, each in vae.PUBLISHED.items())
    for each in (transformers_networks.DINOV2, transformers_networks.CLIP):
        assert each.published.address.startswith("https://")
        assert len(each.published.sha256) == 64
    assert inception.URL.startswith("https://")


def test_a_file_with_another_hash_is_never_used(tmp_path, monkeypatch):
    (tmp_path / inception.FILE).write_bytes(b"not the published weights")
    monkeypatch.setenv("HARNESS_FEATURES", str(tmp_path))
    with pytest.raises(HarnessError, match="not the published file"):
        inception.load()
