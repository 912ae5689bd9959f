"""Defaults of command-line options that a user keeps: in settings files and in HARNESS_* variables.

A flag goes before a variable, a variable before ./harness.toml, that before the user's own file, and all before a
recipe. The files are TOML: a table for each command, with its options' long names, and [folders].
"""

import os
import shlex
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from platformdirs import user_config_path

from harness.system.errors import DataError, UsageError, unknown
from harness.system.files import read_limited

NAME = "harness.toml"
FOLDERS = {"data": "HARNESS_DATA", "cache": "HARNESS_CACHE", "features": "HARNESS_FEATURES", "vae": "HARNESS_VAE"}
FOLDERS_TABLE = "folders"
LARGEST_FILE = 1 << 20  # bytes
TYPED_ALONE = ("yes", "force")  # options that delete data must be typed; a file could come with a cloned folder
SEE = "`harness config show --all` lists them"

Known = Mapping[str, Mapping[str, bool]]  # command, like "runs list" -> option's key, like "no_eval" -> is it a list


class Value(NamedTuple):
    """One setting that is set, and where."""

    value: Any  # a list of texts for an option that is one, else a TOML value or a variable's text
    origin: str  # "harness.toml", "~/.config/dit-harness/harness.toml" or "HARNESS_RUN_PRECISION"


class Settings(NamedTuple):
    folders: dict[str, Value]  # a value for each key of FOLDERS that is set
    options: dict[str, dict[str, Value]]  # values by command, then by key


def read(known: Known, *, options: bool = True) -> Settings:
    """All that is set, the strongest place's value of each; values of a list add up, the strongest place's last.

    Without `options` only the folders, and no option is looked at. Whether a value fits is for its command to say.

    Raises UsageError, naming the file or the variable and the key, for a key that is unknown or never set
    (TYPED_ALONE), and DataError for a file that cannot be read.
    """
    settings = Settings({}, {command: {} for command in known})
    for path in filter(Path.is_file, files()):
        name, document = shown(path), _document(path)
        for key, value in _table(document.pop(FOLDERS_TABLE, {}), FOLDERS_TABLE, name).items():
            if key not in FOLDERS:
                raise UsageError(f"[{FOLDERS_TABLE}] in {name}: {unknown('setting', key, FOLDERS, see=SEE)}")
            if not isinstance(value, str) or not value:
                raise _wrong(f"{key} of [{FOLDERS_TABLE}] in {name}", value, "the path of a folder")
            settings.folders[key] = Value(str(path.absolute().parent / Path(value).expanduser()), name)
        for command, table in _tables(document, known, name) if options else ():
            for key, value in table.items():
                where = f"{key} of [{command.replace(' ', '.')}] in {name}"
                _put(settings, known, command, key.replace("-", "_"), value, where, name)
    for key, name in FOLDERS.items():
        if os.environ.get(name):
            settings.folders[key] = Value(os.environ[name], name)
    names = {variable(command, key): (command, key) for command in known for key in known[command]}
    for name, text in _variables(known) if options else ():
        if name not in names:
            raise UsageError(str(unknown("setting", name, names, see=SEE)))
        command, key = names[name]
        _put(settings, known, command, key, _words(name, text) if known[command][key] else text, name, name)
    return settings


def files() -> tuple[Path, Path]:
    """Where settings files may lie, the weaker first: the user's own, and the one in this folder."""
    return user_config_path("dit-harness") / NAME, Path(NAME)


def variable(command: str, key: str) -> str:
    """HARNESS_RUNS_LIST_JSON for the key json of `runs list`."""
    return f"HARNESS_{command}_{key}".upper().replace(" ", "_").replace("-", "_")


def shown(path: Path) -> str:
    """A path as it may be printed anywhere: the home folder is ~."""
    home = Path.home()
    return f"~/{path.relative_to(home).as_posix()}" if path.is_absolute() and path.is_relative_to(home) else str(path)


def _put(settings: Settings, known: Known, command: str, key: str, value: Any, where: str, origin: str) -> None:
    """Set one option of a command, after a look at its key; a list goes behind what a weaker place set."""
    if key not in known[command]:
        setting, _, place = where.partition(" of ")
        raise UsageError(f"{place}: {unknown('setting', setting, known[command], see=SEE)}")
    if key in TYPED_ALONE:
        raise UsageError(
            f"{where}: --{key} removes or replaces what was kept, so it is typed and never set. Take it out."
        )
    if known[command][key]:
        value = _texts(where, value)
        if key in settings.options[command]:
            weaker = settings.options[command][key]
            value, origin = [*weaker.value, *value], f"{weaker.origin}, {origin}"
    elif isinstance(value, list | dict):
        raise _wrong(where, value, "one value")
    settings.options[command][key] = Value(value, origin)


def _texts(where: str, value: Any) -> list[str]:
    """KEY=VALUE texts, of a list of them or of a table."""
    if isinstance(value, dict):
        import json

        try:
            return [f"{key}={json.dumps(one)}" for key, one in value.items()]  # JSON is YAML
        except TypeError:  # a date, the one type of TOML that JSON has not
            raise _wrong(where, value, "a table without dates") from None
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        raise _wrong(where, value, 'a table of settings, or a list like ["mask_ratio=0.3"]')
    return value


def _document(path: Path) -> dict[str, Any]:
    import tomllib

    try:
        return tomllib.loads(read_limited(path, LARGEST_FILE).decode())
    except OSError as error:
        raise DataError(f"{shown(path)} cannot be read: {error.strerror}. Repair or remove it.") from None
    except (ValueError, RecursionError) as error:
        raise UsageError(
            f'{shown(path)} is not TOML: {error}. Write it like: [run] and below it precision = "bf16".'
        ) from None


def _tables(document: dict[str, Any], known: Iterable[str], name: str, above: str = "") -> Iterator[tuple[str, Any]]:
    """Commands and their tables: [run], and [runs.list] or [data.encode] of a group's."""
    for key, value in document.items():
        command = f"{above}{key}"
        if command in known:
            yield command, _table(value, command, name)
        elif any(other.startswith(f"{command} ") for other in known):
            yield from _tables(_table(value, command, name), known, name, f"{command} ")
        else:
            members = {other.removeprefix(above).split()[0] for other in known if other.startswith(above)}
            where = f"[{above.strip().replace(' ', '.')}] in {name}" if above else name
            raise UsageError(f"{where}: {unknown('command', key, members if above else {*members, FOLDERS_TABLE})}")


def _table(value: Any, command: str, name: str) -> dict[str, Any]:
    heading = command.replace(" ", ".")
    if not isinstance(value, dict):
        raise _wrong(f"{heading} in {name}", value, f"a table, [{heading}] with its settings below")
    return value


def _variables(known: Iterable[str]) -> Iterator[tuple[str, str]]:
    """The variables that begin with a command's name, and are not empty."""
    beginnings = tuple(variable(command, "") for command in known)
    for name, text in sorted(os.environ.items()):
        if name.startswith(beginnings) and text and name not in FOLDERS.values():
            yield name, text


def _words(name: str, text: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError as error:
        raise _wrong(name, text, f"KEY=VALUE texts with spaces between them ({error})") from None


def _wrong(where: str, value: Any, must_be: str) -> UsageError:
    return UsageError(f"{where} is {value!r}; it must be {must_be}.")
