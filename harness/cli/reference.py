"""What every command is, as data: its help on a terminal and a reference page are two prints of it."""

import inspect
from collections.abc import Iterator
from typing import Any, NamedTuple

EXAMPLES = "Examples: "
BETWEEN = " · "
OPTIONS = "Options"
EVERYWHERE = "Everywhere"
PLACEHOLDERS = {"str": "TEXT", "int": "N", "float": "NUMBER"}  # of an option whose command names none


class Item(NamedTuple):
    """An argument or an option."""

    names: tuple[str, ...]  # ("--quiet", "-q"); of an argument its one name
    value: str  # what follows an option: "N"; empty for a switch
    help: str
    default: str  # as it is typed; empty where there is none
    required: bool


class Page(NamedTuple):
    """One command, or a group of them."""

    path: str  # "harness runs list"
    usage: str  # "harness runs list [OPTIONS] [RUNS]..."
    summary: str  # one sentence or two: the first paragraph of its description
    more: tuple[str, ...]  # the other paragraphs, but for the examples
    arguments: tuple[Item, ...]
    options: tuple[tuple[str, tuple[Item, ...]], ...]  # under their headings, "Options" first, "Everywhere" last
    commands: tuple[tuple[str, str], ...]  # of a group: name and summary
    examples: tuple[str, ...]  # commands as they are typed
    closing: str  # the epilog


def pages() -> list[Page]:
    """Every command of the command line in the order of its help, groups before their commands."""
    import typer

    from harness.cli import app

    root = typer.main.get_command(app)
    return list(_pages(root, root.make_context("harness", [], resilient_parsing=True)))


def _pages(command: Any, ctx: Any) -> Iterator[Page]:
    yield page(command, ctx)
    for name in command.list_commands(ctx) if hasattr(command, "list_commands") else ():
        member = command.get_command(ctx, name)
        if not member.hidden:
            yield from _pages(member, member.make_context(name, [], parent=ctx, resilient_parsing=True))


def page(command: Any, ctx: Any) -> Page:
    """One command, from Typer's objects for it: any command of this command line, and a context of it."""
    paragraphs = [" ".join(part.split()) for part in inspect.cleandoc(command.help or "").split("\n\n")]
    examples = paragraphs.pop().removeprefix(EXAMPLES).split(BETWEEN) if paragraphs[-1].startswith(EXAMPLES) else []
    shown = [parameter for parameter in command.get_params(ctx) if not getattr(parameter, "hidden", False)]
    arguments = [p for p in shown if p.param_type_name == "argument"]
    groups: dict[str, list[Item]] = {OPTIONS: []}
    for option in (p for p in shown if p.param_type_name == "option"):
        heading = getattr(option, "rich_help_panel", None) or (EVERYWHERE if option.name == "help" else OPTIONS)
        groups.setdefault(heading, []).append(_item(option, ctx))
    groups[EVERYWHERE] = groups.pop(EVERYWHERE, [])
    return Page(
        path=ctx.command_path,
        usage=" ".join([ctx.command_path, "[OPTIONS]", *_usage(command, arguments)]),
        summary=paragraphs[0],
        more=tuple(paragraphs[1:]),
        arguments=tuple(_item(argument, ctx) for argument in arguments),
        options=tuple((heading, tuple(items)) for heading, items in groups.items() if items),
        commands=tuple(_members(command, ctx)),
        examples=tuple(examples),
        closing=" ".join((command.epilog or "").split()),
    )


def _members(command: Any, ctx: Any) -> Iterator[tuple[str, str]]:
    for name in command.list_commands(ctx) if hasattr(command, "list_commands") else ():
        member = command.get_command(ctx, name)
        if not member.hidden:
            said = " ".join(inspect.cleandoc(member.help or "").split("\n\n")[0].split())
            yield name, said.partition(". ")[0].removesuffix(".") + "."


def _usage(command: Any, arguments: list[Any]) -> Iterator[str]:
    if hasattr(command, "list_commands"):
        yield "COMMAND ..."
    for argument in arguments:
        name = _name(argument) if argument.required else f"[{_name(argument)}]"
        yield name + ("..." if argument.nargs != 1 else "")


def _name(argument: Any) -> str:
    return argument.metavar or argument.name.upper()


def _item(parameter: Any, ctx: Any) -> Item:
    if parameter.param_type_name == "argument":
        return Item((_name(parameter),), "", _help(parameter), _default(parameter), parameter.required)
    names = tuple(sorted([*parameter.opts, *parameter.secondary_opts], key=lambda name: name.startswith("--")))
    typed = parameter.display_type(ctx).strip("<>")
    value = "" if parameter.is_flag else parameter.metavar or PLACEHOLDERS.get(typed, typed.upper())
    return Item(names, value, _help(parameter), _default(parameter), parameter.required)


def _help(parameter: Any) -> str:
    return " ".join((parameter.help or "").split())


def _default(parameter: Any) -> str:
    """The default as text; empty where there is none, or where the help describes it."""
    value = parameter.default
    nothing = value is None or isinstance(value, bool) or value in ("", [])
    return "" if nothing or not parameter.show_default else str(value)
