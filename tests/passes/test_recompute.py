"""recomputed: what later groups compute again instead of reading, and what stays stored."""

from lazytorch.ops.fused import Fused
from lazytorch.passes import fuse
from lazytorch.text import parse
from lazytorch.types import TensorType


def stored(text: str) -> list[int]:
    """How many results each kernel writes, in order."""
    graph = fuse(parse(text))
    made = [node.type for node in graph.nodes if isinstance(node.op, Fused)]
    return [1 if isinstance(typed, TensorType) else len(typed.items) for typed in made]  # type: ignore[union-attr]


def crossing(middle: str, device: str = "", returned: str = "%9") -> str:
    """`middle` makes %1 and %2 of %x; a product reads %1, what comes after it reads %2."""
    typed = f"f32[256, 256]{device}"
    return f"""
    graph(%x: {typed}, %w: {typed}) {{
      {middle}
      %7 = matmul %1 %w
      %8 = mul %7 %2
      %9 = add %8 %x
      return {returned}
    }}
    """


def test_what_costs_no_bytes_is_computed_again() -> None:
    text = crossing("%0 = mul %x 2.0; %1 = relu %0; %2 = add %0 1.0".replace("; ", "\n      "))
    assert stored(text) == [1, 1]  # %2 is not written: the second kernel reads %x anyway


def test_elementary_functions_are_computed_again_on_a_gpu_alone() -> None:
    middle = "%0 = tanh %x\n      %1 = relu %0\n      %2 = add %0 1.0"
    assert stored(crossing(middle, " on cuda:0")) == [1, 1]
    assert stored(crossing(middle)) == [2, 1]


def test_what_reads_more_than_it_is_stays_stored() -> None:
    text = """
    graph(%x: f32[64, 64], %y: f32[64, 64], %z: f32[64, 64], %w: f32[64, 64]) {
      %0 = add %x %y
      %1 = add %0 %z
      %2 = relu %1
      %3 = matmul %2 %w
      %4 = mul %3 %1
      %5 = add %4 1.0
      return %5
    }
    """
    assert stored(text) == [2, 1]


def test_what_a_product_reads_too_is_in_memory_anyway() -> None:
    text = """
    graph(%x: f32[64, 64], %w: f32[64, 64]) {
      %0 = mul %x 2.0
      %1 = add %0 1.0
      %2 = matmul %1 %w
      %3 = mul %2 %1
      %4 = add %3 1.0
      return %4
    }
    """
    assert stored(text) == [1, 1]
    second = [x for x in fuse(parse(text)).nodes if isinstance(x.op, Fused)][1]
    assert len(second.op.body.nodes) == 5  # two inputs, a constant, two operations


def test_chains_across_many_groups_stay_short() -> None:
    lines = ["%0 = mul %x 2.0"]
    for i in range(0, 40, 4):
        lines += [
            f"%{i + 1} = relu %{i}",
            f"%{i + 2} = matmul %{i + 1} %w",
            f"%{i + 3} = mul %{i + 2} 0.5",
            f"%{i + 4} = add %{i} %{i + 3}",
        ]
    body = "\n      ".join(lines)
    text = f"graph(%x: f32[64, 64], %w: f32[64, 64]) {{\n      {body}\n      return %40\n    }}"
    found = [x for x in fuse(parse(text)).nodes if isinstance(x.op, Fused)]
    assert max(len(x.op.body.nodes) for x in found) < 12
