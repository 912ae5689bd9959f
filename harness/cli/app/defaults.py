"""Settings files and HARNESS_* variables as defaults of this command line's options.

They are read once a command, when its name is known; --help, --version and completion never read them.
"""

import json
import os
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from harness.cli.app.state import state
from harness.system import settings
from harness.system.errors import UsageError

UNSET = ("help", "quiet", "debug", "no_settings")  # switches, which settings cannot set
NO_SETTINGS = "HARNESS_NO_SETTINGS"  # set for the commands that a command starts: it passes them every option


def apply(ctx: Any) -> None:
    """Let what is set stand in for flags that this command was not given. Raises as `settings.read` does."""
    alone = state.no_settings or bool(os.environ.get(NO_SETTINGS))
    state.found = found = settings.read(known(ctx.find_root().command), options=not alone)
    for key, folder in found.folders.items():
        state.set_variable(settings.FOLDERS[key], str(folder.value))
    ctx.default_map = {}
    name = ctx.command_path.removeprefix(ctx.find_root().command_path).strip()  # "runs list"
    for option in options_of(ctx.command):
        chosen = found.options.get(name, {}).get(key_of(option))
        if chosen is not None:
            # As text, which Typer checks and converts as if it were typed.
            ctx.default_map[option.name] = chosen.value if option.multiple else str(chosen.value)
            state.taken[flag_of(option)] = chosen


def let_typed_go_first(ctx: Any) -> None:
    """Forget what is set for options that were typed; the settings of --set add up, the typed ones last."""
    for option in options_of(ctx.command):
        name, source = option.name, ctx.get_parameter_source(option.name)
        if source is not None and source.name == "COMMANDLINE":
            state.typed[flag_of(option)] = ctx.params[name]
        taken = state.taken.get(flag_of(option))
        if taken and not option.multiple:
            state.taken[flag_of(option)] = taken._replace(value=ctx.params[name])  # converted: a switch is a bool
        if taken and source is not None and source.name == "COMMANDLINE":
            if option.multiple:
                ctx.params[name] = [*taken.value, *ctx.params[name]]
            else:
                del state.taken[flag_of(option)]


def in_order(given: Mapping[str, tuple[str, Any]], assignments: Sequence[str] | None) -> list[str]:
    """`key=value` for all that decides a run, the strongest last: options that are set, --set, typed options.

    `given` has what an option sets, its name and its value: {"protocol.steps": ("--steps", 1000)}.
    """
    said = {path: (option, value) for path, (option, value) in given.items() if value is not None}
    texts = {path: f"{path}={_as_yaml(value)}" for path, (_, value) in said.items()}
    weak = [texts[path] for path, (option, _) in said.items() if option in state.taken]
    return [*weak, *(assignments or []), *(text for text in texts.values() if text not in weak)]


def _as_yaml(value: Any) -> str:
    plain = isinstance(value, str) and re.fullmatch(r"[\w./~+-]+", value)
    return value if plain else json.dumps(value)  # JSON is YAML


@contextmanager
def named(given: Mapping[str, tuple[str, Any]]) -> Iterator[None]:
    """In a UsageError of this block, what an option sets is called by the option's name."""
    try:
        yield
    except UsageError as error:
        said = str(error)
        for path, (option, value) in given.items():
            if value is not None:
                said = re.sub(rf"(?<![\w.])(--set )?{re.escape(path)}(?![\w.])", option, said)
        raise UsageError(said) from None


def replayed(typed: Sequence[str], leaving_out: Collection[str] = ()) -> list[str]:
    """This command's arguments with what is set written out, for a job that starts later and elsewhere.

    `leaving_out` are options of the start itself. What is set comes before what was typed, which then wins.
    """
    if not state.taken:
        return list(typed)
    at = 1 + next(i for i, word in enumerate(typed) if not word.startswith("-"))
    written = [
        part
        for option, taken in state.taken.items()
        if option not in leaving_out
        for part in _as_typed(option, taken.value)
    ]
    return [*typed[:at], "--no-settings", *written, *typed[at:]]


def _as_typed(option: str, value: Any) -> list[str]:
    if isinstance(value, bool):
        return [option] if value else []
    return [part for one in (value if isinstance(value, list) else [str(value)]) for part in (option, one)]


@contextmanager
def told_everything() -> Iterator[None]:
    """Commands that are started in this block take no option from settings: they get all of them as arguments."""
    state.set_variable(NO_SETTINGS, "1")
    yield


def known(root: Any) -> dict[str, dict[str, bool]]:
    """Every command with its options and whether they are lists, for `settings.read`."""
    return {
        name: {key_of(option): option.multiple for option in options_of(command)} for name, command in commands(root)
    }


def commands(group: Any, above: str = "") -> Iterator[tuple[str, Any]]:
    """Every command that does something, under its whole name without the program's: "runs list"."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, f"{above}{name} ")
        else:
            yield f"{above}{name}", command


def options_of(command: Any) -> list[Any]:
    return [p for p in command.params if p.param_type_name == "option" and p.name not in UNSET and not p.hidden]


def flag_of(option: Any) -> str:
    return max(option.opts, key=len)


def key_of(option: Any) -> str:
    """What an option is called in a settings file: no_eval for --no-eval."""
    return flag_of(option).removeprefix("--").replace("-", "_")
