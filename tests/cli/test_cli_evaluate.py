"""`harness evaluate` and `harness sample` as a user meets them: answers on stdout, one line for every bad input."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from command_line import invoke as harness
from small import small_config
from tiny_run import trained

from harness.data.images.uint8 import to_uint8
from harness.records.schema import Evaluation, read_record

DIGITS = ("--features", "digits", "--reference", "digits")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A small trained run, not evaluated yet."""
    return trained(small_config("dit", "num_images=60", "sampling.num_steps=3"), tmp_path_factory.mktemp("runs"))


@pytest.fixture
def samples(digits, tmp_path):
    path = tmp_path / "samples.npz"
    np.savez(path, arr_0=to_uint8(digits.clean)[:200].numpy(), labels=digits.labels[:200].numpy())
    return path


def test_a_file_is_measured_and_the_answer_is_one_document(samples, tmp_path):
    done = harness("evaluate", samples, *DIGITS, "--json", "--out", tmp_path / "answer.json")
    assert done.exit_code == 0, done.stderr
    answer = json.loads(done.stdout)
    assert set(answer["metrics"]) == {
        f"{metric}-digits@200" for metric in ("fd", "sfd", "is", "precision", "recall", "class_accuracy")
    }
    assert answer["metrics"]["class_accuracy-digits@200"] > 0.95
    assert Evaluation.model_validate(answer) == read_record(tmp_path / "answer.json", Evaluation)
    assert "computing" in done.stderr


@pytest.mark.parametrize("what", ["samples", "folder"])
def test_all_metrics_are_those_of_the_default_and_more(what, request):
    told = harness("evaluate", request.getfixturevalue(what), "--metrics", "all", "--json", *DIGITS)
    assert told.exit_code == 0, told.output
    measured = {name.partition("-")[0] for name in json.loads(told.stdout)["metrics"]}
    assert measured >= {"fd", "sfd", "is", "precision", "recall", "class_accuracy", "density", "coverage"}


def test_evaluations_of_a_run_accumulate_and_the_record_names_the_conditions(folder):
    before = set((folder / "evaluations").glob("*.json"))
    first = harness("evaluate", folder, "--num", 50, "--json")
    assert first.exit_code == 0, first.output
    guided = harness("evaluate", folder, "--num", 50, "--cfg-scale", 2, "--set", "guidance_interval=[0.3, 5]", "--json")
    assert guided.exit_code == 0, guided.output
    assert len(set((folder / "evaluations").glob("*.json")) - before) == 2
    assert "written to" in guided.stderr
    protocol = json.loads(guided.stdout)["protocol"]
    assert (protocol["guidance_scale"], protocol["guidance_interval"]) == (2, [0.3, 5])
    words = harness("evaluate", folder, "--num", 50, "--metrics", "fid,precision").stdout
    assert words.startswith("fd-digits@50")
    assert "NFE 3, no guidance, random labels, seed 0" in words
    assert max(map(len, words.splitlines())) <= 80


def test_a_checkpoint_of_an_earlier_step_is_measured_when_asked_for(folder):
    told = harness("evaluate", folder, "--step", 2, "--num", 50, "--metrics", "fd", "--json")
    assert json.loads(told.stdout)["step"] == 2
    missing = harness("evaluate", folder, "--step", 3)
    assert missing.exit_code == 4
    assert "no whole checkpoint of step 3" in missing.stderr
    assert "Steps there: 2, 4" in missing.stderr


def test_drawn_samples_are_measured_as_the_run_is(folder):
    """`sample --npz` writes what `evaluate` would draw: same seed, same label rule, same images."""
    told = harness("sample", folder, "--num", 50, "--labels", "random", "--npz", "--json")
    assert told.exit_code == 0, told.output
    path = json.loads(told.stdout)["files"][-1]
    with np.load(path, allow_pickle=False) as archive:
        assert (archive["arr_0"].dtype, archive["arr_0"].shape) == (np.uint8, (50, 8, 8, 1))
    run = json.loads(harness("evaluate", folder, "--num", 50, "--json").stdout)
    file = json.loads(harness("evaluate", path, *DIGITS, "--json").stdout)
    assert file["samples_sha256"] == run["samples_sha256"]
    assert file["metrics"] == pytest.approx(run["metrics"], rel=1e-9)


def test_a_reference_is_made_of_a_data_set_and_used(samples, tmp_path):
    path = tmp_path / "mine.npz"
    made = harness("evaluate", "digits", "--make-reference", path, "--features", "digits", "--json")
    assert made.exit_code == 0, made.output
    assert json.loads(made.stdout)["num_images"] == 1797
    against_file = json.loads(
        harness("evaluate", samples, "--features", "digits", "--reference", path, "--json").stdout
    )
    against_data = json.loads(harness("evaluate", samples, *DIGITS, "--json").stdout)
    assert against_file["metrics"] == pytest.approx(against_data["metrics"], rel=1e-9)


@pytest.mark.slow
def test_the_self_test_passes_and_fails_when_a_metric_is_wrong(monkeypatch):
    told = harness("evaluate", "--self-test")
    assert told.exit_code == 0, told.output
    assert "21 of 21 checks passed" in told.stdout
    assert max(map(len, told.stdout.splitlines())) <= 80
    from harness.evaluation.metrics import self_test

    monkeypatch.setattr(self_test, "order_suspicion", lambda logits: None)
    broken = harness("evaluate", "--self-test", "--json")
    assert broken.exit_code == 6
    assert json.loads(broken.stdout)["passed"] is False
    assert "images sorted by class are noticed" in broken.stderr


BAD = {
    "absent": lambda path, images: None,
    "other keys": lambda path, images: np.savez(path, pictures=images),
    "floats": lambda path, images: np.savez(path, arr_0=images / 127.5 - 1),
    "flat": lambda path, images: np.savez(path, arr_0=np.full_like(images, 9)),
    "copies": lambda path, images: np.savez(path, arr_0=np.repeat(images[:2], 30, 0)),
    "colour": lambda path, images: np.savez(path, arr_0=np.repeat(images, 3, -1)),
    "empty folder": lambda path, images: path.mkdir(),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_images_end_with_4_and_one_line_and_leave_nothing(kind, tmp_path, digits, monkeypatch):
    path = tmp_path / "bad.npz"
    BAD[kind](path, to_uint8(digits.clean)[:60].numpy())
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))
    done = harness("evaluate", path, *DIGITS, "--out", tmp_path / "answer.json")
    assert done.exit_code == 4, done.output
    assert done.stdout == ""
    error = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(error) == 1
    assert kind != "absent" or "there is no" in error[0]
    assert not (tmp_path / "answer.json").exists()
    assert not list((tmp_path / "cache").glob("features/*/*/*.tmp"))


@pytest.mark.parametrize(
    ("arguments", "exit_code", "says"),
    [
        ((), 2, "name a run folder, an .npz or a folder of PNGs"),
        (("SAMPLES",), 2, "name the --reference"),
        (("SAMPLES", *DIGITS, "--metrics", "fidd"), 2, "no metric is called 'fidd'"),
        (("SAMPLES", *DIGITS, "--cfg-scale", "2"), 2, "--cfg-scale says how a run is sampled"),
        (("SAMPLES", *DIGITS, "--weights", "random"), 2, "Leave --weights out"),
        (("SAMPLES", "--features", "digit", "--reference", "digits"), 2, "Did you mean digits"),
        (("SAMPLES", "--features", "digits", "--reference", "absent.npz"), 4, "there is no reference absent.npz"),
        (
            ("SAMPLES", "--features", "digits", "--reference", "STATISTICS", "--metrics", "fd,recall"),
            4,
            "this reference holds statistics alone",
        ),
        (("SAMPLES", "--features", "digits", "--reference", "OTHERS"), 4, "mu in others.npz has 2048 numbers"),
        (("SAMPLES", *DIGITS, "--seed", "0"), 2, "--seed says how a run is sampled"),
        (("SAMPLES", *DIGITS, "--out", "nowhere/answer.json"), 2, "there is no folder nowhere"),
        (("--self-test", "--metrics", "fd"), 2, "--metrics says nothing beside --self-test"),
        (("digits", "--make-reference", "r.npz", "--spread"), 2, "--spread says nothing beside --make-reference"),
        (("SAMPLES", "--features", "digits", "--reference", "FOLDER"), 4, "Make a reference of its images"),
        (("SAMPLES", *DIGITS, "--size", "64"), 2, "--size belongs to --make-reference"),
        (("digits", "--make-reference", "reference.txt", "--features", "digits"), 2, "must end in .npz"),
    ],
)
def test_what_cannot_be_done_is_told_in_one_line(arguments, exit_code, says, samples, tmp_path):
    np.savez(tmp_path / "statistics.npz", mu=np.zeros(64), sigma=np.eye(64))
    np.savez(tmp_path / "others.npz", mu=np.zeros(2048), sigma=np.eye(2048))
    names = {
        "SAMPLES": samples,
        "STATISTICS": tmp_path / "statistics.npz",
        "OTHERS": tmp_path / "others.npz",
        "FOLDER": tmp_path,
    }
    done = harness("evaluate", *(names.get(argument, argument) for argument in arguments))
    assert done.exit_code == exit_code, done.output
    assert says in done.stderr


def test_images_sorted_by_class_get_no_inception_score_and_are_told_why(digits, tmp_path, monkeypatch):
    from harness.evaluation.metrics import scores

    monkeypatch.setattr(scores, "SCORE_BLOCK", 300)  # the digits are fewer than two of ADM's blocks
    order = digits.labels.argsort()
    np.savez(tmp_path / "sorted.npz", arr_0=to_uint8(digits.clean)[order].numpy())
    done = harness("evaluate", tmp_path / "sorted.npz", *DIGITS, "--metrics", "is", "--spread")
    assert done.exit_code == 0, done.output
    assert "is-digits" not in done.stdout
    assert "sorted by class" in " ".join(done.stdout.split())


def test_an_evaluation_with_errors_is_not_overwritten_by_one_without(folder):
    with_errors = json.loads(harness("evaluate", folder, "--num", 55, "--spread", "--json").stdout)
    without = json.loads(harness("evaluate", folder, "--num", 55, "--json").stdout)
    kept = read_record(folder / "evaluations" / f"{with_errors['name']}.json", Evaluation)
    assert kept.standard_errors
    assert without["name"] != with_errors["name"]


def test_what_was_settled_in_training_cannot_be_changed_afterwards(folder):
    done = harness("sample", folder, "--set", "learning_rate=1")
    assert done.exit_code == 2
    assert "protocol was settled when the run was trained" in done.stderr


def test_inception_without_its_weights_says_where_to_put_them(samples, monkeypatch, tmp_path):
    from harness.evaluation.networks import inception

    nowhere = replace(inception.PUBLISHED, url="http://127.0.0.1:9/weights.pth")
    monkeypatch.setattr(inception, "PUBLISHED", nowhere)
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path))
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    done = harness("evaluate", samples, "--reference", "digits")
    assert done.exit_code == 3
    assert str(tmp_path / "inception" / inception.PUBLISHED.file) in done.stderr
