"""Errors of the command line itself, in the words and the form of all other errors."""

from difflib import get_close_matches
from typing import Any

import typer

from harness.system.errors import UsageError

# Typer's public error for a bad parameter is a kind of its private one for everything that is typed wrongly.
Mistyped: type[Exception] = typer.BadParameter.__base__  # type: ignore[assignment]


# What other programs call something, and what does it here: options first, then settings, of those that a command has.
ELSEWHERE: dict[str, tuple[str, ...]] = {
    "--lr": ("--set learning_rate=VALUE",),
    "--learning-rate": ("--set learning_rate=VALUE",),
    "--batch-size": ("--batch", "--set batch_size=N", "--set sample_batch=N"),
    "--bs": ("--batch", "--set batch_size=N", "--set sample_batch=N"),
    "--epochs": ("--steps",),
    "--max-steps": ("--steps",),
    "--cfg": ("--cfg-scale", "--set guidance_scale=VALUE"),
    "--guidance-scale": ("--cfg-scale", "--set guidance_scale=VALUE"),
    "--model": ("RECIPE",),
    "--ckpt": ("--step",),
    "--checkpoint": ("--step",),
    "--resume": ("SAME",),
    "--gpus": ("--nproc",),
    "--num-gpus": ("--nproc",),
    "--output": ("--out",),
    "--output-dir": ("--out",),
    "--results-dir": ("--out",),
    "--num-images": ("--num", "--set num_images=N"),
    "--num-samples": ("--num", "--set num_images=N"),
    "--weight-decay": ("--set weight_decay=VALUE",),
    "--ema-decay": ("--set ema_decay=VALUE",),
    "--mask-ratio": ("--set mask_ratio=VALUE",),
    "--size": ("RECIPE",),
}
WORDS = {
    "SAME": "The same command again continues from the newest checkpoint",
    "RECIPE": "The recipe's name says it, like dit-xl",
}
EPOCHS = " A step is one batch: an epoch is the number of images divided by batch_size."


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
    said = f"{ctx.command_path} has no option {option}."
    here = next((way for way in ELSEWHERE.get(option, ()) if _is_of(way, ctx.command, names)), None)
    if here is not None:
        epochs = EPOCHS if option == "--epochs" else ""
        return f"{said} {WORDS.get(here) or f'Here it is {here}'}.{epochs}"
    near = get_close_matches(option, names, n=3, cutoff=0.5)
    return said + (f" Did you mean {' or '.join(near)}?" if near else "")


def _is_of(way: str, command: Any, options: list[str]) -> bool:
    """Whether a command has this way of `ELSEWHERE`."""
    arguments = [parameter.name for parameter in command.params if parameter.param_type_name == "argument"]
    if way == "SAME":
        return command.name in ("run", "sample", "evaluate", "sweep", "encode", "import")
    if way == "RECIPE":
        return "recipe" in arguments or "recipes" in arguments
    if way.startswith("--set "):
        of_training = way.partition(" ")[2].partition("=")[0] not in ("sample_batch", "guidance_scale", "num_images")
        return "--set" in options and (not of_training or command.name in ("run", "bench", "demo", "sweep"))
    return way in options


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
