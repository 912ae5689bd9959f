"""The process that carries the checks out, so that one that hangs or kills its process spoils itself alone.

`python -m harness.checks.doctor.worker MODULE FIRST NPROC` carries out MODULE's checks from
number FIRST on, and answers on
stdout, one JSON object a line: {"begins": number of a check}, then {"finding": ...} for each of its findings. The
checks' own words go to stderr.
"""

import importlib
import json
import os
import sys
from typing import Any, TextIO

from harness.checks.doctor.finding import Check, Finding, crashed


def answer(check: Check) -> list[Finding]:
    """Its findings; what it raises becomes the last of them."""
    findings: list[Finding] = []
    try:
        asked = check.ask()
        for finding in [asked] if isinstance(asked, Finding) else asked:
            findings.append(finding)
    except (Exception, SystemExit) as error:  # a library may raise anything when it is imported
        findings.append(crashed(check, error))
    return findings


def _say(channel: TextIO, document: dict[str, Any]) -> None:
    print(json.dumps(document), file=channel, flush=True)


def main() -> None:
    """Until the last check, or the one that ends this process."""
    module, first, nproc = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print must not be taken for an answer
    for number, check in enumerate(importlib.import_module(module).checks(nproc)):
        if number < first:
            continue
        _say(channel, {"begins": number})
        for finding in answer(check):
            _say(channel, {"finding": finding.as_json()})


if __name__ == "__main__":
    main()
