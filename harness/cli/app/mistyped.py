"""Errors of the command line itself, in the words and the form of all other errors."""

import re
from difflib import get_close_matches
from typing import Any

import typer

from harness.system.errors import UsageError

# Typer's public error for a bad parameter is a kind of its private one for everything that is typed wrongly.
Mistyped: type[Exception] = typer.BadParameter.__base__  # type: ignore[assignment]


# What other programs call something, and what does it here. Of several ways, the first that the command has is named.
ELSEWHERE: dict[str, tuple[str, ...]] = {
    "--lr": ("--set learning_rate=VALUE",),
    "--learning-rate": ("--set learning_rate=VALUE",),
    "--batch-size": ("--batch", "--set batch_size=N to train, --set sample_batch=N to sample"),
    "--bs": ("--batch", "--set batch_size=N to train, --set sample_batch=N to sample"),
    "--epochs": ("--steps. A step is one batch: an epoch is the number of images divided by batch_size",),
    "--max-steps": ("--steps",),
    "--cfg": ("--cfg-scale", "--set guidance_scale=VALUE"),
    "--guidance-scale": ("--cfg-scale", "--set guidance_scale=VALUE"),
    "--model": ("the recipe's name, like dit-xl",),
    "--size": ("the recipe's name, like dit-xl",),
    "--ckpt": ("--step",),
    "--checkpoint": ("--step",),
    "--resume": ("the same command again, which continues from the newest checkpoint",),
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
}


def explained(error: Any) -> UsageError:
    """One of Typer's errors as ours: what is wrong, what was probably meant, where to look."""
    ctx = error.ctx
    if hasattr(error, "option_name") and hasattr(error, "possibilities"):
        said = _no_such_option(error.option_name, ctx)
    elif type(error) is typer.BadParameter and error.param is not None:
        said = _of_value(_name(error.param), error.message)
    else:
        said = " ".join(error.format_message().split())  # Typer puts each choice on a line of its own
    said = said if said.endswith((".", "?")) else f"{said}."
    where = ctx.command_path if ctx is not None else "harness"
    return UsageError(f"{said[0].lower()}{said[1:]} `{where} --help` says more.")


def _no_such_option(option: str, ctx: Any) -> str:
    names = [name for p in ctx.command.get_params(ctx) for name in p.opts if name.startswith("--")]
    said = f"{ctx.command_path} has no option {option}."
    for way in ELSEWHERE.get(option, ()):
        if not way.startswith("--") or way.split()[0].rstrip(".") in names:
            return f"{said} Here it is {way}."
    near = get_close_matches(option, names, n=3, cutoff=0.5)
    return said + (f" Did you mean {' or '.join(near)}?" if near else "")


def _name(parameter: Any) -> str:
    if parameter.param_type_name == "argument":
        return parameter.metavar or parameter.name.upper()
    return max(parameter.opts, key=len)


def _of_value(name: str, message: str) -> str:
    """What is wrong with the value of one parameter; pydantic's words without how it tried."""
    message = message.removeprefix("Value error, ")
    if among := re.fullmatch(r"(.*) is not one of (.*)\.", message, re.DOTALL):
        choices = re.findall("'([^']*)'", among[2])
        near = get_close_matches(among[1].strip("'"), choices, n=1)
        hint = f" Did you mean {near[0]}?" if near else ""
        return f"{name} is {among[1]}; it must be {', '.join(choices[:-1])} or {choices[-1]}.{hint}"
    if message.startswith((f"{name} ", "is ")):
        return message if message.startswith(name) else f"{name} {message}"
    wanted = message.partition(", unable to parse")[0].removeprefix("Input should be ")
    return f"{name} must be {wanted.replace('valid integer', 'whole number')}"
