"""along_rows: reductions over the last dimensions, in the form that generated kernels compute."""

# ruff: noqa: E501  golden text is as wide as it is

import pytest
import torch
from check import Check
from torch.nn import functional

import lazytorch as lt
from lazytorch.interpret import interpret
from lazytorch.passes import along_rows
from lazytorch.text import parse


def test_the_last_dimensions_become_one_that_stays(check: Check) -> None:
    check(
        along_rows,
        """
        graph(%x: f32[2, 3, 4, 5]) {
          %0 = mean{dims=(2, 3)} %x
          return %0
        }
        """,
        """
        graph(%x: f32[2, 3, 4, 5]) {
          %0: f32[2, 3, 20] = reshape{shape=(2, 3, 20)} %x
          %1: f32[2, 3, 1] = mean{dims=(2,), keepdim=True} %0
          %2: f32[2, 3] = reshape{shape=(2, 3)} %1
          return %2
        }
        """,
    )


def test_the_mean_loss_is_a_sum_of_rows(check: Check) -> None:
    check(
        along_rows,
        """
        graph(%x: f16[4, 50] on cuda:0, %t: i64[4] on cuda:0) {
          %0 = cross_entropy_loss %x %t
          return %0
        }
        """,
        """
        graph(%x: f16[4, 50] on cuda:0, %t: i64[4] on cuda:0) {
          %0: i64[4, 1] on cuda:0 = reshape{shape=(4, 1)} %t
          %1: f32[4, 1] on cuda:0 = row_cross_entropy %x %0
          %2: f32[4] on cuda:0 = reshape{shape=(4,)} %1
          %3: f32[1] on cuda:0 = sum{dims=(0,), keepdim=True} %2
          %4: bool[4] on cuda:0 = ne %t -100
          %5: f32[4] on cuda:0 = cast{dtype=f32} %4
          %6: f32[1] on cuda:0 = sum{dims=(0,), keepdim=True} %5
          %7: f32[1] on cuda:0 = div %3 %6
          %8: f16[1] on cuda:0 = cast{dtype=f16} %7
          %9: f16[] on cuda:0 = reshape{shape=()} %8
          return %9
        }
        """,
        close=1e-3,
    )


@pytest.mark.parametrize(
    "text",
    [
        "graph(%x: f32[4, 20]) { %0 = sum{dims=(0,)} %x return %0 }",
        "graph(%x: f32[4, 20]) { %0 = sum{dims=(1,), keepdim=True} %x return %0 }",
        "graph(%x: f32[4, 1]) { %0 = sum{dims=(1,)} %x return %0 }",
        "graph(%x: i64[4, 20]) { %0 = sum{dims=(1,)} %x return %0 }",
        "graph(%x: f32[4, 20]{1, 4}) { %0 = sum{dims=(1,)} %x return %0 }",
        "graph(%x: f32[4, 5, 6]{60, 12, 1}) { %0 = sum{dims=(1, 2)} %x return %0 }",
        "graph(%x: f32[4, 20]) { %0 = prod{dims=(1,)} %x return %0 }",
        "graph(%x: f32[4, 20], %t: i64[4]) { %0 = cross_entropy_loss %x %t return %0 }",
        "graph(%x: f32[4, 20] on cuda:0, %t: f32[4, 20] on cuda:0) { %0 = cross_entropy_loss %x %t return %0 }",
        "graph(%x: f32[4, 20] on cuda:0, %t: i64[4] on cuda:0) { %0 = cross_entropy_loss{label_smoothing=0.1} %x %t return %0 }",
        "graph(%x: f32[4, 20] on cuda:0, %t: i64[4] on cuda:0, %w: f32[20] on cuda:0) { %0 = cross_entropy_loss %x %t %w return %0 }",
        "graph(%x: f32[4, 20, 3] on cuda:0, %t: i64[4, 3] on cuda:0) { %0 = cross_entropy_loss %x %t return %0 }",
        "graph(%x: bf16[2, 0, 3] on cuda:0) { %0 = sum{dims=(1,)} %x return %0 }",
        "graph(%x: f32[0, 3] on cuda:0) { %0 = amax{dims=(1,)} %x return %0 }",
    ],
    ids=[
        "other dimensions", "in that form", "short rows", "integers", "strided rows", "a copy",
        "no kernel", "the CPU", "probabilities", "smoothing", "weights", "maps",
        "no elements", "no rows",
    ],
)  # fmt: skip
def test_declines(check: Check, text: str) -> None:
    check.declines(along_rows, text)


@pytest.mark.parametrize(
    ("typed", "op", "changes"),
    [
        ("f32[40, 64]", "var", True),
        ("f32[40, 64]", "std", True),
        ("f32[40, 64]", "vector_norm", True),
        ("bf16[40, 64]", "log_sum_exp", True),
        ("f32[40, 64]", "amax", False),
        ("f32[2048, 64]", "amax", False),
        ("bf16[2048, 64]", "amax", True),
        ("bf16[2048, 64]", "mean", True),
        ("bf16[2048, 64]", "sum", False),
        ("bf16[65536, 64]", "sum", True),
        ("f32[65536, 64]", "mean", True),
        ("f32[64, 4096]", "sum", True),
        ("f32[512, 512]", "amin", True),
        ("f32[1024, 256]", "sum", False),  # few columns
        ("f32[16, 16384]", "sum", False),  # few rows
        ("bf16[64, 4096]", "sum", True),
        ("bf16[512, 1024]", "sum", False),
    ],
)
def test_what_torch_is_slow_at_across_rows_is_a_kernel_on_the_cpu(
    typed: str, op: str, changes: bool
) -> None:
    graph = parse(f"graph(%x: {typed}) {{ %0 = {op}{{dims=(0,)}} %x return %0 }}")
    assert (along_rows(graph) is not graph) is changes


@pytest.mark.parametrize("reduction", [0, 1, 2])
@pytest.mark.parametrize("ignored", [-100, 3])
def test_losses_are_torchs(reduction: int, ignored: int) -> None:
    op = f"cross_entropy_loss{{reduction={reduction}, ignore_index={ignored}}}"
    text = f"graph(%x: f32[6, 20] on cuda:0, %t: i64[6] on cuda:0) {{ %0 = {op} %x %t return %0 }}"
    x, target = torch.randn(6, 20), torch.tensor([3, 0, 19, 3, 7, 7])
    graph = parse(text)
    changed = along_rows(graph)
    assert changed is not graph
    torch.testing.assert_close(interpret(changed, x, target), interpret(graph, x, target))


def test_a_class_that_is_not_there_is_no_number() -> None:
    text = "graph(%x: f32[2, 20] on cuda:0, %t: i64[2] on cuda:0) { %0 = cross_entropy_loss %x %t return %0 }"
    (loss,) = interpret(along_rows(parse(text)), torch.randn(2, 20), torch.tensor([20, 1]))
    assert loss.isnan()


def test_sums_in_float64_have_no_parts_in_float32() -> None:
    def parts(op: str) -> int:
        text = f"graph(%x: f32[4096, 300] on cuda:0) {{ %0 = sum{{dims=(0,){op}}} %x return %0 }}"
        return sum(x.op.name() == "sum" for x in along_rows(parse(text)).nodes)

    assert parts("") == 2
    assert parts(", dtype=f64") == 1


@pytest.mark.parametrize(
    ("rows", "classes", "changes"),
    [(342, 384, True), (341, 384, False), (342, 383, False), (4096, 100, False), (2738, 383, True)],
)
def test_few_classes_are_torchs_own_for_longer(rows: int, classes: int, changes: bool) -> None:
    typed = f"%x: f32[{rows}, {classes}], %t: i64[{rows}]"
    graph = parse(f"graph({typed}) {{ %0 = cross_entropy_loss %x %t return %0 }}")
    assert (along_rows(graph) is not graph) is changes


ROWS, COLUMNS = 1100, 1000  # more than torch's own cross entropy on the CPU is fast for


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_large_losses_on_the_cpu_are_torchs(reduction: str, dtype: torch.dtype) -> None:
    x = torch.randn(ROWS, COLUMNS, dtype=dtype)[:, torch.randperm(COLUMNS)]
    target = torch.randint(COLUMNS, (ROWS,))
    target[::7] = -100

    def loss(x: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return functional.cross_entropy(x, target, reduction=reduction)

    got = lt.compile(loss, wait=True)(x, target)
    want, exact = loss(x, target), loss(x.double(), target)
    assert got.dtype is want.dtype and got.shape == want.shape
    off = (want.double() - exact).abs().max() + 1e-6 * exact.abs().max()
    assert (got.double() - exact).abs().max() <= 2 * off


def test_a_class_that_is_not_there_is_named_on_the_cpu() -> None:
    x, target = torch.randn(ROWS, COLUMNS), torch.randint(COLUMNS, (ROWS,))
    loss = lt.compile(functional.cross_entropy, wait=True)
    for wrong in (COLUMNS, -3):
        target[5] = wrong
        with pytest.raises(IndexError, match=f"Target {wrong} is out of bounds"):
            loss(x, target)
    target[5] = -100
    torch.testing.assert_close(loss(x, target), functional.cross_entropy(x, target))


def test_nothing_keeps_all_logarithms_of_a_large_loss_on_the_cpu() -> None:
    x, target = torch.randn(ROWS, COLUMNS), torch.randint(COLUMNS, (ROWS,))
    loss = lt.compile(functional.cross_entropy, wait=True)
    assert loss.memory(x, target).activations < x.nbytes / 10
