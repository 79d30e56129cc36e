"""Every operation against torch: its type, its values, its arithmetic, and its import."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from samples import Sample, assert_close, assert_same_bits, by_op
from single import import_single

from lazytorch.errors import DTypeError, ShapeError
from lazytorch.interpret import interpret
from lazytorch.ir import Op
from lazytorch.ops.aten import value_type
from lazytorch.ops.base import Pointwise
from lazytorch.types import ScalarType, TensorType, Type

SAMPLES = by_op()
STRUCTURAL = {"const", "input", "item", "write", "fused", "foreach", "custom"}
# Not on every build: see passes/test_select.py and passes/test_post_ops.py; and test_offload.py.
OPAQUE = {
    "packed_weight",
    "packed_convolution",
    "packed_convolution_add",
    "packed_linear_weight",
    "packed_linear",
    "one_dnn_linear",
    "to_host",
    "sent",
    "from_host",
    "received",
}


def ours() -> dict[str, type[Op]]:
    """The operations that need samples: not the graph's own, not those that only carry others."""
    return {
        name: kind
        for name, kind in Op.registry.items()
        if kind.__module__.startswith("lazytorch.ops")
        and name not in STRUCTURAL | OPAQUE
        and not name.startswith("aten")
    }


def types(operands: tuple[Any, ...]) -> list[Type]:
    """The operands' types, numbers included."""
    return [value_type(x) for x in operands]


def run(op: Op, operands: tuple[Any, ...]) -> Any:
    """`op` by torch, with the same random state each time."""
    torch.manual_seed(0)
    return op.run(*operands)


def expected(sample: Sample) -> Any:
    """What torch says; None where it refuses."""
    torch.manual_seed(0)
    try:
        return sample.reference(*sample.operands)
    except (RuntimeError, TypeError):
        return None


def named(sample: Sample) -> str:
    """What a failure prints."""
    return f"{sample.op} {sample.label} of {', '.join(map(str, types(sample.operands)))}"


def test_every_operation_has_a_sample() -> None:
    assert sorted(ours().keys() - SAMPLES.keys()) == []


@pytest.mark.parametrize("name", sorted(SAMPLES))
def test_type_and_values_are_torchs(name: str) -> None:
    for sample in SAMPLES[name]:
        want = expected(sample)
        if want is None:
            with pytest.raises((DTypeError, ShapeError)):
                sample.op.infer(*types(sample.operands))
            continue
        try:
            assert sample.op.infer(*types(sample.operands)) == value_type(want)
            got = run(sample.op, sample.operands)
            (assert_same_bits if sample.exact else assert_close)(got, want)
        except (AssertionError, DTypeError, ShapeError) as error:
            error.add_note(named(sample))
            raise


def computed(dtype: torch.dtype) -> torch.dtype:
    """What a generated kernel computes in: 16-bit floats become float32."""
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype


def is_complex(sample: Sample) -> bool:
    """Whether an operand is complex."""
    return any(isinstance(x, torch.Tensor) and x.is_complex() for x in sample.operands)


POINTWISE = sorted(
    name for name, kind in ours().items() if issubclass(kind, Pointwise) and not kind.placed
)


@pytest.mark.parametrize("name", POINTWISE)
def test_arithmetic_agrees_with_torchs_kernel(name: str) -> None:
    for sample in SAMPLES[name]:
        op, want = sample.op, expected(sample)
        if want is None or any(
            isinstance(x, torch.Tensor) and x.is_complex() for x in sample.operands
        ):
            continue
        assert isinstance(op, Pointwise)
        dtypes = op.operand_dtypes(*types(sample.operands))
        values = [
            torch.as_tensor(x).to(computed(dtype))
            for x, dtype in zip(sample.operands, dtypes, strict=True)
        ]
        try:
            got = torch.as_tensor(op.emit(torch, *values)).to(want.dtype)  # type: ignore[arg-type]
            assert_close(torch.empty_like(want).copy_(got), want)
        except AssertionError as error:
            error.add_note(named(sample))
            raise


def test_arithmetic_of_numbers_alone_is_pythons() -> None:
    registry = Op.registry
    cases: list[tuple[str, tuple[Any, ...], Any]] = [
        ("add", (1, 2), 3),
        ("add", (1, 2.5), 3.5),
        ("mul", (0.1, 0.2), 0.1 * 0.2),
        ("div", (1, 3), 1 / 3),
        ("lt", (1, 2.5), True),
        ("maximum", (1, 2.5), 2.5),
    ]
    for name, operands, want in cases:
        op = registry[name]()
        got = op.run(*operands)
        assert got == want and type(got) is type(want), name
        assert op.infer(*types(operands)) == ScalarType(type(want))


@pytest.mark.parametrize("name", sorted(SAMPLES))
def test_import_gives_the_operation_and_torchs_values(name: str) -> None:
    for sample in SAMPLES[name]:
        want = expected(sample)
        if want is None or not sample.imported:
            continue
        try:
            graph = import_single(sample.reference, *sample.operands)
            assert sample.op in [node.op for node in graph.nodes], str(graph)
            torch.manual_seed(0)
            tensors = [x for x in sample.operands if isinstance(x, torch.Tensor)]
            got = interpret(graph, *tensors)
            listed = want if isinstance(want, tuple | list) else (want,)
            for one, other in zip(got, listed, strict=True):
                (assert_same_bits if sample.exact else assert_close)(one, other)
            for node, other in zip(graph.outputs, listed, strict=True):
                assert node.type == value_type(other)
        except Exception as error:
            error.add_note(named(sample))
            raise


A, B = torch.randn(2, 3), torch.randn(3, dtype=torch.float64)
COUNT = torch.arange(6).reshape(2, 3)
HALF = torch.randn(4, 3).to(torch.bfloat16)
MASK = torch.tensor([[True], [False]])
ARGUMENTS: list[tuple[str, Any]] = [
    ("add alpha", lambda: (lambda x, y: torch.add(x, y, alpha=2), A, B)),
    ("add float alpha", lambda: (lambda x, y: torch.add(x, y, alpha=0.5), A, COUNT)),
    ("add int alpha", lambda: (lambda x, y: torch.add(x, y, alpha=3), COUNT, COUNT)),
    ("add number alpha", lambda: (lambda x: torch.add(x, 2, alpha=3), A)),
    ("add 0-d alpha", lambda: (lambda x, y: torch.add(x, y, alpha=2), A, B[0])),
    ("add wider alpha", lambda: (lambda x, y: torch.add(x, y, alpha=0.3), B, COUNT)),
    ("sub alpha", lambda: (lambda x, y: torch.sub(x, y, alpha=2), A, B)),
    ("sub number", lambda: (lambda x: x - 2, COUNT)),
    ("rsub", lambda: (lambda x: 1.5 - x, A)),
    ("rsub alpha", lambda: (lambda x, y: torch.rsub(x, y, alpha=2), A, B)),
    ("number over", lambda: (lambda x: 2 / x, A)),
    ("number to the power", lambda: (lambda x: 2**x, COUNT)),
    ("true mode", lambda: (lambda x, y: torch.div(x, y, rounding_mode=None), COUNT, COUNT + 1)),
    ("floor mode", lambda: (lambda x, y: torch.div(x, y, rounding_mode="floor"), A, B)),
    ("floor mode ints", lambda: (lambda x: torch.div(x, 2, rounding_mode="floor"), COUNT - 3)),
    ("trunc mode", lambda: (lambda x: torch.div(x, 0.7, rounding_mode="trunc"), A)),
    ("clamp below", lambda: (lambda x: x.clamp(min=0.1), A)),
    ("clamp above", lambda: (lambda x: x.clamp(max=1), COUNT)),
    ("clamp ints by floats", lambda: (lambda x: x.clamp(0.5, 2.5), COUNT)),
    ("clamp by tensors", lambda: (lambda x, y: x.clamp(y, y + 1), A, A[0])),
    ("clamp by one tensor", lambda: (lambda x, y: x.clamp(max=y), A, A[0])),
    ("where numbers", lambda: (lambda m: torch.where(m, 1, 2.5), MASK)),
    ("where number left", lambda: (lambda m, x: torch.where(m, 1.5, x), MASK, COUNT)),
    ("masked fill", lambda: (lambda x, m: x.masked_fill(m, -torch.inf), A.t().clone().t(), MASK)),
    ("masked fill wider", lambda: (lambda x, m, v: x.masked_fill(m, v), HALF[:2], MASK, B[0])),
    ("masked fill expanding", lambda: (lambda x, m: x.masked_fill(m, 1), HALF[0], MASK)),
    ("addcmul", lambda: (torch.addcmul, A, B, COUNT)),
    ("addcdiv", lambda: (lambda x, y: torch.addcdiv(x, y, y, value=-0.5), A, A[0])),
    ("relu6", lambda: (torch.nn.functional.relu6, A * 5)),
    ("celu", lambda: (lambda x: torch.celu(x, 0.7), A)),
    ("leaky relu", lambda: (torch.nn.functional.leaky_relu, A)),
    ("double and", lambda: (lambda x, y: (x > 0) & (y < 1) | ~(x > 1), A, B)),
    ("shift", lambda: (lambda x: (x << 2) >> 1, COUNT)),
]


@pytest.mark.parametrize("make", [case[1] for case in ARGUMENTS], ids=[c[0] for c in ARGUMENTS])
def test_imports_of_overloads_with_more_arguments(make: Any) -> None:
    function, *operands = make()
    want = function(*operands)
    graph = import_single(function, *operands)
    (got,) = interpret(graph, *operands)
    assert graph.outputs[0].type == value_type(got) == value_type(want)
    assert_close(got, want)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: torch.add(x, x, alpha=0.5),  # torch refuses it for integers
        lambda x: torch.div(x, 2, rounding_mode="trunc"),
        lambda x: x.masked_fill(x > 1, 2.5),
    ],
)
def test_imports_decline_what_torch_decides_by_value(function: Any) -> None:
    with pytest.raises(AssertionError, match="has no importer"):
        import_single(function, COUNT)


def test_a_wrong_shape_is_refused_with_the_operation_and_the_sizes() -> None:
    two, three = TensorType((2,), torch.float32, torch.device("cpu"), (1,)), (3,)
    with pytest.raises(ShapeError, match=r"add: size 2 and size 3 at dimension 0"):
        Op.registry["add"]().infer(two, two.with_shape(three))
