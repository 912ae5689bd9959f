"""`harness data` as a user meets it, on real photographs."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from command_line import invoke, refused
from photographs import photographs
from PIL import Image

TINY = ["--vae", "random-tiny", "--size", "32", "--nproc", "1"]
data = partial(invoke, "data")


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    return photographs(tmp_path_factory.mktemp("images") / "photos", 6, 150, 200, ".jpg")


def test_encode_info_and_verify_agree_and_verify_names_the_shard_in_which_one_byte_changed(photos, tmp_path):
    done = data("encode", photos, *TINY, "--flips", "--out", "latents", "--json", cwd=tmp_path)
    assert done.exit_code == 0, done.stderr
    assert done.stderr.splitlines() == ["data: encode", "data: encode: 12 of 12 images"]
    made = json.loads(done.stdout)
    assert (made["num_images"], made["num_classes"], made["flips"], made["side"]) == (12, 2, "stored", 4)
    assert made["vae"] == "random-tiny"

    assert json.loads(data("info", "latents", "--json", cwd=tmp_path).stdout) == made
    assert re.search(r"num images +12\n", data("info", "latents", cwd=tmp_path).stdout)
    sound = data("verify", "latents", "--images", "12", cwd=tmp_path)
    assert (sound.exit_code, sound.stdout) == (0, "latents: sound\n"), sound.stderr

    shard = tmp_path / "latents" / "shard-00000.flip.npy"
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    spoilt = data("verify", "latents", "--json", cwd=tmp_path)
    assert spoilt.exit_code == 4
    answer = json.loads(spoilt.stdout)
    assert not answer["sound"]
    assert len(answer["problems"]) == 1
    assert "shard-00000.flip.npy does not have the hash of the manifest" in answer["problems"][0]
    assert "error: latents is not sound" in spoilt.stderr
    listed = data("verify", "latents", "--images", "13", cwd=tmp_path)
    assert [line.split()[0] for line in listed.stdout.splitlines() if line[0] != " "] == ["12", "shard-00000.flip.npy"]


def test_info_of_images_counts_them_lists_all_that_would_be_refused_and_draws_them(photos, tmp_path):
    folder = tmp_path / "own"
    shutil.copytree(photos, folder)
    sound = invoke("data", "info", "own", "--out", "sheet.png", "--json", cwd=tmp_path)
    assert sound.exit_code == 0, sound.stderr
    found = json.loads(sound.stdout)
    assert (found["num_images"], found["class_counts"]) == (12, {"flower": 6, "temple": 6})
    assert (found["modes"], found["refused"]) == ({"RGB": 12}, [])
    assert set(found["sizes"]) == {"200 x 150"}
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.width > 6 * 64

    (folder / "empty").mkdir()
    (folder / "flower" / "cut.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    Image.new("I;16", (4, 4)).save(folder / "temple" / "deep.png")
    spoilt = invoke("data", "info", "own", "--json", cwd=tmp_path)
    assert spoilt.exit_code == 4
    refused = json.loads(spoilt.stdout)["refused"]
    assert [name for name in ("empty", "cut.png", "deep.png") if any(name in reason for reason in refused)] == [
        "empty", "cut.png", "deep.png",
    ]  # fmt: skip
    assert "what is wrong (3) is listed" in spoilt.stderr
    assert "images   12\n" in invoke("data", "info", "own", cwd=tmp_path).stdout


def test_encode_refuses_a_grey_image_of_16_bits_by_name_and_writes_no_latents(photos, tmp_path):
    shutil.copytree(photos, tmp_path / "own")
    Image.fromarray(np.full((64, 48), 27_000, np.uint16)).save(tmp_path / "own" / "temple" / "grey16.png")
    says = "own/temple/grey16.png has 16 bits a channel"
    refused("data", "encode", "own", *TINY, "--out", "latents", exit_code=4, says=says, cwd=tmp_path)
    assert not list((tmp_path / "latents").glob("*.npy"))


def test_without_the_weights_one_line_says_what_to_fetch_and_where_to_put_it(photos, tmp_path, no_weights):
    says = "https://huggingface.co/stabilityai/sd-vae-ft-ema/resolve/f04b2c4b98319346dad8c65879f680b1997b204a/"
    stderr = refused("data", "encode", photos, "--out", "latents", exit_code=3, says=says, cwd=tmp_path)
    assert len(stderr.splitlines()) == 1
    for said in (
        "diffusion_pytorch_model.safetensors",
        "32db726da04f06c1b6b14c0043ce115cc87a501482945c5add89a40d838fcb46",
        str(tmp_path / "cache" / "vae" / "sd-vae-ft-ema"),
    ):
        assert said in stderr
    assert not (tmp_path / "latents").exists()


@pytest.mark.parametrize(
    ("arguments", "exit_code", "says"),
    [
        (["encode", "nowhere", *TINY, "--out", "latents"], 4, "nowhere cannot be listed"),
        (["encode", "photos", *TINY[2:], "--vae", "./mine", "--out", "latents"], 4, "no folder of a VAE called ./mine"),
        (["encode", "photos", *TINY, "--size", "36", "--out", "latents"], 2, "needs a multiple of 8"),
        (["encode", "."], 2, "--out"),
        (["import", ".", "--from", "maskdit", "--out", "latents"], 2, "Did you mean maskdit-lmdb"),
        (["verify", "nowhere"], 4, "nowhere is not sound"),
        (["info", "nowhere"], 2, "no data set or folder is called 'nowhere'. Give a folder of images"),
        (["info", "photos", "--out", "sheet.jpg"], 2, "must end in .png"),
    ],
)
def test_a_wrong_command_says_what_why_and_what_to_do(arguments, exit_code, says, photos, tmp_path):
    (tmp_path / "photos").symlink_to(photos)
    done = data(*arguments, cwd=tmp_path)
    assert done.exit_code == exit_code, done.stderr
    assert says in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(("number", "exit_code"), [(signal.SIGINT, 130), (signal.SIGTERM, 75)])
def test_ctrl_c_and_preemption_end_every_process_quietly(number, exit_code, tmp_path):
    many = photographs(tmp_path / "photos", 60, 150, 200, ".jpg")  # so that it cannot be done before the signal comes
    command = ["data", "encode", str(many), *TINY, "--size", "512", "--batch", "1", "--out", "latents"]
    process = subprocess.Popen(
        [sys.executable, "-m", "harness", *command],
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        # A shell ignores Ctrl-C for what it runs in the background, and the tests' children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while not (tmp_path / "latents" / "description.json").exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    time.sleep(1)  # the encoding has begun
    os.killpg(process.pid, number) if number == signal.SIGINT else process.send_signal(
        number
    )  # a terminal sends it to the group
    _, stderr = process.communicate(timeout=60)  # its processes hold the pipes open while they live
    assert process.returncode == exit_code, stderr
    assert "Traceback" not in stderr
    assert "The same command continues" in stderr
    assert not (tmp_path / "latents" / "manifest.json").exists()
