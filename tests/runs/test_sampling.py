"""Images drawn from a run: what can be chosen anew, and what their folder's name says."""

import pytest
from small import small_config, trained_a_little

import baselines
from harness.data.latents import vae
from harness.runs import folder, sampling
from harness.system.errors import UsageError
from harness.system.processes.world import World
from harness.system.progress import NoProgress

LATENTS = "input={channels: 4, side: 8, num_classes: 10}"


@pytest.fixture
def sampled(tmp_path, monkeypatch):
    """Draws two images from a run with a VAE, sampled as the assignments say; gives what is said of them."""
    cfg = small_config("sddit", "sampling.num_steps=3", LATENTS)
    network = trained_a_little(baselines.build(cfg).network)
    opened = sampling.Opened(cfg, network, 4, vae.load("random-tiny"))
    monkeypatch.setattr(sampling, "open_run", lambda *args: opened)

    def sample(*assignments):
        return sampling.sample(
            tmp_path / "run", 2, seed=0, label_rule="balanced", assignments=assignments, npz=False,
            progress=NoProgress(), world=World(),
        )  # fmt: skip

    return sample


def test_how_latents_are_decoded_is_said_and_names_the_folder(sampled):
    plain, half = sampled(), sampled("decode_precision=bf16")
    assert [answer["decode_precision"] for answer in (plain, half)] == ["fp32", "bf16"]
    assert plain["files"] != half["files"]
    assert sampled("decode_precision=fp32")["files"] == plain["files"]


def test_drawing_images_knows_no_other_setting_of_evaluation(sampled):
    with pytest.raises(UsageError, match="but decode_precision, sample_batch, sample_precision"):
        sampled("evaluation.seed=3")


def test_how_the_sampled_network_is_called_can_be_chosen_anew_and_how_training_went_cannot():
    cfg = small_config("dit")
    other = sampling.changed(cfg, ["sample_compile=true", "cuda_graphs=true"])
    assert (other.execution.sample_compile, other.execution.cuda_graphs, other.sha256) == (True, True, cfg.sha256)
    with pytest.raises(UsageError, match="knobs were settled when"):
        sampling.changed(small_config("sddit"), ["mask_ratio=0.5"])
    for training in ("micro_batch=4", "attention=math", "protocol.precision=bf16"):
        with pytest.raises(UsageError, match="was settled when the run was trained"):
            sampling.changed(cfg, [training])


def test_a_step_that_is_not_there_is_told_by_those_that_are_and_no_finished_run_is_continued(tmp_path):
    for step in (20, 40):
        (tmp_path / "checkpoints" / f"step-{step:09d}").mkdir(parents=True)
    said = {False: str(folder.no_checkpoint(tmp_path, 30))}
    (tmp_path / "result.json").touch()
    said[True] = str(folder.no_checkpoint(tmp_path, 30))
    assert all("of step 30 of its configuration. Steps there: 20, 40; " in text for text in said.values())
    assert said[False].endswith("`harness run` continues the run.")
    assert said[True].endswith("the run is finished, so take one of these.")
