"""The official codes as contenders: imported without a trace, stepping as their authors' loops do.

Tests of the codes themselves run where $HARNESS_OFFICIAL names a folder that holds DiT/, MaskDiT/ and MDT/ (its branch
mdtv1); the others run on made-up code whose modules have the names that clash.
"""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from small import tiny_config
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import baselines
from harness.bench import official as codes
from harness.bench import official_step
from harness.bench.official import official
from harness.bench.official_checkout import Project, load
from harness.bench.official_step import PRECISIONS, Setting
from harness.model.shape import Shape, shape_of
from harness.planning.cost import GIGA, count
from harness.recipes.config import validate
from harness.recipes.reading import load_recipe
from harness.system.errors import SetupError, UsageError

CPU = torch.device("cpu")
SHAPE = Shape(channels=2, side=4, num_classes=3, patch=2, width=8, depth=2, num_heads=2)
FOLDERS = {"dit": "DiT", "maskdit": "MaskDiT", "mdt": "MDT"}
KNOBS = {  # what makes our method the official network, where the tiny recipe or "lite" differs from it
    "dit": [],
    "maskdit": ["width=384", "num_heads=6", "decoder_width=512", "decoder_depth=8", "decoder_heads=16"],
    "mdt": ["relative_position=true"],
}
MADE_UP = Project("someone/Clash", needs=("models:answer", "utils:scale"))


def clash(folder: Path, answer: float) -> Path:
    """Made-up code with the names that everybody takes."""
    folder.mkdir()
    (folder / "utils.py").write_text(f"ANSWER = {answer}\n\n\ndef scale(x):\n    return x * ANSWER\n")
    (folder / "models.py").write_text(
        "from utils import scale\n\n\ndef answer(x):\n    return scale(x) + ONE\n\n\nONE = 1\n"
    )
    return folder


def made_up_dit(folder: Path) -> Path:
    """Made-up code that can be called as DiT's: one linear layer, whose loss is its squared output."""
    (folder / "diffusion").mkdir(parents=True)
    (folder / "models.py").write_text("""
import torch

class DiT(torch.nn.Linear):
    def __init__(self, *, input_size, in_channels, num_classes, depth, hidden_size, num_heads, patch_size):
        super().__init__(in_channels * input_size**2, hidden_size)
        self.seen = []

    def forward(self, x, t, y):
        self.seen.append((self.training, t, y, torch.get_float32_matmul_precision()))
        return super().forward(x.flatten(1))

DiT_models = {}
""")
    (folder / "diffusion" / "__init__.py").write_text("""
class Diffusion:
    num_timesteps = 1000

    def training_losses(self, model, x, t, model_kwargs):
        return {"loss": model(x, t, **model_kwargs).square().mean(1)}

def create_diffusion(timestep_respacing):
    return Diffusion()
""")
    return folder


def contender(method: str, folder: Path, shape: Shape = SHAPE, **setting):
    """A contender of batch 4 with two batches and a rest."""
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(9, shape.channels, shape.side, shape.side, generator=generator)
    labels = torch.arange(9) % shape.num_classes
    setting = {"batch_size": 4, "device": CPU, "latents": latents, "labels": labels} | setting
    return official(method, folder, Setting(shape=shape, **setting))


@pytest.fixture
def made_up(tmp_path, monkeypatch):
    """The folder of a made-up DiT, which needs no package."""
    monkeypatch.setattr(codes.STEPS["dit"], "project", codes.STEPS["dit"].project._replace(packages=()))
    return made_up_dit(tmp_path / "made-up")


# Imports


def test_two_codes_whose_names_clash_live_side_by_side_and_leave_no_trace(tmp_path, monkeypatch):
    ours = object()  # somebody else's module of the same name, imported before
    monkeypatch.setitem(sys.modules, "utils", ours)
    path, before = list(sys.path), dict(sys.modules)
    one, two = (load(MADE_UP, clash(tmp_path / name, answer)) for name, answer in (("one", 2), ("two", 5)))
    assert (one.modules["models"].answer(10), two.modules["models"].answer(10)) == (21, 51)
    assert sys.path == path
    added = {name for name in sys.modules if sys.modules[name] is not before.get(name)}
    assert all(name.startswith("official_") for name in added), added
    assert sys.modules["utils"] is ours
    assert "models" not in sys.modules
    assert str(tmp_path / "one") not in sys.path_importer_cache


def test_importing_writes_nothing_into_the_users_folder(tmp_path):
    folder = clash(tmp_path / "code", 2)
    load(MADE_UP, folder)
    assert sorted(entry.name for entry in folder.iterdir()) == ["models.py", "utils.py"]


def test_the_same_folder_gives_the_same_modules_again(tmp_path):
    folder = clash(tmp_path / "code", 2)
    assert load(MADE_UP, folder).modules["models"] is load(MADE_UP, folder).modules["models"]


def test_torch_compile_finds_the_globals_of_either_code(tmp_path):
    for name, answer in (("one", 2), ("two", 5)):
        function = load(MADE_UP, clash(tmp_path / name, answer)).modules["models"].answer

        def step(x, function=function):
            return function(x)

        compiled = torch.compile(step, backend="eager", fullgraph=True)
        assert compiled(torch.tensor(10.0)) == 10 * answer + 1


@pytest.mark.parametrize("method", FOLDERS)
def test_a_missing_folder_and_one_that_holds_something_else_say_what_to_clone(method, tmp_path):
    repository = codes.STEPS[method].project.repository
    with pytest.raises(UsageError, match=f"no such folder.*git clone .*{repository}"):
        contender(method, tmp_path / "nowhere")
    (tmp_path / "README.md").touch()
    with pytest.raises(UsageError, match=f"it has no .*git clone .*{repository}"):
        contender(method, tmp_path)


def test_another_branch_of_a_code_says_which_one_is_meant(tmp_path):
    project = Project("someone/Clash", needs=("models:answer", "models:first_version"), branch="v1")
    folder = clash(tmp_path / "code", 2)
    with pytest.raises(UsageError, match=r"its models has no first_version.*--branch v1"):
        load(project, folder)


def test_a_missing_package_says_what_to_install_and_leaves_no_trace(tmp_path):
    folder = clash(tmp_path / "code", 2)
    (folder / "models.py").write_text("import utils, a_package_that_nobody_has\n")
    path = list(sys.path)
    with pytest.raises(SetupError, match=r"a_package_that_nobody_has.*pip install 'dit-harness\[official\]'"):
        load(MADE_UP, folder)
    assert sys.path == path
    assert not {"models", "utils"} & set(sys.modules)


@pytest.mark.parametrize("method", FOLDERS)
def test_without_timm_every_official_code_says_how_to_get_it(method, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "timm.models.vision_transformer", None)  # as if it were not installed
    for need in codes.STEPS[method].project.needs:
        source = tmp_path.joinpath(*need.partition(":")[0].split(".")).with_suffix(".py")
        source.parent.mkdir(parents=True, exist_ok=True)
        source.touch()
    with pytest.raises(SetupError, match=r"timm.*pip install 'dit-harness\[official\]'"):
        contender(method, tmp_path)


def test_the_record_has_the_commit_and_what_differs_from_it(tmp_path):
    folder = clash(tmp_path / "code", 2)
    assert load(MADE_UP, folder)[1:] == (None, ())

    def git(*arguments: str) -> str:
        who = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
        return subprocess.run(
            ["git", "-C", folder, *who, *arguments], capture_output=True, text=True, check=True
        ).stdout

    git("init")
    git("add", ".")
    git("commit", "-m", "all")
    assert load(MADE_UP, folder)[1:] == (git("rev-parse", "HEAD").strip(), ())
    (folder / "models.py").write_text("changed = True\n")
    assert load(MADE_UP, folder).changed == ("models.py",)
    inside = clash(folder / "inside", 3)
    assert load(MADE_UP, inside).commit is None  # the commit there is of another project


# The step, on made-up code


def test_a_step_trains_averages_and_takes_the_batches_in_turn(made_up):
    dit = contender("dit", made_up)
    before = {name: value.clone() for name, value in dit.network.state_dict().items()}
    dit.step()
    for name, value in dit.network.state_dict().items():
        assert not torch.equal(value, before[name])
        torch.testing.assert_close(dit.ema.state_dict()[name], 0.9999 * before[name] + 0.0001 * value)
    dit.step()
    dit.step()
    assert [labels.tolist() for _, _, labels, _ in dit.network.seen] == [[0, 1, 2, 0], [1, 2, 0, 1], [0, 1, 2, 0]]
    assert all(training for training, *_ in dit.network.seen)


def test_torchs_precision_holds_for_the_step_alone(made_up):
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    dit = contender("dit", made_up)
    dit.precision = PRECISIONS["tf32"]
    dit.step()
    assert dit.network.seen[-1][-1] == "high"
    assert (torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32) == before


def test_under_autocast_the_network_computes_in_bf16_and_the_loss_in_float32(made_up):
    dit = contender("dit", made_up, precision="bf16")
    inner = []
    dit.network.register_forward_hook(lambda module, inputs, output: inner.append(output.dtype))
    dit.step()
    assert (inner, dit.loss.dtype, dit.name) == ([torch.bfloat16], torch.float32, "official DiT bf16")
    assert contender("dit", made_up, name="DiT as published").name == "DiT as published"


def test_on_a_cpu_the_own_precision_gives_way_and_the_record_says_so(made_up):
    conditions = contender("dit", made_up).conditions()
    assert (conditions["precision"], conditions["own_precision"]) == ("fp32", "tf32")
    assert conditions["notes"] == ["its own precision, tf32, is not to be had on a CPU; fp32 takes its place"]
    assert contender("dit", made_up, precision="fp32").conditions()["notes"] == []


@pytest.mark.parametrize(
    ("method", "setting", "message"),
    [
        ("sddit", {}, "no official code is called 'sddit'.*dit, maskdit, mdt"),
        ("dit", {"batch_size": 10}, "9 images do not fill a batch of 10"),
        ("dit", {"precision": "fp16"}, "no precision of the official DiT is called 'fp16'"),
        ("dit", {"precision": "tf32"}, "a CPU does not compute in tf32; take fp32 or bf16"),
    ],
)
def test_what_cannot_be_timed_is_refused(made_up, method, setting, message):
    with pytest.raises(UsageError, match=message):
        contender(method, made_up, **setting)


# The official codes themselves


def checkout(method: str) -> Path:
    folder = os.environ.get("HARNESS_OFFICIAL")
    if not folder or not (Path(folder) / FOLDERS[method]).is_dir():
        pytest.skip(f"needs $HARNESS_OFFICIAL, a folder with the official code in {FOLDERS[method]}/")
    return Path(folder) / FOLDERS[method]


def ours(method: str):
    """Our method at the tiny size, built as its official code is."""
    return tiny_config(method, *KNOBS[method])


@pytest.mark.parametrize("method", FOLDERS)
def test_an_official_step_does_the_arithmetic_of_ours_with_as_many_parameters(method):
    """Counted with attention as matrix products, since the counter takes a CPU's fused kernel for nothing."""
    cfg = ours(method)
    theirs = contender(method, checkout(method), shape_of(cfg), compile=False)
    cost = count(baselines.build(cfg, device="meta"), shape_of(cfg))
    assert sum(p.numel() for p in theirs.network.parameters() if p.requires_grad) == cost.params
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        theirs.step()
    assert counter.get_total_flops() / 2 / GIGA / theirs.num_images == pytest.approx(cost.gmacs_step, rel=1e-3)


@pytest.mark.parametrize("method", FOLDERS)
def test_official_steps_give_a_finite_loss_and_move_weights_and_average(method):
    theirs = contender(method, checkout(method), shape_of(ours(method)), compile=False)
    average = theirs.ema if method == "mdt" else list(theirs.ema.parameters())
    before = [[value.clone() for value in values] for values in (theirs.network.parameters(), average)]
    for _ in range(2):
        theirs.step()
        assert math.isfinite(theirs.loss)
    for old, new in zip(before, (theirs.network.parameters(), average), strict=True):
        assert any(not torch.equal(a, b) for a, b in zip(old, new, strict=True))


@pytest.mark.parametrize("method", FOLDERS)
def test_at_a_published_size_the_official_code_builds_its_named_network(method):
    recipe = load_recipe(f"{method}-s").document
    knobs = recipe["knobs"] | ({"relative_position": True} if method == "mdt" else {})
    cfg = validate(recipe | {"knobs": knobs}, baselines.load(method).Config)
    shape = shape_of(cfg)
    theirs = contender(method, checkout(method), shape, compile=False)
    assert theirs.conditions()["network"] == "S/2"
    expected = count(baselines.build(cfg, device="meta"), shape).params
    assert sum(p.numel() for p in theirs.network.parameters() if p.requires_grad) == expected


def test_maskdits_own_precision_scales_the_loss_and_takes_a_step(monkeypatch):
    monkeypatch.setattr(official_step, "ON_CPU", ("fp16",))  # slow there, but the same path as on a GPU
    shape = shape_of(ours("maskdit"))
    theirs = contender("maskdit", checkout("maskdit"), shape, compile=False, precision="fp16", batch_size=1)
    weight = theirs.network.model.final_layer.linear.weight
    before = weight.clone()
    for _ in range(2):  # the first is at a learning rate of 0
        theirs.step()
    assert theirs.scaler.get_scale() > 1
    assert math.isfinite(theirs.loss)
    assert not torch.equal(weight, before)


@pytest.mark.parametrize("method", FOLDERS)
def test_the_record_of_an_official_code_says_what_was_timed(method):
    theirs = contender(method, checkout(method), shape_of(ours(method)), compile=False)
    record = json.loads(json.dumps(theirs.conditions()))
    assert record["code"] == codes.STEPS[method].project.repository
    assert len(record["commit"]) == 40
    assert record["pipeline"] == "cached"
    assert record["packages"].keys() == {"timm"}
    assert ("VAE" in " ".join(record["left_out"])) == (method != "maskdit")  # whose data set is latents
