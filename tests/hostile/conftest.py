"""Hostile input: how many examples each property gets, and the ledger of the long form.

HARNESS_FAULTS=long tries more than 100,000 examples in all, each one new, and writes reports/evidence/hostile.json.
"""

import pytest
from examples import COUNTS, LONG
from faults.ledger import Fault, Ledger
from hypothesis import HealthCheck, Phase, settings

settings.register_profile(
    "hostile",
    deadline=None,
    database=None,
    derandomize=not LONG,  # the short form tries the same examples every time
    suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.generate, Phase.shrink],
)
settings.load_profile("hostile")


def pytest_sessionfinish(session: pytest.Session) -> None:
    if LONG and COUNTS:
        ledger = Ledger("hostile")
        for what, count in COUNTS.items():
            ledger.add(Fault("property", what, tried=count.tried, survived=count.survived, lost="nothing"))
        ledger.write()
