"""ADM's own evaluator, on ADM's own files: what its repository prints must come out here.

Runs where the published weights and both files are on this machine, in $HARNESS_DATA/references; nothing is fetched.
"""

import pytest
import torch

from harness.data import sources
from harness.evaluation.evaluate import evaluate_images, yardstick
from harness.evaluation.images.image_sets import open_images
from harness.evaluation.networks import inception
from harness.recipes.metric_names import PAPER
from harness.system.processes.world import World
from harness.system.progress import NoProgress

REFERENCE, SAMPLES = "VIRTUAL_imagenet256_labeled.npz", "admnet_guided_upsampled_imagenet256.npz"
PRINTED = {  # guided-diffusion, evaluations/README.md; the tolerances hold TensorFlow's rounding and ADM's float16
    "is50k": (215.8370, 0.3),
    "fid50k": (3.94256, 0.003),
    "sfid50k": (6.14043, 0.002),
    "precision50k": (0.8265, 0.002),
    "recall50k": (0.5309, 0.004),
}


def test_the_numbers_that_adm_prints_for_its_own_samples_come_out(monkeypatch, tmp_path):
    folder = sources.data_folder() / "references"
    absent = [name for name in (REFERENCE, SAMPLES) if not (folder / name).is_file()]
    with monkeypatch.context() as patch:
        patch.delenv("HARNESS_CACHE")  # the tests' own is empty; weights lie in the user's
        weights = inception.PUBLISHED.find()
    if weights is None or absent:
        pytest.skip(f"needs the published Inception and {REFERENCE} and {SAMPLES} in {folder.name}/ of the data folder")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    yard = yardstick("inception", REFERENCE, PAPER, device=device, weights=str(weights))
    found = evaluate_images(open_images(folder / SAMPLES), yard, folder=tmp_path, world=World(), progress=NoProgress())
    for name, (printed, tolerance) in PRINTED.items():
        assert found.metrics[name] == pytest.approx(printed, abs=tolerance), name
