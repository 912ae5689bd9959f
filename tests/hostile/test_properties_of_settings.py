"""Numbers and configurations that anybody may type or send: the value that is meant, or an error that says why not."""

import json
from decimal import Decimal
from functools import cache
from pathlib import Path

import pytest
import yaml
from examples import ours, tries
from hostile_values import TEXTS, mutated, torn, values
from hypothesis import example, given
from hypothesis import strategies as st
from small import small_config

import baselines
from harness.recipes.config import RunConfig, apply_overrides, parse_count, plain_values, read_config, validate
from harness.system.errors import HarnessError, UsageError

NUMERALS = st.text("0123456789._eEkKmM+-nNaAiIfFxX ٣", max_size=45)
SUFFIXES = {"k": 3, "K": 3, "m": 6, "M": 6, "": 0}


@tries("a count in every way of writing it is read as meant", short=100, long=25_000)
@given(st.integers(1, 2**63 - 1), st.sampled_from(list(SUFFIXES)), st.booleans())
@example(2**53 + 1, "", False)  # a float holds no such number
@example(1_001_000, "M", False)  # 1.001 * 1e6 is no whole float
def test_a_count_that_can_be_written_is_read_as_it_was_meant(number, suffix, underscored):
    digits = str(Decimal(number).scaleb(-SUFFIXES[suffix])) if suffix else f"{number:_}" if underscored else f"{number}"
    assert parse_count(f"{digits}{suffix}") == number


@tries("any text as a count", short=100, long=20_000)
@given(NUMERALS | st.text(max_size=60) | st.sampled_from(TEXTS))
def test_a_count_is_a_whole_number_of_at_least_1_or_a_usage_error(text):
    found = ours(lambda: parse_count(text))
    assert isinstance(found, UsageError) or (type(found) is int and 1 <= found < 2**63)


@cache
def document() -> dict:
    return json.loads(json.dumps(small_config("sddit").model_dump(mode="json")))


@cache
def knobs() -> type:
    return baselines.load("sddit").Config


KEYS = ["steps", "protocol.steps", "mask_ratio", "knobs.mask_ratio", "data", "input", "seed", "recipe", "", "flips"]
YAMLS = st.one_of(
    st.text("[]{}:,*&!#|>%@`\"'-?<\n aé0123456789.~=", max_size=40),
    st.sampled_from(["2026-13-45", "!!int ''", "!!timestamp x", "[" * 3000, "!!python/object/apply:os.system [id]",
                     "&a [*a]",
                     "0x" + "f" * 5000, "!!bool x", "9" * 5000, "1:99999999:1", "!!set {a}", "? [1]\n: 2", *TEXTS]),
    values.map(json.dumps),
)  # fmt: skip


@tries("--set with any key and any value", short=60, long=10_000)
@given(st.lists(st.tuples(st.sampled_from(KEYS) | st.sampled_from(TEXTS) | st.text(max_size=8), YAMLS), max_size=3))
def test_an_override_is_applied_or_refused(pairs):
    changed = ours(
        lambda: apply_overrides(document(), [f"{key}={value}" for key, value in pairs], knobs().model_fields)
    )
    if not isinstance(changed, HarnessError):
        ours(lambda: validate(changed, knobs()))


@tries("config.yaml with parts replaced, removed or added", short=60, long=8_000)
@given(st.data())
def test_a_changed_configuration_is_a_run_or_refused_and_its_folder_stays_below_the_runs(data):
    changed = data.draw(mutated(document()))
    if not isinstance(changed, dict):
        return
    found = ours(lambda: validate(changed, knobs()))
    if isinstance(found, RunConfig):
        folder = Path("/runs") / found.recipe / found.run_id
        assert folder.resolve().parent.parent == Path("/runs")
    else:
        assert len(str(found)) < 20_000


@tries("config.yaml of any bytes", short=60, long=8_000)
@given(st.data())
def test_a_file_given_as_a_configuration_is_plain_values_or_refused(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "hostile-config.yaml"
    text = yaml.safe_dump(document()).encode()
    content = data.draw(
        torn(text) | YAMLS.map(lambda y: f"method: {y}".encode(errors="replace")) | st.binary(max_size=60)
    )
    path.write_bytes(content)
    found = ours(lambda: read_config(path))
    if not isinstance(found, HarnessError):
        assert isinstance(found["method"], str)
        json.dumps(found)  # nothing but what a record can hold


def test_values_that_stand_for_more_than_memory_holds_are_refused_at_once(tmp_path):
    levels = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    levels += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]
    path = tmp_path / "config.yaml"
    path.write_text("method: dit\n" + "\n".join(levels), encoding="utf-8")
    with pytest.raises(HarnessError, match="more than 100,000 values"):
        read_config(path)
    with pytest.raises(ValueError, match="deep"):
        plain_values("&a [*a]")


def test_a_wrong_value_is_not_repeated_whole():
    with pytest.raises(UsageError) as caught:
        validate({**document(), "recipe": "x" * 100_000}, knobs())
    assert len(str(caught.value)) < 1000
