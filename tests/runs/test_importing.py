"""A published checkpoint becomes a run folder, and such a folder is sampled like any other."""

import json
import os

import numpy as np
import pytest
import torch
from command_line import invoke
from official import official_state
from small import small_config

import baselines
from harness.evaluation.generation import choose_labels
from harness.model.shape import shape_of
from harness.planning.plan import resolve
from harness.records.schema import Evaluation, Import, read_record
from harness.runs import importing, measuring, published_weights, sampling
from harness.system.errors import DataError, UsageError
from harness.system.processes.world import World
from harness.system.progress import NoProgress
from harness.training import checkpoint

SMALL = {  # the tiny recipes with the sizes that tests/official.py has, on the digits
    "dit": ["width=16", "depth=4", "num_heads=2"],
    "maskdit": ["width=16", "depth=4", "num_heads=2", "decoder_width=8", "decoder_depth=2", "decoder_heads=4"],
    "mdt": ["width=16", "depth=4", "num_heads=2", "relative_position=true"],
}
SAMPLED = {
    "seed": 0, "label_rule": "balanced", "assignments": ["sampling.num_steps=3"], "npz": True,
    "progress": NoProgress(), "world": World(),
}  # fmt: skip
GUIDED = ["sampling.num_steps=3", "guidance_scale=2"]


def imported(method, folder, version="1"):
    cfg = resolve(f"{method}-tiny", [*SMALL[method], *([f"version={version}"] if method == "mdt" else [])])
    state = official_state("mdtv2" if version == "2" else method, shape_of(cfg))
    file = folder / "official.pt"
    torch.save(
        {"ema": {f"model.{name}": value for name, value in state.items()} if method == "maskdit" else state}, file
    )
    return importing.import_checkpoint(file, cfg, folder / "runs"), cfg, file


@pytest.mark.parametrize("method", SMALL)
def test_an_imported_checkpoint_is_sampled_like_a_run(method, tmp_path):
    folder, cfg, file = imported(method, tmp_path)
    opened = sampling.open_run(folder, torch.device("cpu"), NoProgress())
    network = baselines.build(cfg).network
    network.load_state_dict(published_weights.convert(method, network, published_weights.read(file)))
    inputs = torch.randn(2, 1, 8, 8), torch.tensor([0.1, 0.2]), torch.tensor([3, 10])
    assert torch.equal(opened.network(*inputs), network.eval()(*inputs))
    answer = sampling.sample(folder, 5, **SAMPLED)
    with np.load(answer["files"][-1], allow_pickle=False) as samples:
        assert samples["arr_0"].shape == (5, 8, 8, 1)
        assert samples["arr_0"].dtype == np.uint8
        assert samples["labels"].tolist() == choose_labels("balanced", 5, 10, 0).tolist()


def test_weights_of_mdt_v2_are_imported_as_those_of_version_2(tmp_path):
    folder, cfg, file = imported("mdt", tmp_path, version="2")
    opened = sampling.open_run(folder, torch.device("cpu"), NoProgress())
    assert opened.network.version == cfg.knobs.version == 2
    official = published_weights.read(file)
    joins = opened.network.decoder[1].join.linear.weight
    assert torch.equal(joins, official["de_blocks.1.skip_linear.weight"])
    with pytest.raises(DataError, match=r"They have version 2 \(here 1\)"):
        importing.import_checkpoint(file, resolve("mdt-tiny", SMALL["mdt"]), tmp_path / "runs")


def test_an_imported_checkpoint_is_evaluated_like_a_run(tmp_path):
    folder, _, _ = imported("maskdit", tmp_path)
    evaluation = measuring.evaluate_run(
        folder, ["num_images=60", "evaluation.seed=1"], progress=NoProgress(), world=World()
    )
    assert evaluation.metrics["fd-digits@60"] > 0
    assert (evaluation.protocol.seed, evaluation.step) == (1, 0)
    assert read_record(folder / "evaluations" / f"{evaluation.name}.json", Evaluation) == evaluation


def test_the_command_line_imports_and_names_the_folder(tmp_path):
    _, _, file = imported("maskdit", tmp_path)
    settings = [part for assignment in SMALL["maskdit"] for part in ("--set", assignment)]
    command = ["import-checkpoint", file, "--as", "maskdit-tiny", *settings]
    done = invoke(*command, cwd=tmp_path)
    assert done.exit_code == 0, done.stderr
    assert (tmp_path / done.stdout.strip() / "import.json").is_file()
    wrong = invoke(*command, "--set", "depth=5", cwd=tmp_path)
    assert wrong.exit_code == 4
    assert wrong.stderr.startswith("error: ")


def test_the_record_says_where_the_weights_come_from_and_not_on_which_machine(tmp_path):
    folder, cfg, _ = imported("dit", tmp_path)
    record = read_record(folder / importing.RECORD, Import)
    assert record.file_name == "official.pt"
    assert record.config_sha256 == cfg.sha256
    assert folder.name == f"imported-{record.file_sha256[:10]}-{cfg.sha256[:6]}"
    assert str(tmp_path) not in (folder / importing.RECORD).read_text() + (folder / "config.yaml").read_text()


def test_a_checkpoint_of_another_size_is_refused_and_nothing_is_written(tmp_path):
    _, _, file = imported("dit", tmp_path)
    with pytest.raises(DataError, match=r"of another shape|unexpected|missing"):
        importing.import_checkpoint(file, small_config("dit"), tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_the_same_images_come_again_more_begin_with_the_same_and_their_conditions_are_recorded(tmp_path):
    folder, _, _ = imported("dit", tmp_path)

    def images(num, **changes):
        answer = sampling.sample(folder, num, **{**SAMPLED, **changes})
        with np.load(answer["files"][-1], allow_pickle=False) as samples:
            return samples["arr_0"]

    few, many = images(4), images(7)
    assert np.array_equal(few, many[:4])
    assert not np.array_equal(few, images(4, seed=1))
    assert not np.array_equal(few, images(4, assignments=GUIDED))
    answer = sampling.sample(folder, 4, **SAMPLED | {"assignments": GUIDED})
    with open(answer["files"][1]) as file:
        assert json.load(file) == {key: value for key, value in answer.items() if key != "files"}
    assert (answer["sampler"], answer["num_steps"], answer["guidance_scale"], answer["seed"]) == ("ddpm", 3, 2.0, 0)
    assert os.path.getsize(answer["files"][0]) > 0


@pytest.mark.parametrize("make", ["nothing", "no checkpoint", "damaged weights"])
def test_a_folder_that_cannot_be_sampled_says_why(make, tmp_path):
    folder, _, _ = imported("dit", tmp_path)
    expected = "holds no whole checkpoint"
    if make == "nothing":
        folder, expected = tmp_path, "is not a run folder"
    elif make == "no checkpoint":
        (folder / "checkpoints").rename(folder / "elsewhere")
    else:
        path = next(folder.glob("checkpoints/*/ema.safetensors"))
        path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DataError, match=expected):
        sampling.sample(folder, 4, **SAMPLED)


@pytest.mark.parametrize(("method", "channels", "power"), [("dit", 3, None), ("maskdit", None, None), ("mdt", 3, 4.0)])
def test_an_imported_checkpoint_is_guided_as_its_official_code_guides(method, channels, power):
    guidance = importing.as_published(f"{method}-xl", []).sampling
    assert (guidance.guidance_channels, guidance.guidance_power) == (channels, power)


def test_the_same_file_used_in_another_way_is_another_folder(tmp_path):
    """Or images of one way would stand beside, or be taken for, those of the other."""
    folder, cfg, file = imported("dit", tmp_path)
    other = cfg.model_copy(update={"sampling": cfg.sampling.model_copy(update={"guidance_scale": 2.0})})
    assert importing.import_checkpoint(file, other, tmp_path / "runs") != folder


def test_a_method_without_published_checkpoints_cannot_be_imported():
    with pytest.raises(UsageError, match="Available: dit, maskdit, mdt, sit"):
        importing.as_published("sddit-tiny", [])


def test_another_decoder_draws_other_images_and_stands_in_the_record(tmp_path):
    """The VAE in a folder may be replaced: what was measured with the one before is not taken for it."""
    from diffusers import AutoencoderKL

    from harness.data.latents import vae

    model = AutoencoderKL(**vae.RANDOM["random-tiny"])
    model.save_pretrained(tmp_path / "vae", safe_serialization=True)
    cfg = resolve(
        "maskdit-tiny",
        [
            *SMALL["maskdit"], "input={channels: 4, side: 4, num_classes: 10}", f"vae={tmp_path / 'vae'}",
            "sampling.num_steps=3", "num_images=60", "reference=digits", "metrics=[fd]", "features=inception",
        ],
    )  # fmt: skip
    run = tmp_path / "run"
    checkpoint.save_ema(run / "checkpoints", 0, baselines.build(cfg).network.state_dict(), cfg.sha256)
    (run / "config.yaml").write_text(cfg.to_yaml())
    (run / importing.RECORD).write_text(
        Import(
            harness_version="0", file_name="", file_sha256="", method="maskdit", config_sha256=cfg.sha256,
            vae=str(tmp_path / "vae"), imported_at="",
        ).model_dump_json()
    )  # fmt: skip
    first = sampling.sample(run, 4, **SAMPLED)
    with torch.no_grad():
        model.decoder.conv_out.bias += 0.5
    model.save_pretrained(tmp_path / "vae", safe_serialization=True)
    vae._on.cache_clear()
    second = sampling.sample(run, 4, **SAMPLED)
    assert first["vae"] == second["vae"] == "local/vae"
    assert first["vae_sha256"] != second["vae_sha256"]
    assert first["files"] != second["files"]


def test_a_part_of_a_runs_name_is_enough_to_sample_and_to_evaluate_it(tmp_path):
    folder, _, _ = imported("dit", tmp_path)
    part = f"dit-tiny/{folder.name[:14]}"
    drawn = invoke("sample", part, "--num", "2", "--steps", "2", cwd=tmp_path)
    assert (drawn.exit_code, (folder / "samples").is_dir()) == (0, True), drawn.stderr
    measured = invoke("evaluate", part, "--num", "50", "--steps", "2", cwd=tmp_path)
    assert (measured.exit_code, (folder / "evaluations").is_dir()) == (0, True), measured.stderr
    for command, said in (("sample", "no run below runs is called"), ("evaluate", "there is no file or folder")):
        absent = invoke(command, "nothing-like-it", cwd=tmp_path)
        assert (absent.exit_code, said in absent.stderr) == (2, True), absent.stderr
