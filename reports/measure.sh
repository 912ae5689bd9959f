#!/usr/bin/env bash
# What this machine's numbers are: tests, then a short S/2 run of every method at every precision and in both pipelines.
# Usage: reports/measure.sh OUT [STEPS]     from the repository's root, with the harness installed; leaves OUT/runs and
# OUT/tests.txt. It needs no data: latents are random, and so are the images and the weights of the VAE.
set -euo pipefail
out=$1 steps=${2:-300}
mkdir -p "$out"
python -m pytest tests/training tests/baselines tests/nn tests/diffusion -q | tee "$out/tests.txt"
python - "$out/images" <<'PY'
import sys
from pathlib import Path

import numpy as np
from PIL import Image

generator = np.random.default_rng(0)
for label in range(1000):
    folder = Path(sys.argv[1]) / f"{label:04d}"
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(generator.integers(0, 256, (256, 256, 3), dtype=np.uint8)).save(folder / "0.jpg", quality=90)
PY
common=(--steps "$steps" --no-eval --set log_every=20 --out "$out/runs")
for method in dit maskdit mdt sddit; do
    for precision in fp32 tf32 bf16; do
        python -m harness run "$method-s" --data synthetic --data-residency gpu --precision "$precision" "${common[@]}"
    done
    python -m harness run "$method-s" --data "$out/images" --pipeline online-vae --set vae=random --precision tf32 \
        "${common[@]}"
done
