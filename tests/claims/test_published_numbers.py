import csv
import math
import re
import subprocess
import sys
from importlib.resources import files

import pytest

from harness.claims import published
from harness.system.errors import UsageError


def read(name: str) -> list[dict[str, str]]:
    text = (files("harness.claims") / "published" / f"{name}.csv").read_text(encoding="utf-8")
    return list(csv.DictReader(text.splitlines()))


def values(table, *columns: str) -> list[tuple]:
    return [tuple(row[column] for column in columns) for row in table.to_dict("records")]


def test_figure_3_holds_the_numbers_the_paper_prints():
    points, _ = published.figure3()
    assert {(p.model, p.steps_per_sec, p.fid50k, p.input_patches) for p in points} == {
        ("DiT-S/2", 5.03, 68.40, "100%"),
        ("MDT-S/2", 2.4, 53.46, "100% + 70%"),
        ("SD-DiT-S/2", 9.2, 48.39, "80%"),
    }


def test_the_point_the_paper_only_draws_has_a_reason_and_no_value():
    _, missing = published.figure3()
    assert [(p.model, p.input_patches, p.reason) for p in missing] == [
        ("MaskDiT-S/2", "50%", "drawn only, value not in the paper's text")
    ]


def test_table_1_holds_the_numbers_the_paper_prints():
    table = published.table1()
    assert list(zip(table["model"], table["training_steps_k"], table["value"], strict=True)) == [
        ("DiT-S/2", 400, 68.40),
        ("MDT-S/2", 400, 53.46),
        ("SD-DiT-S/2", 400, 48.39),
        ("DiT-B/2", 400, 43.47),
        ("MDT-B/2", 400, 34.33),
        ("SD-DiT-B/2", 400, 28.62),
        ("DiT-XL/2", 7000, 9.62),
        ("MaskDiT-XL/2", 1300, 12.15),
        ("MDT-XL/2", 1300, 9.60),
        ("SD-DiT-XL/2", 1100, 9.66),
        ("SD-DiT-XL/2", 1300, 9.01),
    ]


def test_every_row_has_a_source_a_protocol_and_a_known_quality_and_a_value_unless_it_is_missing():
    for row in published.rows().itertuples():
        assert row.source
        assert row.protocol
        assert row.quality in published.QUALITIES
        assert (row.value_text == "") == (row.quality == "missing"), row
        is_number = re.fullmatch(r"-?[\d.]+(e-?\d+)?", row.value_text) is not None
        assert is_number != math.isnan(row.value), row


def test_what_is_no_number_is_a_setting_a_class_or_two_shares_of_patches():
    rows = published.rows()
    texts = rows[rows["value"].isna() & (rows["quality"] != "missing")]
    for row in texts.itertuples():
        assert row.metric in ("class", "input_patches_pct") or row.figure_or_table in set(
            published.settings()["figure_or_table"]
        ), row


def test_no_row_speaks_of_where_a_text_was_kept():
    for name in (*published.FILES, "protocols"):
        for row in read(name):
            assert not re.search(r"\bstor(ed|es)\b|secondary|look-up|\b\d{10,}\b", " ".join(row.values())), row


def test_the_tables_of_one_paper_agree_where_they_print_the_same_number():
    printed = {p.model: p.fid50k for p in published.figure3()[0]}
    table = published.table1().query("training_steps_k == 400")
    for model, value in zip(table["model"], table["value"], strict=True):
        assert printed.get(model, value) == value


def test_a_caller_cannot_change_the_published_numbers():
    rows = published.rows()
    rows["value"] = 0.0
    assert published.rows()["value"].max() > 100


def test_an_unknown_figure_is_answered_with_the_known_ones():
    assert "SD-DiT Tab.2" in published.names()
    with pytest.raises(UsageError, match=r"Did you mean .*SD-DiT Fig\.3"):
        published.select("SD-DiT Fig.33")


# The paper's figures and tables ---------------------------------------------------------------------------------------


def test_tables_2_and_3_hold_the_numbers_the_paper_prints():
    table = published.table("2")
    assert len(table) == 59
    fids = table[table["metric"] == "FID-50K"]
    assert dict(zip(fids["model"], fids["value"], strict=True)) == {
        "VQGAN": 15.78,
        "BigGAN-deep": 6.95,
        "StyleGAN-XL": 2.30,
        "I-DDPM": 12.26,
        "MaskGIT": 6.18,
        "CDM": 4.88,
        "ADM": 10.94,
        "ADM-U": 7.49,
        "LDM-8": 15.51,
        "LDM-4": 10.56,
        "MaskDiT-XL/2": 5.69,
        "DiT-XL/2": 9.62,
        "MDT-XL/2": 7.41,
        "SD-DiT-XL/2": 7.21,
    }
    own = table[table["model"] == "SD-DiT-XL/2"]
    assert dict(zip(own["metric"], own["value"], strict=True)) == {
        "FID-50K": 7.21,
        "sFID": 5.17,
        "IS": 144.68,
        "Precision": 0.72,
        "Recall": 0.61,
    }
    assert values(table[table["model"] == "LDM-4"], "training_steps_k", "batch_size")[0] == (178, 1200)
    assert list(published.table("3")["value"]) == [53.72, 62.84, 58.92]


def test_table_4_names_each_setting_as_a_recipe_does():
    by_model = published.table("4").groupby("model", sort=False)
    assert {model: dict(values(group, "metric", "value_text")) for model, group in by_model} == {
        f"SD-DiT-{size}/2": {
            "protocol.batch_size": "256",
            "protocol.learning_rate": "1e-4",
            "protocol.steps": steps,
            "optimizer": "AdamW",
            "protocol.betas": "0.9, 0.999",
            "knobs.teacher_momentum": "from 0.996 to 0.999",
            "knobs.student_temperature": "0.1",
            "knobs.teacher_temperature": "from 0.09 to 0.099",
            "knobs.teacher_temperature_epochs": "5",
        }
        for size, steps in (("S", "400k"), ("B", "400k"), ("XL", "2400k"))
    }


def test_settings_that_look_like_a_path_are_settings_of_the_recipe():
    """Needs torch to name the method's knobs, so in a process of its own: nothing else here may load it."""
    code = (
        "import baselines; from harness.recipes.reading import load_recipe, settings;"
        "print(*(s.path for s in settings(load_recipe('sddit-xl'), baselines.load('sddit').Config)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    named = set(published.settings()["metric"])
    assert {metric for metric in named if "." in metric} <= set(done.stdout.split())


def test_the_appendix_holds_the_numbers_the_paper_prints():
    appendix = published.select("SD-DiT App.B")
    assert values(appendix[appendix["quality"] != "missing"], "model", "batch_size", "metric", "value")[:5] == [
        ("SD-DiT-XL/2", 1024, "FID-50K", 16.78),
        ("MaskDiT-XL/2", 1024, "FID-50K", 17.22),
        ("SD-DiT-XL/2", 256, "FID-50K", 6.74),
        ("MDT-XL/2", 256, "FID-50K", 6.65),
        ("SD-DiT-XL/2", 256, "FID-50K", 3.23),
    ]
    assert values(published.select("SD-DiT App.A"), "model", "value") == [
        ("SD-DiT-XL/2", 740.6),
        ("MaskDiT-XL/2", 730.1),
    ]


def test_figures_5_and_6_hold_what_the_text_says_and_leave_the_rest_empty():
    ratios = published.figure("5")
    own = ratios[(ratios["method"] == "SD-DiT") & (ratios["quality"] != "missing")]
    assert values(own, "x", "value") == [("0", 58.92), ("0.2", 48.39), ("0.5", 53.72), ("0.9", 61.0)]
    noise = published.figure("6")
    assert values(noise[noise["quality"] != "missing"], "x", "value") == [("0.002", 53.7), ("0.5", 66.2), ("", 63.4)]
    assert set(noise[noise["quality"] == "missing"]["x"]) == {"0.3", "other sigma_T"}


def test_figure_4_has_the_other_papers_points_beside_its_own_at_its_batch_and_without_guidance():
    found = published.figure("4")
    assert set(found["figure_or_table"]) == {
        "SD-DiT Fig.4",
        "SD-DiT App.B",
        "DiT XL/2 FID vs steps",
        "MDT FID vs steps",
    }
    assert set(found["batch_size"]) == {256}
    assert all(model.endswith("XL/2") for model in found["model"])
    assert all("without guidance" in protocol for protocol in found["protocol"])
    printed = found[found["quality"] != "missing"]
    assert {method: list(group["value"]) for method, group in printed.groupby("method")} == {
        "SD-DiT": [9.66, 9.01, 7.21, 6.74],
        "MaskDiT": [12.15],
        "DiT": [19.47, 10.67, 9.62],
        "MDT": [9.6, 7.41, 6.65],
    }


def test_every_figure_and_table_has_rows_and_an_unknown_one_is_answered_with_the_known_ones():
    for number in published.FIGURES:
        assert set(published.figure(number)["figure_or_table"]) >= {f"SD-DiT Fig.{number}"}
    for number in published.TABLES:
        assert set(published.table(number)["figure_or_table"]) == {f"SD-DiT Tab.{number}"}
    with pytest.raises(UsageError, match=r"'8'.* Available: 3, 4, 5, 6, 7"):
        published.figure("8")
    with pytest.raises(UsageError, match=r"'5'.* Available: 1, 2, 3, 4"):
        published.table("5")


# Across sources -------------------------------------------------------------------------------------------------------


def test_memory_and_speeds_are_of_one_unit_each_and_say_which_were_digitised():
    memory, speeds = published.memory(), published.speeds()
    assert set(memory["metric"]) == {"mem_GB_per_GPU"}
    assert set(speeds["metric"]) == {"steps_per_sec"}
    assert values(memory[memory["quality"] == "text"], "model", "value") == [("SD-DiT-XL/2", 45)]
    bars = memory[(memory["figure_or_table"] == "MaskDiT bar mem256") & (memory["batch_size"] == 256)]
    assert values(bars, "series", "value", "quality") == [
        ("DiT", 39.6, "digitised"),
        ("MDT", 78.1, "digitised"),
        ("MaskDiT tf32", 28.4, "digitised"),
        ("MaskDiT AMP", 25.7, "digitised"),
    ]
    assert {"text", "table", "digitised", "missing"} == set(speeds["quality"])


def test_the_context_compares_methods_at_the_same_steps_batch_and_without_guidance():
    found = published.context()
    budget = found[found["group"] == "400k x 256"]
    assert set(values(budget, "training_steps_k", "batch_size")) == {(400, 256)}
    assert all("without guidance" in protocol for protocol in budget["protocol"])
    fids = {row.model: row.value for row in budget.itertuples() if row.quality != "missing"}
    known = {"SiT-XL/2": 17.2, "SiT-XL/2+REPA": 7.9, "EDT-XL/2": 7.52, "SiT-XL/2+EQ-VAE": 16.1, "SD-DiT-B/2": 28.62}
    assert {model: fids[model] for model in known} == known
    unknown = {row.method for row in budget.itertuples() if row.quality == "missing"}
    assert {"SD-DiT", "SARA", "FasterDiT"} <= unknown


def test_the_context_has_the_longest_run_of_each_method_guided_apart():
    found = published.context()
    longest = found[found["group"] == "longest"]
    guided = found[found["group"] == "longest, guided"]
    assert values(longest[longest["method"] == "SD-DiT"], "training_steps_k", "value") == [(3500, 6.74)]
    assert set(values(longest[longest["method"] == "REPA"], "value")) == {(5.9,), (5.78,)}  # 4000k and 800 epochs
    assert values(guided[guided["method"] == "SD-DiT"], "x", "value") == [("480", 3.23)]
    assert set(guided["method"]) >= {"DiT", "MaskDiT", "MDT", "SARA", "FasterDiT", "SiT", "REPA"}
    assert not any("without guidance" in protocol for protocol in guided["protocol"])


def test_a_method_is_found_by_its_name_here_and_by_its_title_in_any_case():
    rows = published.rows()
    found = published.of_method(rows, "sddit")
    assert set(found["method"]) == {"SD-DiT"}
    assert found.equals(published.of_method(rows, "sd-dit"))
    assert set(published.of_method(rows, "repa")["method"]) == {"REPA"}
    with pytest.raises(UsageError, match="Did you mean maskdit"):
        published.of_method(rows, "makdit")


# Protocols ------------------------------------------------------------------------------------------------------------


def protocol(place: str, model: str, metric: str = "FID-50K") -> str:
    rows = published.select(place)
    return rows[(rows["model"] == model) & (rows["metric"] == metric)]["protocol"].iloc[0]


def test_a_protocol_tells_length_batch_guidance_metric_sampler_device_and_precision():
    assert protocol("SD-DiT Fig.4", "SD-DiT-XL/2") == (
        "1100k steps, batch 256, without guidance, FID-50K on ImageNet 256, EDM Heun 40 steps, 8 x A100 80 GB, "
        "full precision"
    )
    assert protocol("DiT VAE decoder ablation", "DiT-XL/2") == (
        "7000k steps, batch 256, guidance scale 1.5, FID-50K on ImageNet 256, DDPM 250 steps, TPU v3 pod; "
        "not stated: precision"
    )


def test_a_protocol_says_what_its_source_does_not_state():
    assert "Float32 (TF32 not stated)" in protocol("SD-DiT Fig.3", "SD-DiT-S/2", "steps_per_sec")
    assert "latents or on images: not stated" in protocol("SD-DiT Fig.3", "DiT-S/2", "steps_per_sec")
    assert "not stated: batch" in protocol("SD-DiT App.B", "SD-DiT-XL/2", "mem_GB_per_GPU")
    guided = published.select("SD-DiT App.B").query("value == 3.23")["protocol"].item()
    assert guided.startswith("batch 256, with guidance, scale not stated, FID-50K on ImageNet 256")
    assert "not stated: steps" in guided
    assert "not stated: steps, batch, guidance, sampler" in protocol("SD-DiT Tab.2", "VQGAN")


def test_two_series_of_one_chart_have_their_own_protocols():
    bars = published.select("MaskDiT bar speed256")
    by_series = {row.series: row.protocol for row in bars.itertuples() if row.batch_size == 256}
    assert by_series["MaskDiT tf32"].endswith("8 x A100, TF32")
    assert by_series["MaskDiT AMP"].endswith("8 x A100, AMP")
    assert by_series["DiT"].endswith("8 x A100; not stated: precision")


def test_every_entry_of_the_protocols_has_a_source_and_belongs_to_rows():
    entries = read("protocols")
    keys = [(entry["figure_or_table"], entry["method"], entry["series"]) for entry in entries]
    assert len(set(keys)) == len(keys)
    used = set()
    for row in published.rows().itertuples():
        place, method, series = row.figure_or_table, row.method, row.series
        used |= {(place, method, series), (place, "", series), (place, method, ""), (place, "", "")}
    assert set(keys) <= used
    assert all(entry["source"] for entry in entries)
