"""fuse: where groups are cut, so that what remains can be put in an order."""

from textwrap import dedent

from check import Check, assert_same_values

from lazytorch.ir import Builder, Graph, Node, input
from lazytorch.ops.elementary import Exp, Sin
from lazytorch.ops.fused import Fused
from lazytorch.ops.layout import Permute, Reshape
from lazytorch.ops.pointwise import Add
from lazytorch.passes import fuse
from lazytorch.text import parse
from lazytorch.types import tensor_type
from lazytorch.verify import verify


def test_a_path_that_leaves_and_returns_cuts_the_group(check: Check) -> None:
    check(
        fuse,
        """
        graph(%x: f32[3, 3], %y: f32[3, 3]) {
          %0 = mul %x %y
          %1 = add %0 %y
          %2 = matmul %1 %y
          %3 = add %1 %2
          %4 = relu %3
          return %4
        }
        """,
        """
        graph(%x: f32[3, 3], %y: f32[3, 3]) {
          %0: f32[3, 3] = fused{body=graph(%a0: f32[3, 3], %a1: f32[3, 3]) {
            %0: f32[3, 3] = mul %a0 %a1
            %1: f32[3, 3] = add %0 %a1
            return %1
          }} %x %y
          %1: f32[3, 3] = matmul %0 %y
          %2: f32[3, 3] = fused{body=graph(%a0: f32[3, 3], %a1: f32[3, 3]) {
            %0: f32[3, 3] = add %a0 %a1
            %1: f32[3, 3] = relu %0
            return %1
          }} %0 %1
          return %2
        }
        """,
    )


def test_an_operation_between_other_shapes_does_not_cut_the_group(check: Check) -> None:
    check(
        fuse,
        """
        graph(%x: f32[3, 3], %y: f32[3, 3], %v: f32[3]) {
          %0 = mul %x %y
          %1 = exp %v
          %2 = neg %1
          %3 = mul %0 %2
          return %3
        }
        """,
        """
        graph(%x: f32[3, 3], %y: f32[3, 3], %v: f32[3]) {
          %0: f32[3] = fused{body=graph(%a0: f32[3]) {
            %0: f32[3] = exp %a0
            %1: f32[3] = neg %0
            return %1
          }} %v
          %1: f32[3, 3] = fused{body=graph(%a0: f32[3, 3], %a1: f32[3, 3], %a2: f32[3]) {
            %0: f32[3, 3] = mul %a0 %a1
            %1: f32[3, 3] = mul %0 %a2
            return %1
          }} %x %y %0
          return %1
        }
        """,
    )


def test_a_value_read_only_by_a_later_group_is_computed_there(check: Check) -> None:
    check(
        fuse,
        """
        graph(%x: f32[3, 3], %y: f32[3, 3], %h: bf16[3, 3]) {
          %0 = cast{dtype=f32} %h
          %1 = relu %x
          %2 = matmul %1 %y
          %3 = add %0 %2
          return %3
        }
        """,
        """
        graph(%x: f32[3, 3], %y: f32[3, 3], %h: bf16[3, 3]) {
          %0: f32[3, 3] = relu %x
          %1: f32[3, 3] = matmul %0 %y
          %2: f32[3, 3] = fused{body=graph(%a0: bf16[3, 3], %a1: f32[3, 3]) {
            %0: f32[3, 3] = cast{dtype=f32} %a0
            %1: f32[3, 3] = add %0 %a1
            return %1
          }} %h %1
          return %2
        }
        """,
    )


def test_groups_that_would_wait_for_each_other_are_cut() -> None:
    text = """
    graph(%x: f32[3, 4], %y: f32[4, 3], %p: f32[4], %q: f32[4]) {
      %a = mul %x %p
      %r = permute{perm=(1, 0)} %a
      %d = mul %y 2.0
      %c = exp %r
      %e = add %c %d
      %s = permute{perm=(1, 0)} %d
      %b = add %a %s
      %m = mul %b %q
      return %e, %m
    }
    """
    graph = parse(dedent(text))
    after = verify(fuse(graph))
    assert_same_values(graph, after)
    assert any(isinstance(node.op, Fused) for node in after)


def test_long_chains_are_cut_into_kernels_of_bounded_size() -> None:
    x = node = input("x", tensor_type((4,)))
    for _ in range(500):
        node = Builder()(Sin(), node)
    after = fuse(Graph((x,), (node,)))
    assert [n.op.name() for n in after] == ["input", "fused", "fused", "fused"]


def test_many_crossing_groups_of_two_shapes_stay_executable() -> None:
    b = Builder()
    x = input("x", tensor_type((2, 3)))
    rows: list[Node] = [x]
    columns: list[Node] = [b(Permute((1, 0)), x)]
    for i in range(60):
        rows.append(b(Add(), rows[-1 - i % 3 % len(rows)], b(Permute((1, 0)), columns[-1])))
        columns.append(b(Add(), b(Exp(), columns[-1]), b(Reshape((3, 2)), rows[i // 2])))
    graph = Graph((x,), (rows[-1], columns[-1]))
    assert_same_values(graph, verify(fuse(graph)))
