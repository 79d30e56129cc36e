"""`grouped_heads`: attention reads the heads that there are; its derivative sums over groups."""

import re

import pytest
from check import assert_same_values

from lazytorch.ir import Graph
from lazytorch.ops.attention import ScaledDotProductAttention
from lazytorch.ops.attention_backward import AttentionBackward, AttentionSaving
from lazytorch.passes import grouped_heads
from lazytorch.text import parse
from lazytorch.verify import verify

WHERE = " on cuda:0"

REPEATED = """
  %r{0} = reshape{{shape=(2, 2, 1, 5, 8)}} %{0}
  %e{0} = expand{{shape=(2, 2, 3, 5, 8)}} %r{0}
  %c{0} = clone{{strides=(240, 120, 40, 8, 1)}} %e{0}
  %f{0} = reshape{{shape=(2, 6, 5, 8)}} %c{0}
  %n{0} = cast{{dtype=bf16}} %f{0}
"""


def graph(
    kernel: str = "flash", dims: str = "(2,)", value: str = "%nv", returned: str = "%2, %dk, %dv"
) -> Graph:
    """Six heads of a query on two of key and value, and what flows to all of them."""
    heads = f"f32[2, 2, 5, 8]{{80, 8, 16, 1}}{WHERE}"
    query = f"bf16[2, 6, 5, 8]{WHERE}"
    attributes = f'{{kernel="{kernel}", is_causal=True}}'
    return parse(f"""
    graph(%q: {query}, %k: {heads}, %v: {heads}, %w: {query}, %g: {query}) {{
      {REPEATED.format("k")}
      {REPEATED.format("v")}
      %0 = attention_saving{attributes} %q %nk {value}
      %1 = item{{index=1}} %0
      %2 = item{{index=0}} %0
      %3 = attention_backward{attributes} %g %q %nk {value} %2 %1
      %4 = item{{index=1}} %3
      %5 = cast{{dtype=f32}} %4
      %6 = reshape{{shape=(2, 2, 3, 5, 8)}} %5
      %dk = sum{{dims={dims}, keepdim=True}} %6
      %7 = item{{index=2}} %3
      %8 = reshape{{shape=(2, 2, 3, 5, 8)}} %7
      %9 = cast{{dtype=f32}} %8
      %dv = sum{{dims=(2,)}} %9
      return {returned}
    }}
    """)


def attentions(found: Graph) -> list[tuple[int, ...]]:
    """The shapes of the keys that attentions and derivatives read."""
    kinds = AttentionSaving, AttentionBackward
    keys = [x.inputs[-2 if isinstance(x.op, kinds[0]) else 2] for x in found.nodes
            if isinstance(x.op, kinds)]  # fmt: skip
    return [x.type.shape for x in keys]  # type: ignore[union-attr]


def test_forward_and_derivative_read_two_heads() -> None:
    found = verify(grouped_heads(graph()))
    assert attentions(found) == [(2, 2, 5, 8)] * 2
    assert "expand" not in str(found) and " sum" not in str(found)
    assert [str(x.type) for x in found.outputs] == [str(x.type) for x in graph().outputs]
    assert grouped_heads(found) is found


@pytest.mark.parametrize(
    "declined",
    [
        graph("efficient"),  # it wants a head of key and value for each of the query's
        graph(value="%w"),  # the value has heads of its own
    ],
    ids=["another kernel", "one operand alone"],
)
def test_declines(declined: Graph) -> None:
    assert grouped_heads(declined) is declined


@pytest.mark.parametrize(
    "derivative", [graph(dims="(1,)"), graph(returned="%2, %5, %dv")], ids=["other sum", "returned"]
)
def test_a_derivative_that_is_read_otherwise_stays(derivative: Graph) -> None:
    assert attentions(verify(grouped_heads(derivative))) == [(2, 2, 5, 8), (2, 6, 5, 8)]


def test_the_numbers_are_those_of_repeated_heads() -> None:
    """By the kernels of a CPU: its own forward, and the derivative from scores in memory."""
    after = grouped_heads(graph())
    assert_same_values(on_cpu(graph()), on_cpu(after), close=2e-2)


def test_plain_attention_takes_groups_where_nothing_masks() -> None:
    typed = f"bf16[2, 2, 5, 8]{WHERE}"
    text = f"""
    graph(%q: bf16[2, 6, 5, 8]{WHERE}, %k: {typed}, %v: {typed}, %m: bf16[5, 5]{WHERE}) {{
      {REPEATED.format("k")}
      {REPEATED.format("v")}
      %0 = scaled_dot_product_attention %q %nk %nv MASK
      return %0
    }}
    """
    found = verify(grouped_heads(parse(text.replace("MASK", ""))))
    assert "enable_gqa=True" in str(found) and "expand" not in str(found)
    masked = parse(text.replace("MASK", "%m"))
    assert grouped_heads(masked) is masked


def test_one_head_for_all_is_expanded_alone() -> None:
    head, query = f"bf16[2, 1, 5, 8]{WHERE}", f"bf16[2, 6, 5, 8]{WHERE}"
    graph = parse(f"""
    graph(%q: {query}, %k: {head}, %g: {query}) {{
      %e = expand{{shape=(2, 6, 5, 8)}} %k
      %0 = attention_saving{{kernel="flash"}} %q %e %e
      %1 = item{{index=1}} %0
      %2 = item{{index=0}} %0
      %3 = attention_backward{{kernel="flash"}} %g %q %e %e %2 %1
      %4 = item{{index=1}} %3
      %5 = sum{{dims=(1,), keepdim=True}} %4
      %6 = item{{index=2}} %3
      %7 = sum{{dims=(1,)}} %6
      return %2, %5, %7
    }}
    """)
    found = verify(grouped_heads(graph))
    assert attentions(found) == [(2, 1, 5, 8)] * 2
    assert " sum" not in str(found)
    assert_same_values(on_cpu(graph), on_cpu(found), close=2e-2)


def on_cpu(found: Graph) -> Graph:
    """The same on a CPU, with types as they are there."""
    made = untyped(str(found).replace(WHERE, "").replace('kernel="flash"', 'kernel="cpu"'))
    return verify(parse(made.replace("attention_backward{", "attention_backward{written=True, ")))


def untyped(text: str) -> str:
    """A graph's text without the types of what it computes."""
    return re.sub(r"(?m)^(  %\w+): .* = ", r"\1 = ", text)


def masked(dtype: str = "bf16", mask: str = "bf16[2, 1, 5, 5]", kernels: str = "") -> Graph:
    """An attention with a mask, of six heads on two of key and value."""
    heads = f"f32[2, 2, 5, 8]{{80, 8, 16, 1}}{WHERE}"
    repeats = (REPEATED.format("k") + REPEATED.format("v")).replace("dtype=bf16", f"dtype={dtype}")
    return parse(f"""
    graph(%q: {dtype}[2, 6, 5, 8]{WHERE}, %k: {heads}, %v: {heads}, %m: {mask}{WHERE}) {{
      {repeats}
      %0 = scaled_dot_product_attention{{scale=0.5{kernels}}} %q %nk %nv %m
      return %0
    }}
    """)


def on_a_new_gpu(graph: Graph) -> Graph:
    return grouped_heads(graph, lambda query, key: True)


@pytest.mark.parametrize("mask", ["bf16[2, 1, 5, 5]", "bool[1, 1, 1, 5]"])
@pytest.mark.parametrize("kernels", ["", ', kernels=("FLASH_ATTENTION", "CUDNN_ATTENTION")'])
def test_with_a_mask_cudnn_takes_groups(mask: str, kernels: str) -> None:
    graph = masked(mask=mask, kernels=kernels)
    found = verify(on_a_new_gpu(graph))
    (node,) = [x for x in found.nodes if isinstance(x.op, ScaledDotProductAttention)]
    assert str(node.inputs[1].type) == str(node.inputs[2].type)
    assert node.op.enable_gqa and "bf16[2, 2, 5, 8]" in str(node.inputs[1].type)
    assert "expand" not in str(found)
    assert on_a_new_gpu(found) is found
    assert_same_values(graph, found, 1e-2)
    assert grouped_heads(graph) is graph, "older GPUs want a head of key and value for each"


@pytest.mark.parametrize(
    "declined",
    [
        masked("f32", "f32[2, 1, 5, 5]"),
        masked(mask="bf16[5, 5]"),
        masked(kernels=', kernels=("MATH",)'),
        masked(kernels=', kernels=("FLASH_ATTENTION", "EFFICIENT_ATTENTION")'),
    ],
    ids=["float32", "a matrix", "written out", "not cuDNN's"],
)
def test_with_a_mask_other_kernels_want_repeats(declined: Graph) -> None:
    assert on_a_new_gpu(declined) is declined
