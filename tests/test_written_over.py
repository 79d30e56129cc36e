"""Results of kernels written over operands that die there: where nobody can tell, nowhere else."""

# ruff: noqa: E501  a graph's text is as wide as it is

from __future__ import annotations

import pytest
import torch
from test_straight_writes import check

from lazytorch.lower.call import restrided
from lazytorch.lower.timeline import timeline
from lazytorch.ops.fused import Fused
from lazytorch.passes import fuse
from lazytorch.peak import levels
from lazytorch.straight import groups, written_over, written_straight
from lazytorch.text import parse
from lazytorch.types import tensor_type


def over(text: str) -> list[str]:
    """The operations whose results are written over, by the graph's groups."""
    graph = fuse(parse(text))
    generated = groups(graph)
    assert any(isinstance(x.op, Fused) for x in generated), "there is nothing to decide"
    found = written_over(graph, generated, written_straight(graph, generated))
    return sorted(target.op.name() for into in found.values() for target in into.values())


CHAIN = """graph(%x: f32[37, 8], %w: f32[8, 8], %y: f32[37, 8]) {
    %0 = mm %x %w  %1 = exp %y  %2 = mul %0 %1  %3 = neg %2
    %4 = mm %3 %w  %5 = abs %4  %6 = mul %5 2.0  %7 = mm %6 %w  return %7 }"""


def test_a_product_gives_its_memory_to_what_is_made_of_it() -> None:
    assert over(CHAIN) == ["mm", "mm"]
    program = check(CHAIN)
    assert sum(bool(line.into) for line in program.lines) == 2
    made = [x for x in timeline(program).blocks if x.kind == "owned"]
    assert not made, "a group allocates nothing"


def test_what_a_kernel_made_is_written_over_by_the_next() -> None:
    text = """graph(%x: f32[37, 8], %w: f32[8, 8]) {
        %0 = exp %x  %1 = mul %0 %x  %2 = neg %1  %3 = mm %1 %w
        %4 = mul %3 %2  %5 = abs %4  return %5 }"""
    graph = fuse(parse(text))
    found = written_over(graph, groups(graph), {})
    assert found
    check(text)


def test_the_estimate_counts_what_is_written_over_once() -> None:
    graph = fuse(parse(CHAIN))
    size = 37 * 8 * 4
    assert max(levels(graph).values()) == 2 * size


@pytest.mark.parametrize(
    "text",
    [
        "graph(%x: f32[9], %y: f32[9]) { %0 = exp %x %1 = neg %0 return %1 }",
        "graph(%x: f32[9, 9], %w: f32[9, 9]) { %0 = mm %x %w %1 = exp %0 %2 = neg %1 return %2, %0 }",
        "graph(%x: f32[9, 9], %w: f32[9, 9]) { %0 = mm %x %w %1 = exp %0 %2 = neg %1 %3 = mm %2 %0 return %3 }",
        "graph(%x: f32[9, 9], %w: f32[9, 9]) { %0 = mm %x %w %1 = reshape{shape=(81,)} %0 %2 = exp %0 %3 = neg %2 %4 = sum{dims=(0,)} %1 return %3, %4 }",
        "graph(%x: f32[9, 9], %w: f32[9, 9]) { %0 = mm %x %w %1 = permute{perm=(1, 0)} %0 %2 = exp %0 %3 = add %2 %1 return %3 }",
        "graph(%x: f32[9, 9], %w: f32[9, 9]) { %0 = mm %x %w %1 = exp %0 %2 = cast{dtype=f64} %1 return %2 }",
        "graph(%x: f32[9, 16], %w: f32[16, 16]) { %0 = mm %x %w %1 = exp %0 %2 = softmax{dim=-1} %1 return %2 }",
        "graph(%x: f32[9, 9] state, %w: f32[9, 9] state, %y: f32[9, 9]) { %0 = mm %x %w %1 = mul %0 %y %2 = exp %1 return %2 }",
        "graph(%x: f32[9, 9], %w: f32[9, 9]) { %0 = mm %x %w %1 = exp %0 %2 = neg %1 %3 = write %w %0 effects %3 return %2 }",
    ],
    ids=[
        "an input", "returned", "read afterwards", "shown afterwards", "read elsewhere",
        "another type", "rows", "the prologue's", "copied into an input at the end",
    ],
)  # fmt: skip
def test_declines(text: str) -> None:
    assert over(text) == []
    check(text)


def test_one_operand_is_given_to_one_result() -> None:
    text = """graph(%x: f32[9, 9], %w: f32[9, 9]) {
        %0 = mm %x %w  %1 = exp %0  %2 = neg %1  return %1, %2 }"""
    assert over(text) == ["mm"]
    check(text)


def test_an_operand_that_lies_otherwise_than_its_type_says_is_copied_and_the_copy_written() -> None:
    typed = tensor_type((4, 6))
    x = torch.arange(24.0).reshape(6, 4).t()
    kept = x.clone()

    def launch(a: torch.Tensor, into: torch.Tensor) -> torch.Tensor:
        assert a is into and into.stride() == typed.strides
        return into.neg_()

    found = restrided(launch, (typed,), x, x)
    torch.testing.assert_close(found, -kept)
    torch.testing.assert_close(x, kept)
