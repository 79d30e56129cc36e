"""Results written over an operand: where nobody can tell, and nowhere else."""

# ruff: noqa: E501  a graph's text is as wide as it is

from typing import ClassVar

import pytest
import torch
from samples import assert_same_bits, by_op
from torch import nn

import lazytorch as lt
from lazytorch.errors import LazyTorchError
from lazytorch.interpret import interpret
from lazytorch.ir import Builder, Graph, Operand, input
from lazytorch.lower.program import lower
from lazytorch.op import Op
from lazytorch.ops.aten import Aten, value_type
from lazytorch.ops.elementary import Exp
from lazytorch.ops.layout import Reshape
from lazytorch.straight import overwriting
from lazytorch.text import parse
from lazytorch.types import TensorType, tensor_type

SAMPLES = by_op()
OVERWRITING = sorted(
    name for name, kind in Op.registry.items() if kind.overwrites is not None and name in SAMPLES
)


def values_of(text: str) -> tuple[torch.Tensor, ...]:
    torch.manual_seed(0)
    return tuple(torch.randn(x.type.shape) for x in parse(text).inputs)  # type: ignore[union-attr]


def run(text: str) -> list[str]:
    """The program's lines; its results are those of the graph, and its inputs stay as they are."""
    graph = parse(text)
    values = values_of(text)
    given = [x.clone() for x in values]
    program = lower(graph, None, "program")
    found, want = program.run(*values), interpret(graph, *given)
    for one, other in zip(found, want, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0, check_stride=True)
    if not graph.effects:
        for one, other in zip(values, given, strict=True):
            assert torch.equal(one, other)
    return program.source.splitlines()


def test_a_value_that_nothing_reads_any_more_is_written_over() -> None:
    lines = run(
        "graph(%x: f32[4]) { %0 = exp %x %1 = relu %0 %2 = gelu %1 %3 = silu %2 return %3 }"
    )
    assert [line.split("= ")[1].split("(")[0] for line in lines[1:5]] == [
        "exp", "relu_", "gelu_", "silu_",
    ]  # fmt: skip


def test_other_readers_may_come_before() -> None:
    lines = run("""graph(%x: f32[4]) {
        %0 = exp %x  %1 = tanh %0  %2 = relu %0  %3 = add %1 %2  return %3 }""")
    assert "relu_(" in "\n".join(lines)


@pytest.mark.parametrize(
    "text",
    [
        "graph(%x: f32[4]) { %0 = relu %x return %0 }",
        "graph(%x: f32[4] state) { %0 = relu %x return %0 }",
        "graph(%x: f32[4]) { %0 = exp %x %1 = relu %0 return %1, %0 }",
        "graph(%x: f32[4]) { %0 = exp %x %1 = relu %0 %2 = mul %1 %0 return %2 }",
        "graph(%x: f32[4]) { %0 = exp %x %1 = reshape{shape=(2, 2)} %0 %2 = relu %0 %3 = tanh %2 %4 = reshape{shape=(2, 2)} %3 %5 = add %4 %1 return %5 }",
        "graph(%x: f32[4]) { %0 = exp %x %1 = reshape{shape=(2, 2)} %0 %2 = relu %1 %3 = exp %0 return %2, %3 }",
        "graph(%x: f32[4]) { %0 = reshape{shape=(2, 2)} %x %1 = relu %0 return %1 }",
        "graph(%x: f32[4]) { %0 = full{shape=(4,), value=-1.0} %1 = relu %0 return %1 }",
        "graph(%x: f32[4]) { %0 = exp %x %1 = relu %0 %2 = write %x %0 effects %2 return %1 }",
    ],
    ids=[
        "an argument", "a parameter", "an output", "another reader comes after",
        "a view is read after", "the operand is a view of what is read after",
        "the operand shows an argument", "made of nothing: a literal",
        "written to an argument later",
    ],
)  # fmt: skip
def test_declines_where_somebody_could_tell(text: str) -> None:
    assert not overwriting(parse(text))
    assert "relu_(" not in "\n".join(run(text))


def test_declines_what_the_operation_reads_twice_and_what_torch_alone_knows() -> None:
    class Twice(Op):
        """Adds its second operand to its first, in place."""

        overwrites: ClassVar[int | None] = 0

        def infer(self, x: TensorType, y: TensorType) -> TensorType:
            return x

    b = Builder()
    x = input("x", tensor_type((4,)))
    y = b(Exp(), x)
    assert overwriting(Graph((x,), (b(Twice(), y, x),)))
    assert not overwriting(Graph((x,), (b(Twice(), y, y),)))
    assert not overwriting(Graph((x,), (b(Twice(), y, b(Reshape((4,)), y)),)))
    foreign = b(Aten("aten.exp.default", (Operand(0),)), x)
    assert not overwriting(Graph((x,), (b(Twice(), foreign, x),)))


@pytest.mark.parametrize("name", OVERWRITING)
def test_overwriting_gives_what_running_gives_in_the_operands_memory(name: str) -> None:
    count = 0
    for sample in SAMPLES[name]:
        op, target = sample.op, sample.operands[0]
        types = [value_type(x) for x in sample.operands]
        if not isinstance(target, torch.Tensor) or not target.numel():
            continue
        try:
            fits = op.infer(*types) == types[0] and types[0].is_dense
        except LazyTorchError:
            continue
        if fits:
            want, taken = op.run(*sample.operands), target.clone()
            got = op.overwrite(taken, *sample.operands[1:])
            assert got.data_ptr() == taken.data_ptr()
            assert_same_bits(got, want)
            count += 1
    assert count


@pytest.mark.parametrize("freeze", [True, False])
@pytest.mark.parametrize("grad", [True, False])
def test_what_the_caller_holds_is_never_written(freeze: bool, grad: bool) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 1)

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
            a = self.first(x)
            b = (self.second(a.relu()) + a).relu()
            c = self.second(b) + x
            return a[:, 1:], b, c, (self.second(c) + b).relu()

    torch.manual_seed(0)
    net = Net().eval()
    fast = lt.compile(net, freeze=freeze, wait=True)
    x = torch.randn(2, 4, 5, 7).to(memory_format=torch.channels_last)
    before = x.clone()
    with torch.set_grad_enabled(grad):
        first = fast(x)
        held = [y.detach().clone() for y in first]
        fast(2 * x)
        want = net(x)
    assert torch.equal(x, before)
    for one, other, expected in zip(first, held, want, strict=True):
        assert torch.equal(one, other)
        torch.testing.assert_close(one, expected, rtol=1e-4, atol=1e-5, check_stride=True)
