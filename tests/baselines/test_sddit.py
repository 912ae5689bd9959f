import copy
import json
import math

import pytest
import torch
from small import small_config, tiny_config, trained_a_little

import baselines
from harness.model.method import Batch, Progress
from harness.model.nn import tokens
from harness.model.randomness import Draw
from harness.system.errors import UsageError

START = Progress(0.0, 0.0)


def method(digits, *assignments):
    return trained_a_little(baselines.build(small_config("sddit", *assignments)))


def agreement(sddit):
    return sddit.discrimination.agreement


def teacher_of(sddit):
    return sddit.discrimination.teacher


def logits(head, encoded):
    z, (cls, patches) = head.embed(encoded), head.prototypes()
    return z[:, 0] @ cls.T, z[:, 1:] @ patches.T


def softmax(logits):
    exponents = (logits - logits.max(-1, keepdim=True).values).exp()
    return exponents / exponents.sum(-1, keepdim=True)


def test_the_loss_is_equation_9_plus_equation_12(digits):
    sddit = method(digits, "mask_ratio=0.5")
    centres = agreement(sddit).centre
    centres.copy_(torch.randn_like(centres) * 0.01)
    clean, labels = digits.clean[:4], digits.labels[:4]
    torch.manual_seed(3)
    losses = sddit(Batch(clean, labels), START, Draw.all_of(clean))

    torch.manual_seed(3)  # the same student noise, mask and teacher noise, drawn in the same order
    edm, network = sddit.formulation, sddit.network
    student = edm.noised(clean, Draw.all_of(clean))
    keep = tokens.random_keep(Draw.all_of(clean), 16, 8)
    encoded, raw = network.encode_decode(student.net_input, student.net_noise, labels, keep)
    quiet = edm.noised(clean, Draw.all_of(clean), torch.full((4,), 0.002))
    teacher = teacher_of(sddit)
    t_encoder, t_condition = teacher.encoder.encoder, teacher.encoder.condition
    t_encoded = t_encoder(t_encoder.embed(quiet.net_input), t_condition(quiet.net_noise, labels), None)
    s_cls, s_patch = logits(agreement(sddit).head, encoded)
    t_cls, t_patch = logits(teacher.head, t_encoded)

    def cross_entropy(target, student, centre):
        return -(softmax((target - centre) / 0.09) * softmax(student / 0.1).log()).sum(-1)

    patches = []
    for image in range(4):
        for position, token in enumerate(keep[image].tolist()):
            patches.append(cross_entropy(t_patch[image, token], s_patch[image, position], centres[1]))
    cls = cross_entropy(t_cls, s_cls, centres[0]).mean()
    generate = edm.loss_map(raw, student).mean()
    torch.testing.assert_close(losses["loss"], generate + cls + torch.stack(patches).mean())
    # Centres move towards the plain mean of the teacher's logits: over images, and over images and all tokens.
    torch.testing.assert_close(agreement(sddit).batch_mean[0], t_cls.mean(0))
    torch.testing.assert_close(agreement(sddit).batch_mean[1], t_patch.mean((0, 1)))


def test_only_the_encoder_reads_the_discriminative_loss(digits):
    sddit = method(digits)
    losses = {}
    original = sddit.formulation.__class__.loss_map

    class OnlyDiscriminate(type(sddit.formulation)):
        def loss_map(self, raw, noised):
            return 0 * original(self, raw, noised)

    sddit.formulation = OnlyDiscriminate()
    losses = sddit(Batch(digits.clean[:4], digits.labels[:4]), START, Draw.all_of(digits.clean[:4]))
    losses["loss"].backward()
    assert all(p.grad is None or not p.grad.any() for p in sddit.network.decoder.parameters())
    assert any(p.grad.any() for p in sddit.network.encoder.parameters())


def test_masked_patches_go_round_the_encoder_to_the_decoder(digits):
    network = method(digits).network
    keep = torch.tensor([[0, 3, 7, 12]])
    seen = []
    network.decoder.project.register_forward_hook(lambda layer, inputs, output: seen.append(inputs[0]))
    x = torch.randn(1, 1, 8, 8)
    encoded, _ = network.encode_decode(x, torch.zeros(1), torch.tensor([2]), keep)
    embedded = network.encoder.embed(x)
    for token in range(16):
        inside = token in keep[0].tolist()
        expected = encoded[0, 1 + keep[0].tolist().index(token)] if inside else embedded[0, token]
        assert torch.equal(seen[0][0, token], expected)


def test_the_teacher_is_the_average_of_encoder_and_head_but_not_of_the_decoder(digits):
    sddit = method(digits)
    student = sddit.discrimination._student(sddit.network).state_dict()
    assert set(student) == set(teacher_of(sddit).state_dict())
    assert not any("decoder" in name for name in student)
    before = copy.deepcopy(teacher_of(sddit).state_dict())
    sddit(Batch(digits.clean[:4], digits.labels[:4]), START, Draw.all_of(digits.clean[:4]))
    sddit.after_step(START)
    for name, value in teacher_of(sddit).state_dict().items():
        torch.testing.assert_close(value, 0.996 * before[name] + 0.004 * student[name])


def test_the_teacher_gets_no_gradient_and_starts_as_the_student(digits):
    sddit = baselines.build(small_config("sddit"))
    for name, value in sddit.discrimination._student(sddit.network).state_dict().items():
        assert torch.equal(value, teacher_of(sddit).state_dict()[name])
    sddit(Batch(digits.clean[:4], digits.labels[:4]), START, Draw.all_of(digits.clean[:4]))["loss"].backward()
    assert all(p.grad is None for p in teacher_of(sddit).parameters())


def test_the_schedules_run_as_table_4_says(digits):
    sddit = method(digits)
    for epochs, temperature in ((0, 0.09), (2.5, 0.0945), (5, 0.099), (50, 0.099)):
        for progress in (Progress(0.5, epochs), Progress(torch.tensor(0.5), torch.tensor(float(epochs)))):
            torch.testing.assert_close(agreement(sddit)._teacher_temperature(progress), torch.tensor(temperature))
    without = method(digits, "teacher_temperature_epochs=0")
    for epochs in (0.0, torch.tensor(0.0)):
        torch.testing.assert_close(agreement(without)._teacher_temperature(Progress(0.0, epochs)), torch.tensor(0.099))
    for fraction, momentum in ((0, 0.996), (0.5, 0.9975), (1, 0.999)):
        assert sddit.discrimination._momentum(Progress(fraction, 9)) == pytest.approx(momentum)
    assert sddit.discrimination._momentum(Progress(0.25, 9)) == pytest.approx(
        0.999 - 0.003 * (math.cos(math.pi / 4) + 1) / 2
    )


@pytest.mark.parametrize("warmup", [0, 5])
def test_the_loss_never_waits_for_a_number_from_the_device(warmup):
    """On shapes alone there is no number to be had: asking for one raises."""
    sddit = baselines.build(small_config("sddit", f"teacher_temperature_epochs={warmup}"), device="meta")
    clean, labels = torch.zeros(2, 1, 8, 8, device="meta"), torch.zeros(2, dtype=torch.long, device="meta")
    nowhere = torch.zeros((), device="meta")
    sddit(Batch(clean, labels), Progress(nowhere, nowhere), Draw.all_of(clean))["loss"].backward()


def test_the_loss_follows_the_teachers_temperature(digits):
    sddit = method(digits)
    losses = []
    for epochs in (0.0, torch.tensor(0.0), torch.tensor(5.0)):
        torch.manual_seed(0)
        progress, clean = Progress(0.0, epochs), digits.clean[:4]
        losses.append(sddit(Batch(clean, digits.labels[:4]), progress, Draw.all_of(clean))["loss"])
    assert torch.equal(losses[0], losses[1])
    assert not torch.equal(losses[1], losses[2])


def test_the_centre_moves_a_tenth_of_the_way_to_the_batch_mean(digits):
    sddit = method(digits)
    agreement(sddit).centre.fill_(1.0)
    sddit(Batch(digits.clean[:4], digits.labels[:4]), START, Draw.all_of(digits.clean[:4]))
    mean = agreement(sddit).batch_mean.clone()
    sddit.after_step(START)
    torch.testing.assert_close(agreement(sddit).centre, 0.9 + 0.1 * mean)


def test_the_teacher_sees_the_least_noise_the_level_asked_for_or_the_students_distribution(digits):
    def teacher_levels(*assignments):
        sddit = method(digits, *assignments)
        seen = []
        teacher_of(sddit).encoder.condition.register_forward_hook(lambda layer, inputs, output: seen.append(inputs[0]))
        sddit(Batch(digits.clean[:64], digits.labels[:64]), START, Draw.all_of(digits.clean[:64]))
        return (4 * seen[0]).exp()

    torch.testing.assert_close(teacher_levels(), torch.full((64,), 0.002))
    torch.testing.assert_close(teacher_levels("teacher_sigma=0.5"), torch.full((64,), 0.5))
    assert teacher_levels("teacher_sigma=student").std() > 0.1


@pytest.mark.parametrize("setting", ["teacher_sigma=0.001", "teacher_sigma=81", "teacher_sigma=teacher"])
def test_a_teacher_noise_outside_the_range_of_the_formulation_is_refused(setting):
    with pytest.raises(UsageError, match=r"teacher_sigma"):
        small_config("sddit", setting)


def test_without_the_discriminative_objective_there_is_no_teacher_and_no_head(digits):
    sddit = method(digits, "discriminate=false")
    assert {name.split(".")[0] for name in sddit.state_dict()} == {"network"}
    losses = sddit(Batch(digits.clean[:4], digits.labels[:4]), START, Draw.all_of(digits.clean[:4]))
    assert set(losses) == {"loss"}


def test_the_discrete_formulation_is_refused(digits):
    with pytest.raises(UsageError, match="sddit cannot be trained with; it takes edm"):
        baselines.build(small_config("sddit", "formulation=iddpm", "sampler=ddpm"))


def test_prototypes_have_unit_length_and_cls_has_its_own(digits):
    sddit = method(digits)
    cls, patches = agreement(sddit).head.prototypes()
    for prototypes in (cls, patches):
        torch.testing.assert_close(prototypes.norm(dim=-1), torch.ones(32))
    assert not torch.equal(cls, patches)
    shared = agreement(method(digits, "shared_prototypes=true")).head
    assert torch.equal(*shared.prototypes())


def test_what_the_targets_say_is_logged_beside_the_losses(digits):
    sddit = method(digits, "mask_ratio=0.5", "teacher_temperature=[0.01, 0.01]")
    clean, labels = digits.clean[:8], digits.labels[:8]
    seen = []
    teacher_of(sddit).head.register_forward_hook(lambda head, inputs, z: seen.append(z / z.norm(dim=-1, keepdim=True)))
    torch.manual_seed(3)
    sddit(Batch(clean, labels), START, Draw.all_of(clean))
    targets = softmax((seen[0][:, 0] @ teacher_of(sddit).head.prototypes()[0].T) / 0.01)  # the centre is still 0
    logged = sddit.after_step(START)
    assert set(logged) == {"entropy/cls", "information/cls", "entropy/patches", "information/patches"}
    entropy = torch.special.entr(targets).sum(-1).mean()
    torch.testing.assert_close(logged["entropy/cls"], entropy)
    torch.testing.assert_close(logged["information/cls"], torch.special.entr(targets.mean(0)).sum() - entropy)
    assert logged["information/cls"] > 1e-3
    assert not any(value.requires_grad or value.dim() for value in logged.values())
    assert not agreement(sddit).targets.any()  # the next step adds up anew


def test_what_the_targets_say_is_that_of_the_whole_batch_however_it_is_cut(digits):
    clean, labels = digits.clean[:8], digits.labels[:8]

    def measured(*cuts):
        sddit = method(digits, "mask_ratio=0.5", "teacher_temperature=[0.01, 0.01]")
        for start, stop in cuts:
            torch.manual_seed(3)
            sddit(Batch(clean[start:stop], labels[start:stop]), START, Draw(8, start, stop, clean.device))
        return sddit.after_step(START)

    whole = measured((0, 8))
    assert whole["information/patches"] > 0.1
    for pieces in ([(0, 2), (2, 8)], [(i, i + 1) for i in range(8)]):  # an image by itself would tell nothing
        for name, value in measured(*pieces).items():
            torch.testing.assert_close(value, whole[name], rtol=1e-4, atol=1e-5)


# Settings of experiments, off by default ---------------------------------------------------------------------------

LATER = {
    "teacher_level": "sigma", "shared_noise": False, "student_sigma": None, "teacher": "average",
    "discriminative_weight": 1.0, "stop_gradient": "none", "head_layers": 3, "head_norm": False,
}  # fmt: skip


def step_of(sddit, digits):
    """The losses of one batch, always with the same random numbers."""
    torch.manual_seed(3)
    clean = digits.clean[:8]
    return sddit(Batch(clean, digits.labels[:8]), START, Draw.all_of(clean))


def views(sddit, digits):
    """The noisy images of a step in the order they are made: the denoised one's, then those of L_D alone."""
    made = []

    class Watched(type(sddit.formulation)):
        def noised(self, *args, **more):
            made.append(super().noised(*args, **more))
            return made[-1]

    sddit.formulation = sddit.discrimination.formulation = Watched()
    step_of(sddit, digits)
    return made


def test_a_run_without_the_later_settings_has_the_name_it_had_before_them():
    before = "seed0-4b8ff0a204"
    assert tiny_config("sddit").run_id == before
    explicit = [f"{name}={json.dumps(value)}" for name, value in LATER.items()]
    assert tiny_config("sddit", *explicit).run_id == before
    others = "stop_gradient=generative", "teacher=student", "student_sigma=0.002", "head_norm=true"
    assert len({before, *(tiny_config("sddit", other).run_id for other in others)}) == 5


def test_a_checkpoint_from_before_the_loss_was_an_objective_still_loads(digits):
    sddit, fresh = method(digits), baselines.build(small_config("sddit"))
    before = {
        name.removeprefix("discrimination.").removeprefix("agreement.").replace("teacher.encoder.", "teacher."): value
        for name, value in sddit.state_dict().items()
    }
    named_so = {"head.mlp.0.weight", "centre", "teacher.head.mlp.0.weight", "teacher.condition.label.weight"}
    assert named_so | {"teacher.encoder.cls_token", "network.encoder.cls_token"} < set(before)
    fresh.load_state_dict(before)
    assert all(torch.equal(value, sddit.state_dict()[name]) for name, value in fresh.state_dict().items())


def gradients(sddit, digits):
    """The loss, and its gradient with respect to each part of the method."""
    losses = step_of(sddit, digits)
    losses["loss"].backward()
    network, head = sddit.network, agreement(sddit).head
    parts = {"encoder": network.encoder, "condition": network.condition, "decoder": network.decoder, "head": head}
    return losses["loss"], {
        name: torch.cat([p.grad.flatten() for p in part.parameters()]) for name, part in parts.items()
    }


def test_a_stopped_gradient_leaves_the_encoder_to_the_other_loss_and_every_value_as_it_was(digits):
    loss, both = gradients(method(digits), digits)
    loss_g, of_generation = gradients(method(digits, "stop_gradient=discriminative"), digits)
    loss_d, of_discrimination = gradients(method(digits, "stop_gradient=generative"), digits)
    assert torch.equal(loss, loss_g)
    assert torch.equal(loss, loss_d)
    for part in ("encoder", "condition"):
        assert of_generation[part].any()
        assert of_discrimination[part].any()
        torch.testing.assert_close(of_generation[part] + of_discrimination[part], both[part])
    for part in ("decoder", "head"):  # each loss still trains what is its own
        torch.testing.assert_close(of_generation[part], both[part])
        torch.testing.assert_close(of_discrimination[part], both[part])


def test_a_stopped_discriminative_loss_trains_the_network_as_none_does(digits):
    stopped, without = method(digits, "stop_gradient=discriminative"), method(digits, "discriminate=false")
    without.network.load_state_dict(stopped.network.state_dict())
    for each in (stopped, without):
        step_of(each, digits)["loss"].backward()
    ours = dict(stopped.network.named_parameters())
    assert all(torch.equal(ours[name].grad, p.grad) for name, p in without.network.named_parameters())


@pytest.mark.parametrize("stop", ["discriminative", "generative"])
def test_no_gradient_is_stopped_where_there_is_one_loss_alone(stop):
    with pytest.raises(UsageError, match="nothing to keep apart"):
        baselines.build(small_config("sddit", "discriminate=false", f"stop_gradient={stop}"))


def test_the_discriminative_loss_is_weighted_and_logged_unweighted(digits):
    once, thrice, never = (step_of(method(digits, f"discriminative_weight={w}"), digits) for w in (1, 3, 0))
    part = once["loss/cls"] + once["loss/patches"]
    torch.testing.assert_close(thrice["loss"].detach(), once["loss/generate"] + 3 * part)
    assert torch.equal(never["loss"], once["loss/generate"])
    assert torch.equal(thrice["loss/cls"], once["loss/cls"])


def test_the_teacher_can_have_the_level_of_the_students_view_and_its_noise(digits):
    student, teacher = views(method(digits, "teacher_level=same"), digits)
    assert torch.equal(student.level, teacher.level)
    assert not torch.equal(student.noise, teacher.noise)
    student, teacher = views(method(digits, "shared_noise=true"), digits)
    assert torch.equal(student.noise, teacher.noise)
    torch.testing.assert_close(teacher.level, torch.full((8,), 0.002))
    student, teacher = views(method(digits, "teacher_level=same", "shared_noise=true"), digits)
    assert torch.equal(student.net_input, teacher.net_input)


def test_the_discriminative_loss_can_have_a_students_view_of_its_own(digits):
    denoised, student, teacher = views(method(digits, "student_sigma=0.002"), digits)
    assert denoised.level.std() > 0
    for view in (student, teacher):
        torch.testing.assert_close(view.level, torch.full((8,), 0.002))
    assert not torch.equal(student.noise, teacher.noise)
    plain, own = (step_of(method(digits, *a), digits) for a in ([], ["student_sigma=0.002"]))
    assert torch.equal(plain["loss/generate"], own["loss/generate"])
    assert plain["loss/cls"] != own["loss/cls"]


def test_a_view_of_its_own_is_masked_as_the_denoised_one_and_trains_the_encoder(digits):
    settings, seen = ("student_sigma=0.1", "mask_ratio=0.5"), []
    sddit = method(digits, *settings)
    sddit.network.encoder.register_forward_hook(lambda encoder, inputs, output: seen.append(inputs[2]))
    _, both = gradients(sddit, digits)
    _, one = gradients(method(digits, *settings, "stop_gradient=discriminative"), digits)
    assert seen[0].shape == (8, 8)
    assert torch.equal(seen[0], seen[1])
    assert not torch.allclose(both["encoder"], one["encoder"])


def test_the_student_as_its_own_teacher_is_a_teacher_without_momentum(digits):
    """An average of momentum 0 is the student after every step, and a second network."""
    alone, followed = method(digits, "teacher=student"), method(digits, "teacher_momentum=[0, 0]")
    alone.network.load_state_dict(followed.network.state_dict())
    agreement(alone).load_state_dict(agreement(followed).state_dict())
    teacher_of(followed).load_state_dict(followed.discrimination._student(followed.network).state_dict())
    assert not any("teacher" in name for name in alone.state_dict())
    optimizers = [torch.optim.SGD([p for p in each.parameters() if p.requires_grad], 0.1) for each in (alone, followed)]
    for _ in range(3):
        losses = []
        for each, optimizer in zip((alone, followed), optimizers, strict=True):
            losses.append(step_of(each, digits)["loss"])
            optimizer.zero_grad()
            losses[-1].backward()
            optimizer.step()
            each.after_step(START)
        torch.testing.assert_close(*losses)
    assert agreement(alone).centre.any()


@pytest.mark.parametrize(
    ("layers", "widths"), [(1, [(16, 8)]), (2, [(16, 16), (16, 8)]), (4, [*[(16, 16)] * 3, (16, 8)])]
)
def test_the_head_has_as_many_layers_as_asked_for(digits, layers, widths):
    mlp = agreement(method(digits, f"head_layers={layers}")).head.mlp
    linears = [module for module in mlp if isinstance(module, torch.nn.Linear)]
    assert [(each.in_features, each.out_features) for each in linears] == widths
    assert len(mlp) == 2 * layers - 1


@pytest.mark.parametrize("norm", [True, False])
def test_a_normalised_head_does_not_see_the_scale_of_its_tokens(digits, norm):
    x, head = torch.randn(2, 5, 16), agreement(method(digits, f"head_norm={str(norm).lower()}")).head
    assert torch.allclose(head(x), head(9 * x), atol=1e-4) == norm
