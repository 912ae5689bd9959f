"""From a network to images: what a sampler is told, and what an image depends on."""

import pytest
import torch
from small import small_config, trained_a_little

import baselines
from harness.data.latents import vae
from harness.evaluation import generation
from harness.evaluation.generation import as_sampled, choose_labels, draw_images, generate
from harness.model.formulations import EDM, FORMULATIONS, IDDPM
from harness.model.randomness import Draw, mix
from harness.system.errors import SetupError

CPU = torch.device("cpu")
LATENTS = "input={channels: 4, side: 8, num_classes: 10}"


@pytest.mark.parametrize(("formulation", "level"), [(EDM(), 0.7), (IDDPM(), 640)])
def test_a_sampler_is_told_what_training_would_have_told_it(formulation, level):
    """predict at a level equals denoised of what the network says of the same noisy images in training."""
    clean = torch.randn(3, 2, 4, 4)
    noised = formulation.noised(clean, Draw.all_of(clean), torch.full((3,), level))
    seen = []

    def network(net_input, net_noise, labels):
        seen.append((net_input, net_noise, labels))
        return torch.sin(3 * net_input.repeat(1, formulation.out_channels(1), 1, 1)) * net_noise.reshape(-1, 1, 1, 1)

    labels = torch.tensor([0, 1, 2])
    prediction = formulation.predict(network, noised.noisy, level, labels)
    torch.testing.assert_close(seen[0][0], noised.net_input)
    torch.testing.assert_close(seen[0][1], noised.net_noise)
    assert torch.equal(seen[0][2], labels)
    raw = network(noised.net_input, noised.net_noise, labels)
    torch.testing.assert_close(prediction.clean, formulation.denoised(raw, noised))


def draw(digits, name, *assignments, seed=0, batch_size=7, labels=None, precision="fp32", wrap=None, **options):
    cfg = small_config(name, "sampling.num_steps=4", *assignments)
    network = as_sampled(trained_a_little(baselines.build(cfg).network), precision, CPU)
    labels = choose_labels("random", 11, 10, seed) if labels is None else labels
    return generate(
        wrap(network) if wrap else network, FORMULATIONS[cfg.formulation](), cfg.sampling, labels,
        image_shape=(1, 8, 8), null_label=10, seed=seed, batch_size=batch_size, device=CPU, **options,
    )  # fmt: skip


@pytest.mark.parametrize("name", ["dit", "sddit"])
def test_an_image_depends_on_the_seed_and_its_place_not_on_the_batch(digits, name):
    whole = draw(digits, name, batch_size=11)
    assert torch.equal(whole.labels, draw(digits, name, batch_size=3).labels)
    difference = whole.images.int() - draw(digits, name, batch_size=3).images.int()
    assert difference.abs().max() <= 1  # sums of another size of batch round differently
    assert (difference != 0).float().mean() < 0.01
    assert not torch.equal(whole.images, draw(digits, name, seed=1, batch_size=11).images)


def test_guidance_at_one_changes_nothing_and_above_one_does(digits):
    plain = draw(digits, "sddit")
    one, three = draw(digits, "sddit", "guidance_scale=1"), draw(digits, "sddit", "guidance_scale=3")
    assert (plain.images.int() - one.images.int()).abs().max() <= 1
    assert (plain.images.int() - three.images.int()).abs().max() > 10


@pytest.mark.parametrize("name", ["dit", "sddit"])
def test_guidance_draws_the_images_of_a_network_asked_twice(digits, name):
    """What the network says is guided as the denoised image is, one being linear in the other; not the variance."""

    def twice(network):
        def raw(net_input, net_noise, labels):
            with_label, without = (network(net_input, net_noise, y) for y in (labels, torch.full_like(labels, 10)))
            return torch.cat([without[:, :1] + 3 * (with_label - without)[:, :1], with_label[:, 1:]], dim=1)

        return raw

    difference = draw(digits, name, "guidance_scale=3").images.int() - draw(digits, name, wrap=twice).images.int()
    assert difference.abs().max() <= 1


def test_guidance_of_an_image_without_a_label_changes_nothing(digits):
    """The unconditional half asks for "no label": for images that asked for none, both halves are the same."""
    nobody = torch.full((5,), 10)
    plain = draw(digits, "sddit", labels=nobody)
    guided = draw(digits, "sddit", "guidance_scale=5", labels=nobody)
    assert (plain.images.int() - guided.images.int()).abs().max() <= 1


def test_guidance_in_an_interval_that_holds_all_levels_is_guidance_and_in_one_that_holds_none_is_not(digits):
    guided = draw(digits, "sddit", "guidance_scale=5")
    everywhere = draw(digits, "sddit", "guidance_scale=5", "guidance_interval=[0, 100]")
    nowhere = draw(digits, "sddit", "guidance_scale=5", "guidance_interval=[100, 200]")
    middle = draw(digits, "sddit", "guidance_scale=5", "guidance_interval=[0.1, 2]")
    assert torch.equal(guided.images, everywhere.images)
    assert torch.equal(nowhere.images, draw(digits, "sddit").images)
    assert not torch.equal(middle.images, guided.images)
    assert not torch.equal(middle.images, nowhere.images)


@pytest.mark.parametrize(("scale", "expected"), [(1, [7] * 7), (5, [7, 14, 14, 14, 14, 7, 7])])
def test_the_network_sees_twice_the_images_where_they_are_guided_and_is_called_once_everywhere(digits, scale, expected):
    """Heun's levels are 80, then 9.7, 0.48 and 0.002, each of these twice; the interval holds 9.7 and 0.48."""
    sizes = []

    def counting(network):
        return lambda net_input, *others: sizes.append(len(net_input)) or network(net_input, *others)

    interval = f"guidance_scale={scale}", "guidance_interval=[0.1, 20]"
    draw(digits, "sddit", *interval, labels=choose_labels("random", 7, 10, 0), wrap=counting)
    assert sizes == expected


@pytest.mark.parametrize("name", ["dit", "sddit"])
def test_a_network_in_bf16_draws_nearly_the_same_images_and_the_sampler_stays_float(digits, name):
    plain, half = draw(digits, name), draw(digits, name, precision="bf16")
    difference = (plain.images.int() - half.images.int()).abs().float()
    assert 0 < difference.mean() < 3


def test_labels_are_random_or_balanced_and_a_function_of_the_seed():
    assert choose_labels("balanced", 12, 10, 0).tolist() == [*range(10), 0, 1]
    labels = choose_labels("random", 5000, 10, 0)
    assert torch.bincount(labels, minlength=10).min() > 420
    assert torch.equal(labels[:100], choose_labels("random", 100, 10, 0))
    assert not torch.equal(labels[:100], choose_labels("random", 100, 10, 1))


# Noise ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(1, 8, 8), (4, 32, 32)])
def test_an_images_noise_is_that_of_its_own_generator_on_however_many_threads(shape):
    generators = [torch.Generator().manual_seed(mix("image", 5, index)) for index in range(2, 13)]
    expected = [
        torch.stack([torch.randn(shape, generator=g, dtype=torch.float64) for g in generators]) for _ in range(3)
    ]
    threads = torch.get_num_threads()
    for count in (1, 4, 16):
        torch.set_num_threads(count)
        noise = generation._ImageNoise(5, range(2, 13), shape, CPU)
        torch.set_num_threads(threads)
        assert all(torch.equal(noise(), again) for again in expected)


# Compiled ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def graphs(monkeypatch):
    """Compiles to Python instead of machine code, which takes a minute; returns the list of compiled graphs."""
    compiled, compile = [], torch.compile

    def backend(graph, inputs):
        compiled.append(graph)
        return graph.forward

    monkeypatch.setattr(
        torch, "compile", lambda network, *, dynamic, options: compile(network, dynamic=dynamic, backend=backend)
    )
    torch._dynamo.reset()
    yield compiled
    torch._dynamo.reset()


def drawn(folder, name, *assignments, num_images=11, decoder=None):
    cfg = small_config(name, "sampling.num_steps=4", "sample_batch=4", *assignments)
    network = trained_a_little(baselines.build(cfg).network)
    names = set(network.state_dict())
    labels = choose_labels("random", num_images, 10, 0)
    images = draw_images(folder, network, cfg, labels, seed=0, vae=decoder, device=CPU).read(0, num_images)
    assert set(network.state_dict()) == names
    return images


@pytest.mark.parametrize("name", baselines.names())
@pytest.mark.parametrize(("guidance", "shapes"), [
    ((), 1), (("guidance_scale=3",), 1), (("guidance_scale=3", "guidance_interval=[0.3, 20]"), 2),
], ids=["plain", "guided", "guided in an interval"])  # fmt: skip
def test_a_compiled_network_draws_the_same_images_and_is_compiled_once_a_shape(
    name, guidance, shapes, graphs, tmp_path
):
    """11 images in batches of 4: the last batch is filled up, or it would be compiled for once more."""
    plain = drawn(tmp_path / "plain", name, *guidance)
    assert not graphs
    compiled = drawn(tmp_path / "compiled", name, *guidance, "sample_compile=true", "sample_precision=fp32")
    assert len(graphs) == shapes
    assert torch.equal(compiled[:8], plain[:8])
    assert (compiled[8:].int() - plain[8:].int()).abs().max() <= 1  # the last batch is another size of batch here


def test_many_networks_of_a_method_are_sampled_in_one_process_without_reaching_a_limit(graphs, tmp_path):
    for number in range(10):
        drawn(tmp_path / str(number), "sddit", f"seed={number}", "sample_compile=true")
    assert len(graphs) == 1


def test_a_batch_that_is_filled_up_has_the_images_of_a_whole_one(digits):
    labels = choose_labels("random", 11, 10, 0)
    for batch_size in (10, 7):
        filled = draw(digits, "dit", labels=labels, batch_size=batch_size, whole_batches=True)
        others = torch.full((2 * batch_size - 11,), 10)
        whole = draw(digits, "dit", labels=torch.cat([labels, others]), batch_size=batch_size)
        assert torch.equal(filled.images, whole.images[:11])
        assert torch.equal(filled.labels, labels)
        assert (filled.images.int() - draw(digits, "dit", labels=labels, batch_size=11).images.int()).abs().max() <= 1


def test_what_a_cuda_graph_gives_back_outlives_the_next_replay(monkeypatch):
    """A stand-in for the replay, which needs a GPU: it always writes to the same memory."""
    memory, begun, asked = torch.zeros(2), [], {}

    def compile(network, **options):
        asked.update(options)
        return lambda x, noise, labels: memory.copy_(network(x, noise, labels))

    monkeypatch.setattr(torch, "compile", compile)
    monkeypatch.setattr(torch.compiler, "cudagraph_mark_step_begin", lambda: begun.append(True))
    called = generation._compiled(lambda x, noise, labels: x + 1, cuda_graphs=True)
    first, second = called(torch.zeros(2), None, None), called(torch.ones(2), None, None)
    assert (first.tolist(), second.tolist(), len(begun)) == ([1, 1], [2, 2], 2)
    assert asked == {"dynamic": False, "options": {"triton.cudagraphs": True}}
    as_sampled(torch.nn.Identity(), "fp32", CPU, compiled=True, cuda_graphs=True)
    assert asked["options"] == {"triton.cudagraphs": False}  # there are none on a CPU


def test_a_network_that_cannot_be_compiled_says_what_to_do(monkeypatch):
    def backend(graph, inputs):
        raise RuntimeError("no compiler here")

    compile = torch.compile
    monkeypatch.setattr(torch, "compile", lambda network, dynamic, options: compile(network, backend=backend))
    network = baselines.build(small_config("dit")).network
    called = as_sampled(network, "fp32", CPU, compiled=True)
    with pytest.raises(SetupError, match=r"no compiler here.*--set sample_compile=false"):
        called(torch.zeros(2, 1, 8, 8), torch.zeros(2), torch.zeros(2, dtype=torch.long))


# Decoded ----------------------------------------------------------------------------------------------------------


def test_latents_are_decoded_in_the_precision_that_is_asked_for(tmp_path):
    decoder = vae.load("random-tiny")
    plain, half = (
        drawn(tmp_path / precision, "dit", LATENTS, f"decode_precision={precision}", num_images=4, decoder=decoder)
        for precision in ("fp32", "bf16")
    )
    assert plain.shape == (4, 64, 64, 3)
    assert 0 < (plain.int() - half.int()).abs().float().mean() < 3
