"""Generated Triton kernels against eager and float64, by Triton's interpreter on the CPU.

`TRITON_INTERPRET=0 pytest tests/test_triton_kernels.py` runs the same on a GPU.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from dataclasses import dataclass
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
    mixed,
    op_body,
    random,
    type_of,
    whole,
)

os.environ.setdefault("TRITON_INTERPRET", "1")  # triton reads it when it is imported
pytest.importorskip("triton")

from lazytorch.errors import CompilerError, LazyTorchError, UnsupportedError
from lazytorch.lower.index import kernel_loops
from lazytorch.lower.kernel import Kernel
from lazytorch.lower.triton import TritonTarget
from lazytorch.lower.triton import kernel as kernels
from lazytorch.lower.triton.binary import interpreting
from lazytorch.lower.triton.kernel import Walk, choose_walk
from lazytorch.ops.activation import Relu
from lazytorch.ops.elementary import Exp
from lazytorch.ops.fused import Fused
from lazytorch.ops.pointwise import Add, FloorDivide, Fmod, Mul, Pow, Remainder
from lazytorch.types import TensorType

DEVICE = "cpu" if interpreting() else "cuda"

ELEMENTS = 5000
"""More than this takes the interpreter long; what large kernels do otherwise is tested apart."""

CONTRACTED = ("addcmul: torch.float32",)
"""Eager multiplies and adds in one step here, and so do compiled kernels, not the interpreter."""


def small(case: Case) -> bool:
    return all(x.numel() <= ELEMENTS for x in case.tensors())


CASES = {
    case.label: case
    for case in all_cases()
    if small(case) and not (interpreting() and case.label in CONTRACTED)
}


@dataclass(frozen=True)
class Prepared:
    """A case on its way through the target."""

    case: Case
    tensors: Tensors
    op: Fused
    kernel: Kernel

    def run(self, target: TritonTarget, *tensors: torch.Tensor) -> object:
        launch = target.launcher(self.kernel, self.op, tuple(map(type_of, self.tensors)))
        return launch(*(tensors or self.tensors))


def prepare(target: TritonTarget, case: Case) -> Prepared:
    tensors = tuple(moved(x) for x in case.tensors())
    op = case.op(tensors)
    return Prepared(case, tensors, op, target.prepare(op, tuple(map(type_of, tensors))))


def moved(x: torch.Tensor) -> torch.Tensor:
    """The same on the device under test, with the same strides and the same misalignment."""
    if DEVICE == "cpu":
        return x
    reach = sum((size - 1) * stride for size, stride in zip(x.shape, x.stride(), strict=True))
    memory = x.as_strided((x.storage_offset() + reach + 1 if x.numel() else 0,), (1,), 0)
    return memory.to(DEVICE).as_strided(x.shape, x.stride(), x.storage_offset())


def built(target: TritonTarget, *cases: Case) -> list[Prepared]:
    prepared = [prepare(target, case) for case in cases]
    target.build([x.kernel for x in prepared])
    return prepared


def case_of(*tensors: torch.Tensor) -> Case:
    return Case("", mixed, lambda: tensors)


@pytest.fixture(scope="module")
def target() -> TritonTarget:
    return TritonTarget()


@pytest.mark.parametrize("label", CASES)
def test_kernel_computes_what_eager_does(label: str, target: TritonTarget) -> None:
    (found,) = built(target, CASES[label])
    check(found.case, found.tensors, found.op, found.run(target))


LARGE = {
    "flat with an end": lambda: (whole(2003), whole(2003)),
    "row in runs": lambda: (whole(12, 272), whole(272)),
    "column in runs": lambda: (whole(12, 272), whole(12, 1)),
    "row without runs": lambda: (whole(31, 129), whole(129)),
    "channel": lambda: (whole(3, 5, 12, 16), whole(5, 1, 1)),
    "one row shorter than a tile": lambda: (whole(300, 7).t(), whole(7, 300)),
}


@pytest.mark.parametrize("label", LARGE)
def test_large_kernel_computes_what_eager_does(label: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "LARGE", 1000)  # so that the interpreter is quick
    target = TritonTarget()
    (found,) = built(target, Case(label, mixed, LARGE[label]))
    assert "'num_warps': 4" in found.kernel.source
    check(found.case, found.tensors, found.op, found.run(target))


@pytest.mark.parametrize("shapes", [((999,), (999,)), ((60, 48), (48,)), ((41, 1), (1, 53))])
def test_64_bit_indices_find_the_same(
    shapes: tuple[tuple[int, ...], ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernels, "REACH", 100)
    target = TritonTarget()
    (found,) = built(target, case_of(*(whole(*shape) for shape in shapes)))
    assert "'n': 'i64'" in found.kernel.source
    check(found.case, found.tensors, found.op, found.run(target))


def walk(*tensors: torch.Tensor) -> Walk:
    op = case_of(*tensors).op(tensors)
    (output,) = (x.type for x in op.body.outputs)
    assert isinstance(output, TensorType)
    return choose_walk(kernel_loops([type_of(x) for x in tensors], [output]))


def test_runs_divide_the_innermost_loop() -> None:
    assert walk(whole(9, 48), whole(48)).run == 16
    assert walk(whole(9, 40), whole(40)).run == 8
    assert walk(whole(9, 44), whole(9, 1)).run == 4
    assert walk(whole(9, 42), whole(42)).run == 1
    assert walk(whole(9, 48), whole(9, 48)).run == 1  # flat: there are no indices to find


def test_indices_have_64_bits_where_32_do_not_reach() -> None:
    flat = torch.empty(1, device="meta")
    for stride, wide in ((2**30, False), (2**31, True)):
        far = torch.empty_strided((2, 2), (stride, 1), device="meta")
        assert walk(far, flat).wide is wide
    assert not walk(flat.expand(2**30), flat.expand(2**30)).wide
    assert walk(flat.expand(2**31), flat.expand(2**31)).wide


def test_alignment_reaches_the_compiler() -> None:
    assert walk(whole(32, 48), whole(32, 48)).divisibility() == {"n": 16}
    assert walk(whole(3, 5), whole(3, 5)).divisibility() == {}
    sliced = whole(7, 96)[:, 7:55]
    assert walk(sliced, whole(7, 48)).divisibility() == {"s0_0": 16}
    assert walk(whole(7, 97)[:, 7:55], whole(7, 48)).divisibility() == {}


def test_operands_are_left_as_they_were(target: TritonTarget) -> None:
    (found,) = built(target, case_of(whole(50, 60), whole(60)))
    before = [x.clone() for x in found.tensors]
    found.run(target)
    assert all(map(torch.equal, before, found.tensors))


def test_results_are_fresh_every_time(target: TritonTarget) -> None:
    (found,) = built(target, Case("", lambda x: b(Relu(), x), lambda: (whole(5),)))
    first, second = found.run(target), found.run(target)
    assert isinstance(first, torch.Tensor) and isinstance(second, torch.Tensor)
    assert first.data_ptr() != second.data_ptr()


def test_what_begins_anywhere_is_read_right(target: TritonTarget) -> None:
    (found,) = built(target, case_of(whole(4096), whole(4096)))
    tensors = [moved(whole(4099)[k:][:4096]) for k in (1, 3)]
    check(found.case, (tensors[0], tensors[1]), found.op, found.run(target, *tensors))


def test_threads_may_launch_at_once(target: TritonTarget) -> None:
    prepared = built(target, *(case_of(whole(n, 30), whole(30)) for n in (3, 20, 40)))
    results: dict[int, object] = {}

    def work(i: int) -> None:
        for _ in range(3):
            results[i] = prepared[i].run(target)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(prepared))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i, found in enumerate(prepared):
        check(found.case, found.tensors, found.op, results[i])


def names(target: TritonTarget, *cases: Tensors) -> set[str]:
    return {prepare(target, case_of(*xs)).kernel.name for xs in cases}


def test_sizes_are_run_time_arguments(target: TritonTarget) -> None:
    assert len(names(target, *[(whole(n, 64), whole(64)) for n in (2, 3, 1000)])) == 1
    assert len(names(target, *[(whole(n, 8, 9, 9), whole(8, 1, 1)) for n in (2, 8)])) == 1
    sliced = [(whole(n, 40)[:, 3:33], whole(n, 30)) for n in (5, 7)]
    assert len(names(target, *sliced)) == 1


def test_flat_operands_share_a_kernel_whatever_their_shape(target: TritonTarget) -> None:
    cases = [(whole(*s), whole(*s)) for s in ((48,), (4, 12), (2, 3, 4, 6))]
    last = channels_last(whole(2, 3, 4, 4))
    assert len(names(target, *cases, (last, last))) == 1


def test_what_changes_the_code_changes_the_name(target: TritonTarget) -> None:
    flat = (whole(6, 64), whole(6, 64))
    half = tuple(x.bfloat16() for x in flat)
    row, column, strided = whole(6, 1), whole(64), whole(6, 128)[:, ::2]
    large = (whole(2**17), whole(2**17))
    odd = (whole(6, 63), whole(6, 63))
    others = [(flat[0], row), (flat[0], column), (flat[0], strided), half, large, odd]
    assert len(names(target, flat, *others)) == 7
    assert len(names(TritonTarget(rounding=True), half) | names(target, half)) == 2


def test_launching_what_was_not_built_is_an_error(target: TritonTarget) -> None:
    case = Case("", lambda x: b(Exp(), b(Add(), x, 4321)), lambda: (whole(3),))
    with pytest.raises(LazyTorchError, match="is not built"):
        prepare(target, case).run(target)


@pytest.mark.parametrize(
    ("reason", "case"),
    [
        ("c64", Case("", op_body(Exp()), lambda: (whole(3).to(torch.complex64),))),
        ("by 0", Case("", op_body(Remainder(), 0), lambda: (random(9, dtype=torch.int32),))),
        (
            "different shapes",
            Case("", lambda x, y: (b(Exp(), x), b(Add(), x, y)), lambda: (whole(3), whole(2, 3))),
        ),
    ],
)
def test_refusals_say_why(reason: str, case: Case, target: TritonTarget) -> None:
    with pytest.raises(UnsupportedError, match=reason):
        prepare(target, case)


def test_what_is_on_no_gpu_is_refused(target: TritonTarget) -> None:
    op = Case("", op_body(Exp()), lambda: (torch.empty(3, device="meta"),))
    tensors = op.tensors()
    with pytest.raises(UnsupportedError, match="cannot read"):
        target.prepare(op.op(tensors), tuple(map(type_of, tensors)))


@pytest.mark.parametrize("op", [FloorDivide(), Remainder(), Fmod()], ids=lambda op: op.name())
@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.int8, torch.uint8], ids=str)
def test_integers_divide_as_python_does(
    op: FloorDivide | Remainder | Fmod, dtype: torch.dtype, target: TritonTarget
) -> None:
    x, y = random(900, dtype=dtype), random(901, dtype=dtype)[:900]
    x[:2] = torch.iinfo(dtype).min
    y = torch.where(y == 0, 7, y)
    (found,) = built(target, Case("", op_body(op), lambda: (x, y)))
    result = found.run(target)
    assert isinstance(result, torch.Tensor)
    assert torch.equal(result, found.op.run(*found.tensors))


def test_wide_integer_powers_wrap(target: TritonTarget) -> None:
    x, y = random(300, dtype=torch.int64), torch.arange(300)
    (found,) = built(target, Case("", op_body(Pow()), lambda: (x, y)))
    check(found.case, found.tensors, found.op, found.run(target))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_rounding_gives_eagers_bits(dtype: torch.dtype) -> None:
    target = TritonTarget(rounding=True)

    def chain(x: object, y: object) -> object:
        for _ in range(5):
            x = b(Add(), b(Mul(), x, y), y)
        return x

    case = Case("", chain, lambda: (random(999, dtype=dtype), random(999, dtype=dtype)))
    (found,) = built(target, case)
    result = found.run(target)
    assert isinstance(result, torch.Tensor)
    assert torch.equal(result, found.op.run(*found.tensors))
    assert "'enable_fp_fusion': False" in found.kernel.source


def test_without_triton_building_is_a_compiler_error(monkeypatch: pytest.MonkeyPatch) -> None:
    target = TritonTarget()
    found = prepare(target, case_of(whole(3), whole(3)))
    monkeypatch.setitem(sys.modules, "triton", None)
    with pytest.raises(CompilerError, match="triton cannot be imported"):
        target.build([found.kernel])


COMPILED = """
import sys, torch
sys.path.insert(0, sys.argv[1])
from triton.backends.compiler import GPUTarget
from kernel_cases import b, mixed
from lazytorch.ir import Graph, input
from lazytorch.lower.triton import TritonTarget
from lazytorch.lower.triton.source import compile_kernel, run_source
from lazytorch.ops.activation import Gelu
from lazytorch.ops.fused import Fused
from lazytorch.ops.pointwise import Add
from lazytorch.types import tensor_type

def loads(body, dtype, *shapes):
    types = tuple(tensor_type(x, dtype, torch.device("cuda", 0)) for x in shapes)
    inputs = tuple(input(f"x{i}", x) for i, x in enumerate(types))
    target = TritonTarget()
    kernel = target.prepare(Fused(Graph(inputs, (body(*inputs),))), types)
    module = run_source(kernel.name, kernel.source)
    compiled = compile_kernel(module, getattr(module, kernel.name), True, GPUTarget("cuda", 90, 32))
    lines = [x for x in compiled.asm["ptx"].splitlines() if ".global." in x]
    assert compiled.metadata.global_scratch_size == 0 and compiled.asm["cubin"]
    vectors = sum("global.v4.b32" in x for x in lines)
    print(vectors, len(lines) - vectors)

def gelu(x, y):
    return b(Gelu(), b(Add(), x, y))

loads(mixed, torch.float32, (1 << 20,), (1 << 20,))
loads(gelu, torch.bfloat16, (4096, 1024), (1024,))
loads(gelu, torch.float32, (64, 32, 56, 56), (32, 1, 1))
loads(mixed, torch.float32, (1009, 1011), (1011,))
"""


def test_kernels_compile_for_a_gpu_that_is_not_there(tmp_path: Path) -> None:
    tests = Path(__file__).parent
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    environment |= {"TRITON_CACHE_DIR": str(tmp_path), "PYTHONPATH": str(tests.parent)}
    done = subprocess.run(
        [sys.executable, "-c", COMPILED, str(tests)],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    vectors, scalars = zip(*(map(int, x.split()) for x in done.stdout.splitlines()), strict=True)
    # The channel's numbers are loaded one by one; what fits no vector has them in all programs
    # but the last.
    assert vectors == (6, 6, 4, 4) and scalars[:3] == (0, 0, 2)
