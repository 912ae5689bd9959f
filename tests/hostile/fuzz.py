"""Coverage-guided fuzzing (atheris) of what reads bytes: .npz, stores of latents, .npy and safetensors.

    python tests/hostile/fuzz.py                         # every target, 70,000 executions each; `make fuzz`
    python tests/hostile/fuzz.py npz --runs 1000000 --seed 3

Each target runs in a process of its own, from a corpus made in code. A crash is any error but the harness's own, more
memory than a file of kilobytes can need, or a second without an end; its input is kept and named. Counts go to
reports/evidence/hostile.json. Needs the extra `fuzz`, which is for Linux.
"""

import argparse
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]

TARGETS = ("npz", "latents", "npy", "safetensors")
RUNS = 70_000
LONGEST_INPUT = 4096  # bytes
MEMORY_MB = 3000  # for the whole process, torch and all
COVERAGE = re.compile(r"#(\d+)\s+\S+\s+cov: (\d+) ft: (\d+) corp: (\d+)")


def main() -> None:
    parser = argparse.ArgumentParser(description="Fuzz the readers of binary formats, guided by coverage.")
    parser.add_argument("targets", nargs="*", choices=[*TARGETS, []], help="default: all")
    parser.add_argument("--runs", type=int, default=RUNS, help="executions of each target")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, help="the folder of the counts; default: reports/evidence")
    parser.add_argument("--inside", choices=TARGETS, help=argparse.SUPPRESS)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.inside:
        return fuzz(asked.inside, asked.work, asked.runs, asked.seed)
    crashed = [name for name in asked.targets or TARGETS if not watched(name, asked.runs, asked.seed, asked.out)]
    sys.exit(f"crashes in {', '.join(crashed)}" if crashed else 0)


def watched(name: str, runs: int, seed: int, out: Path | None) -> bool:
    """Fuzz a target in another process; write down what came of it. Whether nothing crashed."""
    from faults.ledger import REPORTS, Fault, Ledger

    with tempfile.TemporaryDirectory(prefix=f"fuzz-{name}-") as folder:
        command = [
            sys.executable,
            __file__,
            "--inside",
            name,
            "--work",
            folder,
            "--runs",
            str(runs),
            "--seed",
            str(seed),
        ]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
        found = [tuple(map(int, match)) for match in COVERAGE.findall(done.stdout)]
        crashes = sorted(Path(folder).glob("crash-*")) + sorted(Path(folder).glob("[ot][oi]m*-*"))
        executions, edges, features, corpus = found[-1] if found else (0, 0, 0, 0)
        survived = done.returncode == 0 and not crashes and executions >= runs
        print(f"{name}: {executions:,} executions, {edges:,} edges, {features:,} features, corpus {corpus}, "
              f"{'no crash' if survived else f'ended with {done.returncode}'}", flush=True)  # fmt: skip
        if not survived:
            print(done.stdout[-6000:], *(f"{path.name}: {path.read_bytes().hex()}" for path in crashes), sep="\n")
        ledger = Ledger("hostile", seed=seed)
        details = {"edges reached": edges, "features": features, "inputs kept": corpus}
        ledger.add(Fault("fuzz", f"{WHAT[name]}, guided by coverage", executions, executions - (not survived),
                         "nothing", details))  # fmt: skip
        ledger.write(out or REPORTS)
    return survived


WHAT = {
    "npz": "bytes as an .npz of images, statistics or anything",
    "latents": "bytes as the manifest, labels and shards of latents",
    "npy": "bytes as a shard of latents and as another project's .npy",
    "safetensors": "bytes as cached features and as another project's safetensors",
}


def fuzz(name: str, work: Path, runs: int, seed: int) -> None:
    """Never returns: the fuzzer ends the process."""
    import atheris

    with atheris.instrument_imports(include=["harness", "zipfile", "numpy.lib", "json", "pydantic"]):
        import readers

    import seed_corpus

    call, seeds = _target(name, work, readers, seed_corpus)
    corpus = work / "corpus"
    corpus.mkdir()
    for number, content in enumerate(seeds):
        (corpus / f"seed-{number}").write_bytes(content)
    flags = [f"-runs={runs}", f"-seed={seed}", f"-max_len={LONGEST_INPUT}", f"-rss_limit_mb={MEMORY_MB}", "-timeout=20",
             f"-artifact_prefix={work}/", "-print_final_stats=1", str(corpus)]  # fmt: skip
    atheris.Setup([sys.argv[0], *flags], call)
    atheris.Fuzz()


def _target(name: str, work: Path, readers: object, seed_corpus: object) -> tuple[Callable[[bytes], None], list[bytes]]:
    file = work / f"input.{name}"
    if name == "latents":
        store = seed_corpus.store(work / "store")
        names = ["manifest.json", "labels.npy", "shard-00000.npy", "shard-00000.flip.npy"]
        whole = {each: (store / each).read_bytes() for each in names}
        manifest = whole["manifest.json"].decode()
        sha256 = manifest.rindex('"sha256"')  # the record's own: left out, so that it is judged by its content
        whole["manifest.json"] = f"{manifest[:sha256].rstrip().rstrip(',')}}}".encode()

        def store_of(content: bytes) -> None:
            """The first byte chooses the file; hashes are made to fit, or nothing would be read."""
            each = names[content[0] % len(names)] if content else names[0]
            (store / each).write_bytes(content[1:])
            if each != "manifest.json":
                was, now = seed_corpus.sha256(whole[each]), seed_corpus.sha256(content[1:])
                (store / "manifest.json").write_bytes(whole["manifest.json"].replace(was.encode(), now.encode()))
            readers.read_store(store)
            for path in (each, "manifest.json"):
                (store / path).write_bytes(whole[path])

        return store_of, [bytes([number]) + whole[each] for number, each in enumerate(names)]

    def one_file(content: bytes) -> None:
        file.write_bytes(content)
        getattr(readers, f"read_{name}")(file)

    return one_file, getattr(seed_corpus, "safetensors" if name == "safetensors" else f"{name}s")()


if __name__ == "__main__":
    main()
