"""Official weights in this project's networks, against the official forward passes restated over the official names.

B batch, C channels, S side, L tokens, D width, H heads, E width of the conditioning.
"""

import argparse
import math
import re
from dataclasses import replace

import pytest
import torch
from official import (
    DECODER,
    SHAPE,
    State,
    assert_same,
    mdtv2_forward,
    official_denoised,
    official_forward,
    official_state,
)
from safetensors.torch import save_file
from small import trained_a_little

from baselines import maskdit, mdt
from harness.model.formulations import EDM, IDDPM
from harness.model.guidance import guided, power_cosine
from harness.model.nn.dit import DiT
from harness.model.shape import Shape
from harness.runs import published_weights
from harness.system.errors import DataError, UsageError

METHODS = ("dit", "maskdit", "mdt")


def network_of(
    method: str,
    shape: Shape = SHAPE,
    *,
    relative_position: bool = True,
    learned_variance: bool = True,
    version: int = 1,
):
    """This project's network, with other weights than the official ones on every layer."""
    if method == "dit":
        network = DiT(shape, shape.channels * (1 + learned_variance))
    elif method == "maskdit":
        network = maskdit.Network(maskdit.Config(**DECODER), shape, shape.channels)
    else:
        cfg = mdt.Config(relative_position=relative_position, version=version)
        network = mdt.Network(cfg, shape, 2 * shape.channels)
    return trained_a_little(network, seed=1).eval()


def loaded(method: str, official: State, shape: Shape = SHAPE):
    network = network_of(method, shape)
    network.load_state_dict(published_weights.convert(method, network, official), strict=True)
    return network


# The same function -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
@torch.no_grad()
def test_a_network_with_official_weights_computes_what_the_official_one_does(method):
    torch.manual_seed(0)
    official = official_state(method)
    network = loaded(method, official)
    x, labels = torch.randn(4, 4, 8, 8), torch.tensor([0, 2, 4, 5])  # 5: no label
    level = torch.tensor([-1.5, -0.3, 0.0, 1.1]) if method == "maskdit" else torch.tensor([0.0, 3.0, 500.0, 999.0])
    assert_same(network(x, level, labels), official_forward(method, official, x, level, labels))


@torch.no_grad()
def test_a_network_with_weights_of_mdt_v2_computes_what_the_official_one_does():
    torch.manual_seed(0)
    official, network = official_state("mdtv2"), network_of("mdt", version=2)
    network.load_state_dict(published_weights.convert("mdt", network, official), strict=True)
    inputs = torch.randn(4, 4, 8, 8), torch.tensor([0.0, 3.0, 500.0, 999.0]), torch.tensor([0, 2, 4, 5])
    assert_same(network(*inputs), mdtv2_forward(official, *inputs))
    keep, seen = torch.rand(4, 16).argsort(1)[:, :11], torch.arange(11) < 9
    assert_same(network(*inputs, keep, seen), mdtv2_forward(official, *inputs, keep[:, :9].tolist()))


@pytest.mark.parametrize("method", ["dit", "mdt"])
@pytest.mark.parametrize(("step", "scale"), [(999, 4.0), (400, 1.5), (3, 1.0)])
@torch.no_grad()
def test_guidance_of_the_noise_of_three_channels_is_the_official_one(method, step, scale):
    torch.manual_seed(0)
    official, formulation, x = official_state(method), IDDPM(), torch.randn(2, 4, 8, 8)
    network, labels, none = loaded(method, official), torch.tensor([1, 3]), torch.tensor([5, 5])
    with_label, without = (
        official_forward(method, official, x, torch.full((2,), float(step)), y) for y in (labels, none)
    )
    ours_scale, here = scale, scale
    if method == "mdt":  # grows with the steps, by a cosine of the fourth power
        ours_scale, grown = power_cosine(scale, 4.0), (1 - math.cos(math.pi * (1 - step / 1000) ** 4)) / 2
        here = (scale - 1) * grown + 1
    noise = without[:, :3] + here * (with_label[:, :3] - without[:, :3])
    noise = torch.cat([noise, with_label[:, 3:4]], 1)
    alpha_bar = formulation.schedule.alpha_bar[step].item()

    ours = guided(
        lambda z, level: formulation.predict(network, z, level, labels),
        lambda z, level: formulation.predict(network, z, level, torch.cat([labels, none])),
        ours_scale,
        channels=3,
    )(x, step)
    expected = (x - math.sqrt(1 - alpha_bar) * noise) / math.sqrt(alpha_bar)
    assert_same(ours.clean, expected)
    assert_same(ours.variance_mix, (with_label[:, 4:] + 1) / 2)


@pytest.mark.parametrize(("sigma", "scale"), [(80.0, 4.0), (0.7, 1.5), (0.002, 1.0)])
@torch.no_grad()
def test_guidance_of_the_denoised_image_is_the_official_one(sigma, scale):
    torch.manual_seed(0)
    official, formulation, x = official_state("maskdit"), EDM(), torch.randn(2, 4, 8, 8) * math.hypot(sigma, 0.5)
    network, labels, none = loaded("maskdit", official), torch.tensor([1, 3]), torch.tensor([5, 5])
    with_label, without = (official_denoised(official, x, sigma, y) for y in (labels, none))

    ours = guided(
        lambda z, level: formulation.predict(network, z, level, labels),
        lambda z, level: formulation.predict(network, z, level, torch.cat([labels, none])),
        scale,
    )(x, sigma)
    expected = without + scale * (with_label - without)
    assert_same(ours.clean, expected)


@torch.no_grad()
def test_the_weights_of_a_larger_image_fit_a_network_for_it():
    larger = replace(SHAPE, side=16)
    official = official_state("dit", larger)
    network, x, labels = loaded("dit", official, larger), torch.randn(2, 4, 16, 16), torch.tensor([0, 5])
    level = torch.tensor([5.0, 700.0])
    assert_same(network(x, level, labels), official_forward("dit", official, x, level, labels))


def test_what_sampling_does_not_use_is_converted_too():
    official = official_state("mdt")
    network = loaded("mdt", official)
    block = network.interpolator
    assert torch.equal(network.mask_token, official["mask_token"])
    assert torch.equal(block.block.attn.out.weight, official["sideblocks.0.attn.proj.weight"])
    assert torch.equal(block.bias.table, official["sideblocks.0.attn.rel_pos_bias.relative_position_bias_table"])
    token = official_state("maskdit")["mask_token"]
    assert torch.equal(loaded("maskdit", official_state("maskdit")).mask_token, token)


def test_converting_changes_neither_the_network_nor_the_official_weights():
    official, network = official_state("maskdit"), network_of("maskdit")
    before = [{name: value.clone() for name, value in state.items()} for state in (official, network.state_dict())]
    published_weights.convert("maskdit", network, official)
    for state, copied in zip((official, network.state_dict()), before, strict=True):
        assert all(torch.equal(state[name], copied[name]) for name in copied)


@pytest.mark.parametrize("prefix", ["model.", "module.", "module.model.", "_orig_mod.model."])
def test_the_prefix_of_a_wrapper_is_taken_off(prefix):
    official, network = official_state("maskdit"), network_of("maskdit")
    plain = published_weights.convert("maskdit", network, official)
    wrapped = published_weights.convert("maskdit", network, {prefix + name: v for name, v in official.items()})
    assert all(torch.equal(plain[name], wrapped[name]) for name in plain)


# Files -----------------------------------------------------------------------------------------------------------


def training_file(state: State) -> dict:
    raw = {name: torch.zeros_like(value) for name, value in state.items()}
    options = argparse.Namespace(model="DiT-S/2", ckpt_path=None, seeds=[0, 1], lr=1e-4)
    return {"model": raw, "ema": state, "opt": {"state": {}, "param_groups": [{"lr": 1e-4}]}, "args": options}


@pytest.mark.parametrize("wrap", [lambda state: state, lambda state: {"ema": state}, training_file])
@pytest.mark.parametrize("zipped", [True, False])
def test_the_averaged_weights_of_a_file_are_read(tmp_path, wrap, zipped):
    state = official_state("dit")
    torch.save(wrap(state), tmp_path / "official.pt", _use_new_zipfile_serialization=zipped)
    read = published_weights.read(tmp_path / "official.pt")
    assert read.keys() == state.keys()
    assert all(torch.equal(read[name], state[name]) for name in state)


def test_an_official_state_dict_as_safetensors_is_read(tmp_path):
    save_file(official_state("dit"), tmp_path / "official.safetensors")
    read = published_weights.read(tmp_path / "official.safetensors")
    assert all(torch.equal(read[name], value) for name, value in official_state("dit").items())


@pytest.mark.parametrize(
    ("name", "more", "options", "said"),
    [
        ("a.pt", {"projectors.0.0.weight": torch.zeros(2, 2)}, {}, "weights of REPA"),
        ("a.pt", {"module.projectors.0.0.weight": torch.zeros(2, 2)}, {"path_type": "linear"}, "weights of REPA"),
        ("a.pt", {"blocks.0.mlp.w12.weight": torch.zeros(2, 2)}, {}, "weights of LightningDiT"),
        ("a.pt", {"blocks.0.norm1.weight": torch.zeros(2)}, {}, "weights of LightningDiT"),
        ("a.pt", {"feat_rope.freqs_cos": torch.zeros(2)}, {}, "weights of LightningDiT"),
        ("a.pt", {}, {"path_type": "Linear", "prediction": "velocity"}, "weights of SiT"),
        ("SiT-XL-2-256x256.pt", {}, {}, "weights of SiT"),
        ("website.pt", {}, {}, None),
    ],
)
def test_networks_of_flow_matching_are_recognised_and_refused(tmp_path, name, more, options, said):
    document = {"ema": official_state("dit") | more, "args": argparse.Namespace(model="XL/2", **options)}
    torch.save(document, tmp_path / name)
    if said is None:
        published_weights.read(tmp_path / name)
        return
    with pytest.raises(DataError, match=rf"{said}.*can be imported"):
        published_weights.read(tmp_path / name)


def test_a_file_that_is_cut_off_or_no_checkpoint_is_said_to_be_damaged(tmp_path):
    path = tmp_path / "official.pt"
    contents = [b"", b"<html>Not found</html>"]
    for zipped in (True, False):
        torch.save(official_state("dit"), path, _use_new_zipfile_serialization=zipped)
        contents += [path.read_bytes()[:500], path.read_bytes()[:-500]]
    for content in contents:
        path.write_bytes(content)
        with pytest.raises(DataError, match="no PyTorch checkpoint, or a damaged one") as caught:
            published_weights.read(path)
        assert "\n" not in str(caught.value)


def test_a_file_that_cannot_be_read_says_why(tmp_path):
    with pytest.raises(DataError, match=r"absent\.pt cannot be read: No such file"):
        published_weights.read(tmp_path / "absent.pt")
    with pytest.raises(DataError, match="cannot be read: Is a directory"):
        published_weights.read(tmp_path)


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ([torch.zeros(1)], "holds no state dict"),
        ({}, "holds no state dict"),
        ({"ema": None}, "holds no state dict"),
        ({"model": {"w": torch.zeros(1)}}, "it has model"),
        ({0: torch.zeros(1)}, "it has 0"),
        ({"w": torch.zeros(1), "step": 3, "lr": 0.1}, "it has step, lr"),
    ],
)
def test_a_checkpoint_without_a_state_dict_is_refused(tmp_path, document, said):
    torch.save(document, tmp_path / "official.pt")
    with pytest.raises(DataError, match=said):
        published_weights.read(tmp_path / "official.pt")


# Weights that do not fit -------------------------------------------------------------------------------------------


def refusal(method: str, official: State, network=None) -> str:
    with pytest.raises(DataError) as caught:
        published_weights.convert(method, network or network_of(method), official)
    return str(caught.value)


@pytest.mark.parametrize("method", METHODS)
def test_every_kind_of_mismatch_is_listed_with_its_shapes(method):
    official = official_state(method)
    official["blocks.0.attn.q_norm.weight"] = torch.zeros(8)
    del official["t_embedder.mlp.2.bias"]
    official["blocks.1.mlp.fc1.weight"] = torch.zeros(60, 16)
    said = refusal(method, official)
    assert "1 unexpected: blocks.0.attn.q_norm.weight (8,)" in said
    assert "1 missing: t_embedder.mlp.2.bias (16,)" in said
    assert "1 of another shape: blocks.1.mlp.fc1.weight is (60, 16), not (64, 16)" in said


def test_a_long_list_of_mismatches_is_cut_and_counted():
    official = official_state("dit")
    kept = {name: value for name, value in official.items() if "blocks.1" not in name and "blocks.2" not in name}
    said = refusal("dit", kept)
    assert "20 missing: blocks.1.attn.qkv.weight (48, 16), " in said
    assert "and 10 more" in said
    assert said.count("blocks.") == 10


@pytest.mark.parametrize(
    ("method", "shape", "said"),
    [
        ("dit", replace(SHAPE, width=24, depth=5), r"depth 5 \(here 4\), width 24 \(here 16\)\. Choose .* --as"),
        ("maskdit", replace(SHAPE, depth=2), r"They have depth 2 \(here 4\)\."),
        ("dit", replace(SHAPE, patch=4), r"They have patch 4 \(here 2\)"),
        ("dit", replace(SHAPE, side=16), r"They have side 16 \(here 8\)\. .* dit-xl-512 for 512"),
        ("maskdit", replace(SHAPE, side=16), r"They have side 16 \(here 8\)"),
        ("mdt", replace(SHAPE, side=16), r"side 16 \(here 8\)"),
    ],
)
def test_weights_of_another_size_are_refused_with_the_size_they_are_of(method, shape, said):
    assert re.search(said, refusal(method, official_state(method, shape)))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("other", METHODS)
def test_weights_of_another_method_are_refused_by_its_name(method, other):
    if method != other:
        assert f"look like weights of {other}; this network is {method}'s" in refusal(method, official_state(other))


def test_weights_of_mdt_v2_are_told_from_those_of_v1():
    assert "They have version 2 (here 1). Choose" in refusal("mdt", official_state("mdtv2"))
    assert "They have version 1 (here 2). Choose" in refusal("mdt", official_state("mdt"), network_of("mdt", version=2))
    assert "look like weights of mdt" in refusal("dit", official_state("mdtv2"))


def test_mdt_without_relative_positions_is_told_to_switch_them_on():
    said = refusal("mdt", official_state("mdt"), network_of("mdt", relative_position=False))
    assert "They have relative_position true (here false). Choose" in said
    assert "10 unexpected" in said


def test_a_network_without_a_learned_variance_is_told_of_the_formulation():
    said = refusal("dit", official_state("dit"), network_of("dit", learned_variance=False))
    assert "final_layer.linear.weight is (32, 16), not (16, 16)" in said
    assert "channels of the output 8 (here 4)" in said
    assert "The formulation iddpm learns" in said


@pytest.mark.parametrize(("method", "name"), [("dit", "pos_embed"), ("maskdit", "decoder_pos_embed")])
def test_other_positions_than_ours_are_refused(method, name):
    official = official_state(method)
    official[name] = official[name].roll(official[name].shape[-1] // 2, -1)  # rows before columns
    assert f"{name} in the file differs by 1.99" in refusal(method, official)
    official[name] = torch.full_like(official[name], torch.nan)
    assert f"{name} in the file differs by nan" in refusal(method, official)


def test_another_index_of_relative_positions_than_ours_is_refused():
    official = official_state("mdt")
    name = "blocks.2.attn.rel_pos_bias.relative_position_index"
    official[name] = official[name].T.contiguous()
    assert f"{name} in the file differs" in refusal("mdt", official)


def test_positions_that_official_training_averaged_are_accepted():
    """DiT's train.py averages the fixed table too: rounding takes it off by up to 2e-4 in the end."""
    official = official_state("dit")
    averaged = official["pos_embed"].clone()
    for _ in range(4000):
        averaged.mul_(0.9999).add_(official["pos_embed"], alpha=1 - 0.9999)
    assert (averaged - official["pos_embed"]).abs().max() > 5e-5
    published_weights.convert("dit", network_of("dit"), official | {"pos_embed": averaged})


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("stored", [torch.bfloat16, torch.float16, torch.float8_e4m3fn, torch.float64])
def test_a_copy_in_another_precision_is_accepted_and_its_positions_are_still_compared(method, stored):
    official = {name: value.to(stored) for name, value in official_state(method).items()}
    converted = published_weights.convert(method, network_of(method), official)
    assert torch.equal(converted["condition.noise.0.bias"].float(), official["t_embedder.mlp.0.bias"].float())
    if method != "mdt":
        table = official_state(method)["pos_embed"]
        official["pos_embed"] = table.roll(table.shape[-1] // 2, -1).to(stored)
        assert "pos_embed in the file differs by" in refusal(method, official)


def test_positions_that_were_averaged_and_then_stored_in_bf16_are_accepted():
    official = official_state("dit")
    off_by_averaging = (official["pos_embed"] - 2e-4).bfloat16()
    published_weights.convert("dit", network_of("dit"), official | {"pos_embed": off_by_averaging})


@pytest.mark.parametrize("wrong", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16])
def test_weights_that_are_not_finite_are_refused_by_the_name_of_the_tensor_and_the_place(tmp_path, wrong, stored):
    official = {name: value.to(stored) for name, value in official_state("dit").items()}
    official["blocks.2.mlp.fc1.weight"][3, 5] = wrong
    torch.save(official, tmp_path / "official.pt")
    said = rf"blocks\.2\.mlp\.fc1\.weight has 1 of 1,024 values that are not finite.*{wrong:g}, at \[3, 5\]"
    with pytest.raises(DataError, match=said):
        published_weights.read(tmp_path / "official.pt")


def test_a_value_beyond_fp32_and_weights_of_whole_numbers_are_refused(tmp_path):
    official = official_state("dit")
    torch.save({"large": torch.tensor([0.0, 1e300], dtype=torch.float64)}, tmp_path / "official.pt")
    with pytest.raises(DataError, match=r"large has 1 of 2 values .* 1e\+300, at \[1\]"):
        published_weights.read(tmp_path / "official.pt")
    official["x_embedder.proj.bias"] = official["x_embedder.proj.bias"].to(torch.int8)
    assert "x_embedder.proj.bias (torch.int8)" in refusal("dit", official)


def test_a_method_that_published_no_weights_is_refused():
    with pytest.raises(UsageError, match=r"no method with official weights is called 'sddit'.*dit, maskdit, mdt, sit"):
        published_weights.convert("sddit", network_of("dit"), {})
