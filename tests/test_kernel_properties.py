"""Random graphs through fusion and generated kernels: right, inside their memory, written once."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from kernel_graphs import kernel_graph, widened

os.environ.setdefault("TRITON_INTERPRET", "1")  # triton reads it when it is imported
pytest.importorskip("triton")

from watched import watched

from lazytorch import columns
from lazytorch.interpret import interpret
from lazytorch.ir import Graph, Input, Node, input
from lazytorch.lower.cpp import CppTarget
from lazytorch.lower.kernel import Target
from lazytorch.lower.triton import TritonTarget, kernel, rows, tiles
from lazytorch.lower.triton.binary import interpreting
from lazytorch.ops import generated
from lazytorch.ops.copies import relaid
from lazytorch.ops.fused import Fused
from lazytorch.ops.layout import View
from lazytorch.passes import REWRITES, fuse, optimize, why_apart
from lazytorch.types import TensorType, TupleType

pytestmark = pytest.mark.skipif(not interpreting(), reason="the interpreter is what is watched")

Arguments = Sequence[Any]
SMALL: dict[Any, dict[str, object]] = {
    rows: {
        "HELD": 16, "BLOCK": 16, "TILE": 64, "PROGRAMS": 2, "PLENTY": 4,
        "BESIDE": (16, 2), "NARROW": (8, 4), "FEW": 2, "AHEAD": 2, "PIECE": 16,
        "ONCE": (16, 1), "ACROSS": (4, 2), "ALONE": 1,
    },
    tiles: {"SIDE": 4, "SHORT": 2},
    kernel: {"LARGE": 32},
    generated: {"SHORTEST": 2, "BESIDE": 2, "PLACES": 12},
    columns: {"WIDTH": 4, "PROGRAMS": 8, "LEAST": 2, "STEP": 4},
}  # fmt: skip
"""So that small shapes take every path."""


@pytest.fixture(params=[False, True], ids=["32-bit indices", "64-bit indices"])
def small(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels in which few elements are many, and reach as far as asked."""
    columns.parts_of.cache_clear()
    request.addfinalizer(columns.parts_of.cache_clear)
    for module, values in SMALL.items():
        for name, value in values.items():
            monkeypatch.setattr(module, name, value)
    monkeypatch.setattr(kernel.Walk, "block", property(lambda walk: 32 if walk.large else 16))
    if request.param:
        for module in (rows, tiles, kernel):
            monkeypatch.setattr(module, "REACH", 8)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("first", range(0, 100, 20))
def test_kernels_of_a_gpu(first: int) -> None:
    assert checked(range(first, first + 20), "cuda:0", watched_kernel) >= 20


@pytest.mark.parametrize("first", range(200, 240, 20))
def test_kernels_of_a_gpu_at_their_own_sizes(first: int) -> None:
    assert checked(range(first, first + 20), "cuda:0", watched_kernel) >= 10


@pytest.mark.parametrize("first", range(300, 340, 20))
def test_kernels_of_the_cpu(first: int) -> None:
    target = CppTarget()
    assert checked(range(first, first + 20), "cpu", lambda op, xs: run(target, op, xs)) >= 3


def checked(seeds: Sequence[int], device: str, call: Callable[[Fused, Arguments], Any]) -> int:
    """Compares graphs of these seeds with eager's and float64's results; how many kernels ran."""
    count = 0
    for seed in seeds:
        graph, args = kernel_graph(seed, device)
        try:
            eager = interpret(graph, *args)
        except (RuntimeError, NotImplementedError, AssertionError):
            continue  # torch has no such kernel on the CPU
        fused = fuse(optimize(graph, REWRITES))
        count += sum(isinstance(x.op, Fused) for x in fused.nodes)
        assert all(why_apart(fused).values())
        compare(graph, args, eager, outputs(fused, args, call), f"seed {seed}")
    return count


def outputs(graph: Graph, args: Arguments, call: Callable[[Fused, Arguments], Any]) -> list[Any]:
    """A graph's outputs, those of groups by `call`, all laid out as their types say."""
    known: dict[Node, Any] = dict(zip(graph.inputs, args, strict=True))
    for node in graph.nodes:
        if node not in known:
            xs = [known[x] for x in node.inputs]
            found = call(on_cpu(node.op), xs) if isinstance(node.op, Fused) else node.op.run(*xs)
            known[node] = found if isinstance(node.op, View) else as_typed(found, node.type)
    return [known[x] for x in graph.outputs]


def on_cpu(op: Fused) -> Fused:
    """A group written for a GPU, for where the interpreter runs; its types keep their strides."""
    new: dict[Node, Node] = {}
    for node in op.body.nodes:
        typed = node.type
        if isinstance(typed, TensorType):
            typed = replace(typed, device=torch.device("cpu"))
        given = isinstance(node.op, Input)
        operands = tuple(new[x] for x in node.inputs)
        new[node] = input("x", typed) if given else Node(node.op, operands, typed, node.where)
    inputs, results = ([new[x] for x in xs] for xs in (op.body.inputs, op.body.outputs))
    return Fused(Graph(tuple(inputs), tuple(results)))


def as_typed(x: Any, typed: Any) -> Any:
    """`x` laid out as its type says."""
    if isinstance(typed, TupleType):
        return tuple(as_typed(y, t) for y, t in zip(x, typed.items, strict=True))
    if isinstance(typed, TensorType) and tuple(x.stride()) != typed.strides:
        return relaid(x, typed.strides)
    return x


def run(target: Target, op: Fused, xs: Arguments) -> Any:
    """The group's outputs by its generated kernel."""
    types: Any = tuple(x.type for x in op.body.inputs)
    made = target.prepare(op, types)
    target.build([made])
    return target.launcher(made, op, types)(*xs)


def watched_kernel(op: Fused, xs: Arguments) -> Any:
    """The group's outputs by a Triton kernel that reads and writes what it may."""
    with watched() as seen:
        found = run(TritonTarget(), op, xs)
    results = list(found) if isinstance(found, tuple) else [found]
    seen.check([x for x in xs if isinstance(x, torch.Tensor)], results)
    return found


def compare(graph: Graph, args: Arguments, eager: Arguments, found: Arguments, label: str) -> None:
    """Every output lies as its type says and is about as near to float64 as eager's.

    A maximum over few elements is a matter of luck, so the bound is loose; a wrong place or mask
    is further off by far.
    """
    wide = [
        x.double() if isinstance(x, torch.Tensor) and x.is_floating_point() else x for x in args
    ]
    exact = interpret(widened(graph), *wide)
    for node, ours, theirs, truth in zip(graph.outputs, found, eager, exact, strict=True):
        where = f"{label}, {node.op}"
        typed = node.type
        assert isinstance(typed, TensorType)
        assert (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype), where
        assert tuple(ours.stride()) == typed.strides, where
        if not ours.is_floating_point():
            assert torch.equal(ours, theirs), where
            continue
        assert torch.equal(ours.isnan(), theirs.isnan()), where
        if not ours.numel():
            continue
        ours, theirs, truth = (x.double().nan_to_num(0, 1e6, -1e6) for x in (ours, theirs, truth))
        unit = coarsest(graph) * max(1.0, truth.abs().max().item())
        mine, other = ((x - truth).abs().max().item() for x in (ours, theirs))
        assert mine <= 8 * max(other, 2 * unit), f"{where}: off by {mine}, eager by {other}"


def coarsest(graph: Graph) -> float:
    """The largest epsilon of the floating dtypes of a graph."""
    dtypes = {x.type.dtype for x in graph.nodes if isinstance(x.type, TensorType)}
    return max([torch.finfo(x).eps for x in dtypes if x.is_floating_point], default=0.0)
