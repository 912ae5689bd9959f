"""What the first line of the table of faults counts."""

from faults.ledger import Fault, Ledger, table


def test_inputs_of_a_fuzzer_and_examples_of_a_property_are_not_counted_as_faults(tmp_path):
    ledger = Ledger("some")
    ledger.add(Fault("training", "SIGKILL", tried=40, survived=39, lost="nothing"))
    ledger.add(Fault("clock", "jumps", tried=2, survived=2, lost="nothing"))
    ledger.add(Fault("property", "names", tried=500, survived=500, lost="nothing"))
    ledger.add(Fault("fuzz", "records", tried=7000, survived=6999, lost="nothing"))
    ledger.write(tmp_path)
    assert table(tmp_path).splitlines()[2].startswith(
        "42 faults tried, 41 survived; 500 examples of a property tried, 500 survived; "
        "7,000 inputs of a fuzzer tried, 6,999 survived. "
    )  # fmt: skip
