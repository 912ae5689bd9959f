"""What can be added to the plain method: each objective and token policy says what its definition says."""

import math

import pytest
import torch
from small import grouped, small_config, trained_a_little
from torch import nn

import baselines
from harness.data.order import batch_indices
from harness.model.formulations import FORMULATIONS, Flow
from harness.model.method import Batch, Progress
from harness.model.nn import tokens
from harness.model.plain import Pass
from harness.model.randomness import Draw, seed_step
from harness.model.shape import shape_of
from harness.system.errors import UsageError

NOW = Progress(0.5, 2.0)


def built(name: str, *assignments: str):
    """The method on a network that is no longer at its zero start."""
    method = baselines.build(small_config(name, *assignments))
    trained_a_little(method)
    return method


def batch_of(digits, size: int = 8) -> Batch:
    return Batch(*digits.read(batch_indices(len(digits), 0, 0, size)))


def losses(method, batch: Batch, rows: slice | None = None, step: int = 0) -> dict[str, torch.Tensor]:
    """Of the whole batch, or of some of its rows."""
    seed_step(0, step)
    rows = rows or slice(0, len(batch.labels))
    draw = Draw(len(batch.labels), rows.start, rows.stop, batch.clean.device)
    return method(Batch(batch.clean[rows], batch.labels[rows]), NOW, draw)


def objective_of(name: str, *assignments: str):
    """The objective alone, its formulation, and its settings."""
    cfg = small_config(name, *assignments)
    formulation = FORMULATIONS[cfg.formulation]()
    return baselines.load(name).Objective(cfg.knobs, shape_of(cfg), formulation), formulation


def seen_at(clean: torch.Tensor, raw: torch.Tensor, *tapped: torch.Tensor) -> tuple[Pass, Draw]:
    draw = Draw.all_of(clean)
    noised = Flow().noised(clean, draw)
    return Pass(Batch(clean, torch.zeros(len(clean), dtype=torch.long)), noised, raw, tapped, nn.Identity()), draw


# Dispersive --------------------------------------------------------------------------------------------------------


def test_the_dispersive_loss_is_its_formula_over_all_ordered_pairs_of_a_group():
    objective, _ = objective_of(
        "dispersive", "dispersive_weight=0.25", "dispersive_temperature=2", *grouped("dispersive", 4)
    )
    tapped = torch.randn(8, 5, 3)
    z, spread = tapped.flatten(1).double(), []
    for group in z.split(4):
        pairs = [math.exp(-float(((a - b) ** 2).sum()) / (15 * 2)) for a in group for b in group]
        spread.append(math.log(sum(pairs) / 16))
    found = objective(*seen_at_taps(tapped))
    assert float(found) == pytest.approx(0.25 * sum(spread) / 2, rel=1e-5)


def seen_at_taps(*tapped: torch.Tensor):
    clean = torch.randn(len(tapped[0]), 1, 8, 8)
    seen, draw = seen_at(clean, torch.zeros_like(clean), *tapped)
    return seen, NOW, draw


def test_the_dispersive_loss_is_zero_for_equal_images_and_least_far_apart():
    objective, _ = objective_of("dispersive", *grouped("dispersive", 8))
    same, near = torch.ones(8, 4, 4), torch.randn(8, 4, 4)
    values = [float(objective(*seen_at_taps(each))) for each in (same, near, 100 * near)]
    assert values[0] == pytest.approx(0, abs=1e-6)
    assert values[0] > values[1] > values[2]
    assert values[2] == pytest.approx(0.5 * -math.log(8), rel=1e-5)  # only i = j is left


@pytest.mark.parametrize("name", ["dispersive", "contrastive"])
def test_micro_batches_of_whole_groups_have_the_mean_loss_of_the_batch(name, digits):
    method, batch = built(name, *grouped(name, 4)), batch_of(digits)
    whole = losses(method, batch)["loss"]
    halves = [losses(method, batch, rows)["loss"] for rows in (slice(0, 4), slice(4, 8))]
    assert torch.allclose(whole, torch.stack(halves).mean(), rtol=1e-5)


# Contrastive flow matching -----------------------------------------------------------------------------------------


def mean_gradient(objective, num_draws: int) -> torch.Tensor:
    """Of |raw - u|^2 plus the objective at raw = E[u | x], averaged over draws, for noise-free levels.   (B, 1, 1, 1)

    The two images are constants, so the expected velocity given an image is minus that image.
    """
    clean = torch.tensor([1.0, 3.0]).reshape(2, 1, 1, 1).expand(2, 1, 8, 8).repeat(num_draws, 1, 1, 1)
    raw = (-clean).clone().requires_grad_()
    seen, draw = seen_at(clean, raw)
    velocity = seen.noised.noise - clean
    total = ((raw - velocity) ** 2).mean() + objective(seen, NOW, draw)
    (gradient,) = torch.autograd.grad(total, raw)
    return gradient.reshape(num_draws, 2, -1).mean((0, 2)) * raw.numel() / 2


@pytest.mark.parametrize("corrected", [False, True])
def test_the_corrected_contrastive_loss_is_least_at_the_velocity_and_the_published_one_is_not(corrected):
    torch.manual_seed(0)
    objective, _ = objective_of(
        "contrastive", f"contrastive_correction={str(corrected).lower()}", "contrastive_weight=0.2",
        *grouped("contrastive", 1000), "batch_size=8",
    )  # fmt: skip
    if corrected:
        objective.mean.fill_(2.0)  # of the two images
    found = mean_gradient(objective, 4000)
    # Half the gradient of -lambda |v - u'|^2 at v = -clean is lambda (clean - E[clean]) = 0.2 (1 - 2) and 0.2 (3 - 2).
    wanted = torch.zeros(2) if corrected else torch.tensor([-0.2, 0.2])
    assert torch.allclose(found, wanted, atol=0.03)  # three standard errors of 4,000 draws of 64 pixels


def test_the_contrastive_loss_never_contrasts_an_image_with_itself():
    objective, _ = objective_of("contrastive", "contrastive_weight=0.5", *grouped("contrastive", 2))
    clean = torch.randn(8, 1, 8, 8)
    seen, draw = seen_at(clean, torch.zeros_like(clean))
    velocity = seen.noised.noise - clean
    swapped = velocity.unflatten(0, (4, 2)).flip(1).flatten(0, 1)
    at_other = seen._replace(raw=swapped)
    assert float(objective(at_other, NOW, draw)) == 0  # of two, the other one is always taken


def test_the_mean_that_the_correction_uses_is_the_mean_over_all_images_so_far(digits):
    method = built("contrastive", "contrastive_correction=true", *grouped("contrastive", 4))
    batches = [Batch(*digits.read(batch_indices(len(digits), 0, step, 8))) for step in range(3)]
    for batch in batches:
        for rows in (slice(0, 4), slice(4, 8)):
            losses(method, batch, rows)
        method.after_step(NOW)
    mean = method.objectives["contrastive"].mean
    assert torch.allclose(mean, torch.cat([batch.clean for batch in batches]).mean(0), atol=1e-6)


# LayerSync and SRA -------------------------------------------------------------------------------------------------


def test_layersync_moves_the_shallow_output_alone_towards_the_deep_one():
    objective, _ = objective_of("layersync", "layersync_weight=0.5")
    shallow, deep = (torch.randn(4, 16, 8).requires_grad_() for _ in range(2))
    value = objective(*seen_at_taps(shallow, deep))
    value.backward()
    assert shallow.grad is not None
    assert deep.grad is None
    assert float(objective(*seen_at_taps(shallow, 3 * shallow)).detach()) == pytest.approx(0, abs=1e-6)


def test_sra_s_teacher_starts_as_the_network_and_follows_it_without_a_gradient(digits):
    method, batch = built("sra", "sra_momentum=0.75"), batch_of(digits)
    teacher = method.objectives["sra"].teacher
    loss = losses(method, batch)["loss"]
    loss.backward()
    assert all(p.grad is None for p in teacher.parameters())
    before = teacher.blocks[0].attn.qkv.weight.clone()
    now = method.network.blocks[0].attn.qkv.weight.detach()
    method.after_step(NOW)
    assert torch.allclose(teacher.blocks[0].attn.qkv.weight, 0.75 * before + 0.25 * now)
    assert len(teacher.blocks) == 2  # of three: as far as it is read


@pytest.mark.parametrize("formulation", ["flow", "iddpm"])
def test_sra_s_teacher_sees_the_same_noise_at_an_earlier_time(formulation, digits, monkeypatch):
    method, batch = built("sra", f"formulation={formulation}"), batch_of(digits)
    calls, noised = [], type(method.formulation).noised

    def watched(self, *args, **more):
        calls.append(noised(self, *args, **more))
        return calls[-1]

    monkeypatch.setattr(type(method.formulation), "noised", watched)
    losses(method, batch)
    student, teacher = calls
    steps = method.formulation.num_steps or 1
    assert torch.equal(student.noise, teacher.noise)
    assert (teacher.level <= student.level).all()
    assert (student.level - teacher.level <= 0.2 * steps).all()
    assert (teacher.level >= 0).all()


def test_sra_without_interval_and_head_and_with_equal_blocks_asks_nothing(digits):
    settings = "sra_interval=0", "sra_head=false", "sra_student=2", "sra_teacher=2"
    method = baselines.build(small_config("sra", *settings))
    assert float(losses(method, batch_of(digits))["loss/sra"]) == 0


@pytest.mark.parametrize(("axis", "dim"), [("token", -1), ("channel", 1)])
def test_sra_s_cosine_is_of_each_token_or_as_released_of_each_channel(axis, dim, digits, monkeypatch):
    method = built("sra", "sra_distance=cosine", f"sra_axis={axis}", "sra_weight=1", "sra_head=false")
    objective = method.objectives["sra"]
    found, wanted = torch.randn(4, 16, 16), torch.randn(4, 16, 16)
    monkeypatch.setattr(objective, "_teacher", lambda seen, draw: wanted)
    unit = [each / each.norm(dim=dim, keepdim=True) for each in (found, wanted)]
    assert float(objective(*seen_at_taps(found))) == pytest.approx(
        1 - float((unit[0] * unit[1]).sum(dim).mean()), rel=1e-4
    )


# Token policies ----------------------------------------------------------------------------------------------------

INPUTS = torch.randn(2, 1, 8, 8), torch.tensor([0.3, 0.6]), torch.tensor([1, 10])


def test_a_route_that_no_token_takes_is_dit_and_so_is_every_route_when_it_is_sampled(digits):
    batch = batch_of(digits)
    dense = built("tread", "route_ratio=0")
    half = built("tread")
    half.load_state_dict(dense.state_dict())
    plain = baselines.build(small_config("dit", "formulation=edm"))
    plain.load_state_dict(dense.state_dict())
    assert torch.equal(half.network(*INPUTS), plain.network(*INPUTS))
    keep = torch.arange(16).expand(2, -1)
    assert torch.allclose(dense.network(*INPUTS, keep), plain.network(*INPUTS), atol=1e-6)
    assert torch.isfinite(losses(half, batch)["loss"])


def test_tokens_on_the_route_leave_it_as_they_were():
    method = built("tread", "route_first=2", "route_last=2")
    network = method.network
    x, cond, keep = torch.randn(2, 16, 16), torch.randn(2, 16), torch.tensor([[0, 3, 5], [1, 2, 15]])
    _, (before,) = network.policy(network.blocks, x, cond, keep, taps=(0,))
    monitored = []
    handle = network.blocks[2].register_forward_hook(lambda block, args, out: monitored.append(args[0]))
    network.policy(network.blocks, x, cond, keep, taps=())
    handle.remove()
    (after,) = monitored
    away = ~tokens.visible(keep, 16).bool()
    assert torch.equal(after[away], before[away])
    assert not torch.isclose(tokens.gather(after, keep), tokens.gather(before, keep)).all(-1).any()


def test_released_tread_starts_without_zeros_and_ours_as_dit_does():
    assert baselines.build(small_config("tread", "route_start=xavier")).network(*INPUTS).any()
    assert baselines.build(small_config("sit", "additions=[tread]", "route_start=xavier")).network(*INPUTS).any()
    assert not baselines.build(small_config("tread")).network(*INPUTS).any()


def test_structured_keeping_takes_the_same_number_of_each_2_x_2_and_each_place_equally_often():
    draw = Draw.all_of(torch.zeros(4000, 1))
    keep = tokens.structured_keep(draw, 4, 1)  # (4000, 4)
    row, column = keep // 4, keep % 4
    assert (((row // 2) * 2 + column // 2) == torch.arange(4)[[0, 1, 2, 3]].sort().values).all() or (
        ((row // 2) * 2 + column // 2).sort(1).values == torch.arange(4)
    ).all()
    shares = torch.bincount(keep.flatten(), minlength=16) / 4000
    assert (shares - 0.25).abs().max() < 0.03


def test_sprint_without_its_sparse_path_gives_the_middle_blocks_no_gradient(digits):
    method = built("sprint", "path_drop=1")
    losses(method, batch_of(digits))["loss"].backward()
    middle, last = method.network.blocks[1], method.network.blocks[2]
    assert not any(p.grad is not None and p.grad.any() for p in middle.parameters())
    assert last.attn.qkv.weight.grad.any()
    assert method.network.policy.mask_token.grad.any()


def test_sprint_is_sampled_with_all_tokens_on_both_paths():
    method = built("sprint", "sparse_ratio=0", "path_drop=0", "sparse_keep=random")
    network, everything = method.network, torch.arange(16).expand(2, -1)
    as_trained = network(*INPUTS, everything, torch.ones(2, dtype=torch.bool))
    assert torch.allclose(network(*INPUTS), as_trained, atol=1e-6)


# Together ----------------------------------------------------------------------------------------------------------


def test_a_method_with_its_addition_is_that_addition_s_own_method(digits):
    batch = batch_of(digits)
    alone = baselines.build(small_config("tread", "formulation=flow"))
    together = baselines.build(small_config("sit", "additions=[tread]"))
    assert torch.equal(losses(alone, batch)["loss"], losses(together, batch)["loss"])


def test_the_loss_is_the_sum_of_its_parts_and_every_addition_is_logged(digits):
    method = built("sit", "additions=[dispersive, layersync, tread]", "route_first=3", "route_last=3")
    found = losses(method, batch_of(digits))
    parts = {name: value for name, value in found.items() if name != "loss"}
    assert parts.keys() == {"loss/denoise", "loss/dispersive", "loss/layersync"}
    assert torch.allclose(found["loss"], sum(parts.values()))


def test_additions_are_a_part_of_a_run_s_name_and_of_its_config():
    plain, added = small_config("sit"), small_config("sit", "additions=[tread]")
    assert "additions" not in plain.knobs.model_dump()
    assert added.run_id != plain.run_id
    assert added.knobs.route_first == 2  # as tread's own recipe of this size has it
    assert baselines.configured(added.model_dump(mode="json")) == added
    assert added.knobs.input_patches == "100% / 50%"


@pytest.mark.parametrize(
    ("method", "settings", "said"),
    [
        ("maskdit", ["additions=[sra]"], "nothing can be added to maskdit"),
        ("sit", ["additions=[dit]"], "no addition is called 'dit'"),
        ("sit", ["additions=[sra, sra]"], "must list different methods"),
        ("sit", ["additions=sra"], "must list different methods"),
        ("sra", ["additions=[sra]"], "which has it already"),
        ("tread", ["additions=[contrastive]"], "is defined for flow"),
        ("sit", ["additions=[tread, sprint]"], "both say which tokens the blocks see"),
        ("sit", ["additions=[tread, dispersive]", "dispersive_block=2"], "lets blocks 2 to 3 see only some"),
        ("sit", ["additions=[dispersive]", "dispersive_block=9"], "the network's blocks are 1 to 3"),
        ("sra", ["sra_teacher=9"], "sra_teacher is block 9"),
        ("layersync", ["layersync_shallow=3", "layersync_deep=2"], "must come before"),
        ("sprint", ["sparse_ratio=0.6"], "takes the same number of each 2 x 2"),
        ("sprint", ["dense_blocks=2"], "leaves none of 3 blocks"),
        ("tread", ["route_first=4"], "does not lie in blocks 1 to 3"),
    ],
)
def test_what_cannot_stand_together_is_refused_with_the_reason(method, settings, said):
    with pytest.raises(UsageError, match=said):
        baselines.build(small_config(method, *settings))
