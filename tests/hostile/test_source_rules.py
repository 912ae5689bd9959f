"""What no file of the source does, so that nothing hostile has a way in."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = sorted([*ROOT.glob("harness/**/*.py"), *ROOT.glob("baselines/*.py"), *ROOT.glob("docs/**/*.py")])


def calls(path: Path) -> Iterator[tuple[str, ast.Call]]:
    """Every call in a file, by its name as written: torch.load, open, self._zip.open."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def argument(call: ast.Call, name: str) -> object:
    value = next((word.value for word in call.keywords if word.arg == name), None)
    return value.value if isinstance(value, ast.Constant) else value


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_nothing_in_a_file_can_open_a_pickle_or_run_a_text(path):
    for name, call in calls(path):
        where = f"{relative(path)}:{call.lineno}"
        last = name.rpartition(".")[2]
        if name in ("torch.load", "torch.jit.load") or (last == "load" and name.startswith("torch.")):
            assert argument(call, "weights_only") is True, f"{where}: {name} without weights_only=True"
        if name in ("np.load", "numpy.load", "np.lib.format.read_array"):
            assert argument(call, "allow_pickle") is False, f"{where}: {name} without allow_pickle=False"
        if name in ("np.lib.format.open_memmap", "np.memmap", "np.fromfile", "pd.read_pickle", "joblib.load"):
            pytest.fail(f"{where}: {name}")
        if name.startswith("yaml.") and last in ("load", "load_all"):
            loader = next((word.value for word in call.keywords if word.arg == "Loader"), None)
            assert relative(path) == "harness/recipes/config.py", (
                f"{where}: YAML is read by harness.recipes.config.plain_values alone"
            )
            assert ast.unparse(loader) == "loader", where  # which is a SafeLoader, as the next test holds
        assert last not in ("unsafe_load", "full_load", "safe_globals") or relative(path).endswith(
            "published_weights.py"
        ), where
        assert name not in ("eval", "exec", "compile", "os.system", "os.popen", "pickle.load", "pickle.loads"), where
        assert argument(call, "shell") in (None, False), f"{where}: a shell"
        assert last not in ("extractall", "extract_all", "unpack_archive", "mktemp"), f"{where}: {name}"


def test_the_only_yaml_loaders_are_safe_ones():
    text = (ROOT / "harness" / "recipes" / "config.py").read_text(encoding="utf-8")
    assert set(re.findall(r"yaml\.(\w*Loader)", text)) <= {"SafeLoader"}
    assert set(re.findall(r'"(\w*Loader)"', text)) == {"CSafeLoader"}


def test_only_a_bag_of_values_may_be_restored_beside_tensors():
    """argparse.Namespace, in which the official scripts keep their options: restoring it calls nothing."""
    allowed = [ast.unparse(call) for path in SOURCES for name, call in calls(path) if name.endswith("safe_globals")]
    assert allowed == ["torch.serialization.safe_globals([argparse.Namespace])"]


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_every_address_is_https_and_what_is_fetched_has_a_pinned_hash(path):
    text = path.read_text(encoding="utf-8")
    for address in re.findall(r"http://[^\s\"'`)]+", text):
        assert address.startswith("http://www.w3.org/"), (
            f"{relative(path)} names {address}"
        )  # of SVG: a name, not a place
    fetches = [name for name, _ in calls(path) if name.rpartition(".")[2] in
               ("urlopen", "urlretrieve", "hf_hub_download", "snapshot_download", "build_opener")]  # fmt: skip
    if fetches:
        assert re.search(r"sha256|SHA256", text), f"{relative(path)} fetches and names no hash"
    assert not re.search(r"^\s*(import|from) (requests|httpx|aiohttp|ftplib|telnetlib)\b", text, re.MULTILINE)


def test_no_module_imports_what_pickles():
    """concurrent.futures and multiprocessing pickle between our own processes alone; torchvision checks CIFAR-10."""
    found = {}
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            for name in names:
                if name.split(".")[0] in ("pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"):
                    found[relative(path)] = name
    assert not found
