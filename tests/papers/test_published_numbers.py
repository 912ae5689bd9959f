import math
import re
from collections import Counter
from pathlib import Path

import pytest

import baselines
from harness.papers import published
from harness.papers.sddit import numbers
from harness.recipes.reading import load_recipe
from harness.recipes.reading import settings as recipe_settings
from harness.system.errors import UsageError


def select(place: str):
    rows = published.rows()
    return rows[rows["figure_or_table"] == place]


def values(table, *columns: str) -> list[tuple]:
    return [tuple(row[column] for column in columns) for row in table.to_dict("records")]


# All rows -------------------------------------------------------------------------------------------------------------


def test_every_row_has_a_source_a_protocol_and_a_known_quality_and_a_value_unless_it_is_missing():
    texts = set(numbers.settings()["figure_or_table"])  # where a value may be a text
    for row in published.rows().itertuples():
        assert row.source
        assert row.protocol
        assert row.quality in published.QUALITIES
        assert (row.value_text == "") == (row.quality == "missing"), row
        is_number = re.fullmatch(r"-?[\d.]+(e-?\d+)?", row.value_text) is not None
        assert is_number != math.isnan(row.value), row
        assert is_number or row.quality == "missing" or row.metric in ("class", "input_patches_pct") or (
            row.figure_or_table in texts
        ), row  # fmt: skip


def test_every_row_of_another_paper_says_whether_it_was_compared_with_its_source_again_and_the_table_counts_them():
    """The evidence has one line for each source: rows, agreed, corrected, not compared."""
    table = Path(__file__).parents[2].joinpath("reports/evidence/published-rows.md").read_text()
    lines = [line.split("|")[1:-1] for line in table.splitlines() if line.startswith("|")][2:]
    counted = Counter()
    for folder, rows, _, _, agreed, corrected, not_compared in lines:
        parts = [int(cell.strip() or 0) for cell in (agreed, corrected, not_compared)]
        assert sum(parts) == int(rows), (folder, rows)
        counted += Counter({(folder.strip(), True): parts[0] + parts[1], (folder.strip(), False): parts[2]})
    found = Counter()
    for folder in published.folders():
        for file in (file for file in published.tables() if f"/{folder.name}/" in str(file) and folder.name != "sddit"):
            for row in (row for row in published.read(file) if row["quality"] != "missing"):
                (said,) = {words for words in published.COMPARED if re.search(rf"(?<!not ){words}", row["source"])}
                found[folder.name, said != "not compared again"] += 1
    assert found == counted
    assert found.total() == 797


def test_no_row_speaks_of_where_a_text_was_kept():
    protocols = [file for folder in published.folders() if (file := folder / published.PROTOCOLS).is_file()]
    for file in (*published.tables(), *protocols):
        for row in published.read(file):
            assert not re.search(r"\bstor(ed|es)\b|secondary|look-up|\b\d{10,}\b", " ".join(row.values())), row


def test_a_folder_that_is_added_is_read_without_a_list_to_edit(tmp_path, monkeypatch):
    (tmp_path / "newer").mkdir()
    head = "figure_or_table,series,method,model,training_steps_k,batch_size,x,x_unit,metric,value,source,quality"
    (tmp_path / "newer" / "published.csv").write_text(
        f"{head}\nNewer Tab.1,w/o CFG,Newer,Newer-XL/2,400,256,,,FID-50K,5.5,a paper,table\n"
    )
    protocol = "figure_or_table,method,series,guidance,data,sampler,device,precision,remarks,source"
    (tmp_path / "newer" / "protocols.csv").write_text(
        f"{protocol}\nNewer Tab.1,,,,ImageNet 256,SDE 250 steps,8 x A100,not stated,,a paper\n"
    )
    monkeypatch.setattr(published, "folders", lambda: [tmp_path / "newer"])
    for read_once in (published._rows, published._protocols):
        monkeypatch.setattr(published, read_once.__name__, read_once.__wrapped__)
    (row,) = published.rows().itertuples()
    assert row.value == 5.5
    assert row.protocol == (
        "400k steps, batch 256, without guidance, FID-50K on ImageNet 256, SDE 250 steps, 8 x A100; "
        "not stated: precision"
    )


def test_a_caller_cannot_change_the_published_numbers():
    rows = published.rows()
    rows["value"] = 0.0
    assert published.rows()["value"].max() > 100


def test_a_method_is_found_by_its_name_here_and_by_its_title_in_any_case():
    rows = published.rows()
    found = published.of_method(rows, "sddit")
    assert set(found["method"]) == {"SD-DiT"}
    assert found.equals(published.of_method(rows, "sd-dit"))
    assert set(published.of_method(rows, "repa")["method"]) == {"REPA"}
    with pytest.raises(UsageError, match="Did you mean maskdit"):
        published.of_method(rows, "makdit")


def test_what_was_digitised_has_the_protocol_of_its_series():
    memory = published.memory()
    assert values(memory[memory["quality"] == "text"], "model", "value") == [("SD-DiT-XL/2", 45)]
    bars = memory[(memory["figure_or_table"] == "MaskDiT bar mem256") & (memory["batch_size"] == 256)]
    assert values(bars, "series", "value") == [
        ("DiT", 39.6),
        ("MDT", 78.1),
        ("MaskDiT tf32", 28.4),
        ("MaskDiT AMP", 25.7),
    ]
    assert set(bars["quality"]) == {"digitised"}
    assert [protocol.partition("8 x A100")[2] for protocol in bars["protocol"]][2:] == [", TF32", ", AMP"]


# The paper's figures and tables ---------------------------------------------------------------------------------------


def test_figure_3_holds_the_numbers_the_paper_prints_and_a_reason_for_the_point_it_only_draws():
    points, missing = numbers.figure3()
    assert {(p["model"], p["steps_per_sec"], p["fid50k"], p["input_patches"]) for p in points} == {
        ("DiT-S/2", 5.03, 68.40, "100%"),
        ("MDT-S/2", 2.4, 53.46, "100% + 70%"),
        ("SD-DiT-S/2", 9.2, 48.39, "80%"),
    }
    assert [(p["model"], p["input_patches"], p["reason"]) for p in missing] == [
        ("MaskDiT-S/2", "50%", "drawn only, value not in the paper's text")
    ]


def test_table_2_holds_the_fids_the_paper_prints():
    """test_paper_tables.py has the values of Tables 1 and 3, and the other metrics of SD-DiT."""
    table = numbers.table("2")
    assert len(table) == 59
    fids = table[table["metric"] == "FID-50K"]
    assert dict(values(fids, "model", "value")) == {
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
    assert values(table[table["model"] == "LDM-4"], "training_steps_k", "batch_size")[0] == (178, 1200)


def test_figure_3_agrees_with_table_1():
    printed = values(numbers.table("1"), "model", "training_steps_k", "value")
    assert {(point["model"], 400, point["fid50k"]) for point in numbers.figure3()[0]} <= set(printed)


def test_table_4_names_each_setting_as_a_recipe_does():
    by_model = numbers.table("4").groupby("model", sort=False)
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
    known = {s.path for s in recipe_settings(load_recipe("sddit-xl"), baselines.load("sddit").Config)}
    assert {metric for metric in numbers.settings()["metric"] if "." in metric} <= known


def test_the_appendix_holds_the_numbers_the_paper_prints():
    appendix = select("SD-DiT App.B")
    assert values(appendix[appendix["quality"] != "missing"], "model", "batch_size", "metric", "value")[:5] == [
        ("SD-DiT-XL/2", 1024, "FID-50K", 16.78),
        ("MaskDiT-XL/2", 1024, "FID-50K", 17.22),
        ("SD-DiT-XL/2", 256, "FID-50K", 6.74),
        ("MDT-XL/2", 256, "FID-50K", 6.65),
        ("SD-DiT-XL/2", 256, "FID-50K", 3.23),
    ]
    assert values(select("SD-DiT App.A"), "model", "value") == [("SD-DiT-XL/2", 740.6), ("MaskDiT-XL/2", 730.1)]


def test_figures_5_and_6_hold_what_the_text_says_and_leave_the_rest_empty():
    ratios = numbers.figure("5")
    own = ratios[(ratios["method"] == "SD-DiT") & (ratios["quality"] != "missing")]
    assert values(own, "x", "value") == [("0", 58.92), ("0.2", 48.39), ("0.5", 53.72), ("0.9", 61.0)]
    noise = numbers.figure("6")
    assert values(noise[noise["quality"] != "missing"], "x", "value") == [("0.002", 53.7), ("0.5", 66.2), ("", 63.4)]
    assert set(noise[noise["quality"] == "missing"]["x"]) == {"0.3", "other sigma_T"}


def test_figure_4_has_the_other_papers_points_beside_its_own_at_its_batch_and_without_guidance():
    found = numbers.figure("4")
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


def test_an_unknown_figure_or_table_is_answered_with_the_known_ones():
    with pytest.raises(UsageError, match=r"'8'.* Available: 3, 4, 5, 6, 7"):
        numbers.figure("8")
    with pytest.raises(UsageError, match=r"'5'.* Available: 1, 2, 3, 4"):
        numbers.table("5")


# Later methods --------------------------------------------------------------------------------------------------------


def test_the_context_compares_methods_at_the_same_steps_batch_and_without_guidance():
    found = numbers.context()
    budget = found[found["group"] == "400k x 256"]
    assert set(values(budget, "training_steps_k", "batch_size")) == {(400, 256)}
    assert all("without guidance" in protocol for protocol in budget["protocol"])
    fids = {row.model: row.value for row in budget.itertuples() if row.quality != "missing"}
    known = {"SiT-XL/2": 17.2, "SiT-XL/2+REPA": 7.9, "EDT-XL/2": 7.52, "SiT-XL/2+EQ-VAE": 16.1, "SD-DiT-B/2": 28.62}
    assert {model: fids[model] for model in known} == known
    unknown = {row.method for row in budget.itertuples() if row.quality == "missing"}
    assert {"SD-DiT", "SARA", "FasterDiT"} <= unknown


def test_the_context_has_the_longest_run_of_each_method_guided_apart():
    found = numbers.context()
    longest = found[found["group"] == "longest"]
    guided = found[found["group"] == "longest, guided"]
    assert values(longest[longest["method"] == "SD-DiT"], "training_steps_k", "value") == [(3500, 6.74)]
    assert set(values(longest[longest["method"] == "REPA"], "value")) == {(5.9,), (5.78,)}  # 4000k and 800 epochs
    assert values(guided[guided["method"] == "SD-DiT"], "x", "value") == [("480", 3.23)]
    assert set(guided["method"]) >= {"DiT", "MaskDiT", "MDT", "SARA", "FasterDiT", "SiT", "REPA"}
    assert not any("without guidance" in protocol for protocol in guided["protocol"])


def test_guidance_in_an_interval_of_the_noise_levels_is_told_in_the_protocol():
    rows = select("anchor")
    of = {(row.method, row.value): row.protocol for row in rows.itertuples()}
    assert "guidance scale 1.8 in an interval" in of["REPA", 1.42]
    assert "guidance scale 1.35, " in of["REPA", 1.8]
    assert "guidance scale 1.65 in an interval" in of["HASTE", 1.42]
    assert "with guidance (autoguidance)" in of["RAE", 1.13]


def test_what_a_source_states_of_a_run_beside_its_value_stands_in_its_row():
    """Each was missing or wrong until it was compared with its source."""
    tread = select("anchor").query("method == 'TREAD' and value == 3.93")
    assert values(tread, "model", "training_steps_k", "batch_size") == [("DiT-XL/2+TREAD", 400, 256)]
    assert not (published.missing()["method"] == "TREAD").any()
    assert values(select("LightningDiT log"), "value") == [(5.28,)]
    assert values(select("DiT issue 122"), "batch_size") == [(256,)]
    assert "without guidance" in select("DiT issue 122")["protocol"].item()
    assert "not stated: batch" in select("MDT issue 25")["protocol"].item()
    assert {"SR-DiT"} == set(select("anchor").query("value == 3.49")["method"])
    assert "class-balanced" in select("anchor").query("value == 3.49")["series"].item()


# Protocols ------------------------------------------------------------------------------------------------------------


def protocol(place: str, model: str, metric: str = "FID-50K") -> str:
    rows = select(place)
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
    guided = select("SD-DiT App.B").query("value == 3.23")["protocol"].item()
    assert guided.startswith("batch 256, with guidance, scale not stated, FID-50K on ImageNet 256")
    assert "not stated: steps" in guided
    assert "not stated: steps, batch, guidance, sampler" in protocol("SD-DiT Tab.2", "VQGAN")


def test_every_entry_of_the_protocols_has_a_source_and_belongs_to_rows():
    files = [file for folder in published.folders() if (file := folder / published.PROTOCOLS).is_file()]
    entries = [entry for file in files for entry in published.read(file)]
    keys = [(entry["figure_or_table"], entry["method"], entry["series"]) for entry in entries]
    assert len(set(keys)) == len(keys)
    used = set()
    for place, method, series in values(published.rows(), "figure_or_table", "method", "series"):
        used |= {(place, method, series), (place, "", series), (place, method, ""), (place, "", "")}
    assert set(keys) <= used
    assert all(entry["source"] for entry in entries)


def test_inception_scores_of_mdt_with_guidance_are_those_of_its_readme():
    rows = published.rows()
    scores = rows[(rows["figure_or_table"].isin(["MDT XL/2 final", "MDTv2 XL/2 final"])) & (rows["metric"] == "IS")]
    guided = scores[scores["series"] == "CFG"]
    assert values(guided, "model", "value") == [("MDT-XL/2", 283.01), ("MDTv2-XL/2", 314.73)]
    assert all("README, read again" in source for source in guided["source"])


def test_the_rows_of_repa_e_are_those_of_its_readme_of_either_date():
    """The later one measures with equally many images of each class, so both values stand, each under its name."""
    rows = select("anchor")
    ours = rows[(rows["method"] == "REPA-E") & rows["source"].str.contains("README")]
    assert sorted(values(ours, "model", "series", "value")) == [
        ("SiT-XL/1 + IN-VAE end-to-end", "CFG 1.8 + guidance interval", 1.61),
        ("SiT-XL/1 + IN-VAE end-to-end", "w/o CFG", 4.09),
        ("SiT-XL/1 + VA-VAE end-to-end", "CFG 1.9 + guidance interval", 1.73),
        ("SiT-XL/1 + VA-VAE end-to-end", "w/o CFG", 4.05),
        ("SiT-XL/1 on frozen E2E-VAVAE", "CFG 2.4 + guidance interval, class-balanced sampling", 1.12),
        ("SiT-XL/1 on frozen E2E-VAVAE", "CFG 2.5 + guidance interval", 1.26),
        ("SiT-XL/1 on frozen E2E-VAVAE", "w/o CFG", 1.83),
        ("SiT-XL/1 on frozen E2E-VAVAE", "w/o CFG, class-balanced sampling", 1.69),
        ("SiT-XL/2 + SD-VAE end-to-end", "CFG 2.2 + guidance interval", 1.67),
        ("SiT-XL/2 + SD-VAE end-to-end", "w/o CFG", 4.07),
    ]
