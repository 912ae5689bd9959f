"""Worlds to judge claims in: run folders with the paper's own numbers as if measured, turned round, or all alike."""

import random
from collections.abc import Callable
from pathlib import Path

import bench_records
from run_folders import XEON, write_run

from harness.papers.claims import claims_of, judge
from harness.records.bench_record import Bench, Window
from harness.records.evidence import Evidence, gather
from harness.records.schema import Device

A100 = Device(name="NVIDIA A100-SXM4-80GB", kind="cuda", count=8, threads=16)
H200 = Device(name="NVIDIA H200", kind="cuda", count=1, threads=16)
KNOBS = {
    "dit": {},
    "maskdit": {"mask_ratio": 0.5},
    "mdt": {"mask_ratio": 0.3, "relative_position": False},
    "sddit": {"mask_ratio": 0.2, "discriminate": True, "teacher_sigma": 0.002, "num_prototypes": 256},
}
PAPERS = {
    "mdt": KNOBS["mdt"] | {"relative_position": True},
    "sddit": KNOBS["sddit"] | {"num_prototypes": 8192},
}
PAPER_ONLY = {
    "fid-order-b", "fid-order-xl", "fid-final-xl", "faster-than-mdt-xl", "mdt-1300k-matched", "mdt-3500k-matched",
    "sfid-of-mdt-lower",
}  # fmt: skip
CLAIMS = claims_of()
OF_ARITHMETIC = {"teacher-is-light", "teacher-is-light-xl", "float32-speed", "float32-speed-dit", "float32-speed-mdt"}
COUNTED = {"parameters", "less-memory-than-mdt", "memory-45-gb"} | OF_ARITHMETIC  # of the paper's networks alone
UNTESTED = {claim.id for claim in CLAIMS if not claim.to_test}  # by no runs of this harness
ENCODING = {claim.id for claim in CLAIMS if claim.id.endswith("-encoding")}
TOO_CLOSE = {"teacher-near-student-harms"}  # its published numbers lie nearer than three runs tell apart
AT_THE_DEMO = [c.id for c in CLAIMS if c.id not in PAPER_ONLY | COUNTED | ENCODING | UNTESTED | TOO_CLOSE]


def arm(method: str, distance: float, speed: float = 10.0, knobs: dict | None = None, **more) -> dict:
    return {"method": method, "distance": distance, "speed": speed, "knobs": KNOBS[method] | (knobs or {}), **more}


def sddit(distance: float, **knobs) -> dict:
    return arm("sddit", distance, knobs=knobs)


# The paper's numbers, and between them the values that it only draws, as its text describes them.
AS_PUBLISHED = [
    arm("sddit", 48.39, 9.2, milestones={150: 80, 300: 60, 400: 49.5, 450: 49}, guided={1.5: 3.23}),
    arm("mdt", 53.46, 2.4),
    arm("dit", 68.40, 5.03, milestones={150: 100, 300: 80, 450: 70}),
    arm("maskdit", 60.0, 8.0, milestones={150: 90, 300: 70, 450: 65}, guided={1.5: 4.54}),
    arm("dit", 50.0, 5.03, protocol={"steps": 3000}, milestones={600: 68, 1200: 60, 1800: 56, 2400: 52}),
    arm("maskdit", 121.16, knobs={"mask_ratio": 0.75}),
    sddit(53.72, mask_ratio=0.5),
    sddit(62.84, mask_ratio=0.5, discriminate=False),
    sddit(58.92, mask_ratio=0.0),
    sddit(50.0, mask_ratio=0.1),
    sddit(49.5, mask_ratio=0.3),
    sddit(61.0, mask_ratio=0.9),
    sddit(55.0, mask_ratio=0.5, teacher_sigma=0.02),
    sddit(58.0, mask_ratio=0.5, teacher_sigma=0.1),
    sddit(65.0, mask_ratio=0.5, teacher_sigma=0.3),
    sddit(66.2, mask_ratio=0.5, teacher_sigma=0.5),
    sddit(63.4, mask_ratio=0.5, teacher_sigma="student"),
    arm("sddit", 16.78, protocol={"batch_size": 256, "steps": 225}),
    arm("maskdit", 17.22, protocol={"batch_size": 256, "steps": 225}),
]


def changed(one: dict, distance: Callable[[float], float], speed: float) -> dict:
    """An arm with another speed, and with all its distances changed alike."""
    new = one | {"distance": distance(one["distance"]), "speed": speed}
    for curve in {"milestones", "guided"} & one.keys():
        new[curve] = {step: distance(value) for step, value in one[curve].items()}
    return new


def reversed_world(arms: list[dict]) -> list[dict]:
    """Every order turned round: what was low is high, what was fast is slow."""
    return [
        changed(one, lambda value: 3000 / value, 50 / one["speed"])
        | {"params": 1_000_000 if one["knobs"].get("discriminate") is False else 1_100_000}
        for one in arms
    ]


def equal_world(arms: list[dict]) -> list[dict]:
    """All the same but for the seeds."""
    return [changed(one, lambda _: 50.0, 10.0) for one in arms]


def a_little(*what) -> float:
    """A factor near 1, of its own for everything that is measured."""
    return random.Random(repr(what)).uniform(0.995, 1.005)


def a_lot(place: int, seed: int, _: str) -> float:
    return (1.0, 1.25, 0.8, 1.1)[(seed * (1 + place % 3) + place) % 4]


def write(root: Path, arms: list[dict], seeds=(0, 1, 2), wobble=a_little, **shared) -> Path:
    for place, one in enumerate(arms):
        for seed in seeds:
            settings = one | {name: one[name] * wobble(place, seed, name) for name in ("distance", "speed")}
            for curve in {"milestones", "guided"} & one.keys():
                settings[curve] = {
                    step: value * wobble(place, seed, f"{curve} {step}") for step, value in one[curve].items()
                }
            write_run(root, seed=seed, **settings, **shared)
    return root


def judged(*roots: Path, extra: Evidence | None = None) -> dict[str, list]:
    evidence = gather(roots)
    if extra is not None:
        evidence = Evidence(evidence.runs, evidence.settings, extra.benches, extra.counts)
    return by_claim(evidence)


def full(method: str, size: str, distance: float, speed: float = 9.0, steps: int = 400_000, **more) -> dict:
    protocol = {"steps": steps} | more.pop("protocol", {})
    made = arm(method, distance, speed, size=size, protocol=protocol, device=A100, world_size=8, **more)
    return made | {"knobs": PAPERS.get(method, made["knobs"]) | more.get("knobs", {})}


def bench(
    speeds: dict[tuple[str, str], float], device: Device = XEON, *, size="s", images=2, memory=None, rounds=5, process=0
) -> Bench:
    """A bench of contenders, (method, pipeline) each, whose rounds wobble alike and a little each."""
    entries = []
    for place, ((method, pipeline), speed) in enumerate(speeds.items()):
        rates = [speed * (1 + 0.3 * (i % 2)) * a_little(place, i, process) for i in range(rounds)]
        entry = bench_records.contender(
            f"{method}-{size}",
            pipeline=pipeline,
            num_images=images,
            windows=[Window(steps=2, seconds=2 / rate, data_seconds=0) for rate in rates],
            peak_allocated_bytes=(memory or {}).get(method),
        )
        attention = "math" if method == "mdt" else "flash"
        entry.conditions.update(knobs=PAPERS.get(method, KNOBS[method]), attention=attention)
        entries.append(entry)
    return bench_records.bench(device, tuple(entries)).model_copy(
        update={"rounds": rounds, "measured_at": f"2026-01-0{process + 1}T00:00:00+00:00"}
    )


def by_claim(evidence: Evidence) -> dict[str, list]:
    found: dict[str, list] = {}
    for judgement in judge(evidence):
        found.setdefault(judgement.claim, []).append(judgement)
    return found


def of_benches(*benches: Bench) -> dict[str, list]:
    return by_claim(Evidence(benches=benches))
