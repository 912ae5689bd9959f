"""Where a record's commit comes from."""

import pytest

from harness.records import provenance
from harness.system.errors import UsageError

TOLD = "c" * 40


@pytest.mark.parametrize(
    ("from_git", "told", "commit"),
    [(None, TOLD, TOLD), (None, "", None), (None, None, None), ("d" * 40, TOLD, "d" * 40)],
    ids=["a copy without git that is told", "empty", "not told", "git knows better"],
)
def test_a_copy_without_git_is_told_its_commit(from_git, told, commit, monkeypatch):
    monkeypatch.setattr(provenance, "git", lambda root, command, *_: from_git if command == "rev-parse" else None)
    if told is None:
        monkeypatch.delenv(provenance.COMMIT, raising=False)
    else:
        monkeypatch.setenv(provenance.COMMIT, told)
    assert provenance.git_state() == (commit, None)


def test_a_commit_that_is_none_is_refused(monkeypatch):
    monkeypatch.setattr(provenance, "git", lambda *_: None)
    monkeypatch.setenv(provenance.COMMIT, "main")
    with pytest.raises(UsageError, match="HARNESS_COMMIT is 'main'; it must be the 40 hexadecimal digits"):
        provenance.git_state()
