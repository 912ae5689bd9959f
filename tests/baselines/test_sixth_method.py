"""A method of another package that needs the whole contract: stored tensors, a frozen network, groups of parameters."""

import json
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from small import small_config

import baselines
from harness.data import sources
from harness.data.dataset import InMemory
from harness.planning.plan import cost_of, estimate_of
from harness.recipes.reading import plugins
from harness.system.errors import DataError, SetupError, UsageError
from harness.system.files import sha256_of
from harness.training import engine
from harness.training.checkpoint import load_newest

TESTS = Path(__file__).parents[1]
CPU = torch.device("cpu")
SHORT = ["steps=6", "log_every=1", "checkpoint_every=3", "num_heads=2"]


class Stop(Exception):
    pass


def forget() -> None:
    plugins._claims.cache_clear()
    plugins.family.cache_clear()


@pytest.fixture
def alignment(tmp_path, monkeypatch):
    """The method is installed and its encoder lies where users put weights. Returns the module and the file's hash."""
    record = tmp_path / "site" / "sixth-1.0.dist-info"
    record.mkdir(parents=True)
    (record / "METADATA").write_text("Metadata-Version: 2.1\nName: sixth\nVersion: 1.0\n")
    (record / "entry_points.txt").write_text(f"[{plugins.GROUP}]\nalignment = sixth_method.alignment\n")
    monkeypatch.syspath_prepend(tmp_path / "site")
    monkeypatch.syspath_prepend(TESTS)
    forget()
    module = baselines.load("alignment")
    torch.manual_seed(5)
    file = tmp_path / "weights" / "encoder.safetensors"
    file.parent.mkdir()
    save_file(module.encoder(1).state_dict(), file)
    monkeypatch.setenv("HARNESS_FEATURES", str(file.parent))
    yield module, sha256_of(file)
    forget()
    for name in [name for name in sys.modules if name.partition(".")[0] == "sixth_method"]:
        del sys.modules[name]


@pytest.fixture
def edges():
    """The digits, each with a tensor of its own: its horizontal differences."""
    digits = sources.load("digits")
    return InMemory(
        "digits",
        digits.clean,
        digits.labels,
        10,
        extra={"edges": digits.clean.diff(dim=-1, prepend=digits.clean[..., :1])},
    )


def train(sha256, data, folder, *assignments, stop_after=None):
    folder.mkdir(exist_ok=True)
    cfg = small_config("alignment", *SHORT, f"encoder_sha256={sha256}", *assignments)
    method = baselines.build(cfg)

    def report(line):
        if line["step"] == stop_after:
            raise Stop

    engine.train(method, cfg, data, folder, device=CPU, report=report, note=lambda text: None)
    return cfg, method


def test_a_run_continues_bit_for_bit_and_its_checkpoints_hold_no_frozen_weight(alignment, edges, tmp_path):
    _, sha256 = alignment
    cfg, whole = train(sha256, edges, tmp_path / "whole")
    with pytest.raises(Stop):
        train(sha256, edges, tmp_path / "parts", stop_after=5)
    _, parts = train(sha256, edges, tmp_path / "parts")
    assert all(torch.equal(values, parts.state_dict()[name]) for name, values in whole.state_dict().items())
    losses = [
        [json.loads(line)["loss"] for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        for name in ("whole", "parts")
    ]
    assert losses[0] == losses[1]

    frozen = whole.frozen["encoder"].network.state_dict()
    assert all(
        torch.equal(values, frozen[name])
        for name, values in load_file(tmp_path / "weights" / "encoder.safetensors").items()
    )
    saved = load_newest(tmp_path / "whole" / "checkpoints", cfg.sha256, print)
    assert {name.partition(".")[0] for name in saved.method} == {"network", "project"}
    assert saved.ema.keys() == whole.network.state_dict().keys()
    assert len(saved.optimizer["state"]) == len(list(whole.parameters()))


def test_the_hash_of_the_frozen_weights_is_in_the_name_of_the_run(alignment):
    _, sha256 = alignment
    one, other = (small_config("alignment", f"encoder_sha256={value}") for value in (sha256, "a" * 64))
    assert one.run_id != other.run_id


def test_frozen_weights_that_are_no_knob_are_refused(alignment, monkeypatch):
    module, sha256 = alignment
    cfg = small_config("alignment", f"encoder_sha256={sha256}")
    monkeypatch.setattr(module, "Config", baselines.load("dit").Config)
    without = cfg.model_copy(update={"knobs": baselines.load("dit").Config()})
    object.__setattr__(without.knobs, "encoder_sha256", sha256)
    with pytest.raises(UsageError, match="sha256 is none of its knobs"):
        baselines.build(without)


def test_what_is_absent_is_said_before_the_first_step(alignment, edges, tmp_path, monkeypatch):
    _, sha256 = alignment
    with pytest.raises(UsageError, match="alignment reads edges of each image, and digits has nothing but images"):
        train(sha256, sources.load("digits"), tmp_path / "a")
    with pytest.raises(DataError, match=r"not the published file of the sixth method's encoder"):
        train("a" * 64, edges, tmp_path / "b")
    monkeypatch.setenv("HARNESS_FEATURES", str(tmp_path / "nowhere"))
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "nowhere"))
    with pytest.raises(SetupError, match=r"Fetch https://weights.invalid/encoder.safetensors"):
        train(sha256, edges, tmp_path / "c")


def test_a_dry_run_needs_no_weights_and_counts_them(alignment, monkeypatch, tmp_path):
    monkeypatch.setenv("HARNESS_FEATURES", str(tmp_path / "nowhere"))
    cfg = small_config("alignment")
    assert cost_of(cfg).gmacs_step > cost_of(small_config("dit", "formulation=edm", "sampler=heun")).gmacs_step
    assert estimate_of(cfg)["memory_parts"]["frozen networks"] > 0


def test_each_group_has_its_own_rate_and_decay_and_warms_up_alike(alignment, edges, tmp_path):
    _, sha256 = alignment
    train(sha256, edges, tmp_path / "run", "warmup=8", "weight_decay=0.1", "learning_rate=0.008")
    saved = torch.load(tmp_path / "run" / "checkpoints" / "step-000000006" / "optimizer.pt", weights_only=True)
    network, head = saved["param_groups"]
    assert (network["lr"], head["lr"]) == (pytest.approx(0.006), pytest.approx(0.06))
    assert (network["weight_decay"], head["weight_decay"]) == (0.1, 0.0)
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["lr"] for line in lines] == pytest.approx([0.001 * step for step in range(1, 7)])


def test_groups_that_miss_a_weight_are_refused(alignment, edges, tmp_path, monkeypatch):
    module, sha256 = alignment
    monkeypatch.setattr(module.Method, "param_groups", lambda self: [{"params": list(self.network.parameters())}])
    with pytest.raises(UsageError, match=r"see project\.weight and 1 more"):
        train(sha256, edges, tmp_path / "run")


def test_a_stored_tensor_follows_its_image_and_is_mirrored_with_it(edges):
    indices = torch.tensor([3, 3 + len(edges)])
    clean, _ = edges.read(indices)
    extra = edges.read_extra(indices)["edges"]
    assert torch.equal(extra[1], extra[0].flip(-1))
    assert torch.equal(extra[0], clean[0].diff(dim=-1, prepend=clean[0][..., :1]))
    assert edges.sha256 != sources.load("digits").sha256
