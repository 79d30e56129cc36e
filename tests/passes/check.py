"""Golden tests of passes: a graph's text before, its text after, and the same values from both.

    def test_cse_merges_equal_operations(check):
        check(cse, "graph(%x: f32[4]) { ... }", "graph(%x: f32[4]) { ... }")

`pytest --accept` writes the text that the pass really gives into the test's own source.
"""

import ast
import inspect
import math
from collections.abc import Sequence
from pathlib import Path
from textwrap import dedent, indent
from typing import Any

import pytest
import torch
from torch import nn

from lazytorch.frontend import trees
from lazytorch.frontend.record import record
from lazytorch.interpret import interpret
from lazytorch.ir import Graph
from lazytorch.passes import Pass, check_signature, pass_name
from lazytorch.text import parse
from lazytorch.types import ScalarType, TensorType, Type
from lazytorch.verify import verify

SPECIAL = (0.0, -0.0, 1.0, -1.0, math.inf, -math.inf, math.nan, 1e-40, 3e38)


class Check:
    """`check(pass, before, after)`; `close` is a relative tolerance where the pass may round."""

    def __init__(self, accept: bool) -> None:
        self.accept = accept

    def __call__(self, rewrite: Pass, before: str, after: str, close: float = 0.0) -> None:
        graph = parse(dedent(before))
        result = verify(rewrite(graph), after=pass_name(rewrite))
        check_signature(graph, result, pass_name(rewrite))
        assert rewrite(result) is result, "a second run still finds something to do"
        assert_same_values(graph, result, close)
        if str(result) == dedent(after).strip():
            return
        if not self.accept:
            assert str(result) == dedent(after).strip(), "run `pytest --accept` if this is right"
        caller = inspect.stack()[1]
        write_golden(Path(caller.filename), caller.function, after, str(result))
        pytest.skip("golden text rewritten")

    def declines(self, rewrite: Pass, before: str) -> None:
        """The pass leaves this graph alone: the same object comes back."""
        graph = parse(dedent(before))
        result = rewrite(graph)
        assert result is graph, f"it was rewritten:\n{result}"


def recorded(net: nn.Module, x: torch.Tensor) -> tuple[Graph, list[torch.Tensor]]:
    """The graph that a module records on `x`, and the values of its inputs."""
    leaves, spec = trees.flatten(((x,), {}))
    piece = record(net, leaves, spec).piece
    state = dict(net.named_parameters()) | dict(net.named_buffers())
    values = [x if n.op.role == "argument" else state[n.op.label] for n in piece.graph.inputs]
    return piece.graph, values


def write_golden(file: Path, function: str, old: str, new: str) -> None:
    """Replace the text `old` in a call inside `function` by `new`, indented like the call."""
    lines = file.read_text().splitlines(keepends=True)
    body = next(
        node
        for node in ast.walk(ast.parse("".join(lines)))
        if isinstance(node, ast.FunctionDef) and node.name == function
    )
    text = next(
        node
        for call in ast.walk(body)
        if isinstance(call, ast.Call)
        for node in [*call.args, *[keyword.value for keyword in call.keywords]][2:]
        if isinstance(node, ast.Constant) and node.value == old
    )
    assert text.end_lineno is not None and text.end_col_offset is not None
    margin = " " * (body.col_offset + 8)
    head = lines[text.lineno - 1].encode()[: text.col_offset].decode()
    tail = lines[text.end_lineno - 1].encode()[text.end_col_offset :].decode()
    golden = '"""\n' + indent(new, margin) + f'\n{margin}"""'
    lines[text.lineno - 1 : text.end_lineno] = [head + golden + tail]
    file.write_text("".join(lines))


def sample(typed: Type, generator: torch.Generator, special: bool) -> Any:
    """A value of that type: random numbers, with every special one, or in [0.5, 1.5)."""
    if isinstance(typed, ScalarType):
        return typed.kind(2)
    assert isinstance(typed, TensorType)
    value = torch.empty_strided(typed.shape, typed.strides, dtype=typed.dtype)
    if typed.dtype.is_floating_point or typed.dtype.is_complex:
        if not special:
            return value.copy_(torch.rand(typed.shape, generator=generator) + 0.5)
        drawn = torch.randn(typed.shape, generator=generator)
        flat = drawn.view(-1)
        flat[: len(SPECIAL)] = torch.tensor(SPECIAL)[: flat.numel()]
    else:
        drawn = torch.randint(0, 4, typed.shape, generator=generator)
    return value.copy_(drawn)


def samples(types: Sequence[Type], seed: int = 0, special: bool = True) -> tuple[Any, ...]:
    """One value per type, the same for the same seed."""
    generator = torch.Generator().manual_seed(seed)
    return tuple(sample(typed, generator, special) for typed in types)


def outcome(graph: Graph, seed: int, special: bool) -> list[Any]:
    """Outputs, and the inputs as the graph leaves them, with the same random state each time."""
    values = samples([x.type for x in graph.inputs], seed, special)
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        return [*interpret(graph, *values), *values]


def assert_same_values(before: Graph, after: Graph, close: float = 0.0, seed: int = 0) -> None:
    """Both graphs compute the same bits (NaN counts as NaN), or values within `close`."""
    both = [outcome(graph, seed, special=not close) for graph in (before, after)]
    for expected, got in zip(*both, strict=True):
        if not isinstance(expected, torch.Tensor):
            assert got == expected and type(got) is type(expected)
            continue
        torch.testing.assert_close(
            got, expected, rtol=close, atol=close, equal_nan=True, check_stride=True
        )
        if not close:
            assert_same_signs_of_zero(got, expected)


def assert_same_signs_of_zero(got: torch.Tensor, expected: torch.Tensor) -> None:
    """-0.0 is not 0.0."""
    if expected.is_floating_point():
        zero = expected == 0
        assert torch.equal(torch.signbit(got[zero]), torch.signbit(expected[zero]))
