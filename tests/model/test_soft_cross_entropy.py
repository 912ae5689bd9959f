"""The loss in chunks against the formula as it is written; its kernel on a CPU, in processes of its own."""

import os
import subprocess
import sys
from math import prod
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from harness.model.nn import soft_cross_entropy as module
from harness.model.nn.soft_cross_entropy import Logits, plain_soft_cross_entropy, soft_cross_entropy

ROWS, PROTOTYPES, WIDTH, CHUNK = 23, 12, 5, 4  # the last chunk is not full


@pytest.fixture
def chunks(monkeypatch):
    """Chunks of a few rows, whatever the sizes."""
    monkeypatch.setattr(module, "_chunk_rows", lambda prototypes: CHUNK)


def problem(*, rows=ROWS, prototypes=PROTOTYPES, width=WIDTH, dtype=torch.float32, scale=1.0, device="cpu"):
    """The arguments of the loss, with gradients for the student's two. `scale` is of all logits."""
    generator = torch.Generator().manual_seed(rows)

    def unit(count: int) -> Tensor:
        return F.normalize(torch.randn(count, width, generator=generator, dtype=torch.float64), dim=-1)

    z, w, target_z, target_w = unit(rows), unit(prototypes), unit(rows), unit(prototypes)
    centre = 0.1 * scale * torch.randn(prototypes, generator=generator, dtype=torch.float64)
    z, w, target_z, target_w, centre = (
        value.to(device, dtype) for value in (scale * z, w, scale * target_z, target_w, centre)
    )
    student = Logits(z.requires_grad_(), w.requires_grad_())
    temperatures = {"student_temperature": 0.1, "teacher_temperature": torch.tensor(0.09, device=device)}
    return student, Logits(target_z, target_w), {"centre": centre, **temperatures}


def computed(loss, student: Logits, teacher: Logits, settings, *, weight: float = 1.0) -> tuple[Tensor, ...]:
    """The loss, times `weight`, and its two gradients."""
    value = weight * loss(student, teacher, **settings)
    return value.detach(), *torch.autograd.grad(value, student)


def exact(student: Logits, teacher: Logits, settings) -> tuple[Tensor, ...]:
    """The formula in float64, from the same numbers."""
    student = Logits(*(value.detach().double().requires_grad_() for value in student))
    settings = settings | {name: settings[name].double() for name in ("centre", "teacher_temperature")}
    return computed(plain_soft_cross_entropy, student, Logits(*(value.double() for value in teacher)), settings)


def relative_errors(found, expected) -> list[float]:
    return [((a.double() - b).norm() / b.norm()).item() for a, b in zip(found, expected, strict=True)]


# The mathematics ---------------------------------------------------------------------------------------------------


def test_the_plain_form_is_the_formula_written_out():
    student, teacher, settings = problem(rows=3, dtype=torch.float64)
    total = 0
    for z, target in zip(student.embeddings, teacher.embeddings, strict=True):
        p = ((teacher.prototypes @ target - settings["centre"]) / settings["teacher_temperature"]).exp()
        q = (student.prototypes @ z / 0.1).exp()
        total = total - (p / p.sum() * (q / q.sum()).log()).sum()
    torch.testing.assert_close(plain_soft_cross_entropy(student, teacher, **settings), total / 3)


@pytest.mark.parametrize("rows", [1, CHUNK, ROWS])
@pytest.mark.parametrize("weight", [1.0, -3.7])
def test_value_and_gradients_are_the_formulas(chunks, rows, weight):
    arguments = problem(rows=rows, dtype=torch.float64)
    found = computed(soft_cross_entropy, *arguments, weight=weight)
    expected = computed(plain_soft_cross_entropy, *arguments, weight=weight)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_gradients_agree_with_finite_differences(chunks):
    student, teacher, settings = problem(rows=6, dtype=torch.float64)

    def loss(*factors: Tensor) -> Tensor:
        return soft_cross_entropy(Logits(*factors), teacher, **settings)

    assert torch.autograd.gradcheck(loss, tuple(student), check_undefined_grad=False)  # of a loss that nobody reads


def test_in_single_precision_only_rounding_differs(chunks):
    arguments = problem(prototypes=300)
    found = computed(soft_cross_entropy, *arguments)
    assert {value.dtype for value in found} == {torch.float32}
    assert max(relative_errors(found, exact(*arguments))) < 2e-6


def test_under_autocast_the_products_are_in_half_precision_and_no_worse_than_the_plain_forms(chunks):
    arguments = problem(rows=300, prototypes=200, width=32)
    expected = exact(*arguments)
    with torch.autocast("cpu", torch.bfloat16):
        found = computed(soft_cross_entropy, *arguments)
        weighted = computed(soft_cross_entropy, *arguments, weight=3.7)
        plain = computed(plain_soft_cross_entropy, *arguments)
    assert {value.dtype for value in found} == {torch.float32}
    torch.testing.assert_close(weighted, tuple(3.7 * value for value in found))  # scaled in single precision
    value, *gradients = relative_errors(found, expected)
    plain_value, *plain_gradients = relative_errors(plain, expected)
    assert value < plain_value + 1e-6
    for error, plain_error in zip(gradients, plain_gradients, strict=True):
        assert 1e-4 < error < 1.1 * plain_error < 2**-6  # single precision would have 1e-6


def test_inputs_in_half_precision_give_a_loss_in_single_and_gradients_in_half(chunks):
    arguments = problem(rows=40, dtype=torch.bfloat16)
    found = computed(soft_cross_entropy, *arguments)
    assert [value.dtype for value in found] == [torch.float32, torch.bfloat16, torch.bfloat16]
    assert max(relative_errors(found, exact(*arguments))) < 2**-6


def test_autocast_leaves_double_precision_alone(chunks):
    arguments = problem(dtype=torch.float64)
    with torch.autocast("cpu", torch.bfloat16):
        found = computed(soft_cross_entropy, *arguments)
    torch.testing.assert_close(found, exact(*arguments), rtol=1e-12, atol=1e-12)


def test_logits_of_ten_thousand_stay_finite(chunks):
    arguments = problem(scale=1e4)
    found, expected = computed(soft_cross_entropy, *arguments), exact(*arguments)
    assert expected[0] > 1e4
    assert all(value.isfinite().all() for value in found)
    assert max(relative_errors(found, expected)) < 1e-4


def test_a_batch_in_pieces_has_the_gradient_of_the_whole(chunks):
    student, teacher, settings = problem(dtype=torch.float64)
    _, *expected = computed(soft_cross_entropy, student, teacher, settings)
    for part in (slice(0, 9), slice(9, ROWS)):
        z, target = student.embeddings[part], teacher.embeddings[part]
        loss = soft_cross_entropy(Logits(z, student.prototypes), Logits(target, teacher.prototypes), **settings)
        (loss * len(z) / ROWS).backward()
    torch.testing.assert_close([factor.grad for factor in student], expected)


def test_leading_axes_are_rows(chunks):
    student, teacher, settings = problem(rows=12)
    expected = soft_cross_entropy(student, teacher, **settings)
    student, teacher = (x._replace(embeddings=x.embeddings.view(3, 4, WIDTH)) for x in (student, teacher))
    assert torch.equal(soft_cross_entropy(student, teacher, **settings), expected)
    assert torch.equal(plain_soft_cross_entropy(student, teacher, **settings), expected)


# What gets a gradient ----------------------------------------------------------------------------------------------


def test_teacher_centre_and_temperature_get_no_gradient(chunks):
    student, teacher, settings = problem()
    others = [*teacher, settings["centre"], settings["teacher_temperature"]]
    for other in others:
        other.requires_grad_()
    soft_cross_entropy(student, teacher, **settings).backward()
    assert all(other.grad is None for other in others)
    still = Logits(*(value.detach() for value in student))
    assert not soft_cross_entropy(still, teacher, **settings).requires_grad


@pytest.mark.parametrize("trained", [0, 1])
def test_either_of_the_students_two_may_be_held_still(chunks, trained):
    student, teacher, settings = problem()
    expected = computed(soft_cross_entropy, student, teacher, settings)[1 + trained]
    student[1 - trained].requires_grad_(False)
    soft_cross_entropy(student, teacher, **settings).backward()
    assert student[1 - trained].grad is None
    assert torch.equal(student[trained].grad, expected)


def test_a_second_derivative_is_refused_and_not_wrong(chunks):
    student, teacher, settings = problem()
    square = soft_cross_entropy(student, teacher, **settings) ** 2
    (first,) = torch.autograd.grad(square, student.embeddings, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.sum().backward()


@pytest.mark.parametrize(("rows", "prototypes"), [(1, PROTOTYPES), (ROWS, 1)])
def test_students_and_teachers_that_do_not_fit_are_refused(rows, prototypes):
    student, _, settings = problem()
    _, teacher, _ = problem(rows=rows, prototypes=prototypes)
    with pytest.raises(ValueError, match=f"{ROWS} rows over {PROTOTYPES} prototypes, the teacher {rows} over"):
        soft_cross_entropy(student, teacher, **settings)


# What it costs -----------------------------------------------------------------------------------------------------


class Largest(TorchDispatchMode):
    """The most elements that any result of any operation has."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **kwargs or {})
        tensors = result if isinstance(result, (tuple, list)) else [result]
        self.elements = max(self.elements, *(value.numel() for value in tensors if isinstance(value, Tensor)), 0)
        return result


def test_no_array_is_larger_than_a_chunk_and_the_backward_pass_keeps_none_of_it(chunks):
    kept = []
    student, teacher, settings = problem(rows=200, prototypes=150)
    keep = saved_tensors_hooks(lambda value: kept.append(value.shape) or value, lambda value: value)
    with Largest() as largest, keep:
        computed(soft_cross_entropy, student, teacher, settings)
    assert sorted(map(prod, kept)) == [150 * WIDTH, 200 * WIDTH]
    assert largest.elements == max(200 * WIDTH, 150 * WIDTH, CHUNK * 150) < 200 * 150


def products(loss, student, teacher, settings, *, backward: bool) -> float:
    """Matrix products of N x K x Z that are carried out."""
    with FlopCounterMode(display=False) as counter:
        value = loss(student, teacher, **settings)
        if backward:
            value.backward()
    return counter.get_total_flops() / (2 * ROWS * PROTOTYPES * WIDTH)


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_no_product_is_computed_twice_or_in_vain(chunks, device):
    student, teacher, settings = problem(device=device)
    assert products(plain_soft_cross_entropy, student, teacher, settings, backward=True) == 4
    assert products(soft_cross_entropy, student, teacher, settings, backward=True) == 4
    with torch.no_grad():
        assert products(soft_cross_entropy, student, teacher, settings, backward=False) == 2
    still = Logits(*(value.detach() for value in student))
    assert products(soft_cross_entropy, still, teacher, settings, backward=False) == 2


def test_a_chunk_is_counted_in_bytes_and_outweighs_the_prototypes(monkeypatch):
    papers = torch.empty(8192, 256, dtype=torch.bfloat16, device="meta")
    assert module._chunk_rows(papers) == 4096
    assert module._chunk_rows(torch.empty(8192, 256)) == 256
    assert module._chunk_rows(torch.empty(256, 64)) == 512
    assert module._chunk_rows(torch.empty(256, 64, dtype=torch.bfloat16)) == 1024
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    assert module._chunk_rows(torch.empty(256, 64)) == 3 * 512
    assert module._chunk_rows(papers) == 4096


# Compiled ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def graphs():
    """A compiler that keeps the operations as they are, and the graphs it was given."""
    from torch._dynamo.backends.debugging import aot_eager

    given = []

    def backend(graph, inputs):
        given.append(graph)
        return aot_eager(graph, inputs)

    torch._dynamo.reset()
    yield given, lambda function: torch.compile(function, backend=backend, fullgraph=True, dynamic=False)
    torch._dynamo.reset()


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_compiled_it_is_one_operation_that_gives_the_same(chunks, graphs, precision):
    given, compiled = graphs
    student, teacher, settings = problem()

    def loss(student, teacher, **settings):
        return 2 * soft_cross_entropy(student, teacher, **settings)

    faster = compiled(loss)
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        for temperature in (0.09, 0.095, 0.099):
            settings["teacher_temperature"] = torch.tensor(temperature)
            found = computed(faster, student, teacher, settings)
            torch.testing.assert_close(found, computed(loss, student, teacher, settings), rtol=1e-6, atol=1e-7)
    (graph,) = given
    assert sum("harness.soft_cross_entropy" in str(node.target) for node in graph.graph.nodes) == 1
    assert not any("linear" in str(node.target) for node in graph.graph.nodes)


def test_compiled_without_gradients_it_computes_none(chunks, graphs):
    _, compiled = graphs
    student, teacher, settings = problem()
    with torch.no_grad():
        value = compiled(soft_cross_entropy)(student, teacher, **settings)
        assert torch.equal(value, soft_cross_entropy(student, teacher, **settings))


@pytest.mark.parametrize("gradients", [True, False])
def test_the_operation_keeps_what_its_registration_promises(chunks, gradients):
    student, teacher, settings = problem()
    for value in student:
        value.requires_grad_(gradients)
    torch.library.opcheck(
        module._as_one_operation,
        (*student, *teacher, settings["centre"], 0.1, settings["teacher_temperature"], torch.bfloat16, gradients),
    )


# The kernel --------------------------------------------------------------------------------------------------------

CASES = {  # dtype, R, K, scale of the logits
    "papers": (torch.float32, 3, 8192, 1.0),
    "papers-bf16": (torch.bfloat16, 3, 8192, 1.0),
    "odd": (torch.float32, 4, 1001, 1.0),
    "odd-bf16": (torch.bfloat16, 4, 1001, 1.0),
    "large": (torch.float32, 4, 300, 1e4),
    "one": (torch.float32, 2, 1, 1.0),
    "longest": (torch.float32, 2, 16_384, 1.0),
}
TEMPERATURES = (0.1, torch.tensor(0.09))


def rows_of(case: str) -> tuple[Tensor, Tensor, Tensor]:
    """Logits of student and teacher, and a centre."""
    dtype, rows, prototypes, scale = CASES[case]
    generator = torch.Generator().manual_seed(1)
    student, teacher = (scale * torch.randn(2, rows, prototypes, generator=generator)).to(dtype)
    return student, teacher, scale * torch.randn(prototypes, generator=generator)


def run_kernel(file: Path) -> None:
    """What the kernel makes of every case, and the whole loss with it."""
    from harness.model.nn import soft_cross_entropy_triton as kernel

    found = {}
    for case in CASES:
        student, teacher, centre = rows_of(case)
        assert kernel.takes(student)
        only, nothing = kernel.rows(student, teacher, centre, *TEMPERATURES, gradients=False)
        assert nothing is None
        assert torch.equal(student, rows_of(case)[0])
        losses, difference = kernel.rows(student, teacher, centre, *TEMPERATURES, gradients=True)
        assert torch.equal(only, losses)
        found |= {f"{case}.losses": losses, f"{case}.difference": difference}
    assert not kernel.takes(student.double())
    assert not kernel.takes(torch.empty(1, kernel.LARGEST_ROW + 1))
    module._rows_function, module._chunk_rows = lambda logits: kernel.rows, lambda prototypes: CHUNK
    whole = computed(soft_cross_entropy, *problem())
    save_file(found | {f"whole.{index}": value.contiguous() for index, value in enumerate(whole)}, file)


def compile_kernel(file: Path) -> None:
    """Its machine code for an H100, which needs none: the interpreter takes programs that the compiler does not."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from harness.model.nn.soft_cross_entropy_triton import _rows

    types = ["*bf16", "*bf16", "*fp32", "*fp32", "*fp32", "fp32", "i32", "constexpr", "constexpr"]
    source = ASTSource(_rows, dict(zip(_rows.arg_names, types, strict=True)), {"BLOCK": 8192, "GRADIENTS": True})
    options = {"num_warps": 16, "enable_fp_fusion": True}
    file.write_text(triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options).asm["ptx"])


def run_apart(task: str, folder: Path, **environment: str) -> Path:
    """The file that `task` of this module writes. Triton decides for its compiler or interpreter at its import."""
    file = folder / "found"
    environment = os.environ | {"TRITON_CACHE_DIR": str(folder / "cache")} | environment
    subprocess.run([sys.executable, __file__, task, file], check=True, env=environment)
    return file


@pytest.fixture(scope="module")
def from_kernel(tmp_path_factory) -> dict[str, Tensor]:
    return load_file(run_apart("run_kernel", tmp_path_factory.mktemp("kernel"), TRITON_INTERPRET="1"))


@pytest.mark.parametrize("case", CASES)
def test_the_kernel_is_the_formula(from_kernel, case):
    student, teacher, centre = rows_of(case)
    losses, difference = module._rows(student.double(), teacher.double(), centre, *TEMPERATURES, gradients=True)
    torch.testing.assert_close(from_kernel[f"{case}.losses"].double(), losses, rtol=1e-5, atol=1e-6)
    found = from_kernel[f"{case}.difference"]
    assert found.dtype == student.dtype
    rounding = 2**-7 if student.dtype == torch.bfloat16 else 1e-5  # the interpreter cuts off where a GPU rounds
    torch.testing.assert_close(found.double(), difference, rtol=rounding, atol=1e-7)


def test_the_loss_with_the_kernel_in_it_is_the_formula(from_kernel):
    found = [from_kernel[f"whole.{index}"] for index in range(3)]
    assert max(relative_errors(found, exact(*problem()))) < 2e-6


def test_the_kernel_compiles_for_a_gpu_that_is_not_here(tmp_path):
    code = run_apart("compile_kernel", tmp_path).read_text()
    assert ".target sm_90" in code
    assert code.count("div.full.f32") == 3  # of a row, not of each element


def test_what_is_not_on_a_gpu_needs_no_kernel():
    assert module._rows_function(torch.empty(1, 1)) is module._rows
    assert "harness.model.nn.soft_cross_entropy_triton" not in sys.modules


# On a GPU ----------------------------------------------------------------------------------------------------------

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
PAPERS = {"rows": 256 * 204, "prototypes": 8192, "width": 256}


@needs_gpu
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_on_a_gpu_it_is_the_formula(precision):
    arguments = problem(rows=5000, prototypes=8192, width=256, device="cuda")
    with torch.autocast("cuda", torch.bfloat16, enabled=precision == "bf16"):
        found = computed(soft_cross_entropy, *arguments)
        plain = computed(plain_soft_cross_entropy, *arguments)
    expected = exact(*arguments)
    for error, plain_error in zip(relative_errors(found, expected), relative_errors(plain, expected), strict=True):
        assert error < 1.1 * plain_error + 1e-5


@needs_gpu
@pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype")
def test_on_a_gpu_it_takes_a_few_chunks_of_memory_and_waits_for_nothing():
    arguments = problem(**PAPERS, device="cuda")

    def run() -> None:
        with torch.autocast("cuda", torch.bfloat16):
            computed(soft_cross_entropy, *arguments)

    run()  # compiles the kernel
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    torch.cuda.set_sync_debug_mode("error")
    try:
        run()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.cuda.max_memory_allocated() - before < 6 * module.GPU_CHUNK_BYTES


@needs_gpu
def test_a_cuda_graph_of_it_reads_the_temperature_anew():
    student, teacher, settings = problem(rows=5000, prototypes=8192, width=256, device="cuda")
    computed(soft_cross_entropy, student, teacher, settings)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        recorded = computed(soft_cross_entropy, student, teacher, settings)
    settings["teacher_temperature"].fill_(0.099)
    graph.replay()
    torch.testing.assert_close(recorded, computed(soft_cross_entropy, student, teacher, settings))


if __name__ == "__main__":
    {"run_kernel": run_kernel, "compile_kernel": compile_kernel}[sys.argv[1]](Path(sys.argv[2]))
