"""Generated C++ kernels against eager and float64, for every operation, dtype and layout."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from kernel_accuracy import check
from kernel_cases import (
    Case,
    Tensors,
    all_cases,
    b,
    channels_last,
    layout_cases,
    mixed,
    op_body,
    random,
    refused_cases,
    several,
    type_of,
    whole,
)

from lazytorch.errors import LazyTorchError, UnsupportedError
from lazytorch.ir import Node
from lazytorch.lower.cpp import CppTarget
from lazytorch.lower.cpp.kernel import choose_walk
from lazytorch.lower.cpp.prelude import prelude
from lazytorch.lower.cpp.toolchain import find_compiler
from lazytorch.lower.index import kernel_loops
from lazytorch.lower.kernel import Kernel
from lazytorch.ops.activation import Gelu, Relu
from lazytorch.ops.elementary import Exp
from lazytorch.ops.fused import Fused
from lazytorch.ops.pointwise import Add, Cast, Clamp, Mul
from lazytorch.types import TensorType

CASES = {case.label: case for case in all_cases()}


@dataclass(frozen=True)
class Prepared:
    """A case on its way through the target."""

    case: Case
    tensors: Tensors
    op: Fused
    kernel: Kernel

    @property
    def types(self) -> tuple[TensorType, ...]:
        return tuple(map(type_of, self.tensors))

    def run(self, target: CppTarget) -> object:
        return target.launcher(self.kernel, self.op, self.types)(*self.tensors)


def prepare(target: CppTarget, case: Case) -> Prepared:
    tensors = case.tensors()
    op = case.op(tensors)
    return Prepared(case, tensors, op, target.prepare(op, tuple(map(type_of, tensors))))


def built(target: CppTarget, *cases: Case) -> list[Prepared]:
    prepared = [prepare(target, case) for case in cases]
    target.build([x.kernel for x in prepared])
    return prepared


@pytest.fixture(scope="module")
def target() -> CppTarget:
    return CppTarget()


@pytest.fixture(scope="module")
def prepared(target: CppTarget) -> dict[str, Prepared]:
    """All kernels of this file in two translation units, compiled by two threads."""
    cases = list(CASES.values())
    with ThreadPoolExecutor(2) as pool:
        halves = pool.map(lambda some: built(target, *some), (cases[::2], cases[1::2]))
        return {x.case.label: x for half in halves for x in half}


@pytest.mark.parametrize("label", CASES)
def test_kernel_computes_what_eager_does(
    label: str, target: CppTarget, prepared: dict[str, Prepared]
) -> None:
    found = prepared[label]
    check(found.case, found.tensors, found.op, found.run(target))


@contextmanager
def threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


LARGE = [case.label for case in layout_cases() if max(x.numel() for x in case.tensors()) > 2**16]


@pytest.mark.parametrize("count", [1, 3, 7])
def test_any_number_of_threads_computes_the_same(
    count: int, target: CppTarget, prepared: dict[str, Prepared]
) -> None:
    with threads(count):
        for label in LARGE:
            found = prepared[label]
            check(found.case, found.tensors, found.op, found.run(target))


def test_operands_are_left_as_they_were(target: CppTarget) -> None:
    (found,) = built(target, Case("", mixed, lambda: (whole(50, 60), whole(60))))
    before = [x.clone() for x in found.tensors]
    found.run(target)
    assert all(map(torch.equal, before, found.tensors))


def test_results_are_fresh_every_time(target: CppTarget) -> None:
    (found,) = built(target, Case("", lambda x: b(Relu(), x), lambda: (whole(5),)))
    first, second = found.run(target), found.run(target)
    assert isinstance(first, torch.Tensor) and isinstance(second, torch.Tensor)
    assert first.data_ptr() != second.data_ptr()


def names(target: CppTarget, *cases: Tensors) -> set[str]:
    return {prepare(target, Case("", mixed, lambda xs=xs: xs)).kernel.name for xs in cases}


def test_sizes_are_run_time_arguments(target: CppTarget) -> None:
    assert len(names(target, *[(whole(n, 64), whole(64)) for n in (2, 3, 1000)])) == 1
    assert len(names(target, *[(whole(n, 8, 9, 9), whole(8, 1, 1)) for n in (2, 8)])) == 1
    sliced = [(whole(n, 40)[:, 3:33], whole(n, 30)) for n in (5, 6)]
    assert len(names(target, *sliced)) == 1


def test_flat_operands_share_a_kernel_whatever_their_shape(target: CppTarget) -> None:
    cases = [(whole(*s), whole(*s)) for s in ((7,), (3, 4), (2, 3, 4, 5))]
    last = channels_last(whole(2, 3, 4, 5))
    assert len(names(target, *cases, (last, last))) == 1


def test_what_changes_the_code_changes_the_name(target: CppTarget) -> None:
    flat = (whole(6, 64), whole(6, 64))
    half = tuple(x.bfloat16() for x in flat)
    row, column, strided = whole(6, 1), whole(64), whole(6, 128)[:, ::2]
    others = [(flat[0], row), (flat[0], column), (flat[0], strided), half]
    # A bias row is read as a flat operand is: only its outer stride is 0.
    assert len(names(target, flat, *others)) == 4
    assert len(names(CppTarget(rounding=True), half) | names(target, half)) == 2


@pytest.mark.parametrize(
    ("dtype", "once"), [(torch.float32, True), (torch.bfloat16, True), (torch.float64, False)]
)
def test_one_and_an_error_function_are_one_function(
    target: CppTarget, dtype: torch.dtype, once: bool
) -> None:
    case = Case("", lambda x: b(Gelu(), b(Mul(), x, 2.0)), lambda: (whole(64).to(dtype),))
    source = prepare(target, case).kernel.source
    assert ("lt::one_plus_erf(" in source) is once


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_what_was_rounded_is_stored_as_it_is(target: CppTarget, dtype: torch.dtype) -> None:
    case = Case("", lambda x: b(Cast(dtype), b(Relu(), x)), lambda: (whole(64),))
    rounded = re.findall(r"lt::to_b?f16\((\w+)\)", prepare(target, case).kernel.source)
    assert len(set(rounded)) == 1


def test_building_twice_compiles_once() -> None:
    sources: list[str] = []
    real = CppTarget().load

    def load(source: str, *, contract: bool) -> object:
        sources.append(source)
        return real(source, contract=contract)

    target = CppTarget(load=load)  # type: ignore[arg-type]
    cases = [Case("", mixed, lambda n=n: (whole(n), whole(n))) for n in (3, 4)]
    built(target, *cases)
    built(target, *cases)
    assert len(sources) == 1 and sources[0].count('extern "C"') == 1


def test_launching_what_was_not_built_is_an_error(target: CppTarget) -> None:
    case = Case("", lambda x: b(Exp(), b(Add(), x, 4321)), lambda: (whole(3),))
    with pytest.raises(LazyTorchError, match="is not built"):
        prepare(target, case).run(target)


@pytest.mark.parametrize("case", list(refused_cases()), ids=lambda case: case.label)
def test_integer_division_by_what_may_be_zero_is_refused(case: Case, target: CppTarget) -> None:
    with pytest.raises(UnsupportedError, match="eager raises for a zero"):
        prepare(target, case)


@pytest.mark.parametrize(
    ("reason", "case"),
    [
        ("c64", Case("", op_body(Exp()), lambda: (whole(3).to(torch.complex64),))),
        (
            "different shapes",
            Case("", lambda x, y: (b(Exp(), x), b(Add(), x, y)), lambda: (whole(3), whole(2, 3))),
        ),
        ("cannot read", Case("", op_body(Exp()), lambda: (torch.empty(3, device="meta"),))),
    ],
)
def test_refusals_say_why(reason: str, case: Case, target: CppTarget) -> None:
    with pytest.raises(UnsupportedError, match=reason):
        prepare(target, case)


def chain(x: Node, y: Node) -> Node:
    for _ in range(5):
        x = b(Add(), b(Mul(), x, y), y)
    return x


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_rounding_gives_eagers_bits(dtype: torch.dtype) -> None:
    target = CppTarget(rounding=True)
    case = Case("", chain, lambda: (random(999, dtype=dtype), random(999, dtype=dtype)))
    (found,) = built(target, case)
    result = found.run(target)
    assert isinstance(result, torch.Tensor)
    assert torch.equal(result, found.op.run(*found.tensors))


def test_without_rounding_16_bit_intermediates_are_more_exact_than_eagers(
    target: CppTarget,
) -> None:
    tensors = (random(999, dtype=torch.bfloat16) / 4, random(999, dtype=torch.bfloat16) / 4)
    (found,) = built(target, Case("", chain, lambda: tensors))
    truth = found.op.run(*(x.double() for x in tensors))
    result = found.run(target)
    assert isinstance(result, torch.Tensor)
    error, eagers = ((x.double() - truth).norm() for x in (result, found.op.run(*tensors)))
    assert error < 0.7 * eagers


def test_a_cast_rounds_even_without_rounding(target: CppTarget) -> None:
    case = Case(
        "",
        lambda x: b(Cast(torch.float32), b(Cast(torch.bfloat16), b(Add(), x, 1.0))),
        lambda: (random(300),),
    )
    (found,) = built(target, case)
    result = found.run(target)
    assert isinstance(result, torch.Tensor)
    assert torch.equal(result, (found.tensors[0] + 1).bfloat16().float())


def walk(*tensors: torch.Tensor) -> tuple[int, int | None, int]:
    """Size of the vector loop, of the rows, and the block, of a group's walk."""
    op = Case("", mixed, lambda: tensors).op(tensors)
    (output,) = (x.type for x in op.body.outputs)
    assert isinstance(output, TensorType)
    reads = [type_of(x) for x in tensors]
    chosen = choose_walk(kernel_loops(reads, [output]), reads)
    rows = None if chosen.row is None else chosen.loops.sizes[chosen.row]
    return chosen.loops.sizes[chosen.vector], rows, chosen.block


def test_the_vector_loop_is_never_short_when_another_is_long() -> None:
    assert walk(whole(1000, 3), whole(3)) == (1000, 3, 4096 // 3)
    assert walk(whole(1000, 64), whole(64)) == (64, 1000, 0)
    assert walk(whole(6, 3), whole(3)) == (3, 6, 0)
    assert walk(whole(8, 256, 2, 2), whole(256, 1, 1)) == (256, 4, 1024)


def test_rows_interleave_where_an_operand_lies_across_them() -> None:
    assert walk(whole(500, 400), whole(400, 1000).t()[::2]) == (400, 500, 64)
    assert walk(whole(500, 100), whole(100, 1000).t()[::2]) == (100, 500, 0)
    assert walk(whole(500, 700), whole(700, 500).t()) == (700, 500, 64)
    assert walk(whole(500, 100), whole(100, 500).t()) == (100, 500, 64)
    assert walk(whole(500, 50), whole(50, 500).t()) == (50, 500, 0)


def bodies(dtype: torch.dtype) -> Iterator[Case]:
    yield Case("", several, lambda: (random(9, 40, dtype=dtype), random(9, 1, dtype=dtype)))
    yield Case("", op_body(Clamp()), lambda: (random(9, dtype=dtype),) * 3)
    yield Case("", op_body(Gelu()), lambda: (random(9, 40, dtype=dtype)[:, ::2],))
    yield Case("", op_body(Cast(dtype)), lambda: (random(9, dtype=torch.bool),))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_loops_become_vector_code(dtype: torch.dtype, target: CppTarget, tmp_path: Path) -> None:
    compiler = find_compiler()
    if compiler is None or "g++" not in compiler.command[0]:
        pytest.skip("only g++ is asked what it made vector code of")
    kernels = [prepare(target, case).kernel for case in bodies(dtype)]
    source = tmp_path / "kernels.cpp"
    source.write_text(prelude() + "".join(x.source for x in kernels))
    said = subprocess.run(
        [
            *(*compiler.command, *compiler.arguments(contract=True), "-fopt-info-vec"),
            *("-S", "-o", "/dev/null", str(source)),
        ],
        capture_output=True,
        text=True,
        check=True,
    ).stderr
    vectors = [int(x) for x in re.findall(r":(\d+):\d+: optimized: loop vectorized", said)]
    lines = source.read_text().split("\n")
    starts = [i for i, line in enumerate(lines, 1) if line.startswith("static void tile_")]
    assert len(starts) == len(kernels)
    for start, end in pairwise([*starts, len(lines)]):
        assert any(start < line < end for line in vectors), lines[start - 1]
