"""SiT's and REPA's official weights in this project's network: the same velocity, whichever way their time runs."""

import argparse

import pytest
import torch
from official import SHAPE, State, assert_same, official_forward, official_state

from harness.model.nn.dit import DiT
from harness.runs import published_weights
from harness.system.errors import DataError

TIMES = torch.tensor([0.0, 0.25, 0.6, 1.0])  # as this project counts: 0 is data, 1 is noise
LABELS = torch.tensor([0, 2, 4, 5])  # 5: no label


def loaded(official: State) -> DiT:
    network = DiT(SHAPE, SHAPE.channels)
    network.load_state_dict(published_weights.convert("sit", network, official), strict=True)
    return network.eval()


def repa_state() -> State:
    """As REPA saves it: SiT with an output of C channels, and projectors that no sampling uses."""
    state = official_state("dit")
    for name in ("final_layer.linear.weight", "final_layer.linear.bias"):
        state[name] = state[name][: len(state[name]) // 2]
    return state | {"projectors.0.0.weight": torch.randn(7, SHAPE.width)}


@torch.no_grad()
def test_sit_s_weights_give_its_velocity_with_time_and_sign_turned_round():
    torch.manual_seed(0)
    official, x = official_state("dit"), torch.randn(4, 4, 8, 8)
    theirs = official_forward("dit", official, x, 1 - TIMES, LABELS)[:, :4]  # of 2 C channels SiT uses the first C
    assert_same(loaded(official)(x, TIMES, LABELS), -theirs)


@torch.no_grad()
def test_repa_s_weights_give_its_velocity_as_it_is():
    torch.manual_seed(0)
    official, x = repa_state(), torch.randn(4, 4, 8, 8)
    assert_same(loaded(official)(x, TIMES, LABELS), official_forward("dit", official, x, TIMES, LABELS))


@pytest.mark.parametrize(
    ("name", "state", "options"),
    [
        ("SiT-XL-2-256x256.pt", official_state("dit"), {}),
        ("0400000.pt", official_state("dit"), {"path_type": "Linear", "prediction": "velocity"}),
        ("last.pt", repa_state(), {}),
    ],
)
def test_releases_of_flow_matching_are_read_for_sit_and_refused_for_dit_by_name(name, state, options, tmp_path):
    torch.save({"ema": state, "args": argparse.Namespace(**options)}, tmp_path / name)
    assert published_weights.read(tmp_path / name, "sit").keys() == state.keys()
    with pytest.raises(DataError, match=r"holds weights of (SiT|REPA).*--as sit-xl"):
        published_weights.read(tmp_path / name, "dit")


def test_weights_that_do_not_fit_sit_are_refused_by_their_official_names():
    official = official_state("dit")
    del official["t_embedder.mlp.0.weight"]
    with pytest.raises(DataError, match=r"1 missing: t_embedder.mlp.0.weight"):
        loaded(official)
