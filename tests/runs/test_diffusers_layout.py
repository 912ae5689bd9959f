"""DiT as diffusers stores it: imported, exported, and opened by diffusers itself with the same output."""

import json

import pytest
import torch
from command_line import invoke
from official import SHAPE, official_state
from small import trained_a_little

import baselines
from harness.planning.plan import resolve
from harness.records.schema import write_record
from harness.reporting import model_card
from harness.runs import diffusers_layout, exporting, importing, published_weights, sampling
from harness.system import torchvision_guard
from harness.system.errors import DataError, UsageError
from harness.system.progress import NoProgress
from harness.training import checkpoint

SMALL = ["width=16", "depth=3", "num_heads=2"]
INPUTS = torch.randn(4, 1, 8, 8), torch.tensor([0, 3, 500, 999]), torch.tensor([0, 3, 9, 10])


@pytest.fixture(scope="module")
def cfg():
    return resolve("dit-tiny", SMALL)


@pytest.fixture(scope="module")
def model(cfg):
    """diffusers' network with random weights, the same embedders in every block, and the official frequencies."""
    torchvision_guard.install()
    from diffusers import DiTTransformer2DModel

    torch.manual_seed(0)
    described = {k: v for k, v in diffusers_layout.config_of(cfg, 2).items() if not k.startswith("_")}
    made = trained_a_little(DiTTransformer2DModel(**described)).eval()
    first = made.transformer_blocks[0].norm1.emb.state_dict()
    for block in made.transformer_blocks:
        block.norm1.emb.load_state_dict(first)
        block.norm1.emb.time_proj.downscale_freq_shift = 0
    return made


def opened(folder):
    return sampling.open_run(folder, torch.device("cpu"), NoProgress())


@torch.no_grad()
def output_of(model):
    noisy, step, labels = INPUTS
    return model(noisy, timestep=step, class_labels=labels).sample


def assert_same(ours, theirs):
    assert theirs.abs().max() > 0.1
    assert (ours - theirs).abs().max() <= 1e-4 * theirs.abs().max()


@torch.no_grad()
@pytest.mark.parametrize("way", ["folder", "transformer", "file", "bin", "fp16 variant"])
def test_a_network_that_diffusers_saved_is_imported_and_gives_its_output(way, cfg, model, tmp_path):
    saved = tmp_path / "hub" / "transformer"
    options = {"bin": {"safe_serialization": False}, "fp16 variant": {"variant": "fp16"}}.get(way, {})
    model.save_pretrained(saved, **options)
    path = {"folder": saved.parent, "file": saved / diffusers_layout.WEIGHTS}.get(way, saved)
    run = importing.import_checkpoint(path, cfg, tmp_path / "runs")
    noisy, step, labels = INPUTS
    assert_same(opened(run).network(noisy, step.float(), labels), output_of(model))


@torch.no_grad()
@pytest.mark.parametrize("formulation", ["iddpm", "edm"])
def test_diffusers_opens_an_export_and_gives_the_runs_output(formulation, tmp_path):
    torchvision_guard.install()
    from diffusers import DiTTransformer2DModel

    cfg = resolve("dit-tiny", [*SMALL, f"formulation={formulation}"])
    run, out = tmp_path / "run", tmp_path / "out"
    network = trained_a_little(baselines.build(cfg).network)
    checkpoint.save_ema(run / "checkpoints", 0, network.state_dict(), cfg.sha256)
    (run / "config.yaml").write_text(cfg.to_yaml())
    write_record(run / importing.RECORD, an_import(cfg))
    record = exporting.export(
        run, out, card=model_card.render, step=None, weights="ema", license=None, force=False,
        progress=NoProgress(), format="diffusers",
    )  # fmt: skip
    theirs = DiTTransformer2DModel.from_pretrained(out, subfolder="transformer", low_cpu_mem_usage=False).eval()
    without = output_of(theirs)
    exec(diffusers_layout.SAME_FREQUENCIES, {"model": theirs})
    noisy, step, labels = INPUTS
    ours = network.eval()(noisy, step.float(), labels)
    assert_same(ours, output_of(theirs))
    assert (without - ours).abs().max() > 1e-3, "diffusers' own frequencies are others"
    assert diffusers_layout.SAME_FREQUENCIES in (out / "README.md").read_text()
    assert "model.safetensors" not in (out / "README.md").read_text().replace("pytorch_model.safetensors", "")
    assert set(record.files) == {
        "transformer/config.json", "transformer/diffusion_pytorch_model.safetensors", "config.yaml", "README.md"
    }  # fmt: skip
    assert torch.equal(opened(out).network(noisy, step.float(), labels), ours), "harness sample opens it too"
    again = importing.import_checkpoint(out, cfg, tmp_path / "runs")
    assert torch.equal(opened(again).network(noisy, step.float(), labels), ours)


def an_import(cfg):
    from harness.records.schema import Import

    return Import(
        harness_version="0", file_name="a.pt", file_sha256="0", method=cfg.method, config_sha256=cfg.sha256,
        vae=None, imported_at="",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("recipe", "settings", "why"),
    [
        ("sddit-tiny", [], "takes runs of dit"),
        ("dit-tiny", ["mlp=swiglu", "rotary=true"], r"blocks of its own \(mlp swiglu, rotary True\)"),
    ],
)
def test_only_a_dit_of_dit_s_blocks_is_exported_for_diffusers(recipe, settings, why, tmp_path):
    cfg = resolve(recipe, settings)
    (tmp_path / "config.yaml").write_text(cfg.to_yaml())
    with pytest.raises(UsageError, match=why):
        exporting.export(
            tmp_path, tmp_path / "out", card=model_card.render, step=None, weights="ema", license=None, force=False,
            progress=NoProgress(), format="diffusers",
        )  # fmt: skip


def test_blocks_with_different_embedders_are_refused():
    state = diffusers_layout.from_official(
        {k: v for k, v in official_state("dit").items() if k != "pos_embed"}, SHAPE.depth
    )
    state["transformer_blocks.2.norm1.emb.timestep_embedder.linear_1.bias"] += 1
    with pytest.raises(DataError, match=r"transformer_blocks\.2\.norm1.*differs from that of another block"):
        diffusers_layout.to_official(state)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"num_attention_heads": 4, "attention_head_dim": 4}, "num_attention_heads 4, not 2"),
        ({"sample_size": 64}, "sample_size 64, not 8"),
        ({"_class_name": "PixArtTransformer2DModel"}, "describes 'PixArtTransformer2DModel'"),
        (None, "cannot be read"),
    ],
)
def test_a_config_of_another_network_is_refused(changed, said, cfg, model, tmp_path):
    model.save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text("{" if changed is None else json.dumps(json.loads(path.read_text()) | changed))
    with pytest.raises(DataError, match=said):
        importing.import_checkpoint(tmp_path, cfg, tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


def test_a_folder_of_parts_or_of_nothing_is_refused(tmp_path):
    with pytest.raises(DataError, match="a folder without diffusers' weights"):
        diffusers_layout.weights_file(tmp_path)
    for number in (1, 2):
        (tmp_path / f"diffusion_pytorch_model-0000{number}-of-00002.safetensors").touch()
    with pytest.raises(DataError, match=r"several files of weights.*max_shard_size"):
        diffusers_layout.weights_file(tmp_path)


def test_a_network_of_another_size_is_told_by_its_official_names(model):
    network = baselines.build(resolve("dit-tiny", ["width=16", "depth=4", "num_heads=2"])).network
    with pytest.raises(DataError, match=r"They have depth 3 \(here 4\)\. Choose the recipe of their size with --as"):
        published_weights.convert("dit", network, model.state_dict())


def test_the_command_says_what_is_wrong_with_the_file_and_not_with_guidance(tmp_path):
    """dit-tiny has one channel, and the official code guides the first three."""
    absent = invoke("import-checkpoint", "x", "--as", "dit-tiny", cwd=tmp_path)
    assert (absent.exit_code, absent.stderr) == (
        4, "error: x cannot be read: No such file or directory. Check the path to the weights.\n"
    )  # fmt: skip
    torch.save(official_state("dit"), tmp_path / "official.pt")
    other = invoke("import-checkpoint", "official.pt", "--as", "dit-tiny", cwd=tmp_path)
    assert other.exit_code == 4
    assert "Choose the recipe of their size with --as" in other.stderr
