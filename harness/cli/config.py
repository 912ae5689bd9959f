"""`harness config`: which defaults hold here, and where each comes from."""

from typing import Annotated, Any

import typer

from harness.cli.app import defaults
from harness.cli.app.answer import Json, answers, show
from harness.cli.app.application import App
from harness.cli.app.layout import columns, wrapped
from harness.cli.app.state import state
from harness.system import settings

config_app = App(help="Look up which defaults hold here.")
FOLDERS = "folders"
NOT_SET = "default"


@config_app.command(
    "show",
    epilog="Examples: harness config show --origin · harness config show --all · "
    "HARNESS_RUN_PRECISION=bf16 harness config show --origin --json",
)
@answers
def config_show(
    ctx: typer.Context,
    origin: Annotated[bool, typer.Option("--origin", help="Also say where each comes from.")] = False,
    all_: Annotated[bool, typer.Option("--all", help="Also options that nothing sets, by their defaults.")] = False,
    as_json: Json = False,
) -> None:
    """Print the folders and the options that settings files and HARNESS_* variables set.

    A flag goes before a variable, a variable before ./harness.toml, that before the user's own harness.toml, and all of
    them before a recipe. A file has a table for each command, [run] or [data.encode], with the long names of its
    options; [run.set] holds what --set changes, and [folders] the keys data, cache, features and vae.
    """
    root, found = ctx.find_root().command, state.found
    assert found is not None  # read before any command begins
    rows = [_row(FOLDERS, key, *_folder(found, key)) for key in settings.FOLDERS]
    for name, command in defaults.commands(root):
        for option in defaults.options_of(command):
            key = defaults.key_of(option)
            value = found.options.get(name, {}).get(key)
            if value is not None:
                rows.append(_row(name, key, value.value, value.origin))
            elif all_ and key not in settings.TYPED_ALONE:
                rows.append(_row(name, key, _default(option), NOT_SET))
    weaker, stronger = settings.files()
    document = {
        "settings": rows,
        "files": [{"path": settings.shown(path), "exists": path.is_file()} for path in (stronger, weaker)],
    }
    show(document, as_json, lambda answer: _lines(answer, origin))


def _row(command: str, key: str, value: Any, origin: str) -> dict[str, Any]:
    name = settings.FOLDERS[key] if command == FOLDERS else settings.variable(command, key)
    return {"setting": f"{command}.{key}".replace(" ", "."), "value": value, "origin": origin, "variable": name}


def _folder(found: settings.Settings, key: str) -> tuple[str | None, str]:
    if key in found.folders:
        return str(found.folders[key].value), found.folders[key].origin
    return _usual(key), NOT_SET


def _usual(key: str) -> str | None:
    """Where the harness looks when nothing is set; None where it has no folder of its own for that."""
    from platformdirs import user_cache_path, user_data_path

    usual = {"data": user_data_path, "cache": user_cache_path}
    return settings.shown(usual[key]("dit-harness")) if key in usual else None


def _default(option: Any) -> Any:
    value = option.default
    return value if value is None or isinstance(value, bool | int | float) else str(value)


def _lines(document: dict[str, Any], origin: bool) -> list[str]:
    rows = [[row["setting"], *([row["origin"]] if origin else []), _text(row["value"])] for row in document["settings"]]
    heads = ["setting", *(["from"] if origin else []), "value"]
    places = ", ".join(f"{file['path']}{'' if file['exists'] else ' (absent)'}" for file in document["files"])
    return [*columns([heads, *rows]), "", *wrapped(f"Files, the stronger first: {places}")]


def _text(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "true" if value else "false"
    return " ".join(value) if isinstance(value, list) else str(value)
