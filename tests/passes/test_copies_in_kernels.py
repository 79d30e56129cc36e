"""`copies_in_kernels`: elementwise results are cloned where they are made."""

from textwrap import dedent

import pytest
from check import Check, assert_same_values

from lazytorch.ir import Graph
from lazytorch.ops.chains import is_copy
from lazytorch.passes import copies_in_kernels, fuse
from lazytorch.text import parse
from lazytorch.verify import verify

TYPED = "f32[2, 3, 5, 4] on cuda:0"
HEADS = "%0 = mul %x %y  %1 = permute{perm=(0, 2, 1, 3)} %0  %2 = reshape{shape=(10, 12)} %1"


def text(body: str, typed: str = TYPED) -> str:
    """The text of a graph of two tensors."""
    lines = "\n".join(body.split("  "))
    return f"graph(%x: {typed}, %y: {typed}) {{\n{lines}\nreturn %2\n}}"


def test_a_copy_of_heads_side_by_side_is_a_clone_of_the_heads() -> None:
    graph = parse(text(HEADS))
    found = verify(copies_in_kernels(graph))
    assert copies_in_kernels(found) is found
    assert (
        str(found).replace(" on cuda:0", "")
        == dedent("""
        graph(%x: f32[2, 3, 5, 4], %y: f32[2, 3, 5, 4]) {
          %0: f32[2, 3, 5, 4] = mul %x %y
          %1: f32[2, 3, 5, 4]{60, 4, 12, 1} = clone{strides=(60, 4, 12, 1)} %0
          %2: f32[2, 5, 3, 4] = permute{perm=(0, 2, 1, 3)} %1
          %3: f32[10, 12] = reshape{shape=(10, 12)} %2
          return %3
        }
    """).strip()
    )
    assert_same_values(on_cpu(graph), on_cpu(found))


def test_one_kernel_makes_and_places_them() -> None:
    found = fuse(copies_in_kernels(parse(text(HEADS))))
    assert not any(is_copy(x) for x in found.nodes)
    assert [x.op.name() for x in found.nodes if not x.op.view and x.inputs] == ["fused"]


@pytest.mark.parametrize(
    "body",
    [
        "%0 = mul %x %y  %1 = permute{perm=(0, 1, 3, 2)} %0  %2 = reshape{shape=(10, 12)} %1",
        "%0 = mul %x %y  %1 = permute{perm=(0, 1, 2, 3)} %0  %2 = reshape{shape=(30, 4)} %1",
        "%1 = permute{perm=(0, 2, 1, 3)} %x  %2 = reshape{shape=(10, 12)} %1",
    ],
    ids=["rows become columns", "no copy", "made by nobody"],
)
def test_declines(check: Check, body: str) -> None:
    check.declines(copies_in_kernels, text(body))


def test_declines_where_no_kernel_places_elements(check: Check) -> None:
    check.declines(copies_in_kernels, text(HEADS, TYPED.replace(" on cuda:0", "")))


def on_cpu(graph: Graph) -> Graph:
    """The same on a CPU."""
    return verify(parse(str(graph).replace(" on cuda:0", "")))
