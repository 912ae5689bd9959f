"""The list of deliberate faults keeps up with the code; `make mutants` runs them."""

import ast

import pytest
from mutants import MUTANTS, ROOT, Mutant, mutated, run


@pytest.mark.parametrize("mutant", MUTANTS, ids=[mutant.name for mutant in MUTANTS])
def test_a_mutant_changes_one_place_and_stays_a_program(mutant):
    source = (ROOT / mutant.file).read_text()
    changed = mutated(mutant, source)
    assert ast.dump(ast.parse(changed)) != ast.dump(ast.parse(source))
    assert all((ROOT / test).is_file() for test in mutant.tests)


def test_names_of_mutants_differ():
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS) >= 20


@pytest.mark.slow
def test_a_fault_is_caught_and_a_change_without_effect_survives():
    file, tests = "harness/training/ema.py", ("tests/training/test_ema.py",)
    old = "self._fast, 1 - self.decay_at(step))"
    fault = Mutant("fault", file, old, old.replace("1 - ", "0.5 * "), tests)
    none = Mutant("none", file, old, old.replace("1 - ", "1.0 - "), tests)
    caught, survived = run([fault, none], tell=lambda line: None)
    assert caught.caught_by.startswith("training/test_ema.py::")
    assert survived.caught_by is None


def test_a_mutant_whose_code_has_gone_is_refused():
    with pytest.raises(ValueError, match="write the mutant anew"):
        mutated(Mutant("gone", "harness/training/ema.py", "no such line", "", ()), "some code")
