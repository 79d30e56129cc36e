"""Results of kernels written straight into inputs: where nobody can tell, and nowhere else."""

# ruff: noqa: E501  a graph's text is as wide as it is

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch

import lazytorch as lt
from lazytorch.interpret import interpret
from lazytorch.ir import Node
from lazytorch.lower.call import copied_into
from lazytorch.lower.cpp import CppTarget
from lazytorch.lower.memory import written_straight
from lazytorch.lower.program import Program, lower
from lazytorch.ops.fused import Fused
from lazytorch.passes import fuse
from lazytorch.text import parse
from lazytorch.types import ScalarType


def straight(text: str) -> list[str]:
    """The labels of the inputs that are written straight, by the graph's groups."""
    graph = fuse(parse(text))
    groups = {x for x in graph.nodes if isinstance(x.op, Fused)}
    assert groups, "there is nothing to decide"
    found = written_straight(graph, groups)
    return sorted(target.op.label for into in found.values() for target in into.values())  # type: ignore[attr-defined]


def values_of(inputs: tuple[Node, ...]) -> list[Any]:
    torch.manual_seed(0)
    return [
        0.7 if isinstance(x.type, ScalarType)
        else torch.randn(x.type.shape).as_strided(x.type.shape, x.type.strides)  # type: ignore[union-attr]
        for x in inputs
    ]  # fmt: skip


def check(text: str) -> Program:
    """Kernels and torch's stand-ins both leave in outputs and inputs what the interpreter does."""
    graph = fuse(parse(text))
    want = values_of(graph.inputs)
    wanted = [x.clone() for x in interpret(graph, *want)]
    program = lower(graph, CppTarget(), "program")
    for built in (False, True):
        if built:
            program.calls[0].target.build([x.kernel for x in program.calls])
            for call in program.calls:
                call.swap()
        got = values_of(graph.inputs)
        results = program.run(*got)
        for one, other in zip([*results, *got], [*wanted, *want], strict=True):
            torch.testing.assert_close(one, other)
    return program


STEP = """graph(%p: f32[37], %g: f32[37], %m: f32[37], %lr: float) {
    %0 = mul %m 0.9  %1 = add %0 %g  %2 = mul %1 %lr  %3 = sub %p %2
    %4 = write %p %3  %5 = write %m %1  effects %4, %5  return }"""


def test_an_update_is_written_where_its_state_lies() -> None:
    assert straight(STEP) == ["m", "p"]
    program = check(STEP)
    assert "copy_" not in program.source and "counted(" in program.source


def test_an_update_may_read_numbers_that_are_tensors() -> None:
    text = STEP.replace("%lr: float) {", "%t: f32[]) { %lr = to_number %t ")
    there = re.sub(r"(f32\[\d*\])", r"\1 on cuda:0", text)
    assert "to_number" not in {x.op.name() for x in fuse(parse(there)).nodes}, "not in the group"
    assert straight(there) == ["m", "p"]
    assert straight(there.replace("37", "1")) == []  # it may be the number
    check(text)


def test_other_readers_may_come_before() -> None:
    text = """graph(%p: f32[37], %g: f32[37]) {
        %0 = exp %p  %1 = sum{dims=(0,)} %0  %2 = mul %1 %g  %3 = sub %p %2
        %4 = write %p %3  effects %4  return %1 }"""
    assert straight(text) == ["p"]
    check(text)


def test_a_value_is_read_from_the_input_that_it_was_written_to() -> None:
    text = """graph(%p: f32[37], %q: f32[37], %g: f32[37]) {
        %0 = mul %g 2.0  %1 = sub %p %0  %2 = reshape{shape=(37, 1)} %1  %3 = softmax{dim=0} %2
        %4 = write %p %1  %5 = write %q %1  effects %4, %5  return %3 }"""
    assert straight(text) == ["p"]  # once: the other input gets a copy
    check(text)


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("graph(%a: f32[9], %b: f32[9]) { %0 = exp %a %1 = neg %0 %2 = tanh %b %3 = abs %2 %4 = write %a %3 %5 = write %b %1 effects %4, %5 return }", ["b"]),
        ("graph(%a: f32[9], %b: f32[9]) { %0 = exp %a %1 = neg %0 %2 = write %a %1 %3 = write %b %a effects %2, %3 return }", []),
        ("graph(%a: f32[9]) { %0 = exp %a %1 = neg %0 %2 = write %a %1 effects %2 return %a }", []),
        ("graph(%a: f32[9]) { %0 = exp %a %1 = neg %0 %2 = write %a %1 %3 = slice{dim=0, start=2, stop=7} %a effects %2 return %3 }", []),
        ("graph(%a: f32[9]) { %0 = exp %a %1 = neg %0 %2 = write %a %1 effects %2 return %1 }", []),
        ("graph(%a: f32[9], %b: f32[9]) { %0 = exp %b %1 = neg %0 %2 = sum{dims=(0,)} %a %3 = mul %1 %2 %4 = write %a %1 effects %4 return %3 }", ["a"]),
        ("graph(%a: f32[3, 9], %b: f32[3, 9]) { %0 = exp %b %1 = neg %0 %2 = softmax{dim=0} %1 %3 = mul %2 %a %4 = exp %3 %5 = write %a %1 effects %5 return %4 }", []),
        ("graph(%a: f32[3, 3]) { %0 = exp %a %1 = permute{perm=(1, 0)} %a %2 = add %0 %1 %3 = write %a %2 effects %3 return }", []),
        ("graph(%a: f32[9]{0}) { %0 = exp %a %1 = neg %0 %2 = clone{strides=(1,)} %1 %3 = write %a %2 effects %3 return }", []),
        ("graph(%a: f32[3, 3]) { %0 = exp %a %1 = neg %0 %2 = permute{perm=(1, 0)} %1 %3 = write %a %2 effects %3 return }", []),
        ("graph(%a: f32[9, 16]) { %0 = softmax{dim=-1} %a %1 = exp %0 %2 = write %a %1 effects %2 return }", []),
        ('graph(%a: f32[9]) { %0 = aten{overload="aten.dropout.default", args=($0, 0.5, False)} %a %1 = exp %a %2 = neg %1 %3 = aten{overload="aten.cumsum.default", args=($0, 0)} %2 %4 = mul %0 %3 %5 = write %a %2 effects %5 return %4 }', []),
    ],
    ids=[
        "swapped by two groups: the second alone", "another write takes the old value",
        "an output shows the old value", "a view of the old value is an output",
        "the value is an output", "a reader before, through another value",
        "another group reads it later", "it reads a view of the target too",
        "the target's elements share memory", "the value is a view", "rows are read whole",
        "torch may hand the old value on",
    ],
)  # fmt: skip
def test_declines_where_somebody_could_tell(text: str, left: list[str]) -> None:
    assert straight(text) == left
    if "{0}" not in text:  # no write goes to memory that is shared by its elements
        check(text)


def test_swapped_in_one_group() -> None:
    text = """graph(%a: f32[1001], %b: f32[1001]) {
        %0 = add %a %b  %1 = sub %a %b  %2 = mul %0 2.0  %3 = mul %1 %0
        %4 = write %a %3  %5 = write %b %2  effects %4, %5  return }"""
    assert straight(text) == ["a", "b"]
    check(text)


@pytest.mark.parametrize("shape", [(), (1,), (17,), (0,), (3, 5), (40000,), (70001,)], ids=str)
@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.bfloat16, torch.float64, torch.int64], ids=str
)
def test_sizes_and_dtypes(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    def step(p: torch.Tensor, m: torch.Tensor, g: torch.Tensor) -> None:
        m.mul_(2).add_(g)
        p.sub_(m).mul_(3)

    fast = lt.compile(step, wait=True, numerics="eager")
    torch.manual_seed(0)
    ours = [(torch.randn(shape) * 9).to(dtype) for _ in range(3)]
    theirs = [x.clone() for x in ours]
    for _ in range(3):
        before = [x._version for x in ours]
        fast(*ours)
        step(*theirs)
        for one, other in zip(ours, theirs, strict=True):
            torch.testing.assert_close(one, other)
        assert [x._version > v for x, v in zip(ours, before, strict=True)] == [True, True, False]
    assert "copy_" not in fast.source()


def shared(step: Callable[..., object], *tensors: torch.Tensor) -> None:
    """Two calls change views of one storage as eager does."""
    fast = lt.compile(step, wait=True)
    memory = tensors[0].untyped_storage()
    flat = torch.empty(0).set_(memory)  # type: ignore[call-overload]
    theirs = flat.clone()
    views = [theirs.as_strided(x.shape, x.stride(), x.storage_offset()) for x in tensors]
    for _ in range(2):
        fast(*tensors)
        step(*views)
        torch.testing.assert_close(flat, theirs)


def test_tensors_on_one_storage_that_overlap_and_that_do_not() -> None:
    def step(p: torch.Tensor, q: torch.Tensor) -> None:
        p.mul_(0.5).add_(3)
        q.sub_(1).mul_(2)

    for second in (slice(40, 60), slice(20, 40), slice(7, 27)):
        flat = torch.arange(64.0)
        shared(step, flat[:20], flat[second])
    shared(step, *[torch.arange(64.0)[:20]] * 2)


def test_an_old_value_is_copied_out_before_it_is_written_over() -> None:
    def step(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        total = a + 1
        b.copy_(a)
        a.mul_(2)
        return total

    fast = lt.compile(step, wait=True)
    a, b = torch.arange(4.0), torch.zeros(4)
    assert torch.equal(fast(a, b), torch.arange(1.0, 5.0))
    assert torch.equal(b, torch.arange(4.0)) and torch.equal(a, 2 * torch.arange(4.0))


def test_an_input_that_is_also_the_result() -> None:
    def step(p: torch.Tensor, g: torch.Tensor) -> tuple[torch.Tensor, ...]:
        old = p.clone()
        p.sub_(g).mul_(2)
        return p, p[1:], old, old + 1

    fast = lt.compile(step, wait=True)
    ours, theirs, g = torch.arange(9.0), torch.arange(9.0), torch.ones(9)
    for _ in range(2):
        got, want = fast(ours, g), step(theirs, g)
        for one, other in zip((ours, *got), (theirs, *want), strict=True):
            assert torch.equal(one, other)
        assert got[0] is ours and got[2].data_ptr() != ours.data_ptr()


def test_torchs_stand_in_keeps_an_operand_that_it_hands_through() -> None:
    graph = parse("graph(%a: f32[4], %b: f32[4]) { %0 = neg %b return %0, %a }")
    a, b = torch.arange(4.0), torch.ones(4)
    first, second = copied_into(Fused(graph), (0, 1), a, b, a, b)
    assert first is a and second is b
    assert torch.equal(a, -torch.ones(4)) and torch.equal(b, torch.arange(4.0))
