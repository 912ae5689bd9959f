"""Defaults of command-line options that a user keeps: in settings files and in HARNESS_* variables.

A flag goes before a variable, a variable before ./harness.toml, that before the user's own file, and all before a
recipe. The files are TOML: a table for each command, with its options' long names, and [folders].
"""

import os
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

from platformdirs import user_config_path

from harness.system.errors import DataError, UsageError, unknown
from harness.system.files import read_limited

NAME = "harness.toml"
FOLDERS = {"data": "HARNESS_DATA", "cache": "HARNESS_CACHE", "features": "HARNESS_FEATURES", "vae": "HARNESS_VAE"}
FOLDERS_TABLE = "folders"
YES, NO = ("1", "true", "yes", "on"), ("0", "false", "no", "off")
LARGEST_FILE = 1 << 20  # bytes
TYPED_ALONE = ("yes", "force")  # what destroys is said with the command that does it, in no file that lies about

Kind = Literal["switch", "count", "whole number", "number", "text", "list"]
Known = Mapping[str, Mapping[str, Kind]]  # command, like "runs list" -> option's key, like "no_eval" -> what it takes


class Value(NamedTuple):
    """One setting that is set, and where."""

    value: bool | int | float | str | list[str]
    origin: str  # "harness.toml", "~/.config/dit-harness/harness.toml" or "HARNESS_RUN_PRECISION"


class Settings(NamedTuple):
    folders: dict[str, Value]  # by key of FOLDERS
    options: dict[str, dict[str, Value]]  # by command, then by key


def read(known: Known, *, options: bool = True) -> Settings:
    """All that is set, the strongest place's value of each; values of a list add up, the strongest place's last.

    Without `options` only the folders, and no option is looked at.

    Raises UsageError, naming the file or the variable and the key, for a key that is unknown or never set (TYPED_ALONE)
    or a value of a wrong type, and DataError for a file that cannot be read.
    """
    settings = Settings({}, {command: {} for command in known})
    for path in files():
        if path.is_file():
            _take_file(settings, path, known, options)
    _take_variables(settings, known if options else {})
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


# Files ------------------------------------------------------------------------------------------------------------


def _take_file(settings: Settings, path: Path, known: Known, options: bool) -> None:
    name, document = shown(path), _document(path)
    for key, value in _table(name, FOLDERS_TABLE, document.pop(FOLDERS_TABLE, {})).items():
        if key not in FOLDERS:
            raise _no_setting(name, FOLDERS_TABLE, key, FOLDERS)
        if not isinstance(value, str) or not value:
            raise _wrong(f"{key} of [{FOLDERS_TABLE}] in {name}", value, "the path of a folder")
        folder = path.absolute().parent / Path(value).expanduser()
        settings.folders[key] = Value(str(folder), name)
    if options:
        _take_tables(settings, name, document, known, "")


def _take_tables(settings: Settings, name: str, document: dict[str, Any], known: Known, above: str) -> None:
    """The tables of commands: [run], and [runs.list] or [data.encode] of a group's."""
    for key, value in document.items():
        command = f"{above} {key}".strip()
        if command in known:
            for option, given in _table(name, _heading(command), value).items():
                _take_option(settings, name, command, option, given, known)
        elif any(other.startswith(f"{command} ") for other in known):
            _take_tables(settings, name, _table(name, _heading(command), value), known, command)
        else:
            members = {other.removeprefix(above).split()[0] for other in known if other.startswith(above)}
            raise _no_table(name, above, key, {*members, *([] if above else [FOLDERS_TABLE])})


def _take_option(settings: Settings, name: str, command: str, option: str, given: Any, known: Known) -> None:
    key = option.replace("-", "_")
    if key in TYPED_ALONE and key in known[command]:
        raise _typed_alone(f"{option} of [{_heading(command)}] in {name}", key)
    if key not in known[command]:
        raise _no_setting(name, _heading(command), option, known[command])
    value = _from_toml(f"{option} of [{_heading(command)}] in {name}", given, known[command][key])
    _put(settings, command, key, Value(value, name))


def _put(settings: Settings, command: str, key: str, new: Value) -> None:
    old = settings.options[command].get(key)
    if old is not None and isinstance(old.value, list) and isinstance(new.value, list):
        new = Value([*old.value, *new.value], f"{old.origin}, {new.origin}")
    settings.options[command][key] = new


def _document(path: Path) -> dict[str, Any]:
    import tomllib

    try:
        return tomllib.loads(read_limited(path, LARGEST_FILE).decode())
    except OSError as error:
        raise DataError(f"{shown(path)} cannot be read: {error.strerror}. Mend or remove it.") from None
    except (ValueError, RecursionError) as error:
        raise UsageError(
            f'{shown(path)} is not TOML: {error}. Write it like: [run] and below it precision = "bf16".'
        ) from None


def _table(name: str, heading: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _wrong(f"{heading} in {name}", value, f"a table, [{heading}] with its settings below")
    return value


def _from_toml(where: str, value: Any, kind: Kind) -> bool | int | float | str | list[str]:
    """The value, if an option of this kind takes it. Raises UsageError when it is of another type."""
    if kind == "switch":
        if not isinstance(value, bool):
            raise _wrong(where, value, "true or false")
        return value
    if kind == "list":
        return _list(where, value)
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if kind == "whole number" and not (number and isinstance(value, int)):
        raise _wrong(where, value, "a whole number, without quotes")
    if kind == "number" and not number:
        raise _wrong(where, value, "a number, without quotes")
    if not number and not isinstance(value, str):
        raise _wrong(where, value, "text in quotes" if kind == "text" else 'a whole number, or text like "400k"')
    return str(value) if kind == "text" else value


def _list(where: str, value: Any) -> list[str]:
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


def _heading(command: str) -> str:
    return command.replace(" ", ".")


# Variables --------------------------------------------------------------------------------------------------------


def _take_variables(settings: Settings, known: Known) -> None:
    for key, name in FOLDERS.items():
        if os.environ.get(name):
            settings.folders[key] = Value(os.environ[name], name)
    names = {variable(command, key): (command, key) for command in known for key in known[command]}
    for name, text in _of_commands(known):
        if name not in names:
            raise UsageError(str(unknown("setting", name, names, see="`harness config show --all` lists them")))
        command, key = names[name]
        if key in TYPED_ALONE:
            raise _typed_alone(name, key)
        _put(settings, command, key, Value(_from_variable(name, text, known[command][key]), name))


def _of_commands(known: Known) -> Iterator[tuple[str, str]]:
    """The variables that begin with a command's name, and are not empty."""
    beginnings = tuple(variable(command, "") for command in known)
    for name, text in sorted(os.environ.items()):
        if name.startswith(beginnings) and text and name not in FOLDERS.values():
            yield name, text


def _from_variable(name: str, text: str, kind: Kind) -> bool | str | list[str]:
    if kind == "switch":
        if text.lower() not in YES + NO:
            raise _wrong(name, text, "1 or 0")
        return text.lower() in YES
    if kind == "list":
        try:
            return shlex.split(text)
        except ValueError as error:
            raise _wrong(name, text, f"KEY=VALUE texts with spaces between them ({error})") from None
    if kind in ("whole number", "number"):
        try:
            int(text) if kind == "whole number" else float(text)
        except ValueError:
            raise _wrong(name, text, f"a {kind}") from None
    return text


# Errors -----------------------------------------------------------------------------------------------------------


def _wrong(where: str, value: Any, must_be: str) -> UsageError:
    return UsageError(f"{where} is {value!r}; it must be {must_be}.")


def _typed_alone(where: str, key: str) -> UsageError:
    return UsageError(f"{where}: --{key} removes or replaces what was kept, so it is typed and never set. Take it out.")


def _no_setting(name: str, heading: str, key: str, choices: Mapping[str, Any]) -> UsageError:
    see = "`harness config show --all` lists them"
    return UsageError(f"[{heading}] in {name}: {unknown('setting', key, choices, see=see)}")


def _no_table(name: str, above: str, key: str, choices: set[str]) -> UsageError:
    where = f"[{_heading(above)}] in {name}" if above else name
    return UsageError(f"{where}: {unknown('command', key, choices)}")
