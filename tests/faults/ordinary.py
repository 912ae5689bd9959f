"""Kinds of fault that ordinary tests show: their cases are run and counted in the table of faults.

`python tests/faults/ordinary.py` writes reports/evidence/ordinary.json and draws faults.md again.
"""

import os
import sys
from collections import Counter
from pathlib import Path

import pytest
from ledger import REPORTS, TABLE, Fault, Ledger, table

from harness.records.schema import write_atomically

ROOT = Path(__file__).parents[2]
STEPS = "the steps since the last checkpoint"
KINDS = {  # what was done: the most work that any case loses, and the tests, each a function of a file
    "a run is stopped, or killed too, and continued: its log is that of an uninterrupted one": (STEPS, [
        "training/test_engine.py::test_the_log_of_a_run_that_was_stopped_is_that_of_one_that_was_not",
    ]),
    "an image of 16 bits or of another mode: read exactly, or refused by name": ("nothing", [
        "data/test_reading.py::test_pixels_are_read_exactly_or_the_file_is_refused_by_name",
        "data/test_reading.py::test_other_formats_are_read_for_training_or_refused",
        "data/test_reading.py::test_what_is_converted_is_named_once",
        "cli/test_cli_data.py::test_encode_refuses_a_grey_image_of_16_bits_by_name_and_writes_no_latents",
    ]),
    "labels of an .npz to evaluate: taken, or refused with their place": ("nothing", [
        "evaluation/test_image_sets.py::test_labels_are_taken_where_they_can_only_be_labels",
        "evaluation/test_image_sets.py::test_labels_that_cannot_be_classes_are_refused_with_their_place",
        "evaluation/test_evaluate.py::test_a_label_that_no_class_has_is_refused_with_its_place",
        "cli/test_inputs.py::test_a_label_that_no_class_has_is_named_with_its_place_even_without_a_reference",
    ]),
    "weights that are not finite, or beyond fp32: refused by the tensor's name": ("nothing", [
        "runs/test_published_weights.py::"
        "test_weights_that_are_not_finite_are_refused_by_the_name_of_the_tensor_and_the_place",
        "runs/test_published_weights.py::test_a_value_beyond_fp32_and_weights_of_whole_numbers_are_refused",
        "runs/test_published_weights.py::test_other_positions_than_ours_are_refused",
    ]),
    "weights stored in bf16 or another precision: imported": ("nothing", [
        "runs/test_published_weights.py::"
        "test_a_copy_in_another_precision_is_accepted_and_its_positions_are_still_compared",
        "runs/test_published_weights.py::test_positions_that_were_averaged_and_then_stored_in_bf16_are_accepted",
    ]),
    "images that would be left out: named": ("nothing", [
        "data/test_reading.py::test_no_image_is_left_out_in_silence",
        "data/test_reading.py::test_images_beside_classes_and_links_that_led_to_classes_are_named",
        "data/test_reading.py::test_a_folder_that_may_not_be_listed_is_told",
    ]),
    "IDDPM's tables against float64, and its respacing for every number of steps": ("nothing", [
        "model/test_formulations.py::test_iddpm_adds_noise_by_the_linear_schedule",
        "model/test_formulations.py::test_iddpm_adds_the_smallest_noise_exactly",
        "model/test_formulations.py::test_respacing_takes_the_published_steps_and_keeps_their_noise_levels",
        "model/test_formulations.py::test_respacing_is_the_official_one_for_every_number_of_steps",
    ]),
    "HUP, USR1, USR2, TERM or INT: the same command continues; one that the parent ignores stays ignored": ("nothing", [
        "training/test_engine.py::test_a_signal_finishes_the_step_saves_and_the_same_command_continues",
        "system/test_launch.py::test_a_signal_reaches_all_processes_and_a_slow_save_is_waited_for",
        "system/test_slurm.py::"
        "test_the_time_limit_reaches_the_processes_once_and_the_script_waits_for_their_save",
        "system/test_signals.py::test_a_stop_that_ends_in_another_error_is_still_a_stop",
        "system/test_signals.py::test_a_signal_that_the_parent_ignores_stays_ignored",
        "system/test_signals.py::test_a_hang_up_under_nohup_does_not_stop_training",
    ]),
    "--nproc that does not divide the batch, or that the machine does not have: refused": ("nothing", [
        "training/test_processes.py::test_a_batch_that_does_not_divide_is_refused",
        "system/test_launch.py::test_fewer_than_one_process_and_more_than_the_machine_has_are_refused",
        "cli/test_cli_processes.py::"
        "test_processes_that_cannot_share_the_batch_or_the_machine_are_refused_before_one_starts",
    ]),
    "a cache that cannot be written: the work goes on, or an error says so": ("what the cache would keep", [
        "evaluation/test_extract.py::test_a_cache_that_cannot_be_written_costs_a_warning_and_another_folder_an_error",
        "evaluation/test_extract.py::test_what_one_process_cannot_keep_reaches_the_main_one",
        "evaluation/test_classifier.py::test_a_cache_folder_that_cannot_be_written_costs_a_warning_only",
        "model/test_pretrained.py::test_a_cache_that_cannot_be_written_is_reported_as_such",
    ]),
    "an odd value of an option: refused by the option's name": ("nothing", [
        "cli/test_values.py::test_an_odd_value_is_refused_by_the_name_of_its_option",
        "cli/test_values.py::test_every_option_refuses_one_odd_value",
    ]),
    "a wrong word, file or array: the message says what is wrong and what mends it": ("nothing", [
        "cli/test_cli_errors.py::test_what_is_typed_wrongly_ends_with_2_and_one_line",
        "cli/test_cli_errors.py::test_a_wrong_setting_names_the_nearest_and_where_all_are_and_not_all_of_them",
        "cli/test_cli_data.py::test_a_wrong_command_says_what_why_and_what_to_do",
        "cli/test_inputs.py::test_images_under_another_key_are_missed_by_the_key_that_is_read",
        "data/test_own.py::test_an_npz_that_is_no_set_of_images_says_how_to_mend_it",
        "evaluation/test_image_sets.py::"
        "test_an_array_that_is_no_images_is_refused_with_what_it_is_and_how_to_mend_it",
        "runs/test_diffusers_layout.py::test_the_command_says_what_is_wrong_with_the_file_and_not_with_guidance",
    ]),
}  # fmt: skip


class Cases:
    """A plugin of pytest: how many cases of each function passed and failed. One that is skipped is not counted."""

    def __init__(self) -> None:
        self.ended: dict[str, Counter[str]] = {}
        self._failed: set[str] = set()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        function = report.nodeid.removeprefix("tests/").partition("[")[0]
        counts = self.ended.setdefault(function, Counter())
        if report.failed and report.nodeid not in self._failed:
            self._failed.add(report.nodeid)
            counts["failed"] += 1
        elif report.when == "call" and report.passed:
            counts["passed"] += 1


def main() -> int:
    """Runs the tests, counts their cases, and returns pytest's exit status."""
    os.chdir(ROOT)
    cases = Cases()
    wanted = list(dict.fromkeys(f"tests/{test}" for _, tests in KINDS.values() for test in tests))
    status = pytest.main(["-p", "no:cacheprovider", *wanted], plugins=[cases])
    ledger = Ledger("ordinary")
    for what, (lost, tests) in KINDS.items():
        counts: Counter[str] = sum((cases.ended.get(test, Counter()) for test in tests), Counter())
        files = ", ".join(dict.fromkeys(test.partition("::")[0] for test in tests))
        tried = counts["passed"] + counts["failed"]
        ledger.add(Fault("case", what, tried, counts["passed"], lost, {"shown by": files}))
    (REPORTS / "ordinary.json").unlink(missing_ok=True)  # with its rows of kinds that are no longer here
    ledger.write()
    write_atomically(REPORTS / TABLE, table())
    return int(status)


if __name__ == "__main__":
    sys.exit(main())
