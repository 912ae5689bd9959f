"""Errors of the command line itself, in the words and the form of all other errors."""

from difflib import get_close_matches
from typing import Any

import typer

from harness.system.errors import UsageError

# Typer's public error for a bad parameter is a kind of its private one for everything that is typed wrongly.
Mistyped: type[Exception] = typer.BadParameter.__base__  # type: ignore[assignment]


def explained(error: Any) -> UsageError:
    """One of Typer's errors as ours: what is wrong, what was probably meant, where to look."""
    ctx = error.ctx
    if hasattr(error, "option_name") and hasattr(error, "possibilities"):
        said = _no_such_option(error.option_name, ctx)
    elif type(error) is typer.BadParameter and error.param is not None:
        said = _of_value(_name(error.param), error.message)
    else:
        said = error.format_message()
    said = said if said.endswith((".", "?")) else f"{said}."
    where = ctx.command_path if ctx is not None else "harness"
    return UsageError(f"{said[0].lower()}{said[1:]} `{where} --help` says more.")


def _no_such_option(option: str, ctx: Any) -> str:
    names = [name for p in ctx.command.get_params(ctx) for name in p.opts if name.startswith("--")]
    near = get_close_matches(option, names, n=3, cutoff=0.5)
    return f"{ctx.command_path} has no option {option}." + (f" Did you mean {' or '.join(near)}?" if near else "")


def _name(parameter: Any) -> str:
    if parameter.param_type_name == "argument":
        return parameter.metavar or parameter.name.upper()
    return max(parameter.opts, key=len)


def _of_value(name: str, message: str) -> str:
    """What is wrong with the value of one parameter; pydantic's words without how it tried."""
    if message.startswith((f"{name} ", "is ")):
        return message if message.startswith(name) else f"{name} {message}"
    wanted = message.partition(", unable to parse")[0].removeprefix("Input should be ")
    return f"{name} must be {wanted.replace('valid integer', 'whole number')}"
