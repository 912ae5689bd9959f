"""What the VAE inside a step costs."""

import pytest
from counted import configured

from harness.data.latents import vae
from harness.planning.cost import GIGA
from harness.planning.vae_cost import counted_encoder, online_encoder
from harness.system.errors import UsageError


def test_an_image_of_256_pixels_takes_22_forward_passes_of_dit_s():
    cost = online_encoder(configured("dit-s", "pipeline=online-vae"))
    assert cost.macs / GIGA == pytest.approx(136.4, abs=0.05)
    assert cost.side == 256
    assert online_encoder(configured("dit-xl-512", "pipeline=online-vae")).side == 512


def test_a_step_that_reads_latents_encodes_nothing():
    assert online_encoder(configured("dit-s")) is None


def test_the_small_random_vae_has_its_own_cost():
    cfg = configured("dit-s", "pipeline=online-vae", "vae=random-tiny")
    assert online_encoder(cfg) == counted_encoder(vae.load("random-tiny").model, 32)
    assert online_encoder(cfg).macs < online_encoder(configured("dit-s", "pipeline=online-vae", "vae=random")).macs / 99


def test_a_vae_in_a_folder_is_counted(tmp_path):
    vae.load("random-tiny").model.save_pretrained(tmp_path / "mine")
    cfg = configured("dit-s", "pipeline=online-vae", f"vae={tmp_path / 'mine'}")
    assert online_encoder(cfg) == online_encoder(configured("dit-s", "pipeline=online-vae", "vae=random-tiny"))


def test_encoding_without_a_vae_is_an_error_that_names_the_setting():
    with pytest.raises(UsageError, match="--set vae="):
        online_encoder(configured("dit-s", "pipeline=online-vae", "vae=null"))
