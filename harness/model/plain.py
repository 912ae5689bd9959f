"""The plain method, DiT's network under any formulation, and what can be added to it.

An objective is a further loss on what a training step's pass has computed; a token policy (harness.model.nn.dit) says
which tokens the blocks see. baselines/<name>.py brings one of them as `Method.adds`: it is trained by itself as the
method <name>, and beside others by `--with <name>`.
B batch, L tokens, D width.
"""

import math
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from harness.model.formulations import Formulation, Noised
from harness.model.frozen import Frozen
from harness.model.method import Batch, Method, Progress
from harness.model.nn.dit import DiT, TokenPolicy
from harness.model.randomness import Draw
from harness.model.shape import Shape


class Pass(NamedTuple):
    """What the network has computed in a training step."""

    batch: Batch
    noised: Noised
    raw: Tensor  # (B, C or 2 C, S, S)
    tapped: tuple[Tensor, ...]  # each (B, L, D): the outputs of the objective's `taps`, in their order
    network: nn.Module  # the network itself, for a further pass
    keep: Tensor | None = None  # (B, K) the tokens that it saw, where not all


class Objective(nn.Module):
    """A further loss. Subclass it in baselines/<name>.py; it is built as Objective(cfg, shape, formulation).

    A method's rules (harness.model.method) hold for it.
    """

    formulations: ClassVar[tuple[str, ...]] = Method.formulations  # those it is defined for
    taps: tuple[int, ...] = ()  # the blocks that it reads, from 1
    frozen: Mapping[str, Frozen] = {}  # as a method's
    extra: Mapping[str, tuple[int, ...]] = {}  # as a method's
    group: int = 1  # as a method's

    def attach(self, network: DiT) -> None:
        """Called once with the untrained network, before the first step. The default does nothing."""

    def forward(self, seen: Pass, progress: Progress, draw: Draw) -> Tensor:
        """What is added to the loss, its weight included, as a scalar."""
        raise NotImplementedError

    def after_step(self, network: DiT, progress: Progress) -> Mapping[str, Tensor]:
        """As a method's after_step."""
        return {}


Additions = Mapping[str, Objective | TokenPolicy]  # by the name of what brings each


class Plain(Method):
    """The formulation's loss on the whole image, and what each objective adds."""

    adds: ClassVar[type[Objective] | type[TokenPolicy] | None] = None  # what the method itself brings
    network: DiT
    objectives: Any  # a ModuleDict, of Objectives by name

    def __init__(
        self,
        cfg: Any,
        shape: Shape,
        formulation: Formulation,
        additions: Additions | None = None,
    ):
        """Raises ValueError for additions that cannot stand together."""
        super().__init__()
        self.formulation = formulation
        added: dict[str, Any] = dict(additions or {})
        if self.adds is not None:
            added = {type(self).__module__.rpartition(".")[2]: self.adds(cfg, shape, formulation), **added}
        policies = {name: each for name, each in added.items() if isinstance(each, TokenPolicy)}
        if len(policies) > 1:
            raise ValueError(f"{' and '.join(policies)} both say which tokens the blocks see; take one of them")
        self.objectives = nn.ModuleDict({name: each for name, each in added.items() if name not in policies})
        policy_name, policy = next(iter(policies.items()), ("", None))
        self.network = DiT(shape, formulation.out_channels(shape.channels), policy=policy)
        if policy is not None:
            policy.attach(self.network)
        for name, objective in self.objectives.items():
            self._refuse_unseen(name, objective, policy_name)
            objective.attach(self.network)
        self.network.tap(sorted({tap - 1 for each in self.objectives.values() for tap in each.taps}))
        self.frozen = self._all_frozen()
        self.group = math.lcm(*(each.group for each in self.objectives.values()))
        self.extra = {name: sides for each in self.objectives.values() for name, sides in each.extra.items()}

    def _all_frozen(self) -> dict[str, Frozen]:
        """The objectives' frozen networks. Raises ValueError for one that two bring, of which one would stay empty."""
        brought: dict[str, tuple[str, Frozen]] = {}
        for name, objective in self.objectives.items():
            for network, frozen in objective.frozen.items():
                if network in brought:
                    raise ValueError(f"{brought[network][0]} and {name} both use {network}; take one of them")
                brought[network] = name, frozen
        return {network: frozen for network, (_, frozen) in brought.items()}

    def _refuse_unseen(self, name: str, objective: Objective, policy: str) -> None:
        depth = self.network.depth
        for tap in objective.taps:
            if not 1 <= tap <= depth:
                raise ValueError(f"{name} reads the output of block {tap}, and the network's blocks are 1 to {depth}")
            if self.network.policy is not None and tap - 1 in self.network.policy.routed:
                raise ValueError(
                    f"{name} reads the output of block {tap} for every token, and {policy} lets blocks "
                    f"{min(self.network.policy.routed) + 1} to {max(self.network.policy.routed) + 1} see only some; "
                    "let it read another block"
                )

    def forward(self, batch: Batch, progress: Progress, draw: Draw) -> dict[str, Tensor]:
        noised = self.formulation.noised(batch.clean, draw)
        routes = self.network.policy.drawn(draw) if self.network.policy is not None else ()
        raw, tapped = self.network.tapped(noised.net_input, noised.net_noise, batch.labels, *routes)
        denoise = self.formulation.loss_map(raw, noised).mean()
        if not self.objectives:
            return {"loss": denoise}
        outputs = dict(zip(self.network.taps, tapped, strict=True))
        parts = {"loss/denoise": denoise}
        for name, objective in self.objectives.items():
            seen = Pass(batch, noised, raw, tuple(outputs[tap - 1] for tap in objective.taps), self.network)
            parts[f"loss/{name}"] = objective(seen, progress, draw)
        total = torch.stack(list(parts.values())).sum()
        return {"loss": total, **{name: part.detach() for name, part in parts.items()}}

    def after_step(self, progress: Progress) -> dict[str, Tensor]:
        logged: dict[str, Tensor] = {}
        for objective in self.objectives.values():
            logged |= objective.after_step(self.network, progress)
        return logged
