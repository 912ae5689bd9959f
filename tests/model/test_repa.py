"""REPA and SARA: their losses stated again, their encoders against transformers' own, and what is refused."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from small import small_config, tiny_config
from torch.nn import functional as F

import baselines
from harness.bench.ours import HarnessStep
from harness.data import classifier, proxy
from harness.data.dataset import InMemory
from harness.data.order import batch_indices
from harness.model.encoders import DINOV2, PROXY, PUBLISHED
from harness.model.method import Batch, Progress
from harness.model.nn.vit import Dinov2
from harness.model.plain import Pass
from harness.model.randomness import Draw, seed_step
from harness.planning.plan import estimate_of, resolve, with_proxy
from harness.recipes.reading import load_recipe
from harness.records.folders.departures import departures
from harness.records.looks import measured_title
from harness.system import torchvision_guard
from harness.system.errors import SetupError, UsageError
from harness.system.files import sha256_of
from harness.training import engine
from harness.training.checkpoint import load_newest

CPU, NOW = torch.device("cpu"), Progress(0.5, 2.0)
METHODS = "repa", "sara"
QKV = {"q_proj": "query", "k_proj": "key", "v_proj": "value"}  # transformers 5 and 4


def built(name: str, *assignments: str):
    """The method with its encoder's weights."""
    method = baselines.build(small_config(name, *assignments))
    for frozen in method.frozen.values():
        frozen.load(CPU)
    return method


def batch_of(digits, size: int = 8) -> Batch:
    return Batch(*digits.read(batch_indices(len(digits), 0, 0, size)))


def objective_on(method, name: str, tapped: torch.Tensor, batch: Batch) -> torch.Tensor:
    seen = Pass(batch, None, None, (tapped,), None)
    return method.objectives[name](seen, NOW, Draw.all_of(batch.clean))


# The losses --------------------------------------------------------------------------------------------------------


def projected_and_wanted(method, name: str, tapped: torch.Tensor, batch: Batch):
    """Both sides of the loss, token by token, with the projector's layers written out."""
    objective = method.objectives[name]
    one, _, two, _, three = objective.projector
    layers = [(layer.weight, layer.bias) for layer in (one, two, three)]
    x = tapped
    for number, (weight, bias) in enumerate(layers):
        x = x @ weight.T + bias
        x = x * torch.sigmoid(x) if number < 2 else x
    network = method.frozen[PROXY].network
    early = F.relu(F.conv2d(batch.clean, network.early.weight, network.early.bias, padding=1))
    halved = early.unflatten(2, (4, 2)).unflatten(4, (4, 2)).amax((3, 5))  # (B, 16, 4, 4)
    middle = F.relu(F.conv2d(halved, network.middle.weight, network.middle.bias, padding=1))
    return x, torch.stack([middle[:, :, place // 4, place % 4] for place in range(16)], 1)


def test_repa_s_loss_is_minus_the_mean_cosine_of_projected_tokens_and_the_encoder_s(digits):
    method, batch = built("repa", "repa_weight=0.25"), batch_of(digits)
    tapped = torch.randn(8, 16, 16)
    found, wanted = projected_and_wanted(method, "repa", tapped, batch)
    cosines = [
        torch.dot(a, b) / (a.norm() * b.norm()).clamp(min=1e-8)
        for a, b in zip(found.flatten(0, 1), wanted.flatten(0, 1), strict=True)
    ]
    expected = -0.25 * torch.stack(cosines).mean()
    assert torch.allclose(objective_on(method, "repa", tapped, batch), expected, atol=1e-5)


def test_sara_s_loss_is_the_cosine_and_the_difference_of_the_tokens_likenesses(digits):
    method, batch = built("sara", "sara_patch_weight=0.25", "sara_structure_weight=2"), batch_of(digits)
    tapped = torch.randn(8, 16, 16)
    unit = [F.normalize(x, dim=-1) for x in projected_and_wanted(method, "sara", tapped, batch)]
    found, wanted = (torch.einsum("blz,bmz->blm", x, x) for x in unit)
    structure = torch.stack([torch.linalg.matrix_norm(a - b) ** 2 / 16**2 for a, b in zip(found, wanted, strict=True)])
    expected = -0.25 * (unit[0] * unit[1]).sum(-1).mean() + 2 * structure.mean()
    assert torch.allclose(objective_on(method, "sara", tapped, batch), expected, atol=1e-5)


def test_sara_s_discriminator_learns_to_tell_and_the_projector_to_be_taken_for_the_encoder(digits):
    """Each player's gradient is that of its own loss: neither sees the other's."""
    weights = "sara_patch_weight=0", "sara_structure_weight=0", "sara_adversarial_weight=1"
    method, batch, tapped = built("sara", *weights), batch_of(digits), torch.randn(8, 16, 16)
    objective_on(method, "sara", tapped, batch).backward()
    objective = method.objectives["sara"]
    players = list(objective.discriminator.parameters()), list(objective.projector.parameters())
    found, wanted = objective.pair(Pass(batch, None, None, (tapped,), None))
    real, taken = objective.discriminator(wanted), objective.discriminator(found)
    told = -(torch.sigmoid(real).log().mean() + torch.sigmoid(-taken).log().mean())
    deceived = -torch.sigmoid(taken).log().mean()
    for loss, player in zip((told, deceived), players, strict=True):
        wants = torch.autograd.grad(loss, player, retain_graph=True)
        assert all(torch.allclose(p.grad, want, atol=1e-5) for p, want in zip(player, wants, strict=True))
    assert not hasattr(built("sara").objectives["sara"], "discriminator")


def test_irepa_s_targets_lose_their_mean_and_spread_and_its_projector_sees_neighbours(digits):
    method, batch = built("repa", "projector=conv", "align_gamma=1"), batch_of(digits)
    tapped = torch.zeros(8, 16, 16)
    tapped[:, 5] = 1  # row 1, column 1
    found, wanted = method.objectives["repa"].pair(Pass(batch, None, None, (tapped,), None))
    moved = (found != method.objectives["repa"].projector.conv.bias).any(-1).all(0)
    assert moved.unflatten(0, (4, 4)).nonzero().tolist() == [[row, column] for row in range(3) for column in range(3)]
    assert wanted.mean(1).abs().max() < 1e-4
    spread = wanted.std(1)
    assert torch.allclose(spread[spread > 0.1], torch.ones(()), atol=1e-3)


@pytest.mark.parametrize("name", METHODS)
def test_two_micro_batches_have_the_gradient_of_one_batch_and_the_encoder_has_none(name, digits):
    method, batch = built(name), batch_of(digits)

    def gradients(*pieces: slice) -> list[torch.Tensor]:
        method.zero_grad()
        for rows in pieces:
            seed_step(0, 3)
            part = Batch(batch.clean[rows], batch.labels[rows])
            losses = method(part, NOW, Draw(8, rows.start, rows.stop, CPU))
            (losses["loss"] * (rows.stop - rows.start) / 8).backward()
        return [p.grad.clone() for p in method.parameters() if p.grad is not None]

    whole, pieces = gradients(slice(0, 8)), gradients(slice(0, 4), slice(4, 8))
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(whole, pieces, strict=True))
    assert any(gradient.any() for gradient in whole)
    encoder = method.frozen[PROXY].network
    assert not encoder.training
    assert all(p.grad is None and not p.requires_grad for p in encoder.parameters())
    assert not any(p is q for p in encoder.parameters() for q in method.parameters())


# Encoders ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def published():
    """A small DINOv2 of transformers at random weights, and the same weights under the names of the published file."""
    torchvision_guard.install()
    transformers = pytest.importorskip("transformers", reason="the extra `vit` is not installed")
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "patch_size": 14, "image_size": 56}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = transformers.Dinov2Model(transformers.Dinov2Config(**sizes, layerscale_value=0.3)).eval()
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.2)
    theirs = model.state_dict()
    embeddings = "embeddings.patch_embeddings.projection."
    fixed = {
        "cls_token": "embeddings.cls_token", "pos_embed": "embeddings.position_embeddings",
        "mask_token": "embeddings.mask_token", "norm.weight": "layernorm.weight", "norm.bias": "layernorm.bias",
        "patch_embed.proj.weight": f"{embeddings}weight", "patch_embed.proj.bias": f"{embeddings}bias",
    }  # fmt: skip
    ours = {name: theirs[key] for name, key in fixed.items()}
    for number in range(2):
        layer, block = f"encoder.layer.{number}.", f"blocks.{number}."

        def named(*ends: str, layer: str = layer) -> torch.Tensor:
            """The one of its tensors whose name ends so, in the words of transformers 5 or of 4."""
            [key] = [key for key in theirs if key.startswith(layer) and key.endswith(tuple(f".{end}" for end in ends))]
            return theirs[key]

        for kind in ("weight", "bias"):
            parts = [named(f"{new}.{kind}", f"{old}.{kind}") for new, old in QKV.items()]
            ours[f"{block}attn.qkv.{kind}"] = torch.cat(parts)
            ours[f"{block}attn.proj.{kind}"] = named(f"o_proj.{kind}", f"output.dense.{kind}")
            ours |= {
                f"{block}{part}.{kind}": named(f"{part}.{kind}") for part in ("norm1", "norm2", "mlp.fc1", "mlp.fc2")
            }
        ours |= {f"{block}ls{scale}.gamma": named(f"layer_scale{scale}.lambda1") for scale in (1, 2)}
    return model, ours


@torch.no_grad()
def test_dinov2_s_patch_tokens_are_those_of_transformers_own_network(published):
    model, weights = published
    ours = Dinov2(4, width=32, depth=2, num_heads=4).eval()
    ours.load_state_dict(weights)
    image = torch.rand(3, 3, 24, 24) * 2 - 1
    mean, std = (torch.tensor(x)[:, None, None] for x in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    pixels = F.interpolate((image / 2 + 0.5 - mean) / std, 56, mode="bicubic")
    theirs = model(pixel_values=pixels).last_hidden_state[:, 1:]
    assert torch.allclose(ours(image), theirs, atol=1e-4)
    grey = image[:, :1]
    assert torch.allclose(ours(grey), ours(grey.expand(-1, 3, -1, -1)))


def test_dinov2_s_positions_come_to_the_network_s_grid(published):
    _, weights = published
    ours = Dinov2(2, width=32, depth=2, num_heads=4)
    flat = {**weights, "pos_embed": torch.arange(17.0)[None, :, None].expand(1, 17, 32).clone()}
    flat["pos_embed"][:, 1:] = 3.0
    ours.load_state_dict(flat)
    assert torch.allclose(ours.pos_embed[0, 0], torch.zeros(32))
    assert torch.allclose(ours.pos_embed[0, 1:], torch.full((4, 32), 3.0))


@pytest.mark.parametrize("name", METHODS)
def test_at_paper_scale_the_encoder_has_the_network_s_tokens_and_reads_the_stored_image(name):
    method = baselines.build(baselines.configured(load_recipe(f"{name}-b").document), device="meta")
    assert method.extra == {"image": (3, 256, 256)}
    assert method.frozen[DINOV2].file is PUBLISHED
    assert method.frozen[DINOV2].network.pos_embed.shape == (1, 257, 768)
    assert sum(p.numel() for p in method.frozen[DINOV2].network.parameters()) == 86_580_480 - 768 - 768 * (1370 - 257)
    assert method.objectives[name].taps == (4,)
    blocks = {size: baselines.configured(load_recipe(f"{name}-{size}").document) for size in ("s", "l", "xl", "xl-512")}
    taps = {size: baselines.build(cfg, device="meta").objectives[name].taps for size, cfg in blocks.items()}
    assert taps == {"s": (4,), "l": (8,), "xl": (8,), "xl-512": (8,)}


def test_a_dry_run_counts_the_encoder_and_stored_features_have_none():
    document = load_recipe("repa-s").document
    image, stored = (
        baselines.configured(document, settings) for settings in ([], ["encoder_reads=features", "batch_size=8"])
    )
    assert estimate_of(image)["memory_parts"]["frozen networks"] > 300e6
    method = baselines.build(stored, device="meta")
    assert (dict(method.frozen), method.extra) == ({}, {"features": (768, 16, 16)})
    tokens = torch.randn(2, 768, 16, 16)
    wanted = method.objectives["repa"].encoder(Batch(torch.empty(2), torch.empty(2), {"features": tokens}))
    assert torch.equal(wanted[:, 17], tokens[:, :, 1, 1])


# The proxy ---------------------------------------------------------------------------------------------------------


def test_the_proxy_is_neither_network_that_measures_and_is_made_the_same_again(digits):
    sha256 = proxy.made(digits)
    assert proxy.made(digits) == sha256
    file = next(path for path in [tiny_file(sha256)] if sha256_of(path) == sha256)
    ours = load_file(file)
    for other in (classifier.load(), classifier.load(digits)):
        theirs = other.module.state_dict()
        assert not any(torch.equal(ours[name], theirs[name].float()) for name in ours)
    assert classifier.load(digits, proxy.RECIPE).held_out_accuracy > 0.95
    assert {proxy.RECIPE.seed} & {classifier.OWN.seed, classifier.DIGITS.seed} == set()


def tiny_file(sha256: str):
    cfg = tiny_config("repa")
    assert cfg.knobs.encoder_sha256 == sha256
    return baselines.build(cfg).frozen[PROXY].file.get()


@pytest.mark.parametrize("name", METHODS)
def test_a_run_s_name_and_its_title_say_which_weights_it_used(name):
    cfg, plain = resolve(f"{name}-tiny", []), resolve("sit-tiny", ["additions=[repa]"])
    bare = baselines.configured(load_recipe(f"{name}-tiny").document | {"input": cfg.input.model_dump()})
    assert bare.knobs.encoder_sha256 is None
    assert cfg.knobs.encoder_sha256 == baselines.build(cfg).frozen[PROXY].file.sha256
    assert cfg.run_id != bare.run_id
    assert measured_title(name, cfg.knobs.model_dump()) == f"{name.upper()}-proxy"
    assert measured_title("sit", plain.knobs.model_dump()) == "SiT + REPA-proxy"
    assert (
        measured_title(name, baselines.configured(load_recipe(f"{name}-b").document).knobs.model_dump()) == name.upper()
    )
    assert with_proxy(cfg) == cfg
    assert departures(cfg.model_dump(mode="json")).differing == ()


def test_random_data_get_a_proxy_that_is_not_trained(digits):
    random = InMemory("random", torch.randn(60, 1, 8, 8), torch.arange(60) % 10, 10, real=False)
    assert proxy.made(random) != proxy.made(digits)


def test_a_checkpoint_holds_the_projector_and_nothing_of_the_encoder(digits, tmp_path):
    cfg = small_config("repa", "steps=4")
    engine.train(
        baselines.build(cfg), cfg, digits, tmp_path, device=CPU, report=lambda line: None, note=lambda text: None
    )
    saved = load_newest(tmp_path / "checkpoints", cfg.sha256, print)
    assert {".".join(name.split(".")[:3]) for name in saved.method if not name.startswith("network.")} == {
        "objectives.repa.projector"
    }
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert all(-0.5 <= line["loss/repa"] <= 0.5 for line in lines)


def test_a_benchmark_on_random_latents_gets_random_images_beside_them():
    cfg = resolve("repa-tiny", ["data=synthetic", "encoder=dinov2-vitb14", f"encoder_sha256={PUBLISHED.sha256}",
                                "encoder_reads=features", "width=16", "num_heads=2", "batch_size=4"])  # fmt: skip
    step = HarnessStep("ours", cfg, CPU)
    step.step()
    features = step._step.data.read_extra(torch.tensor([0, 513]))["features"]
    assert torch.equal(features[0], features[1].flip(-1))


# What is refused ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "settings", "said"),
    [
        ("repa", ["patch=1"], None),
        ("sara", ["patch=8"], "are 8 x 8 or 4 x 4 or 2 x 2, and the network's are 1 x 1"),
        ("repa", ["align_block=9"], "reads the output of block 9, and the network's blocks are 1 to 3"),
        ("repa", ["encoder_reads=features"], "sees what the network learns"),
        ("repa", ["additions=[sara]"], "repa and sara both use repa-proxy"),
        ("repa", ["encoder=dinov2-vitb14", "encoder_sha256=null"], "has published weights; name their sha256"),
        ("sit", ["additions=[repa, tread]", "align_block=2", "route_first=2"], "see only some"),
    ],
)
def test_what_does_not_fit_is_refused_with_both_grids(method, settings, said):
    if said is None:
        baselines.build(small_config(method, *settings))
        return
    with pytest.raises(UsageError, match=said) as refused:
        baselines.build(small_config(method, *settings))
    assert refused.value.exit_code == 2


def test_latents_are_no_image_and_what_they_need_is_said_with_its_shape(digits, tmp_path):
    latents = {"input": {"channels": 4, "side": 8, "num_classes": 10}}
    document = load_recipe("repa-b").document | latents
    with pytest.raises(UsageError, match="4 channels are no image; say image or features"):
        baselines.build(baselines.configured(document, ["encoder_reads=clean"]), device="meta")
    cfg = small_config("repa", "encoder=dinov2-vitb14", f"encoder_sha256={PUBLISHED.sha256}", "encoder_reads=features")
    with pytest.raises(UsageError, match=r"repa reads features of each image.* has features as 768 x 4 x 4"):
        engine.train(
            baselines.build(cfg), cfg, digits, tmp_path, device=CPU, report=lambda line: None, note=lambda text: None
        )


def test_a_missing_encoder_says_which_file_to_put_where(no_weights, monkeypatch):
    monkeypatch.setattr(
        "harness.system.downloads.fetch", lambda *args, **more: (_ for _ in ()).throw(OSError("no net"))
    )
    names = "encoder=dinov2-vitb14", "encoder_reads=clean"
    for sha256, place in ((PUBLISHED.sha256, PUBLISHED.file), ("a" * 64, f"{DINOV2}-{'a' * 16}.pth")):
        method = baselines.build(small_config("repa", *names, f"encoder_sha256={sha256}"), device="meta")
        with pytest.raises(SetupError, match=f"(?s)(?=.*{place})(?=.*{sha256})") as missing:
            method.frozen[DINOV2].load(CPU)
        assert missing.value.exit_code == 3
    method = baselines.build(small_config("repa", f"encoder_sha256={'b' * 64}"))
    with pytest.raises(SetupError, match=f"repa-proxy-{'b' * 16}.safetensors.*{'b' * 64}"):
        method.frozen[PROXY].load(CPU)


def test_another_file_under_the_encoder_s_name_is_refused(no_weights, tmp_path, monkeypatch):
    from harness.system.errors import DataError

    monkeypatch.setenv("HARNESS_FEATURES", str(tmp_path))
    save_file({"x": torch.zeros(1)}, tmp_path / f"repa-proxy-{'c' * 16}.safetensors")
    method = baselines.build(small_config("repa", f"encoder_sha256={'c' * 64}"))
    with pytest.raises(DataError, match="its sha256 is"):
        method.frozen[PROXY].load(CPU)
