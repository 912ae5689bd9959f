"""Files of others, fetched over https and known by their sha256."""

import hashlib
import urllib.request
from collections.abc import Callable
from http.client import HTTPException
from pathlib import Path
from typing import Any

from harness.system.errors import one_line
from harness.system.files import whole_file

PATIENCE_SECONDS = 20  # how long the server's answer may take, and each further piece of it


def fetch(url: str, path: Path, *, sha256: str, most: int, unpacked: Callable[[bytes], bytes] = bytes) -> None:
    """The file at `url` to `path`, of at most so many bytes. It gets its name only once it is whole and the right one.

    What came is `unpacked` first: hash, bound and file are of that. Raises OSError, in one line, of net, server or
    disk, or where something else came.
    """
    try:
        with urllib.request.build_opener(_StaysEncrypted).open(url, timeout=PATIENCE_SECONDS) as answer:
            content = answer.read(most + 1)
        if len(content) > most:
            raise OSError(f"more than {most:,} bytes came")
        content = unpacked(content)
        found = hashlib.sha256(content).hexdigest()
        if found != sha256:
            raise OSError(f"what came was {len(content):,} bytes of sha256 {found}")
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as temporary:
            temporary.write_bytes(content)
    except (OSError, HTTPException) as error:
        reason = one_line(error).removeprefix("<urlopen error ").removesuffix(">")
        raise OSError(reason or type(error).__name__) from None


class _StaysEncrypted(urllib.request.HTTPRedirectHandler):
    """Follows no answer that leads from https to anything else. What came would be hashed all the same."""

    def redirect_request(
        self, req: urllib.request.Request, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        if req.full_url.startswith("https:") and not newurl.startswith("https:"):
            raise OSError(f"the server leads to {newurl[:200]}, which is not https")
        return super().redirect_request(req, fp, code, msg, headers, newurl)
