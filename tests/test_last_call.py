"""A program's last call, which runs behind what comes before it and gives the same results."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from comparison import same

from lazytorch.frontend import trees
from lazytorch.frontend.record import record
from lazytorch.ir import Graph
from lazytorch.lower import last_call as module
from lazytorch.lower.last_call import LastCall, last_call
from lazytorch.lower.program import Program, lower
from lazytorch.lower.timeline import timeline

Function = Callable[..., Any]


@pytest.fixture(autouse=True)
def everything_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WORTH", 1)


def lowered(fn: Function, *args: torch.Tensor) -> tuple[Graph, Program]:
    leaves, spec = trees.flatten((args, {}))
    graph = record(fn, leaves, spec).piece.graph
    return graph, lower(graph, None, "program")


def split(fn: Function, *args: torch.Tensor) -> tuple[Program, LastCall]:
    """The two parts; that they give what the program does was checked."""
    graph, program = lowered(fn, *args)
    last = last_call(program)
    assert last is not None
    inputs = list(args[: len(graph.inputs)])
    want = program.run(*inputs)
    outputs = last.before.run(*inputs)
    (made,) = last.run(*last.operands(inputs, outputs))
    same(made, want[last.output])
    assert outputs[last.output] is None
    for found, wanted in zip(outputs, want, strict=False):
        if found is not None:
            same(found, wanted)
    return program, last


def head(x: torch.Tensor, weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    y = x.exp()
    return y + 1, y @ weight


def test_a_product_that_comes_last() -> None:
    program, last = split(head, torch.randn(3, 5), torch.randn(5, 7))
    assert last.output == 1 and len(last.reads) == 2
    assert "del" not in last.before.source.splitlines()[2]  # what the product reads stays
    assert len(last.before.lines) < len(program.lines)


def test_a_copy_of_a_view_reads_the_view() -> None:
    def cut(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return (x @ weight)[:, :4].contiguous()

    _, last = split(cut, torch.randn(3, 5), torch.randn(5, 7))
    assert "clone" in last.run.__code__.co_names


def test_what_comes_behind_and_does_not_read_it_comes_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "WORTH", 80)

    def early(x: torch.Tensor, weight: torch.Tensor) -> tuple[torch.Tensor, ...]:
        y = x.exp()
        return y @ weight, y.sum(0)

    program, last = split(early, torch.randn(3, 5), torch.randn(5, 7))
    assert program.source.index("matmul") < program.source.index("sum")
    assert last.output == 0 and "sum" in last.before.source


def test_what_is_written_over_behind_it_is_read_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WORTH", 80)

    def over(x: torch.Tensor, weight: torch.Tensor) -> tuple[torch.Tensor, ...]:
        y = x.exp().sum(0) * torch.ones(3, 5)
        return y @ weight, y.relu()

    _, program = lowered(over, torch.randn(3, 5), torch.randn(5, 7))
    assert program.source.index("matmul") < program.source.index("relu_(")
    assert last_call(program) is None


def test_views_of_the_result_are_left_to_who_calls() -> None:
    def views(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        y = x.exp().sin()
        return y.t(), y

    split(views, torch.randn(3, 5))


def test_what_the_call_reads_twice_is_returned_once() -> None:
    def reading(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        y = x.exp()
        return y.sum(), y * y

    _, last = split(reading, torch.randn(3, 5))
    assert len(last.reads) == 1 and len(last.before.returned) == 3


def test_its_memory_is_not_that_of_what_comes_before() -> None:
    _, program = lowered(head, torch.randn(3, 5), torch.randn(5, 7))
    last = last_call(program)
    assert last is not None
    whole, before = timeline(program), timeline(last.before)
    assert sum(x.nbytes for x in whole.blocks) - sum(x.nbytes for x in before.blocks) == 4 * 21
    (exponential,) = [x for x in before.blocks if x.operation == "exp"]
    assert exponential.died == len(before.lines)  # the call behind a replay reads it


def no_call(x: torch.Tensor) -> torch.Tensor:
    return x.exp()


def several(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
    return tuple((x + 1).max(0))


def drawn(x: torch.Tensor) -> torch.Tensor:
    return torch.bernoulli(x.sigmoid())


def written(x: torch.Tensor) -> torch.Tensor:
    y = x.exp()
    x.copy_(y)
    return y.sin()


@pytest.mark.parametrize("fn", [no_call, several, drawn, written])
def test_other_programs_stay_whole(fn: Function) -> None:
    assert last_call(lowered(fn, torch.randn(3, 5))[1]) is None


def test_a_result_that_is_read_again_is_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WORTH", 60)

    def read(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        y = x.exp().sin()
        return y, y.sum()

    assert last_call(lowered(read, torch.randn(3, 5))[1]) is None


def test_a_small_result_is_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WORTH", 85)
    assert last_call(lowered(head, torch.randn(3, 5), torch.randn(5, 7))[1]) is None
    monkeypatch.setattr(module, "WORTH", 84)
    assert last_call(lowered(head, torch.randn(3, 5), torch.randn(5, 7))[1]) is not None
