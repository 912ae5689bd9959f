"""Whatever value an option gets, the command says which option is wrong, and what it must be; it never fails inside."""

import pytest
import torch
from command_line import invoke
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from official import official_state

from harness.model.shape import shape_of
from harness.planning.plan import resolve
from harness.runs import importing

TEXT = st.text(st.characters(min_codepoint=33, max_codepoint=0x2FF, exclude_characters="-,"), min_size=1, max_size=8)
WORD = TEXT.map(lambda text: f"?{text}")  # no value of any option
NO_NUMBER = st.one_of(WORD, st.sampled_from(["", "nan", "1e", "1.5.2", "--", "one", "0x1p3"]))
NEGATIVE = st.integers(max_value=-1).map(str)
HUGE = st.integers(min_value=2**63).map(str)
SEED = st.one_of(NEGATIVE, HUGE, NO_NUMBER)
COUNT = st.one_of(SEED, st.just("0"))
SCALE = st.one_of(st.sampled_from(["nan", "inf", "-inf", "1e999", "0.5", "-1", "0"]), WORD)
NAME = st.one_of(WORD, st.just("no-such-name"))

RUN, EVALUATE, SAMPLE = ["run", "dit-tiny", "--dry-run"], ["evaluate", "IMPORTED"], ["sample", "IMPORTED"]
JOB, BENCH = ["run", "dit-tiny", "--print-sbatch"], ["bench", "dit-tiny", "--estimate"]
IMPORT = ["data", "import", ".", "--out", "latents"]
OPTIONS = {
    "run": (RUN, {
        "--steps": COUNT, "--seed": SEED, "--micro-batch": COUNT, "--precision": NAME, "--compile": NAME,
        "--pipeline": NAME, "--data-residency": NAME, "--nproc": COUNT, "--data": NAME, "--launcher": NAME,
    }),
    "a job": (JOB, {"--nodes": COUNT, "--time": NAME, "--partition": WORD, "--nproc": COUNT}),
    "sample": (SAMPLE, {
        "--num": COUNT, "--steps": COUNT, "--seed": SEED, "--cfg-scale": SCALE, "--labels": NAME, "--step": SEED,
        "--nproc": COUNT,
    }),
    "evaluate": (EVALUATE, {
        "--num": COUNT, "--steps": COUNT, "--seed": SEED, "--cfg-scale": SCALE, "--step": SEED, "--nproc": COUNT,
        "--features": NAME, "--metrics": NAME, "--reference": NAME, "--weights": NAME, "--size": COUNT,
    }),
    "import": ([*IMPORT, "--from", "fast-dit"], {"--classes": COUNT, "--images": COUNT}),
    "import from": (IMPORT, {"--from": NAME}),
    "encode": (["data", "encode", ".", "--out", "latents"], {"--size": COUNT, "--batch": COUNT, "--nproc": COUNT}),
    "verify": (["data", "verify", "."], {"--images": COUNT}),
    "bench": (BENCH, {
        "--batch": COUNT.filter(bool), "--micro-batch": COUNT, "--precision": NAME, "--compile": NAME,
        "--pipeline": NAME, "--deterministic": NAME, "--data": NAME, "--rounds": COUNT, "--nproc": COUNT,
        "--window": SCALE.filter(lambda text: text != "0.5"),
    }),
    "compare": (["compare"], {"--figure": NAME}),
    "report": (["report"], {"--format": NAME}),
}  # fmt: skip
CASES = [(command, option) for command, (_, options) in OPTIONS.items() for option in options]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """With an imported DiT of the diffusion, which can be sampled, below runs/."""
    place = tmp_path_factory.mktemp("values")
    cfg = resolve("dit-tiny", ["width=16", "depth=4", "num_heads=2"])
    torch.save(official_state("dit", shape_of(cfg)), place / "official.pt")
    importing.import_checkpoint(place / "official.pt", cfg, place / "runs")
    return place


def refused(folder, command, option, value):
    start, _ = OPTIONS[command]
    words = [*("dit-tiny/imported" if word == "IMPORTED" else word for word in start), option, value]
    done = invoke(*words, cwd=folder)
    assert done.exit_code in (2, 3, 4), (words, done.exit_code, done.stderr)
    assert option in done.stderr, (words, done.stderr)
    assert "bug in the harness" not in done.stderr, (words, done.stderr)
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    return done.stderr


@settings(max_examples=80, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.sampled_from(CASES).flatmap(lambda case: st.tuples(st.just(case), OPTIONS[case[0]][1][case[1]])))
@example((("sample", "--steps"), "5000"))
@example((("evaluate", "--steps"), "1500"))
@example((("import", "--classes"), "0"))
@example((("run", "--seed"), "99999999999999999999"))
def test_an_odd_value_is_refused_by_the_name_of_its_option(folder, drawn):
    (command, option), value = drawn
    refused(folder, command, option, value)


@pytest.mark.parametrize(("command", "option"), CASES)
def test_every_option_refuses_one_odd_value(folder, command, option):
    kind = OPTIONS[command][1][option]
    refused(folder, command, option, "-3" if kind in (COUNT, SEED) else "nan" if kind is SCALE else "?")
