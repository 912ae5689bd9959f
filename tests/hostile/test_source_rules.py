"""What no file of the source does, so that nothing hostile has a way in."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
SOURCES = sorted([*ROOT.glob("harness/**/*.py"), *ROOT.glob("baselines/*.py"), *ROOT.glob("docs/**/*.py")])


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


TREES = {relative(path): ast.parse(path.read_text(encoding="utf-8")) for path in SOURCES}


def calls() -> Iterator[tuple[str, str, ast.Call]]:
    """Every call: the file, the name as written (torch.load, open, self._zip.open), and the call itself."""
    for file, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                yield file, ast.unparse(node.func), node


def argument(call: ast.Call, name: str) -> object:
    value = next((word.value for word in call.keywords if word.arg == name), None)
    return value.value if isinstance(value, ast.Constant) else value


NEVER = (
    "np.lib.format.open_memmap", "np.memmap", "np.fromfile", "pd.read_pickle", "joblib.load", "eval", "exec", "compile",
    "os.system", "os.popen", "pickle.load", "pickle.loads",
)  # fmt: skip
NEVER_AT_THE_END = ("extractall", "extract_all", "unpack_archive", "mktemp", "unsafe_load", "full_load")


def test_no_call_can_open_a_pickle_or_run_a_text():
    for file, name, call in calls():
        where = f"{file}:{call.lineno}: {name}"
        last = name.rpartition(".")[2]
        assert name not in NEVER, where
        assert last not in NEVER_AT_THE_END, where
        assert argument(call, "shell") in (None, False), f"{where} with a shell"
        if name in ("torch.load", "torch.jit.load") or (last == "load" and name.startswith("torch.")):
            assert argument(call, "weights_only") is True, f"{where} without weights_only=True"
        if name in ("np.load", "numpy.load", "np.lib.format.read_array"):
            assert argument(call, "allow_pickle") is False, f"{where} without allow_pickle=False"
        if name.startswith("yaml.") and last in ("load", "load_all"):
            loader = next((word.value for word in call.keywords if word.arg == "Loader"), None)
            assert file == "harness/recipes/config.py", f"{where}: harness.recipes.config.plain_values alone reads YAML"
            assert ast.unparse(loader) == "loader", where  # the next test says that it is a SafeLoader


def test_the_only_yaml_loaders_are_safe_ones():
    text = (ROOT / "harness" / "recipes" / "config.py").read_text(encoding="utf-8")
    assert set(re.findall(r"yaml\.(\w*Loader)", text)) <= {"SafeLoader"}
    assert set(re.findall(r'"(\w*Loader)"', text)) == {"CSafeLoader"}


def test_only_a_bag_of_values_may_be_restored_beside_tensors():
    """argparse.Namespace, in which the official scripts keep their options: restoring it calls nothing."""
    allowed = [ast.unparse(call) for _, name, call in calls() if name.endswith("safe_globals")]
    assert allowed == ["torch.serialization.safe_globals([argparse.Namespace])"]


FETCHES = {"urlopen", "urlretrieve", "hf_hub_download", "snapshot_download", "build_opener"}


def test_every_address_is_https_and_what_is_fetched_has_a_pinned_hash():
    fetching = {file for file, name, _ in calls() if name.rpartition(".")[2] in FETCHES}
    for path in SOURCES:
        text = path.read_text(encoding="utf-8")
        for address in re.findall(r"http://[^\s\"'`)]+", text):
            # The one address of SVG is a name, not a place.
            assert address.startswith("http://www.w3.org/"), f"{relative(path)} names {address}"
        if relative(path) in fetching:
            assert re.search(r"sha256|SHA256", text), f"{relative(path)} fetches and names no hash"
        assert not re.search(r"^\s*(import|from) (requests|httpx|aiohttp|ftplib|telnetlib)\b", text, re.MULTILINE)


def test_no_module_imports_what_pickles():
    """concurrent.futures and multiprocessing pickle between our own processes alone; torchvision checks CIFAR-10."""
    pickling = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
    for file, tree in TREES.items():
        for node in ast.walk(tree):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not {name.split(".")[0] for name in names} & pickling, file
