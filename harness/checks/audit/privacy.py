"""Nothing in a record names a machine, a person or a folder of theirs."""

import getpass
import re
import socket
from collections.abc import Collection, Iterator
from functools import cache
from pathlib import Path

from harness.checks.finding import Finding, judged
from harness.records.run_folder import RunFolder

TEXTS = (".json", ".jsonl", ".yaml", ".yml", ".txt", ".md", ".csv", ".log")
LARGEST = 64 << 20  # bytes of one file that are read
# Folders that exist on machines. A path that begins with one is absolute, whatever text precedes it.
OF_MACHINES = (
    "home|Users|root|scratch|work|mnt|media|srv|nfs|gpfs|lustre|project|projects|workspace|content|Volumes|var|tmp|data"
)
OCTET = r"(?:25[0-5]|2[0-4]\d|1?\d?\d)"
PATTERNS = {
    "an absolute path": re.compile(
        r"""(?:^|[\s"'=:,(\[{<>;|])(?:/[^\s/\\"'<>|:]+){2,}|["'](?:/[^"'/\n]+){2,}"""
        rf"|(?<![\w.~/-])/(?:{OF_MACHINES})(?![\w.-])",
        re.MULTILINE,
    ),
    "a URL of files": re.compile(r"\b(?:file|smb|nfs|sftp|ssh|ftp|s3|gs)://", re.IGNORECASE),
    "a share of a network": re.compile(r"(?<![\w\\])(?:\\\\|\\{4})[\w.-]+\\{1,2}[\w$]"),
    "an absolute path of Windows": re.compile(r"""(?:^|[\s"'=:,(\[])[A-Za-z]:\\+[\w.]"""),
    "a home folder": re.compile(r"""(?:^|[\s"'=:,(\[])~[\w.-]*/"""),
    "a key for a host or user": re.compile(r'"(?:host|hostname|node|user|username|login|email|ip)"\s*:', re.IGNORECASE),
    "an address": re.compile(r"(?<![\w.+-])[\w.+-]+@[\w-]+\.[a-z]{2,}\b"),
    "an address of a network card": re.compile(r"\b(?:[0-9a-f]{2}:){5}[0-9a-f]{2}\b", re.IGNORECASE),
    "an IP address": re.compile(
        rf"(?<![\w.+-])(?:{OCTET}\.){{3}}{OCTET}(?![\w+-]|\.\w)"
        r"|(?<![\w:])(?:fe80|f[cd][0-9a-f]{2}|2[0-9a-f]{3})(?::[0-9a-f]{0,4}){2,7}(?![\w:])",
        re.IGNORECASE,
    ),
    "a token": re.compile(r"\b(?:hf_|ghp_|gho_|github_pat_|sk-|AKIA)[A-Za-z0-9_]{16,}"),
}
PLAIN_USERS = {"root", "user", "users", "admin", "ubuntu", "runner", "nobody", "docker", "guest", "test"}


def privacy(run: RunFolder) -> Finding:
    """Scan every text file of the folder. The finding names the kind and the file, and does not repeat the text."""
    found, files = [], 0
    versions = set(run.manifest.packages.values()) if run.manifest else set()
    for path in sorted(run.folder.rglob("*")):
        if path.suffix not in TEXTS or not path.is_file() or path.stat().st_size > LARGEST:
            continue
        files += 1
        try:
            text = path.read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue  # the check of records reports a document that cannot be read
        name = path.relative_to(run.folder).as_posix()
        found += [f"{name} holds {what}" for what in _private_in(text, versions)]
    return judged(found, f"{files} texts")


def _private_in(text: str, versions: Collection[str]) -> Iterator[str]:
    """Kinds of private text in `text`. A version of a package may have four numbers and is no IP address."""
    for what, pattern in PATTERNS.items():
        if any(match.group() not in versions for match in pattern.finditer(text)):
            yield what
    yield from (what for what, pattern in _of_this_machine() if pattern.search(text))


@cache
def _of_this_machine() -> list[tuple[str, re.Pattern[str]]]:
    """The names of this machine and of the user, unless they are common words."""
    host = socket.gethostname().split(".")[0]
    names = [("this machine's name", host)] if len(host) > 4 and re.search(r"[\d-]", host) else []
    try:
        user = getpass.getuser()
    except (OSError, KeyError):
        user = Path.home().name
    names += [("the user's name", user)] if len(user) > 3 and user not in PLAIN_USERS else []
    return [(what, re.compile(rf"(?<![\w-]){re.escape(name)}(?![\w-])")) for what, name in names]
