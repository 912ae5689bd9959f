"""The optimizers that a protocol may name, over the groups of parameters that a method forms."""

from collections import Counter

from torch.optim import Adam, AdamW, Optimizer

from harness.model.method import Method
from harness.recipes.config import Protocol
from harness.system.errors import UsageError

# Both keep two moments of a weight, which planning counts.
OPTIMIZERS: dict[str, type[AdamW] | type[Adam]] = {"adamw": AdamW, "adam": Adam}


def optimizer_of(method: Method, protocol: Protocol) -> Optimizer:
    """The protocol's optimizer over the method's groups. Raises UsageError for groups that miss or repeat a weight."""
    groups = [{**group, "params": list(group["params"])} for group in method.param_groups()]  # a generator is read once
    times = Counter(id(p) for group in groups for p in group["params"])
    named = dict(method.named_parameters())
    wrong = [name for name, p in named.items() if times[id(p)] != p.requires_grad]
    strangers = times.keys() - {id(p) for p in named.values()}
    if strangers:
        raise UsageError(
            f"param_groups of this method has {len(strangers)} weights that are none of the method's, so that no "
            "checkpoint would have them. Make them parameters of the method."
        )
    if wrong:
        raise UsageError(
            f"param_groups of this method must have every weight that is trained once, and no other; see {wrong[0]}"
            f"{f' and {len(wrong) - 1} more' if len(wrong) > 1 else ''}."
        )
    return OPTIMIZERS[protocol.optimizer](
        [{**group, "lr": protocol.learning_rate * group.get("lr_scale", 1.0)} for group in groups],
        lr=protocol.learning_rate,
        betas=protocol.betas,
        weight_decay=protocol.weight_decay,
        fused=True,
    )


def learning_rate_at(step: int, protocol: Protocol) -> float:
    """The rate of `step`, counted from 0: a line up over the warm-up, constant, and a line down over the cooldown."""
    up = (step + 1) / protocol.warmup if protocol.warmup else 1.0
    down = (protocol.steps - step) / protocol.cooldown if protocol.cooldown else 1.0
    return protocol.learning_rate * min(1.0, up, down)


def set_learning_rate(optimizer: Optimizer, rate: float) -> None:
    """Each group's own: the rate times its lr_scale."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get("lr_scale", 1.0)
