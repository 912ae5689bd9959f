"""What a run's settings become when its data are images of one's own."""

from pathlib import Path

import pytest
from PIL import Image

from harness.planning import plan as planning
from harness.planning.plan import resolve
from harness.records.folders.departures import departures
from harness.system.errors import SetupError, UsageError


@pytest.fixture
def folder(tmp_path) -> Path:
    for number in range(12):
        path = tmp_path / "own" / str(number % 3) / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (12, 12), (20 * number, 7, 99)).save(path)
    return tmp_path / "own"


def test_images_of_ones_own_give_the_input_and_are_measured_by_a_classifier_of_their_own(folder):
    cfg = resolve("dit-tiny", [f"data={folder}"])
    assert cfg.input.model_dump() == {"channels": 3, "side": 12, "num_classes": 3}
    assert (cfg.evaluation.features, cfg.evaluation.reference) == ("own", "data")
    assert resolve("dit-tiny", [f"data={folder}", "size=16"]).input.side == 16
    assert resolve("dit-tiny", []).evaluation.features == "digits"


def test_a_feature_network_that_was_asked_for_stays(folder):
    for asked in ("features=inception", "evaluation.features=digits"):
        assert resolve("dit-tiny", [f"data={folder}", asked]).evaluation.features == asked.partition("=")[2]


def test_a_record_says_where_the_feature_network_comes_from(folder):
    cfg = resolve("dit-tiny", [f"protocol.data={folder}"])
    command = f"harness run dit-tiny --set protocol.data={folder}"
    sources = {one.setting: one.source for one in departures(cfg.model_dump(mode="json"), command).differing}
    assert sources["evaluation.features"] == "comes with the images of its command"


def test_the_size_is_part_of_a_runs_name_only_where_it_is_set(folder):
    as_they_are = resolve("dit-tiny", [f"data={folder}"])
    assert as_they_are.sha256 == resolve("dit-tiny", [f"data={folder}", "size=null"]).sha256
    assert as_they_are.sha256 != resolve("dit-tiny", [f"data={folder}", "size=12"]).sha256


@pytest.mark.parametrize("size", ["large", "1", "-3", "1e9", "true"])
def test_a_size_that_is_none_names_the_field(folder, size):
    with pytest.raises(UsageError, match=r"size \(protocol\.size\) is .*it must be"):
        resolve("dit-tiny", [f"data={folder}", f"size={size}"])


def test_resolving_reads_no_pixels(folder, monkeypatch):
    monkeypatch.setattr(Image.Image, "load", None)
    assert resolve("dit-tiny", [f"data={folder}"]).input.side == 12


def test_a_batch_whose_images_the_memory_cannot_hold_is_refused_before_anything_is_counted_on(monkeypatch):
    huge = resolve("dit-tiny", ["batch_size=999999999999"])
    with pytest.raises(SetupError, match=r"999,999,999,999 images.* GB are free here.*batch_size=N"):
        planning.plan(huge, world_size=1)
    monkeypatch.setattr(planning.machine, "available_memory", lambda device: 64 * 256 * 4)
    assert planning.plan(resolve("dit-tiny", ["batch_size=256"]), world_size=1)["complete"] is False
    with pytest.raises(SetupError, match="the batch is 257 images"):
        planning.plan(resolve("dit-tiny", ["batch_size=257"]), world_size=1)
    assert planning.plan(resolve("dit-tiny", ["batch_size=512"]), world_size=2)["world_size"] == 2
