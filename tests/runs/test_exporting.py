"""A run's network as a folder of its own: the same network, a card of what is known, and nothing half written."""

import errno
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from command_line import invoke
from huggingface_hub import ModelCard
from official import official_state
from run_folders import write_run
from safetensors import safe_open
from small import small_config
from tiny_run import trained

import baselines
from harness.model.shape import shape_of
from harness.planning.plan import resolve
from harness.recipes.plugins import built_in
from harness.recipes.reading import about
from harness.records.folders import removal
from harness.records.folders.listing import survey
from harness.records.schema import Evaluation, EvaluationProtocol, Export, Manifest, read_record, write_record
from harness.records.store import find_runs, load_run
from harness.reporting import model_card
from harness.runs import exporting, importing, sampling
from harness.runs.exporting import without_places
from harness.system import locks
from harness.system.errors import DataError, UsageError
from harness.system.processes.world import World
from harness.system.progress import NoProgress

ROOT = Path(__file__).parents[2]
INPUTS = torch.randn(3, 1, 8, 8), torch.tensor([0.1, 0.2, 0.3]), torch.tensor([0, 3, 10])
CONDITIONS = EvaluationProtocol(
    formulation="edm", sampler="heun", num_steps=3, nfe=5, guidance_scale=None, guidance_channels=None, num_images=50,
    label_rule="random", uint8_rule="round", vae=None, features="digits", features_sha256="f" * 64, reference="digits",
    reference_sha256="e" * 64, reference_images=1797, seed=0,
)  # fmt: skip


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A small trained run of every method, with a milestone at step 2 and one evaluation of its average."""
    out, folders = tmp_path_factory.mktemp("runs"), {}
    for method in baselines.names():
        cfg = small_config(method, "keep_last=2", "keep_every=2", "checkpoint_every=1", "sampling.num_steps=3")
        folders[method] = trained(cfg, out, f"harness run {method}-tiny")
        (folders[method] / "evaluations").mkdir()
    return folders


def evaluate(run, name, **changes):
    facts = {"step": 4, "weights": "ema", "metrics": {"fd-digits@50": 12.5}, "protocol": CONDITIONS, "seconds": 1.0}
    write_record(run / "evaluations" / f"{name}.json", Evaluation(name=name, **{**facts, **changes}))


def export(run, out, **changes):
    asked = {"step": None, "weights": "ema", "license": None, "force": False, "progress": NoProgress()}
    return exporting.export(run, out, card=model_card.render, **{**asked, **changes})


@pytest.mark.parametrize("method", baselines.names())
def test_an_exported_network_gives_the_runs_output_bit_for_bit(method, runs, tmp_path):
    record = export(runs[method], tmp_path / "out")
    ours = exporting.load(tmp_path / "out").network
    theirs = sampling.open_run(runs[method], torch.device("cpu"), NoProgress()).network
    assert torch.equal(ours(*INPUTS), theirs(*INPUTS))
    assert (record.step, record.manifest.seed) == (4, 0)


def test_raw_weights_are_those_that_were_trained_and_not_their_average(runs, tmp_path):
    raw, average = export(runs["dit"], tmp_path / "raw", weights="raw"), export(runs["dit"], tmp_path / "ema")
    with safe_open(runs["dit"] / "checkpoints" / "step-000000004" / "method.safetensors", "pt") as method:
        for name, value in exporting.load(tmp_path / "raw").network.state_dict().items():
            assert torch.equal(value, method.get_tensor(f"network.{name}"))
    assert raw.weights_sha256 != average.weights_sha256


def test_the_weights_open_by_safetensors_alone_and_say_what_they_are(runs, tmp_path):
    record = export(runs["sddit"], tmp_path / "out", license="apache-2.0")
    with safe_open(tmp_path / "out" / "model.safetensors", "pt") as file:
        said, names = file.metadata(), set(file.keys())
    assert names == set(exporting.load(tmp_path / "out").network.state_dict())
    assert said["harness_format"] == exporting.FORMAT
    assert (said["method"], said["step"], said["weights"], said["license"]) == ("sddit", "4", "ema", "apache-2.0")
    assert said["weights_sha256"] == record.weights_sha256
    assert json.loads(said["config"]) == yaml.safe_load((tmp_path / "out" / "config.yaml").read_text())


def test_an_export_is_sampled_as_its_run_is_and_raw_weights_are_called_raw(runs, tmp_path):
    export(runs["maskdit"], tmp_path / "ema")
    export(runs["maskdit"], tmp_path / "raw", weights="raw")

    def images(folder):
        answer = sampling.sample(
            folder, 4, seed=0, label_rule="balanced", npz=True, progress=NoProgress(), world=World()
        )
        with np.load(answer["files"][-1], allow_pickle=False) as samples:
            return answer["weights"], samples["arr_0"]

    (own, ours), (_, theirs), (raw, others) = (
        images(folder) for folder in (tmp_path / "ema", runs["maskdit"], tmp_path / "raw")
    )
    assert (own, raw) == ("ema", "raw")
    assert np.array_equal(ours, theirs)
    assert not np.array_equal(ours, others)


def test_an_export_is_listed_as_one_and_not_taken_for_a_run_that_goes_on(runs, tmp_path):
    record = export(runs["dit"], tmp_path / "dit-tiny" / runs["dit"].name, step=2)
    (entry,) = survey([tmp_path])
    assert (entry.state, entry.reason, entry.steps_done, entry.recipe) == ("exported", "", record.step, "dit-tiny")
    _, (left_out,) = find_runs([tmp_path])
    assert left_out.reason.startswith("exported: ")
    listed = invoke("runs", "list", str(tmp_path))
    assert (listed.exit_code, "1 run: 1 exported." in listed.stdout) == (0, True)
    with pytest.raises(UsageError, match="is an exported network and not a run"):
        removal.plan(entry.path, tmp_path, force=True)
    assert invoke("runs", "show", str(entry.path)).exit_code == 0
    (entry.path / "export.json").write_text("{")
    assert [entry.state for entry in survey([tmp_path])] == ["damaged"]


def test_a_step_that_is_not_in_the_export_is_not_sampled(runs, tmp_path):
    export(runs["dit"], tmp_path / "out")
    with pytest.raises(DataError, match="weights of step 4 alone"):
        sampling.open_run(tmp_path / "out", torch.device("cpu"), NoProgress(), step=2)


def test_a_milestone_has_an_average_and_no_raw_weights(runs, tmp_path):
    assert export(runs["dit"], tmp_path / "out", step=2).step == 2
    with pytest.raises(DataError, match=r"no whole raw weights, which only the newest checkpoints keep, of step 2"):
        export(runs["dit"], tmp_path / "raw", step=2, weights="raw")
    with pytest.raises(DataError, match=r"no whole checkpoint of step 9 .*Steps there: "):
        export(runs["dit"], tmp_path / "none", step=9)


def test_the_same_run_gives_the_same_bytes(runs, tmp_path):
    first, second = export(runs["mdt"], tmp_path / "a"), export(runs["mdt"], tmp_path / "b")
    assert first.files == second.files
    assert (tmp_path / "a" / "export.json").read_bytes() == (tmp_path / "b" / "export.json").read_bytes()


@pytest.mark.parametrize("name", ["model.safetensors", "config.yaml"])
def test_a_changed_file_is_not_loaded(name, runs, tmp_path):
    export(runs["dit"], tmp_path / "out")
    path = tmp_path / "out" / name
    content = bytearray(path.read_bytes())
    content[-2] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match=f"{name} is not the file that was exported"):
        exporting.load(tmp_path / "out")
    path.unlink()
    with pytest.raises(DataError, match="cannot be read"):
        exporting.load(tmp_path / "out")


# Folders ---------------------------------------------------------------------------------------------------------


def test_an_export_is_replaced_only_by_force_and_another_folder_never(runs, tmp_path):
    export(runs["dit"], tmp_path / "out")
    with pytest.raises(UsageError, match="--force replaces it"):
        export(runs["dit"], tmp_path / "out")
    (tmp_path / "out" / "samples").mkdir()
    assert export(runs["dit"], tmp_path / "out", force=True, step=2).step == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "README.md",
        "config.yaml",
        "export.json",
        "model.safetensors",
    ]
    (tmp_path / "mine").mkdir()
    with pytest.raises(UsageError, match="nothing in it is touched"):
        export(runs["dit"], tmp_path / "mine", force=True)


def test_a_disk_that_is_full_leaves_no_part_of_an_export_and_the_earlier_one_whole(runs, tmp_path, monkeypatch):
    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    before = export(runs["dit"], tmp_path / "out")
    with monkeypatch.context() as patch:
        patch.setattr(model_card, "render", full)
        for out, force in ((tmp_path / "out", True), (tmp_path / "new", False)):
            with pytest.raises(DataError, match="No space left on device"):
                export(runs["dit"], out, force=force)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert exporting.load(tmp_path / "out").record == before


def test_what_is_no_run_or_an_export_already_is_refused(runs, tmp_path):
    with pytest.raises(DataError, match="is not a run folder"):
        export(tmp_path, tmp_path / "out")
    export(runs["dit"], tmp_path / "out")
    with pytest.raises(UsageError, match="is an export already"):
        export(tmp_path / "out", tmp_path / "again")
    with pytest.raises(UsageError, match="must be an identifier"):
        export(runs["dit"], tmp_path / "other", license="do: what\nyou want")


def test_the_command_names_the_folder_and_refuses_a_second_time(runs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = invoke("export", str(runs["dit"]))
    assert done.exit_code == 0, done.stderr
    assert exporting.load(tmp_path / done.stdout.strip()).record.run == f"dit-tiny/{runs['dit'].name}"
    again = invoke("export", str(runs["dit"]))
    assert (again.exit_code, again.stdout) == (2, "")
    assert again.stderr.startswith("error: ")


# The card --------------------------------------------------------------------------------------------------------


def card_of(folder):
    return (folder / "README.md").read_text(encoding="utf-8")


def test_the_card_has_the_evaluations_of_these_weights_alone(runs, tmp_path):
    run = runs["sddit"]
    evaluate(run, "final", standard_errors={"fd-digits@50": 0.25})
    evaluate(run, "untrained", step=0, weights="raw", metrics={"fd-digits@50": 300.125})
    evaluate(run, "other", weights_sha256="0" * 64, metrics={"fd-digits@50": 77.125})
    record = export(run, tmp_path / "out")
    assert list(record.evaluations) == ["final"]
    card = card_of(tmp_path / "out")
    assert re.search(r"fd-digits@50 +\| +12.5 \| +0.25 \|", card)
    assert "300.1" not in card
    assert "77.1" not in card
    for condition in ("nfe", "seed", "features sha256", "reference sha256", "uint8 rule", "guidance scale"):
        assert re.search(rf"^\| {condition} +\| ", card, re.MULTILINE)
    assert "The evaluation names the step of these weights, and does not record their hash." in card
    evaluate(run, "final", weights_sha256=record.weights_sha256)
    export(run, tmp_path / "proven")
    assert "The evaluation names these weights by their hash." in card_of(tmp_path / "proven")


def test_the_hub_reads_the_front_matter(runs, tmp_path):
    evaluate(runs["mdt"], "final", metrics={"fd-digits@50": 12.5, "is-digits@50": 2.0})
    record = export(runs["mdt"], tmp_path / "out", license="mit")
    read = ModelCard(card_of(tmp_path / "out")).data
    assert (read.license, read.library_name) == ("mit", "dit-harness")
    assert {(r.metric_type, r.metric_value, r.dataset_type) for r in read.eval_results} == {
        ("fd-digits@50", 12.5, "digits"),
        ("is-digits@50", 2.0, "digits"),
    }
    assert {"mdt", "mdt-tiny"} <= set(read.tags)
    evaluation = record.evaluations["final"].model_copy(update={"metrics": {"fd-digits@50": float("inf")}})
    broken = record.model_copy(update={"evaluations": {"final": evaluation}})
    front = model_card.front_matter(broken, small_config("mdt").model_dump(mode="json"))
    assert "model-index" not in yaml.safe_load(front)  # an infinite distance is no result


def test_every_fact_of_an_imported_checkpoints_training_is_not_recorded(tmp_path):
    cfg = resolve("dit-tiny", ["width=16", "depth=4", "num_heads=2"])
    torch.save(official_state("dit", shape_of(cfg)), tmp_path / "official.pt")
    run = importing.import_checkpoint(tmp_path / "official.pt", cfg, tmp_path / "runs")
    record = export(run, tmp_path / "out")
    assert (record.license, record.manifest, record.result) == ("cc-by-nc-4.0", None, None)
    training = card_of(tmp_path / "out").split("## Training procedure")[1].split("Settings that")[0]
    values = [line.split("|")[2].strip() for line in training.strip().splitlines()[2:]]
    assert set(values) == {"not recorded"}
    with pytest.raises(UsageError, match="keeps its own"):
        export(run, tmp_path / "mine", license="mit")
    assert torch.equal(
        exporting.load(tmp_path / "out").network(*INPUTS),
        sampling.open_run(run, torch.device("cpu"), NoProgress()).network(*INPUTS),
    )


HOSTILE = "<script>alert(1)</script> | $title ${data}\n---\n# heading `x` [a](javascript:b) ![c](d)"


def test_text_from_outside_is_only_text_in_the_card(runs, tmp_path):
    record = export(runs["dit"], tmp_path / "out")
    config = yaml.safe_load((tmp_path / "out" / "config.yaml").read_text())
    plain = model_card.render(record, config, {"a.weight": (2, 3)})
    data = record.manifest.data.model_copy(update={"name": HOSTILE, "vae": HOSTILE})
    manifest = record.manifest.model_copy(update={"data": data, "command": HOSTILE, "packages": {HOSTILE: HOSTILE}})
    protocol = CONDITIONS.model_copy(update={"reference": HOSTILE, "sampler": HOSTILE})
    evaluation = Evaluation(
        name=HOSTILE, step=4, weights="ema", metrics={HOSTILE: 1.0}, protocol=protocol, seconds=1, notes=[HOSTILE]
    )
    hostile = record.model_copy(update={"manifest": manifest, "evaluations": {HOSTILE: evaluation}, "run": HOSTILE})
    card = model_card.render(hostile, config | {"recipe": HOSTILE}, {f"{HOSTILE}.weight": (2, 3)})
    _, front, body = card.split("---\n", 2) if card.count("---\n") == 2 else (None, *_front_and_body(card))
    assert yaml.safe_load(front)["model-index"][0]["name"] == HOSTILE
    assert not re.search(r"(?<!\\)(<script|\]\(javascript|!\[)", body)
    headings = [line for line in body.splitlines() if line.startswith("#")]
    assert len(headings) == len([line for line in plain.splitlines() if line.startswith("#")]) + 1  # the evaluation's
    assert "$title" in body.replace("\\", "")


def _front_and_body(card):
    """Front matter ends at the first line that is --- and not inside a quoted value, which is indented."""
    lines = card.splitlines(keepends=True)
    end = next(i for i, line in enumerate(lines) if i and line == "---\n")
    return "".join(lines[1:end]), "".join(lines[end + 1 :])


def test_a_published_number_stands_beside_the_measured_one(tmp_path):
    run = load_run(write_run(tmp_path, "sddit", size="s", distance=50.0))
    record = Export(
        harness_version="0", run=run.name, weights="ema", step=400_000, weights_sha256="0", config_sha256="0",
        run_config_sha256="0", license="mit", manifest=run.manifest, result=run.result,
        evaluations=run.result.evaluations, files={},
    )  # fmt: skip
    card = model_card.render(record, run.config, {}, run)
    section = card.split("## Agreement with the paper")[1].split("## Deviations")[0]
    assert re.search(r"\| SD-DiT-S/2 .*\| FID-50K .*\| +48\.39 \| +50(\.00)? \|", section)
    assert "ImageNet is given for non-commercial research" in card
    assert "48.39" not in model_card.render(record, run.config, {})


@pytest.mark.parametrize("method", ["dit", "maskdit", "mdt", "sddit"])
def test_only_deviations_of_this_network_are_listed(method):
    told = [d.concerns for d in model_card.deviations_of(small_config(method).model_dump())]
    others = {"dit": "MDT", "maskdit": "SD-DiT", "mdt": "SD-DiT", "sddit": "MDT learning rate"}[method]
    assert "all methods" in told
    assert not [name for name in told if name.startswith(others) and "MaskDiT" not in name]
    full = small_config(method).model_dump() | {"size": "xl"}
    assert not [d for d in model_card.deviations_of(full) if "tiny" in d.concerns]


def test_papers_are_cited_as_in_the_citation_file():
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())["references"]
    papers = [about(method).paper for method in built_in()]
    ours = {(p.title, p.year, p.authors, f"arXiv:{p.arxiv}") for p in papers}
    assert {(r["title"], r["year"], r["authors"][0]["name"], r["notes"]) for r in cited} == ours


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("harness run dit-s --data /home/someone/latents --out ~/runs/", "harness run dit-s --data latents --out "),
        ("--set protocol.data=/mnt/x/y", "--set protocol.data=y"),
        (r"C:\Users\me\data and and/or 1 / 2", "or 1 / 2"),
        ("stabilityai/sd-vae-ft-ema", "stabilityai/sd-vae-ft-ema"),
        ("['/a/b', \"/c/d e\"]", "['b', \"d e\"]"),
        ("--set data=/content/My Drive/secret project/x --set seed=1", "--set data=x --set seed=1"),
        ("data='/home/jo/My Data/imagenet'", "data='imagenet'"),
        ("file:///home/jo/x", "x"),
        ("of https://jo@host.example/secret/x.npz", "of x.npz"),
        (r"\\host\share\My Data\x", "x"),
        ("../../jo/x", "x"),
        ("drawn w/o labels and/or guided, 1/2", "drawn w/o labels and/or guided, 1/2"),
    ],
)
def test_where_a_file_lay_is_left_out(text, expected):
    assert without_places(text) == expected


def test_a_place_that_a_setting_names_is_left_out_wherever_it_stands():
    document = {"command": "--set data=My Drive/secret project/x --set vae=a/b", "notes": ["My Drive/secret project/x"]}
    said = without_places(document, ["My Drive/secret project/x"])
    assert said == {"command": "--set data=x --set vae=a/b", "notes": ["x"]}


def test_an_export_waits_for_nobody_and_disturbs_nobody(runs, tmp_path):
    """A run that is being removed, and an export that is being drawn from, are held by others."""
    run, out = runs["dit"], tmp_path / "out"
    with locks.run_folder(run, "", alone=True, note=print), pytest.raises(DataError, match="being removed"):
        export(run, out)
    export(run, out)
    with locks.in_use(out, note=print), pytest.raises(DataError, match="Nothing of it is removed"):
        export(run, out, force=True)
    with locks.in_use(run, note=print):
        export(run, out, force=True)
    assert [path.name for path in tmp_path.iterdir()] == ["out"], "no lock is left"


def test_no_place_of_the_machine_is_in_an_export(runs, tmp_path):
    """A run on data in a folder: its configuration gets another hash here, and keeps the run's in its record."""
    run = runs["dit"]
    manifest = read_record(run / "manifest.json", Manifest)
    command = f"harness run dit-tiny --data {tmp_path}/latents"
    try:
        write_record(run / "manifest.json", manifest.model_copy(update={"command": command}))
        export(run, tmp_path / "out")
    finally:
        write_record(run / "manifest.json", manifest)
    for name in ("README.md", "config.yaml", "export.json", "model.safetensors"):
        assert str(tmp_path).encode() not in (tmp_path / "out" / name).read_bytes()
    assert read_record(tmp_path / "out" / "export.json", Export).manifest.command.endswith("--data latents")
