"""Generates Triton kernels for fused elementwise groups, and is the CUDA target."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lazytorch.errors import UnsupportedError
from lazytorch.lower.expression import check, print_body
from lazytorch.lower.index import Loops, kernel_loops
from lazytorch.lower.kernel import NAME, Kernel, Launch, Operand, describe, group_shape, named
from lazytorch.lower.triton.binary import Binaries, interpreting
from lazytorch.lower.triton.launch import make_launch
from lazytorch.lower.triton.printer import POINTER, TritonPrinter, stored
from lazytorch.lower.triton.rows import Rows, row_statements, rows_of
from lazytorch.ops.base import Rowwise
from lazytorch.ops.fused import Fused
from lazytorch.types import TensorType

LARGE = 1 << 17
"""From this many elements on, bandwidth counts: below, few of a GPU's processors have work."""

RUNS = (16, 8, 4)
"""Lengths of runs of neighbours that share everything but the innermost index."""

REACH = 2**31 - 2048
"""Elements that 32-bit indices reach; the last program counts on beyond the last element."""


@dataclass(frozen=True, slots=True)
class Walk:
    """How a kernel's programs walk the loops.

    With one loop, or an innermost size that no run divides, every element finds its own indices
    (`run` is 1). Else they are found once per run of neighbours, which loads and stores as vectors.
    """

    loops: Loops
    run: int
    wide: bool

    @property
    def large(self) -> bool:
        """Whether there is enough work for every processor."""
        return self.loops.numel >= LARGE

    @property
    def block(self) -> int:
        """Elements of one program."""
        return 1024 if self.large else 256

    @property
    def warps(self) -> int:
        """Warps of one program."""
        return 4 if self.large else 2

    @property
    def grid(self) -> int:
        """How many programs visit every element."""
        return -(-self.loops.numel // self.block)

    @property
    def count(self) -> int:
        """How many runs there are."""
        return self.loops.numel // self.run

    def arguments(self) -> dict[str, int]:
        """The integers given to the kernel by name: sizes (the innermost in runs) and strides."""
        sizes = (*self.loops.sizes[:-1], self.loops.sizes[-1] // self.run)
        numbers = {"n": self.count}
        numbers |= {f"n{d}": size for d, size in enumerate(sizes) if d > 0}
        for k, strides in enumerate(self.loops.strides):
            if not self.flat(k):
                numbers |= {f"s{k}_{d}": s for d, s in enumerate(strides) if s > 1}
        return numbers

    def divisibility(self) -> dict[str, int]:
        """What divides arguments, as far as that lets loads and stores be vectors."""
        if self.run == 1:
            return {} if self.count % 16 else {"n": 16}
        return {
            name: self.run
            for name, value in self.arguments().items()
            if name.startswith("s") and value % self.run == 0
        }

    def flat(self, k: int) -> bool:
        """Whether operand k has its elements one after the other, as the loops visit them."""
        step = 1
        for size, stride in zip(
            reversed(self.loops.sizes), reversed(self.loops.strides[k]), strict=True
        ):
            if stride != step:
                return False
            step *= size
        return True


def choose_walk(loops: Loops) -> Walk:
    """Runs where the innermost loop has them; 64-bit indices where 32 bits do not reach."""
    last = loops.sizes[-1]
    run = next((r for r in RUNS if last % r == 0), 1) if len(loops.sizes) > 1 else 1
    reach = max(
        sum((size - 1) * stride for size, stride in zip(loops.sizes, strides, strict=True))
        for strides in loops.strides
    )
    return Walk(loops, run, max(reach, loops.numel) >= REACH)


def walk_of(
    rows: bool, operands: tuple[TensorType, ...], outputs: tuple[TensorType, ...]
) -> Walk | Rows:
    """By rows where some operation needs them whole, else by elements."""
    if rows:
        return rows_of(operands, outputs)
    return choose_walk(kernel_loops(operands, outputs))


class TritonTarget:
    """CUDA as a target. With `rounding`, 16-bit results are rounded where eager rounds them, and
    multiplication and addition are never contracted.

    Under `TRITON_INTERPRET=1` it is the CPU as a target instead, by Triton's interpreter.
    """

    def __init__(self, rounding: bool = False) -> None:
        self.rounding = rounding
        self.binaries = Binaries()

    def prepare(self, op: Fused, operands: tuple[Operand, ...]) -> Kernel:
        """The kernel for a group; UnsupportedError says why there is none. Compiles nothing."""
        group_shape(op, operands, rows=True)
        outputs = tuple(x.type for x in op.body.outputs if isinstance(x.type, TensorType))
        reads = tensors(operands)
        for x in (*reads, *outputs):
            check(x.dtype)
            if x.device.type != "cuda" and not (x.device.type == "cpu" and interpreting()):
                raise UnsupportedError(f"a Triton kernel cannot read {x}")
        rows = any(isinstance(node.op, Rowwise) for node in op.body.nodes)
        walk = walk_of(rows, reads, outputs)
        source = kernel_source(op, operands, outputs, walk, self.rounding)
        kernel = named(describe(op.body), source, rows)
        self.binaries.expect(kernel, outputs[0].device)
        return kernel

    def build(self, kernels: Sequence[Kernel]) -> None:
        """Compile the kernels that are not built yet, in parallel, for the devices they are for."""
        self.binaries.build(kernels)

    def launcher(
        self,
        kernel: Kernel,
        operands: tuple[Operand, ...],
        outputs: tuple[TensorType, ...],
    ) -> Launch:
        """A function that allocates the outputs and runs a built kernel on such operands."""
        walk = walk_of(kernel.rows, tensors(operands), outputs)
        numbers = tuple(walk.arguments().values())
        return make_launch(self.binaries, kernel, operands, outputs, walk.grid, numbers)


def tensors(operands: tuple[Operand, ...]) -> tuple[TensorType, ...]:
    """The operands that are read from memory; numbers are arguments of the kernel."""
    return tuple([x for x in operands if isinstance(x, TensorType)])


def kernel_source(
    op: Fused,
    operands: tuple[Operand, ...],
    outputs: tuple[TensorType, ...],
    walk: Walk | Rows,
    rounding: bool,
) -> str:
    """A module with the kernel, and what is needed to compile it ahead of its first launch."""
    types = (*tensors(operands), *outputs)
    integer = "i64" if walk.wide else "i32"
    signature = {f"p{k}": POINTER[x.dtype] for k, x in enumerate(types)}
    signature |= dict.fromkeys(walk.arguments(), integer)
    scalars = [f"d{k}" for k in range(len(operands) + len(outputs) - len(types))]
    signature |= dict.fromkeys(scalars, "i64")  # the bits of doubles, on every way of launching
    if isinstance(walk, Rows):
        statements = row_statements(op, operands, outputs, walk, rounding)
    else:
        statements = element_statements(op, operands, outputs, walk, rounding)
    return TEMPLATE.format(
        summary=describe(op.body).replace("_", " "),
        signature=signature,
        divisibility=walk.divisibility(),
        options={
            "num_warps": walk.warps,
            "enable_fp_fusion": not rounding,
            "enable_reflect_ftz": False,  # eager keeps subnormal numbers
        },
        numbers=[*walk.arguments(), *scalars],
        name=NAME,
        parameters=", ".join(signature),
        body="\n    ".join(statements),
    )


def element_statements(
    op: Fused,
    operands: tuple[Operand, ...],
    outputs: tuple[TensorType, ...],
    walk: Walk,
    rounding: bool,
) -> list[str]:
    """Statements that find a program's elements, load, compute and store them."""
    # A mask that may end anywhere makes every load a scalar one: only the last program has it.
    split = walk.large and walk.run == 1 and walk.count % 16 != 0
    if not split:
        return [*indices(walk), *elements(op, operands, outputs, walk, rounding, masked=True)]
    return [
        *indices(walk),
        f"if first + {walk.block // walk.run} <= n:",
        *indented(elements(op, operands, outputs, walk, rounding, masked=False)),
        "else:",
        *indented(elements(op, operands, outputs, walk, rounding, masked=True)),
    ]


TEMPLATE = '''"""{summary}"""
import triton
import triton.language as tl

from lazytorch.lower.triton import arithmetic as lt
from lazytorch.lower.triton.arithmetic import libdevice

SIGNATURE = {signature}
DIVISIBILITY = {divisibility}
OPTIONS = {options}


@triton.jit(do_not_specialize={numbers})
def {name}({parameters}):
    {body}
'''


def indented(lines: Sequence[str]) -> list[str]:
    """Lines of an inner block."""
    return ["    " + line for line in lines]


def indices(walk: Walk) -> list[str]:
    """Statements that find the index in every loop (`i0`, `i1`, ...) of every element or run.

    `i` counts the elements or runs, `mask` says which there are, `flat` counts elements. In runs
    `c0`, `c1`, ... are the same indices for blocks of runs by elements.
    """
    many = walk.block // walk.run
    pid = "tl.program_id(0).to(tl.int64)" if walk.wide else "tl.program_id(0)"
    lines = [f"first = {pid} * {many}", f"i = first + tl.arange(0, {many})", "mask = i < n"]
    inner = len(walk.loops.sizes) - 1
    rest = "i"
    for d in range(inner, 0, -1):
        if walk.wide:
            lines.append(f"r{d} = {rest} // n{d}")
        else:  # division of unsigned numbers is cheaper
            unsigned = f"{rest}.to(tl.uint32) // n{d}.to(tl.uint32)"
            lines.append(f"r{d} = ({unsigned}).to(tl.int32)")
        lines.append(f"i{d} = {rest} - r{d} * n{d}")
        rest = f"r{d}"
    lines.append(f"i0 = {rest}")
    if walk.run == 1:
        lines.append("flat = i")
    else:
        lines.append(f"lane = tl.arange(0, {walk.run})")
        for name, source in (("flat", "i"), (f"c{inner}", f"i{inner}")):
            lines.append(f"{name} = ({source} * {walk.run})[:, None] + lane[None, :]")
        lines += [f"c{d} = i{d}[:, None]" for d in range(inner)]
    return lines


def elements(
    op: Fused,
    operands: tuple[Operand, ...],
    outputs: tuple[TensorType, ...],
    walk: Walk,
    rounding: bool,
    masked: bool,
) -> list[str]:
    """Statements that load, compute and store the elements whose indices are known."""
    printer = TritonPrinter(rounding)
    inputs = printer.operands(operands, lambda k: load(walk, k, masked))
    values = print_body(printer, op.body, inputs)
    mask = "" if not masked else ", mask" if walk.run == 1 else ", mask[:, None]"
    for k, (x, value) in enumerate(zip(outputs, values, strict=True), len(tensors(operands))):
        at, code = offset(walk, k, "i" if walk.run == 1 else "c"), stored(value.code, x.dtype)
        printer.lines.append(f"tl.store(p{k} + {at}, {code}{mask})")
    return printer.lines


def load(walk: Walk, k: int, masked: bool) -> str:
    """Operand k from memory: once, once per run, or every element."""
    strides = walk.loops.strides[k]
    if not any(strides):
        return f"tl.load(p{k})"
    per_run = walk.run > 1 and strides[-1] == 0
    block = walk.run > 1 and not per_run
    mask = "" if not masked else ", mask[:, None]" if block else ", mask"
    code = f"tl.load(p{k} + {offset(walk, k, 'c' if block else 'i')}{mask})"
    return f"{code}[:, None]" if per_run else code


def offset(walk: Walk, k: int, index: str) -> str:
    """Where operand k has the elements, counted from its first, by the indices of that name."""
    if walk.flat(k):
        return "flat"
    terms = [
        f"{index}{d}" if stride == 1 else f"{index}{d} * s{k}_{d}"
        for d, stride in enumerate(walk.loops.strides[k])
        if stride
    ]
    return f"({' + '.join(terms)})" if len(terms) > 1 else terms[0]
