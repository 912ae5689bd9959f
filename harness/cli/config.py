"""`harness config`: which defaults hold here, and where each comes from."""

from typing import Annotated, Any

import typer
from platformdirs import user_cache_path, user_data_path

from harness.cli.app import defaults
from harness.cli.app.answer import show
from harness.cli.app.application import App
from harness.cli.app.layout import columns
from harness.cli.app.options import Json, option
from harness.cli.app.state import state
from harness.system import settings

config_app = App(help="Look up which defaults hold here.")
NOT_SET = "default"


@config_app.command("show")
def config_show(
    ctx: typer.Context,
    origin: Annotated[bool, option("Also say where each comes from.", name="--origin")] = False,
    all_: Annotated[bool, option("Also options that nothing sets, by their defaults.", name="--all")] = False,
    as_json: Json = False,
) -> None:
    """Print the folders and the options that settings files and HARNESS_* variables set.

    A flag goes before a variable, a variable before ./harness.toml, that before the user's own harness.toml, and all of
    them before a recipe. A file has a table for each command, [run] or [data.encode], with the long names of its
    options; [run.set] holds what --set changes, and [folders] the keys data, cache, features and vae.

    Examples: harness config show --origin · harness config show --all · HARNESS_RUN_PRECISION=bf16 harness config show
    --origin --json
    """
    found = state.found
    assert found is not None  # read before any command begins
    usual = {"data": user_data_path, "cache": user_cache_path}  # the harness looks there when nothing is set
    rows = []
    for key, variable in settings.FOLDERS.items():
        default = settings.shown(usual[key]("dit-harness")) if key in usual else None
        value = found.folders.get(key, settings.Value(default, NOT_SET))
        rows.append({"setting": f"folders.{key}", **value._asdict(), "variable": variable})
    for name, command in defaults.commands(ctx.find_root().command):
        for each in defaults.options_of(command):
            key = defaults.key_of(each)
            unset = settings.Value(_as_json(each.default), NOT_SET)
            value = found.options.get(name, {}).get(key, unset)
            if value is not unset or (all_ and key not in settings.TYPED_ALONE):
                setting, variable = f"{name}.{key}".replace(" ", "."), settings.variable(name, key)
                rows.append({"setting": setting, **value._asdict(), "variable": variable})
    places = [{"path": settings.shown(path), "exists": path.is_file()} for path in reversed(settings.files())]
    show({"settings": rows, "files": places}, as_json, lambda answer: _lines(answer, origin))


def _as_json(value: Any) -> Any:
    return value if value is None or isinstance(value, bool | int | float) else str(value)


def _lines(document: dict[str, Any], origin: bool) -> list[str]:
    heads = ("setting", "from", "value") if origin else ("setting", "value")
    rows = [{**row, "from": row["origin"], "value": _text(row["value"])} for row in document["settings"]]
    places = ", ".join(f"{file['path']}{'' if file['exists'] else ' (absent)'}" for file in document["files"])
    table = columns([heads, *([row[head] for head in heads] for row in rows)])
    return [*table, "", f"Files, the stronger first: {places}"]


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return "-" if value is None else " ".join(value) if isinstance(value, list) else str(value)
