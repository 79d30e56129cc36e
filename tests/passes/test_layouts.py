"""`layouts`: copies that only change the order of elements go where readers can do without."""

# ruff: noqa: E501  golden text is as wide as it is

import pytest
import torch
from check import Check, assert_same_values
from torch import nn

import lazytorch as lt
from lazytorch.ir import Graph
from lazytorch.ops.chains import is_copy
from lazytorch.passes import REWRITES, layouts, optimize
from lazytorch.verify import verify


def copies(graph: Graph) -> int:
    """How many operations move elements without computing."""
    return sum(is_copy(node) for node in graph.nodes if node.inputs)


def test_layouts_reads_attention_operands_where_they_lie(check: Check) -> None:
    check(
        layouts,
        """
        graph(%x: f32[2, 3, 48], %w: f32[48, 48] state) {
          %0 = linear %x %w
          %1 = reshape{shape=(2, 3, 3, 2, 8)} %0
          %2 = permute{perm=(2, 0, 3, 1, 4)} %1
          %3 = clone{strides=(96, 48, 24, 8, 1)} %2
          %4 = select{dim=0, index=0} %3
          %5 = select{dim=0, index=1} %3
          %6 = select{dim=0, index=2} %3
          %7 = scaled_dot_product_attention %4 %5 %6
          %8 = permute{perm=(0, 2, 1, 3)} %7
          %9 = reshape{shape=(2, 3, 16)} %8
          %10 = neg %9
          return %10
        }
        """,
        """
        graph(%x: f32[2, 3, 48], %w: f32[48, 48] state) {
          %0: f32[2, 3, 48] = linear %x %w
          %1: f32[2, 3, 16]{144, 48, 1} = slice{dim=2, start=0, stop=16} %0
          %2: f32[2, 3, 2, 8]{144, 48, 8, 1} = reshape{shape=(2, 3, 2, 8)} %1
          %3: f32[2, 2, 3, 8]{144, 8, 48, 1} = permute{perm=(0, 2, 1, 3)} %2
          %4: f32[2, 3, 16]{144, 48, 1} = slice{dim=2, start=16, stop=32} %0
          %5: f32[2, 3, 2, 8]{144, 48, 8, 1} = reshape{shape=(2, 3, 2, 8)} %4
          %6: f32[2, 2, 3, 8]{144, 8, 48, 1} = permute{perm=(0, 2, 1, 3)} %5
          %7: f32[2, 3, 16]{144, 48, 1} = slice{dim=2, start=32, stop=48} %0
          %8: f32[2, 3, 2, 8]{144, 48, 8, 1} = reshape{shape=(2, 3, 2, 8)} %7
          %9: f32[2, 2, 3, 8]{144, 8, 48, 1} = permute{perm=(0, 2, 1, 3)} %8
          %10: f32[2, 2, 3, 8]{48, 8, 16, 1} = scaled_dot_product_attention %3 %6 %9
          %11: f32[2, 3, 2, 8] = permute{perm=(0, 2, 1, 3)} %10
          %12: f32[2, 3, 16] = reshape{shape=(2, 3, 16)} %11
          %13: f32[2, 3, 16] = neg %12
          return %13
        }
        """,
        close=1e-5,
    )


def test_layouts_reads_operands_of_a_derivative_where_they_lie(check: Check) -> None:
    check(
        layouts,
        """
        graph(%x: f32[2, 3, 2, 8], %g: f32[2, 3, 2, 8]) {
          %0 = permute{perm=(0, 2, 1, 3)} %x
          %1 = clone{strides=(48, 24, 8, 1)} %0
          %2 = attention_saving{kernel="cpu"} %1 %1 %1
          %3 = item{index=0} %2
          %4 = item{index=1} %2
          %5 = permute{perm=(0, 2, 1, 3)} %g
          %6 = clone{strides=(48, 24, 8, 1)} %5
          %7 = attention_backward{kernel="cpu"} %6 %1 %1 %1 %3 %4
          %8 = item{index=1} %7
          %9 = neg %8
          %10 = add %3 1.0
          return %9, %10
        }
        """,
        """
        graph(%x: f32[2, 3, 2, 8], %g: f32[2, 3, 2, 8]) {
          %0: f32[2, 2, 3, 8]{48, 8, 16, 1} = permute{perm=(0, 2, 1, 3)} %g
          %1: f32[2, 2, 3, 8]{48, 8, 16, 1} = permute{perm=(0, 2, 1, 3)} %x
          %2: (f32[2, 2, 3, 8]{48, 8, 16, 1}, f32[2, 2, 3]{6, 1, 2}) = attention_saving{kernel="cpu"} %1 %1 %1
          %3: f32[2, 2, 3, 8]{48, 8, 16, 1} = item{index=0} %2
          %4: f32[2, 2, 3]{6, 1, 2} = item{index=1} %2
          %5: (f32[2, 2, 3, 8]{48, 8, 16, 1}, f32[2, 2, 3, 8]{48, 8, 16, 1}, f32[2, 2, 3, 8]{48, 8, 16, 1}) = attention_backward{kernel="cpu"} %0 %1 %1 %1 %3 %4
          %6: f32[2, 2, 3, 8]{48, 8, 16, 1} = item{index=1} %5
          %7: f32[2, 2, 3, 8]{48, 8, 16, 1} = neg %6
          %8: f32[2, 2, 3, 8]{48, 8, 16, 1} = add %3 1.0
          %9: f32[2, 2, 3, 8] = clone{strides=(48, 24, 8, 1)} %8
          return %7, %9
        }
        """,
        close=1e-5,
    )


def test_layouts_cancels_reshapes_that_merge_and_split(check: Check) -> None:
    check(
        layouts,
        """
        graph(%x: f32[3, 2, 48]) {
          %0 = neg %x
          %1 = slice{dim=2, start=16, stop=32} %0
          %2 = reshape{shape=(3, 2, 2, 8)} %1
          %3 = permute{perm=(1, 2, 0, 3)} %2
          %4 = reshape{shape=(4, 3, 8)} %3
          %5 = reshape{shape=(2, 2, 3, 8)} %4
          %6 = scaled_dot_product_attention %5 %5 %5
          %7 = sum{dims=(2,)} %6
          return %7
        }
        """,
        """
        graph(%x: f32[3, 2, 48]) {
          %0: f32[3, 2, 48] = neg %x
          %1: f32[3, 2, 16]{96, 48, 1} = slice{dim=2, start=16, stop=32} %0
          %2: f32[3, 2, 2, 8]{96, 48, 8, 1} = reshape{shape=(3, 2, 2, 8)} %1
          %3: f32[2, 2, 3, 8]{48, 8, 96, 1} = permute{perm=(1, 2, 0, 3)} %2
          %4: f32[2, 2, 3, 8]{16, 8, 32, 1} = scaled_dot_product_attention %3 %3 %3
          %5: f32[2, 2, 8] = sum{dims=(2,)} %4
          return %5
        }
        """,
        close=1e-5,
    )


def test_layouts_multiplies_rows_in_the_order_in_which_they_lie(check: Check) -> None:
    check(
        layouts,
        """
        graph(%x: f32[2, 3, 4], %w: f32[5, 4] state, %b: f32[5] state, %y: f32[2, 3, 5]) {
          %0 = permute{perm=(1, 0, 2)} %x
          %1 = linear %0 %w %b
          %2 = permute{perm=(1, 0, 2)} %1
          %3 = mul %y %2
          return %3
        }
        """,
        """
        graph(%x: f32[2, 3, 4], %w: f32[5, 4] state, %b: f32[5] state, %y: f32[2, 3, 5]) {
          %0: f32[6, 4] = reshape{shape=(6, 4)} %x
          %1: f32[6, 5] = linear %0 %w %b
          %2: f32[2, 3, 5] = reshape{shape=(2, 3, 5)} %1
          %3: f32[2, 3, 5] = mul %y %2
          return %3
        }
        """,
        close=1e-5,
    )


def test_layouts_multiplies_padded_rows_as_a_matrix(check: Check) -> None:
    check(
        layouts,
        """
        graph(%x: f32[2, 3, 9], %w: f32[5, 4] state, %b: f32[5] state) {
          %0 = slice{dim=2, start=4, stop=8} %x
          %1 = linear %0 %w %b
          %2 = neg %1
          return %2
        }
        """,
        """
        graph(%x: f32[2, 3, 9], %w: f32[5, 4] state, %b: f32[5] state) {
          %0: f32[2, 3, 4]{27, 9, 1} = slice{dim=2, start=4, stop=8} %x
          %1: f32[6, 4]{9, 1} = reshape{shape=(6, 4)} %0
          %2: f32[6, 5] = linear %1 %w %b
          %3: f32[2, 3, 5] = reshape{shape=(2, 3, 5)} %2
          %4: f32[2, 3, 5] = neg %3
          return %4
        }
        """,
        close=1e-5,
    )


def test_layouts_multiplies_before_a_copy(check: Check) -> None:
    check(
        layouts,
        """
        graph(%x: f32[2, 3, 2, 8], %w: f32[5, 16] state) {
          %0 = neg %x
          %1 = permute{perm=(1, 0, 2, 3)} %0
          %2 = reshape{shape=(6, 16)} %1
          %3 = linear %2 %w
          %4 = reshape{shape=(3, 2, 5)} %3
          %5 = permute{perm=(1, 0, 2)} %4
          %6 = neg %5
          return %6
        }
        """,
        """
        graph(%x: f32[2, 3, 2, 8], %w: f32[5, 16] state) {
          %0: f32[2, 3, 2, 8] = neg %x
          %1: f32[6, 16] = reshape{shape=(6, 16)} %0
          %2: f32[6, 5] = linear %1 %w
          %3: f32[2, 3, 5] = reshape{shape=(2, 3, 5)} %2
          %4: f32[2, 3, 5] = neg %3
          %5: f32[2, 3, 5]{5, 10, 1} = clone{strides=(5, 10, 1)} %4
          return %5
        }
        """,
        close=1e-5,
    )


ATTENTION = """
graph(%x: f32[2, 2, 3, 8], %y: f32[2, 2, 3, 8], %i: i64[3]) {
  %0 = permute{perm=(0, 2, 1, 3)} %x
  %1 = clone{strides=(48, 16, 8, 1)} %0
  %2 = scaled_dot_product_attention %1 %1 %1
  return %2
}
"""


@pytest.mark.parametrize(
    ("reason", "before", "after"),
    [
        ("the copy is an output", "return %2", "return %2, %1"),
        ("its elements would not lie in runs", "%0 = permute{perm=(0, 2, 1, 3)} %x", "%9 = reshape{shape=(2, 2, 8, 3)} %x\n  %0 = permute{perm=(0, 3, 1, 2)} %9"),
        ("a reader copies by itself", "scaled_dot_product_attention %1 %1 %1", "index{which=(True,)} %1 %i"),
        ("a reader's result would lie otherwise", "scaled_dot_product_attention %1 %1 %1", "tanh %1"),
        ("an element would be read as several", "%0 = permute{perm=(0, 2, 1, 3)} %x", "%9 = slice{dim=1, start=0, stop=1} %x\n  %0 = expand{shape=(2, 2, 3, 8)} %9"),
        ("the source is written", "  return %2", "  %3 = write %x %y\n  effects %3\n  return %2"),
        ("rows off their 16-byte boundary", "x: f32[2, 2, 3, 8], %y: f32[2, 2, 3, 8]", "z: f32[2, 2, 3, 9], %y: f32[2, 2, 3, 8]"),
        ("the prologue does it", "%x: f32[2, 2, 3, 8],", "%x: f32[2, 2, 3, 8] state,"),
    ],
)  # fmt: skip
def test_layouts_declines(check: Check, reason: str, before: str, after: str) -> None:
    text = ATTENTION.replace(before, after)
    assert text != ATTENTION
    if "boundary" in reason:
        text = text.replace(
            "%0 = permute{perm=(0, 2, 1, 3)} %x",
            "%9 = slice{dim=3, start=0, stop=8} %z\n  %0 = permute{perm=(0, 2, 1, 3)} %9",
        )
    check.declines(layouts, text)


@pytest.mark.parametrize(
    "text",
    [
        # as an output, the product would be copied instead
        "graph(%x: f32[2, 3, 4], %w: f32[5, 4] state) {\n  %0 = permute{perm=(1, 0, 2)} %x\n  %1 = linear %0 %w\n  return %1\n}",
        # the features are not side by side
        "graph(%x: f32[2, 4, 3], %w: f32[5, 4] state) {\n  %0 = permute{perm=(0, 2, 1)} %x\n  %1 = linear %0 %w\n  %2 = neg %1\n  return %2\n}",
        # rows that are already in order
        "graph(%x: f32[2, 3, 4], %w: f32[5, 4] state) {\n  %0 = linear %x %w\n  %1 = neg %0\n  return %1\n}",
        # no elements
        "graph(%x: f32[0, 3, 4], %w: f32[5, 4] state) {\n  %0 = permute{perm=(1, 0, 2)} %x\n  %1 = linear %0 %w\n  %2 = neg %1\n  return %2\n}",
    ],
)  # fmt: skip
def test_layouts_leaves_a_linear_layer_alone(check: Check, text: str) -> None:
    check.declines(layouts, text)


class Attention(nn.Module):
    """torch's own attention on images' patches, with what usually surrounds it."""

    def __init__(self, batch_first: bool) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(24, 3, batch_first=batch_first)
        self.norm = nn.LayerNorm(24)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm(x)
        found, _ = self.attention(y, y, y, need_weights=False)
        return self.norm(x + found)


class Windows(nn.Module):
    """Linear layers on rows that were cut into windows and put together again."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(5, 7), nn.Linear(7, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        b, h, w, c = x.shape
        y = x.view(b, h // 3, 3, w // 2, 2, c).permute(0, 1, 3, 2, 4, 5).reshape(-1, 6, c)
        y = self.second(torch.relu(self.first(y)))
        y = y.view(b, h // 3, w // 2, 3, 2, c).permute(0, 1, 3, 2, 4, 5).reshape(b, h, w, c)
        return x + y


@pytest.mark.parametrize(
    ("module", "shape", "fewer"),
    [
        (Attention(True), (3, 7, 24), True),
        (Attention(True), (1, 7, 24), True),
        (Attention(False), (7, 3, 24), True),
        (Windows(), (2, 6, 4, 5), False),
        (nn.TransformerEncoderLayer(24, 3, 17, dropout=0.0), (5, 3, 24), True),
        (nn.TransformerEncoderLayer(24, 3, 17, dropout=0.0, batch_first=True), (5, 3, 24), True),
    ],
    ids=["batch first", "one", "batch second", "windows", "layer", "layer, batch first"],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_layouts_keeps_what_modules_compute(
    module: nn.Module, shape: tuple[int, ...], fewer: bool, dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    module = module.to(dtype).train()  # in evaluation mode torch takes a fused path of its own
    x = torch.randn(shape, dtype=dtype)
    with torch.no_grad():
        graph = lt.trace(module, x)
    before = optimize(graph, [p for p in REWRITES if p is not layouts])
    after = verify(layouts(before), after="layouts")
    assert (copies(after) < copies(before)) == fewer
    close = 1e-5 if dtype is torch.float32 else 1e-12
    assert_same_values(before, after, close)
