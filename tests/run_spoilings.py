"""Ways to spoil a finished run's folder, each with the check of an audit that must find it."""

import json
import shutil
from pathlib import Path

import yaml

from harness.recipes.naming import digest, identity
from harness.system.files import sha256_of


def edit(name: str, *, sealed: bool = False, **changes):
    """A spoiling of one JSON document: each key, "a__b", gets a value, or what a function makes of the old one.

    The document's own hash is left out, as someone would who means to, unless it stays `sealed`.
    """

    def spoil(folder: Path) -> None:
        path = folder / name
        document = json.loads(path.read_text())
        if not sealed:
            document.pop("sha256", None)
        for key, value in changes.items():
            *parents, last = key.split("__")
            node = document
            for parent in parents:
                node = node[parent]
            node[last] = value(node.get(last)) if callable(value) else value
        path.write_text(json.dumps(document))

    return spoil


def edit_both(**changes):
    """A spoiling of the final evaluation, in its own file and in result.json, so that the two still agree."""

    def spoil(folder: Path) -> None:
        edit("evaluations/final.json", **changes)(folder)
        edit("result.json", **{f"evaluations__final__{key}": value for key, value in changes.items()})(folder)

    return spoil


def setting(path: str, value, *, rehash: bool = False):
    """A spoiling of config.yaml; `rehash` hides it from the id, as someone would who means to."""

    def spoil(folder: Path) -> None:
        config = yaml.safe_load((folder / "config.yaml").read_text())
        *parents, last = path.split(".")
        node = config
        for parent in parents:
            node = node[parent]
        node[last] = value
        (folder / "config.yaml").write_text(yaml.safe_dump(config))
        if rehash:
            edit("manifest.json", config_sha256=identity(config))(folder)

    return spoil


def lines(name: str, change):
    """A spoiling of a log: `change` gets its lines as objects and gives those to be written."""

    def spoil(folder: Path) -> None:
        found = [json.loads(line) for line in (folder / name).read_text().splitlines()]
        (folder / name).write_text("".join(json.dumps(line) + "\n" for line in change(found)))

    return spoil


def last(**changes):
    return lambda found: [*found[:-1], found[-1] | changes]


def written(name: str, content: str | bytes):
    def spoil(folder: Path) -> None:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())

    return spoil


def appended(name: str, text: str):
    return lambda folder: (folder / name).write_text((folder / name).read_text() + text)


def flipped(name: str):
    """One bit of the newest checkpoint's file."""

    def spoil(folder: Path) -> None:
        path = max((folder / "checkpoints").glob("step-*")) / name
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)

    return spoil


def other_weights(folder: Path) -> None:
    """Weights changed together with every hash in the checkpoint: only the evaluation still knows better."""
    flipped("ema.safetensors")(folder)
    place = max((folder / "checkpoints").glob("step-*"))
    state = json.loads((place / "state.json").read_text())
    del state["sha256"]
    state["files"]["ema.safetensors"] = sha256_of(place / "ema.safetensors")
    (place / "state.json").write_text(json.dumps({**state, "sha256": digest(state)}))


def removed(name: str):
    return lambda folder: (folder / name).unlink()


def renamed(folder: Path) -> None:
    folder.rename(folder.with_name("seed0-0123456789"))


def renamed_metric(old: str, new: str):
    return lambda metrics: {new if name.startswith(old) else name: value for name, value in metrics.items()}


def continued(folder: Path, *, at: int, gone: int | None = None) -> None:
    """As if the run had been stopped and continued after step `at`; the line of step `gone` is taken away."""
    lines(
        "events.jsonl", lambda e: [x for y in e for x in ([y, y | {"event": "resume"}] if y.get("step") == at else [y])]
    )(folder)
    lines("metrics.jsonl", lambda found: [line for line in found if line["step"] != gone])(folder)


def edit_state(folder: Path, *, rehash: bool = False, **changes) -> None:
    path = max((folder / "checkpoints").glob("step-*")) / "state.json"
    state = json.loads(path.read_text()) | changes
    if rehash:
        del state["sha256"]
        state["sha256"] = digest(state)
    path.write_text(json.dumps(state))


def with_another_seed(folder: Path) -> None:
    """A second run of the setting, of seed 1, with the first one's losses."""
    config = yaml.safe_load((folder / "config.yaml").read_text()) | {"seed": 1}
    other = folder.with_name(f"seed1-{identity(config)[:10]}")
    shutil.copytree(folder, other)
    setting("seed", 1, rehash=True)(other)
    edit("manifest.json", seed=1)(other)
    edit("result.json", seed=1, run_id=other.name)(other)


SPOILINGS = [
    # check that finds it, what was done
    ("records", "a schema version of the future", edit("manifest.json", schema_version=99)),
    ("records", "a torn result", written("result.json", '{"schema_version": 1, "recipe": "di')),
    ("records", "a digit that changed on the disk", edit("manifest.json", sealed=True, seed=1)),
    ("records", "a field that nobody knows", edit("result.json", invented=1)),
    ("records", "no manifest", removed("manifest.json")),
    ("records", "a torn line", appended("metrics.jsonl", '{"step": 1')),
    ("records", "a damaged evaluation", written("evaluations/other.json", "{}")),
    ("records", "a result that says incomplete", edit("result.json", complete=False)),
    ("agreement", "another seed in the result", edit("result.json", seed=7)),
    ("agreement", "another seed in the manifest", edit("manifest.json", seed=7)),
    ("agreement", "more steps in the result", edit("result.json", steps=600)),
    ("agreement", "more images in the result", edit("result.json", images_seen=1)),
    ("agreement", "another device in the result", edit("result.json", device__threads=99)),
    ("agreement", "a better distance in the result", edit("result.json", evaluations__final__step=11)),
    ("agreement", "a setting changed after the run", setting("protocol.learning_rate", 0.5)),
    ("agreement", "the id of another run", edit("result.json", run_id="seed0-0123456789")),
    ("agreement", "a folder called like another run", renamed),
    ("recipe", "a setting that the command has otherwise", setting("network.width", 32, rehash=True)),
    ("recipe", "another recipe than the command's", edit("manifest.json", command="harness run sddit-tiny")),
    ("recipe", "a number in the command that is another",
     edit("manifest.json", command=lambda old: f"{old} --set num_workers=0x10 --set steps=0x10")),
    ("checkpoints", "a flipped bit of the average", flipped("ema.safetensors")),
    ("checkpoints", "a flipped bit of the optimizer", flipped("optimizer.pt")),
    ("checkpoints", "a state that was edited", lambda f: edit_state(f, seconds=0.0)),
    ("checkpoints", "no average", lambda f: (max((f / "checkpoints").glob("step-*")) / "ema.safetensors").unlink()),
    ("checkpoints", "a checkpoint of another run", lambda f: edit_state(f, rehash=True, config_sha256="0" * 64)),
    ("checkpoints", "a state of ten thousand levels",
     lambda f: (max((f / "checkpoints").glob("step-*")) / "state.json").write_text("[" * 10_000 + "]" * 10_000)),
    ("weights", "other weights, with every hash", other_weights),
    ("weights", "an evaluation of other weights", edit_both(weights_sha256="0" * 64)),
    ("conditions", "no NFE", edit_both(protocol__nfe=None)),
    ("conditions", "no seed", edit_both(protocol__seed=None)),
    ("conditions", "a hash that is none", edit_both(protocol__features_sha256="abc")),
    ("conditions", "more NFE than the sampler takes", edit_both(protocol__nfe=999)),
    ("conditions", "guidance that was not configured", edit_both(protocol__guidance_scale=4.0)),
    ("conditions", "another N than configured", edit_both(protocol__num_images=1000)),
    ("conditions", "another reference than the data", edit_both(protocol__reference_sha256="0" * 64)),
    ("conditions", "a VAE without its hash", edit_both(protocol__vae="stabilityai/sd-vae-ft-ema")),
    ("names", "called fid50k", edit_both(metrics=renamed_metric("fd", "fid50k"))),
    ("names", "called by another N", edit_both(metrics=renamed_metric("fd", "fd-digits@50k"))),
    ("names", "a metric that is not finite", edit_both(metrics=lambda m: dict.fromkeys(m, 1e999))),
    ("features", "FID by a network that is not the pinned", edit_both(protocol__features="inception")),
    ("data", "another hash of the data", edit("manifest.json", data__sha256="0" * 64)),
    ("data", "no hash of the data", edit("manifest.json", data__sha256="")),
    ("data", "another count of images", edit("manifest.json", data__num_images=1)),
    ("seeds", "a copy as a second seed", lambda f: shutil.copytree(f, f.parent / "copy")),
    ("seeds", "a seed without effect", lambda f: with_another_seed(f)),
    ("environment", "no flag", edit("manifest.json", precision={"precision": "fp32"})),
    ("environment", "fp32 that is TF32", edit("manifest.json", precision__float32_matmul_precision="high")),
    ("code", "no commit", edit("manifest.json", git_commit="main")),
    ("code", "changes without a hash", edit("manifest.json", git_diff_sha256="yes")),
    ("environment", "no version of torch", edit("manifest.json", packages={"numpy": "2.4.6"})),
    ("environment", "a device without a name", edit("manifest.json", device__name=" ")),
    ("environment", "no threads", edit("manifest.json", device__threads=0)),
    ("timing", "a higher speed", edit("result.json", steps_per_sec=lambda old: 2 * old)),
    ("timing", "no warm-up", edit("result.json", timed_steps=12)),
    ("timing", "a start without its warm-up", lambda f: continued(f, at=6)),
    ("timing", "more timed steps in the log", lines("metrics.jsonl", last(timed_steps=12))),
    ("timing", "no share of waiting", lines("metrics.jsonl", last(data_wait_share=None))),
    ("timing", "less time than was timed", edit("result.json", wall_seconds=0.0)),
    ("log", "a line that is gone", lines("metrics.jsonl", lambda found: found[:2] + found[3:])),
    ("log", "a line that is gone after a continuation", lambda f: continued(f, at=6, gone=10)),
    ("log", "a line that is gone before a continuation", lambda f: continued(f, at=6, gone=4)),
    ("log", "lines in another order", lines("metrics.jsonl", lambda found: found[::-1])),
    ("log", "a line twice", lines("metrics.jsonl", lambda found: [*found, found[-1]])),
    ("log", "an end that is gone", lines("metrics.jsonl", lambda found: found[:-1])),
    ("log", "a loss that is not finite", lines("metrics.jsonl", last(loss=float("nan")))),
    ("log", "no loss",
     lines("metrics.jsonl", lambda found: [{k: v for k, v in line.items() if k != "loss"} for line in found])),
    ("log", "images of another batch", lines("metrics.jsonl", last(images=1))),
    ("privacy", "an absolute path", edit("manifest.json", command="harness run dit-tiny --set data=/home/jo/latents")),
    ("privacy", "a host", lines("events.jsonl", last(hostname="x"))),
    ("privacy", "an address", lines("events.jsonl", last(by="jo@example.org"))),
    ("privacy", "a token", lines("events.jsonl", last(key="hf_abcdefghijklmnopqrstuv"))),
    ("privacy", "a path of Windows", written("notes.txt", "C:\\runs\\mine")),
    ("privacy", "a URL of a file", lines("events.jsonl", last(text="file:///home/jo/x"))),
    ("privacy", "a folder of a machine", lines("events.jsonl", last(text="x>/scratch/.."))),
    ("privacy", "a folder with a space", lines("events.jsonl", last(text="/My Data/x"))),
    ("privacy", "a share", lines("events.jsonl", last(text=r"\\host\share"))),
    ("privacy", "an IP address", lines("events.jsonl", last(text="10.1.2.3:29500"))),
    ("privacy", "a longer IP address", lines("events.jsonl", last(text="at fe80::1ff:fe23"))),
    ("times", "an event before the start",
     lines("events.jsonl", lambda e: [e[0] | {"time": "2020-01-01T00:00:00Z"}, *e[1:]])),
    ("times", "events that go back", lines("events.jsonl", last(time="2020-01-01T00:00:00Z"))),
    ("times", "an event without a time", lines("events.jsonl", last(time=None))),
    ("times", "more seconds than passed", lines("metrics.jsonl", last(timed_seconds=1e6))),
    ("times", "no last checkpoint", lines("events.jsonl", lambda e: [x for x in e if x.get("step") != 12])),
]  # fmt: skip
