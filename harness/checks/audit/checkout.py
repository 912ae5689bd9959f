"""The project's own files, where the harness runs from a checkout: what a reviewer looks for beside the runs."""

import re
import subprocess
from functools import cache
from pathlib import Path

import harness

TEXTS = ("README.md", "docs/**/*.md", "reports/**/*.md", "CHANGELOG.md")
OWN = "reports/audit"  # what audits wrote quotes every requirement, and is evidence of none


class Checkout:
    """A checkout's files by their paths from its root."""

    def __init__(self, root: Path):
        self.root = root

    def has(self, *patterns: str) -> bool:
        """Whether any of the glob patterns finds a file."""
        return bool(self.files(*patterns))

    def files(self, *patterns: str) -> list[Path]:
        return sorted({path for pattern in patterns for path in self.root.glob(pattern) if path.is_file()})

    def text(self, *patterns: str) -> str:
        """The texts of the files found, one after another, those of audits left out; empty where there is none."""
        own = self.root / OWN
        found = [path for path in self.files(*patterns) if own not in path.parents]
        return "\n".join(path.read_text(encoding="utf-8", errors="replace") for path in found)

    def mentions(self, words: str, *patterns: str) -> bool:
        """Whether a text says any of `words`, a regular expression that takes no notice of case."""
        return re.search(words, self.text(*(patterns or TEXTS)), re.IGNORECASE) is not None

    def tags(self) -> list[str]:
        """Names of the versions tagged in git; none where git is not there."""
        try:
            done = subprocess.run(
                ["git", "-C", str(self.root), "tag"], capture_output=True, text=True, check=False, encoding="utf-8"
            )
        except OSError:
            return []
        return done.stdout.split()


@cache
def find() -> Checkout | None:
    """The checkout that this code runs from; None where it was installed as a package alone."""
    root = Path(harness.__file__).parent.parent
    return Checkout(root) if (root / "pyproject.toml").is_file() and (root / "tests").is_dir() else None
