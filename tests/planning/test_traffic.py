"""The fewest bytes of a step: what each term depends on."""

import pytest
from counted import configured

import baselines
from harness.planning.traffic import Traffic, traffic
from harness.planning.vae_cost import online_encoder
from harness.recipes.config import RunConfig

METHODS = baselines.names()
OF_IMAGES = {"batch"}


def traffic_of(cfg: RunConfig, *, world_size: int = 1) -> Traffic:
    return traffic(cfg, baselines.build(cfg, device="meta"), encoder=online_encoder(cfg), world_size=world_size)


@pytest.mark.parametrize("name", METHODS)
def test_twice_the_batch_is_twice_the_images_and_the_same_state(name):
    once, twice = (traffic_of(configured(f"{name}-s", f"batch_size={size}"))._asdict() for size in (64, 128))
    for part, size in once.items():
        assert twice[part] == (2 if part in OF_IMAGES else 1) * size, part
    assert once["batch"] > 0


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
    assert traffic_of(configured("sddit-s", "precision=tf32")) == single


def test_without_its_objective_sddit_moves_neither_teacher_nor_head():
    full, without = traffic_of(configured("sddit-s")), traffic_of(configured("sddit-s", "discriminate=false"))
    assert without.teacher == 0
    assert without.average == full.average
    assert without.optimizer < full.optimizer


def test_a_step_that_encodes_reads_images_and_the_weights_of_the_vae():
    cached, online = traffic_of(configured("dit-s")), traffic_of(configured("dit-s", "pipeline=online-vae"))
    assert online.vae == 4 * 34_135_488
    assert online.batch - cached.batch == 256 * (3 * 256 * 256 - 4 * 32 * 32 * 4)
