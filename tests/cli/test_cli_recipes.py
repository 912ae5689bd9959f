"""`harness recipes` as a user reads it: what it prints at 80 columns, as JSON, and for names that do not exist."""

import json
from functools import partial

import command_line
import pytest
from command_line import flowing

import baselines
from harness.recipes.reading import load_recipe, recipe_names, settings
from harness.records.evidence import gather

RECIPES = ("dit-s", "maskdit-xl-512", "mdt-xl", "sddit-xl", "sddit-tiny")


ask = partial(command_line.invoke, "recipes")
answer = partial(command_line.answer, "recipes")


def set_by(name: str):
    recipe = load_recipe(name)
    return settings(recipe, baselines.load(recipe.document["method"]).Config)


def test_list_has_a_line_for_every_recipe():
    head, *lines = answer("list").splitlines()
    assert head.split() == ["recipe", "method", "blocks", "steps", "repeats"]
    assert [line.split()[0] for line in lines] == recipe_names()
    assert all(len(line) <= 80 for line in lines)


def test_list_says_method_size_and_what_is_repeated():
    rows = {row["recipe"]: row for row in json.loads(answer("list", "--json"))["recipes"]}
    assert list(rows) == recipe_names()
    assert rows["mdt-xl"] == {
        "recipe": "mdt-xl",
        "method": "MDT-lite",
        "size": "xl",
        "depth": 28,
        "width": 1152,
        "data": "imagenet-256",
        "steps": 2_400_000,
        "repeats": "SD-DiT Table 2, at 2500k",
        "from": "harness",
    }


@pytest.mark.parametrize("recipe", RECIPES)
def test_show_prints_every_setting_with_its_value_and_source_then_the_conflicts_in_80_columns(recipe):
    text = answer("show", recipe)
    assert max(map(len, text.splitlines())) <= 80
    assert text.isascii()  # no boxes, no colours
    assert "\x1b" not in text
    for setting in set_by(recipe):
        value = setting.value if isinstance(setting.value, str) else json.dumps(setting.value)
        name = setting.path.rpartition(".")[2]
        if f" {name} {value} {flowing(setting.source)}" in flowing(text):
            continue
        row = text.partition(f"\n  {name} ")[2].partition("\n  num_images ")[0]  # wrapped in two columns
        assert set(row.split()) == {*value.split(), *setting.source.split()}, setting.path
    for conflict in load_recipe(recipe).conflicts:
        for other in conflict["others"]:
            assert flowing(f"[{other['source']}]") in flowing(text)
        assert flowing(f"Why: {conflict['why']}") in flowing(text)
    assert flowing(text).endswith(f"Run it: harness run {recipe} (--dry-run counts parameters and arithmetic)")
    document = json.loads(answer("show", recipe, "--json"))
    assert document == {
        "recipe": recipe,
        "repeats": load_recipe(recipe).repeats,
        "settings": [{"setting": s.path, "value": s.value, "source": s.source} for s in set_by(recipe)],
        "conflicts": load_recipe(recipe).conflicts,
        "run": f"harness run {recipe}",
    }


def test_show_uses_a_wider_window_but_no_endless_lines():
    for columns, most in ((100, 100), (400, 120)):
        lines = ask("show", "sddit-xl", columns=columns).stdout.splitlines()
        assert most - 20 < max(map(len, lines)) <= most


def test_diff_names_what_differs_and_counts_the_rest():
    document = json.loads(answer("diff", "dit-xl", "dit-xl-512", "--json"))
    assert document["recipes"] == ["dit-xl", "dit-xl-512"]
    assert document["differing"] == [
        {"setting": "input.side", "values": {"dit-xl": 32, "dit-xl-512": 64}},
        {"setting": "protocol.data", "values": {"dit-xl": "imagenet-256", "dit-xl-512": "imagenet-512"}},
        {"setting": "protocol.steps", "values": {"dit-xl": 2_400_000, "dit-xl-512": 3_000_000}},
        {
            "setting": "evaluation.reference",
            "values": {"dit-xl": "VIRTUAL_imagenet256_labeled.npz", "dit-xl-512": "VIRTUAL_imagenet512.npz"},
        },
    ]
    assert len(document["differing"]) + document["equal"] == len(set_by("dit-xl"))


def test_diff_tells_a_setting_that_is_absent_from_one_that_is_null():
    text = answer("diff", "dit-s", "sddit-s")
    rows = {line.split()[0]: line.split()[1:] for line in text.splitlines() if line.startswith("  ")}
    assert rows["formulation"] == ["iddpm", "edm"]
    assert rows["decoder_width"] == ["-", "null"]
    values = {d["setting"]: d["values"] for d in json.loads(answer("diff", "dit-s", "sddit-s", "--json"))["differing"]}
    assert values["knobs.decoder_width"] == {"sddit-s": None}
    assert text.splitlines()[-1] == f"{len(rows)} settings differ, {len(set_by('dit-s')) - 3} are equal."


def test_diff_of_methods_of_a_size_is_formulation_sampling_and_knobs_only():
    document = json.loads(answer("diff", "mdt-s", "sddit-s", "--json"))
    assert {d["setting"].partition(".")[0] for d in document["differing"]} == {"formulation", "knobs", "sampling"}


def test_a_recipe_does_not_differ_from_itself():
    assert answer("diff", "dit-s", "dit-s") == f"0 settings differ, {len(set_by('dit-s'))} are equal.\n"


@pytest.mark.slow
def test_count_gives_the_papers_parameters_and_writes_what_compare_and_report_read(tmp_path):
    counted = json.loads(answer("count", "sddit-xl", "maskdit-xl", "--json", "--out", str(tmp_path / "counts.json")))
    millions = {name: round(of["params"] / 1e6, 1) for name, of in counted["recipes"].items()}
    assert millions == {"sddit-xl": 740.6, "maskdit-xl": 730.1}  # SD-DiT App. A
    assert gather([tmp_path]).count("sddit-xl").params == counted["recipes"]["sddit-xl"]["params"]
    assert max(map(len, answer("count", "dit-tiny").splitlines())) <= 80


def test_count_refuses_a_file_that_no_report_would_find_and_an_unknown_recipe(tmp_path):
    assert ask("count", "dit-tiny", "--out", str(tmp_path / "mine.json")).exit_code == 2
    assert ask("count", "dit-huge").exit_code == 2
