"""Run folders with all that figures draw, and what a drawn figure shows."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image
from run_folders import write_run

from harness.records.evidence import Evidence, gather
from harness.records.schema import DenoiserError, LinearProbe, Result, read_record, write_record
from harness.reporting.drawing.sheet import Drawing

METHODS = ("dit", "maskdit", "mdt", "sddit")
LOSSES = {
    "dit": ("loss",),
    "maskdit": ("loss", "loss/denoise", "loss/mae"),
    "mdt": ("loss", "loss/full", "loss/masked"),
    "sddit": ("loss", "loss/generate", "loss/cls", "loss/patches"),
}
RATIOS = {0.0: 7.0, 0.2: 6.0, 0.5: 6.5, 0.9: 12.0}
SIGMAS = {0.002: 6.5, 0.1: 7.0, 0.5: 9.5, "student": 8.0}


def with_curve(folder: Path, distances: Mapping[int, float]) -> Path:
    """Evaluations on the way, under the protocol of the last."""
    result = read_record(folder / "result.json", Result)
    final = result.evaluations["final"]
    on_the_way = {
        f"step-{step:06d}": final.model_copy(
            update={"name": f"step-{step:06d}", "step": step, "metrics": {"fd-digits@1k": distance}}
        )
        for step, distance in distances.items()
    }
    write_record(
        folder / "result.json", result.model_copy(update={"evaluations": {**result.evaluations, **on_the_way}})
    )
    return folder


def with_losses(folder: Path, method: str, seed: int = 0, *, steps: Iterable[int] = range(30, 601, 30)) -> Path:
    lines = [
        {"step": step, **{name: 1 + seed / 10 + place + 50 / step for place, name in enumerate(LOSSES[method])}}
        for step in steps
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def with_grid(folder: Path, *, shade: int = 200) -> Path:
    """The picture that an evaluation of 1,000 of the 8 x 8 digits leaves: ten rows of ten, enlarged six times."""
    cells = np.full((10, 9, 10, 9), 128, np.uint8)
    cells[:, :8, :, :8] = shade + np.arange(10)[:, None, None, None]  # rows can be told apart
    picture = Image.fromarray(cells.reshape(90, 90)).resize((540, 540), Image.Resampling.NEAREST)
    (folder / "samples").mkdir()
    picture.save(folder / "samples" / "grid.png")
    return folder


def with_held_out(folder: Path, seed: int = 0) -> Path:
    """The yardsticks on held-out images, after the last step and along training."""
    result = read_record(folder / "result.json", Result)
    of = {"data": "digits, held out", "data_sha256": "b" * 64, "num_images": 297, "seed": 0, "seconds": 1.0}
    denoiser = DenoiserError(
        **of, weighting="EDM's", error=0.4 + seed / 100, standard_error=0.01, sigmas=[0.02, 0.5, 20.0],
        by_sigma=[0.9, 0.3 + seed / 100, 0.1], standard_errors=[0.01] * 3,
    )  # fmt: skip
    probe = LinearProbe(
        **of, trained_on_sha256="a" * 64, num_trained_on=1500, penalty="ridge", sigmas=[0.05, 0.8],
        blocks=["blocks.0", "blocks.1", "blocks.2"], accuracy=[[0.5, 0.2 + seed / 50], [0.7, 0.3], [0.6, 0.25]],
    )  # fmt: skip
    final = result.evaluations["final"].model_copy(update={"denoiser": denoiser, "probe": probe})
    write_record(
        folder / "result.json", result.model_copy(update={"evaluations": {**result.evaluations, "final": final}})
    )
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    for line in lines[::2]:
        line["denoiser_error"] = 1 / (1 + line["step"] / 100) + seed / 100
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def every_method(root: Path) -> Evidence:
    """The four methods with seeds 1 and 2, and SD-DiT with a third, all with losses and pictures."""
    for method in METHODS:
        for seed in (1, 2, *([0] if method == "sddit" else [])):
            knobs = {"num_prototypes": 256} if method == "sddit" else {}
            folder = write_run(root, method, seed=seed, distance=5.0 + seed, speed=10.0 + seed, knobs=knobs)
            with_grid(with_held_out(with_losses(folder, method, seed), seed))
    return gather([root])


def ablations(root: Path, seeds: int = 3) -> Evidence:
    """Curves of two methods, a longer one of DiT, mask ratios and noise levels of the teacher."""
    for seed in range(seeds):
        wobble = 1 + 0.02 * seed
        for method, distance, speed in (("dit", 5.0, 10.0), ("mdt", 4.0, 6.0)):
            folder = write_run(root, method, seed=seed, distance=distance * wobble, speed=speed + seed)
            with_curve(folder, {step: distance * wobble * 600 / step for step in (150, 300, 450)})
        longer = write_run(root, "dit", seed=seed, distance=2.0 * wobble, protocol={"steps": 3000})
        with_curve(longer, {step: 2.0 * wobble * 3000 / step for step in (300, 600, 1500)})
        for ratio, distance in RATIOS.items():
            knobs = {"mask_ratio": ratio, "discriminate": True, "teacher_sigma": 0.002}
            write_run(root, "sddit", seed=seed, distance=distance * wobble, knobs=knobs)
        for sigma, distance in SIGMAS.items():
            if sigma != 0.002:  # which is the run with mask ratio 0.5
                knobs = {"mask_ratio": 0.5, "discriminate": True, "teacher_sigma": sigma}
                write_run(root, "sddit", seed=seed, distance=distance * wobble, knobs=knobs)
    return gather([root])


def lines_of(figure: Figure) -> list[dict[str, tuple[list[float], list[float]]]]:
    """For each axes that have any: named lines and their values."""
    found = [{line.get_gid(): line.get_data() for line in axes.get_lines() if line.get_gid()} for axes in figure.axes]
    return [{name: (list(x), list(y)) for name, (x, y) in lines.items()} for lines in found if lines]


def every_line(figure: Figure) -> dict[str, tuple[list[float], list[float]]]:
    """All named lines, whose names are unique."""
    found = [item for lines in lines_of(figure) for item in lines.items()]
    assert len(dict(found)) == len(found)
    return dict(found)


def texts(figure: Figure) -> str:
    return " ".join(text.get_text() for text in figure.findobj(Text)).replace("\n", " ")


def measured_rows(drawing: Drawing) -> Sequence[dict]:
    return [row for row in drawing.rows if row.get("kind") == "measured" or row.get("quality") == "measured"]
