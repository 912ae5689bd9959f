"""How this command line is built: every command has the same switches, help, settings and errors.

Typer keeps its own copy of Click to itself, so only what Typer makes public is used.
"""

import contextlib
import functools
import inspect
import sys
from collections.abc import Callable
from typing import Annotated, Any, TypeVar

import typer
from typer.core import TyperCommand, TyperGroup

from harness.cli.app import answer, defaults, mistyped
from harness.cli.app.state import state
from harness.system.errors import UsageError, unknown

NO_SETTINGS = "--no-settings"
EVERYWHERE = "Everywhere"  # heading of the options that every command understands
EXAMPLES = "Examples:"
F = TypeVar("F", bound=Callable[..., Any])


def _switch(name: str, *declarations: str, help: str) -> Any:
    """An option that every command understands; it is noted in `state` and not passed to the command."""

    def note(value: bool) -> bool:
        if value:
            setattr(state, name, True)
        return value

    option = typer.Option(
        *declarations, help=help, callback=note, is_eager=True, expose_value=False, rich_help_panel=EVERYWHERE
    )
    return Annotated[bool, option]


SWITCHES = {
    "quiet": _switch("quiet", "--quiet", "-q", help="Show no progress and no notes on stderr, only errors."),
    "debug": _switch("debug", "--debug", help="Show tracebacks."),
    "no_settings": _switch("no_settings", NO_SETTINGS, help="Take no option from harness.toml and from variables."),
}


def with_switches(command: Callable[..., Any]) -> Callable[..., Any]:
    """The command with the switches that are understood everywhere, before its name and after."""

    @functools.wraps(command)
    def wrapped(**values: Any) -> Any:
        return command(**{name: value for name, value in values.items() if name not in SWITCHES})

    own = inspect.signature(command)
    added = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=False, annotation=annotation)
        for name, annotation in SWITCHES.items()
    ]
    setattr(wrapped, "__signature__", own.replace(parameters=[*own.parameters.values(), *added]))  # noqa: B010 (mypy)
    wrapped.__annotations__ = {**command.__annotations__, **SWITCHES}
    return wrapped


class Command(TyperCommand):
    """A command whose options may have defaults from settings files and the environment."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if ctx.resilient_parsing or {"-h", "--help"} & set(args):
            return super().parse_args(ctx, args)
        state.no_settings = state.no_settings or NO_SETTINGS in args  # before Typer reads a flag, it looks for defaults
        defaults.apply(ctx)
        rest = super().parse_args(ctx, args)
        defaults.let_typed_go_first(ctx)
        return rest


class Group(TyperGroup):
    """A group of commands. The outermost one ends the program with an exit code of the errors' list."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if not args and self.no_args_is_help and not ctx.resilient_parsing:
            with contextlib.redirect_stdout(sys.stderr):
                ctx.get_help()  # Typer prints it
            raise typer.Exit(UsageError.exit_code)
        return super().parse_args(ctx, args)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args[0] not in self.commands and not ctx.resilient_parsing:
            names = [name for name, command in self.commands.items() if not command.hidden]
            raise unknown("command", args[0], names, see=f"`{ctx.command_path} --help` lists them")
        return super().resolve_command(ctx, args)

    def main(self, *args: Any, standalone_mode: bool = True, **options: Any) -> Any:
        """Carry a command line out and exit; without `standalone_mode`, return its exit code or raise its error."""
        run = functools.partial(super().main, *args, standalone_mode=False, **options)  # type: ignore[misc]
        state.reset()
        try:
            if not standalone_mode:
                return run()
            with answer.ending():
                code = _in_our_words(run)
                sys.stdout.flush()  # a closed pipe is noticed here, not while the interpreter ends
        except typer.Exit as end:
            code = end.exit_code
        finally:
            state.restore()
        sys.exit(code if isinstance(code, int) else 0)


def _in_our_words(run: Callable[[], Any]) -> Any:
    """Typer's own errors as ours."""
    try:
        return run()
    except SystemExit as end:
        if isinstance(end.__context__, BrokenPipeError):  # Typer ends with 1 where the reader has closed the pipe
            raise end.__context__ from None
        raise
    except mistyped.Mistyped as error:
        raise mistyped.explained(error) from None


def _nothing_more() -> None:
    """A group does nothing itself: its switches set `state`."""


class App(typer.Typer):
    """A Typer app made of these commands and groups."""

    def __init__(self, **options: Any):
        options.setdefault("cls", Group)
        options.setdefault("short_help", options.get("help"))
        context = {"help_option_names": ["-h", "--help"], **options.pop("context_settings", {})}
        super().__init__(
            no_args_is_help=True,
            pretty_exceptions_enable=False,
            rich_markup_mode="rich",
            context_settings=context,
            **options,
        )
        self.callback()(with_switches(_nothing_more))

    def command(self, name: str | None = None, *, when_stopped: str = answer.AGAIN, **options: Any) -> Callable[[F], F]:
        """As Typer's. The docstring's last paragraph holds the examples: "Examples: harness demo · harness report"."""

        def decorate(function: F) -> F:
            text, _, examples = inspect.cleandoc(function.__doc__ or "").partition(f"\n\n{EXAMPLES} ")
            shown = "\n\n".join([EXAMPLES, *" ".join(examples.split()).split(" · ")])
            help, epilog = (part.replace("[", "\\[") for part in (text, shown))  # a bracket in them is no style
            first = " ".join(help.split("\n\n")[0].split()).partition(". ")[0].removesuffix(".")
            register = super(App, self).command(
                name, cls=Command, help=help, short_help=f"{first}.", epilog=epilog, **options
            )
            register(with_switches(answer.answering(function, when_stopped)))
            return function

        return decorate
