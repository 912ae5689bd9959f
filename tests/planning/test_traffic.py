"""The fewest bytes of a step: what each term depends on, and where the activations stand to what a step keeps."""

import pytest
from counted import configured

import baselines
from harness.model.passes import Step
from harness.model.shape import shape_of
from harness.planning import formulas
from harness.planning.activations import kept_bytes
from harness.planning.traffic import Traffic, kept, traffic
from harness.planning.vae_cost import online_encoder
from harness.recipes.config import RunConfig

METHODS = baselines.names()
OF_IMAGES = {"batch", "activations"}


def step_of(cfg: RunConfig) -> Step:
    return formulas.step_of(cfg, baselines.build(cfg, device="meta"))


def traffic_of(cfg: RunConfig, *, world_size: int = 1) -> Traffic:
    return traffic(cfg, baselines.build(cfg, device="meta"), encoder=online_encoder(cfg), world_size=world_size)


def eager_bytes(cfg: RunConfig) -> float:
    """What an uncompiled forward pass keeps of one image, among enough of them that nothing else counts."""
    return kept_bytes(
        baselines.build(cfg, device="meta"), shape_of(cfg), batch_size=64, rows=64,
        bf16=cfg.protocol.precision == "bf16", checkpointing=cfg.execution.activation_checkpointing,
    ).activations / 64  # fmt: skip


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("size", ["s", "xl"])
@pytest.mark.parametrize("name", METHODS)
def test_fused_kernels_would_keep_about_half_of_what_a_plain_step_keeps(name, size, precision):
    """A plain step also keeps norms' outputs, modulated inputs, GELU's outputs, and both sides of autocast's casts."""
    cfg = configured(f"{name}-{size}", f"precision={precision}")
    assert 0.45 < kept(step_of(cfg), precision).whole / eager_bytes(cfg) < 0.56


@pytest.mark.parametrize("name", METHODS)
def test_checkpointed_steps_keep_nearly_what_fused_ones_would(name):
    cfg = configured(f"{name}-xl", "precision=bf16", "activation_checkpointing=true")
    assert 0.7 < kept(step_of(cfg), "bf16").checkpointed / eager_bytes(cfg) < 0.9


@pytest.mark.parametrize("name", METHODS)
def test_twice_the_batch_is_twice_the_images_and_the_same_state(name):
    once, twice = (traffic_of(configured(f"{name}-s", f"batch_size={size}"))._asdict() for size in (64, 128))
    for part, size in once.items():
        assert twice[part] == (2 if part in OF_IMAGES else 1) * size, part
    assert once["batch"] > 0
    assert once["activations"] > 0


def test_each_process_moves_its_share_of_the_images_and_all_of_the_state():
    alone, shared = (traffic_of(configured("sddit-s"), world_size=size)._asdict() for size in (1, 8))
    for part, size in alone.items():
        assert shared[part] == size / (8 if part in OF_IMAGES else 1), part


def test_pieces_of_a_batch_read_the_weights_and_add_to_the_gradients_once_each():
    whole, pieces = traffic_of(configured("dit-s")), traffic_of(configured("dit-s", "micro_batch=64"))
    assert (pieces.weights, pieces.gradients) == (4 * whole.weights, 4 * whole.gradients)
    assert pieces._replace(weights=whole.weights, gradients=whole.gradients) == whole


@pytest.mark.parametrize("name", METHODS)
def test_the_state_moves_as_often_as_adamw_and_the_averages_need(name):
    cfg = configured(f"{name}-s")
    method, found = baselines.build(cfg, device="meta"), traffic_of(cfg)
    trained = sum(p.numel() for p in method.parameters() if p.requires_grad)
    fixed = sum(p.numel() for p in method.parameters() if not p.requires_grad)
    assert found.weights == found.gradients == 2 * 4 * trained
    assert found.optimizer == 6 * 4 * trained  # weight and two moments, each read and written
    assert found.average == 2 * 4 * sum(p.numel() for p in method.network.parameters())
    assert found.teacher == 3 * 4 * fixed  # read by its forward pass, read and written by its average
    assert (found.teacher > 0) == (name == "sddit")
    assert found.vae == 0


def test_bf16_moves_a_copy_of_the_weights_and_leaves_the_optimizer_in_float32():
    single, half = traffic_of(configured("sddit-s")), traffic_of(configured("sddit-s", "precision=bf16"))
    assert half.weights * 4 == single.weights * 3  # 2 bytes written once and read twice, for 4 bytes read twice
    assert half.optimizer == single.optimizer
    assert 0.5 < half.activations / single.activations < 0.6  # the residual stream stays single
    assert traffic_of(configured("sddit-s", "precision=tf32")) == single


def test_without_its_objective_sddit_moves_neither_teacher_nor_head():
    full, without = traffic_of(configured("sddit-s")), traffic_of(configured("sddit-s", "discriminate=false"))
    assert without.teacher == 0
    assert without.average == full.average
    assert without.optimizer < full.optimizer
    assert without.activations < full.activations


def test_logits_over_the_prototypes_are_never_moved():
    few, many = (configured("sddit-s", f"num_prototypes={number}") for number in (256, 8192))
    assert traffic_of(few).activations == traffic_of(many).activations


def test_a_step_that_encodes_reads_images_and_the_weights_of_the_vae():
    cached, online = traffic_of(configured("dit-s")), traffic_of(configured("dit-s", "pipeline=online-vae"))
    assert online.vae == 4 * 34_135_488
    assert online.batch - cached.batch == 256 * (3 * 256 * 256 - 4 * 32 * 32 * 4)
    assert online.activations == cached.activations


@pytest.mark.parametrize("name", METHODS)
def test_checkpointed_blocks_keep_their_inputs_and_one_of_them_its_insides(name):
    image = kept(step_of(configured(f"{name}-xl")), "fp32")
    assert image.checkpointed == image.inputs + image.largest + image.rest
    assert image.checkpointed < image.whole / 3
    plain, recomputing = (configured(f"{name}-xl", f"activation_checkpointing={on}") for on in ("false", "true"))
    assert traffic_of(plain).activations == 256 * 2 * image.whole
    assert traffic_of(recomputing).activations == 256 * (2 * image.whole + image.inputs)


def test_what_a_block_keeps_is_the_list_of_its_tensors():
    """DiT-S/2 in bf16, 256 tokens of 384: a step with one more block keeps this much more."""
    few, more = (kept(step_of(configured("dit-s", f"depth={depth}")), "bf16") for depth in (3, 4))
    token = 384 * 2
    tensors = {"q, k, v": 3 * token, "attention's output": token, "both branches": 2 * token, "before GELU": 4 * token}
    statistics = 2 * 2 * 4 + 6 * 4  # of two norms, and of six heads
    assert more.insides - few.insides == 256 * (sum(tensors.values()) + statistics) + 6 * token
    assert more.inputs - few.inputs == 256 * 384 * 4
    assert more.rest == few.rest


def test_a_method_that_is_not_described_has_its_state_alone(monkeypatch):
    cfg = configured("dit-tiny")
    known = traffic_of(cfg)
    monkeypatch.delattr(baselines.load("dit").Method, "passes")
    assert traffic_of(cfg) == known._replace(activations=None)
    assert traffic_of(cfg).total == known.total - known.activations
