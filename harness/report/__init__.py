"""Figures, tables and pages made from records.

`from harness import report` gives this package once it is imported, and the public function has its name. Calling the
package calls that function.
"""

import sys
from types import ModuleType
from typing import Any

import harness


class _Report(ModuleType):
    def __call__(self, *args: Any, **options: Any) -> Any:
        return harness.__getattr__("report")(*args, **options)


sys.modules[__name__].__class__ = _Report
