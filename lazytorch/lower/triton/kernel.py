"""Generates Triton kernels for fused elementwise groups, and is the CUDA target."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache, partial

import torch

from lazytorch.errors import UnsupportedError
from lazytorch.lower.expression import Expression, check, print_steps
from lazytorch.lower.index import Loops
from lazytorch.lower.kernel import (
    Generated,
    Kernel,
    Launch,
    contracts,
    describe,
    group_shape,
    named,
    once,
    outputs_of,
)
from lazytorch.lower.steps import Bound, Operand, Steps, reads, steps
from lazytorch.lower.triton.access import Accesses, accesses
from lazytorch.lower.triton.attention import Attention
from lazytorch.lower.triton.binary import Binaries, interpreting
from lazytorch.lower.triton.foreach import foreach_kernel, foreach_launch
from lazytorch.lower.triton.launch import make_launch
from lazytorch.lower.triton.module import indented, module_source
from lazytorch.lower.triton.printer import POINTER, TritonPrinter, stored
from lazytorch.lower.triton.row_text import row_statements
from lazytorch.lower.triton.rows import TritonRows
from lazytorch.lower.triton.scale import OWN, VARIANTS, Scale
from lazytorch.lower.triton.tiles import Tiles, tile_statements, tiles_of
from lazytorch.ops.attention import ScaledDotProductAttention
from lazytorch.ops.foreach import Foreach
from lazytorch.ops.fused import Fused, full_shape
from lazytorch.types import TensorType

LARGE = 1 << 17
"""From this many elements on, bandwidth counts: below, few of a GPU's processors have work."""

RUNS = (16, 8, 4)
"""Lengths of runs of neighbours that share everything but the innermost index."""

REACH = 2**31 - 2048
"""Elements that 32-bit indices reach; the last program counts on beyond the last element."""

KNOWN = 4096
"""Groups whose kernels are remembered."""


@dataclass(frozen=True, slots=True)
class Walk:
    """How a kernel's programs walk the loops.

    With one loop, or an innermost size that no run divides, every element finds its own indices
    (`run` is 1). Else they are found once per run of neighbours, which loads and stores as vectors.
    """

    loops: Loops
    run: int
    wide: bool
    given: Accesses | None = None
    scale: Scale = OWN

    @property
    def large(self) -> bool:
        """Whether there is enough work for every processor."""
        return self.loops.numel >= LARGE

    @property
    def block(self) -> int:
        """Elements of one program."""
        if not self.large:
            return self.scale.size_of(256)
        narrow = self.run > 1 and self.given is not None and self.given.itemsize <= 2
        return self.scale.size_of(2048 if narrow else 1024)

    @property
    def warps(self) -> int:
        """Warps of one program."""
        return self.scale.warps_of(4 if self.large else 2)

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
                pairs = enumerate(strides)
                numbers |= {self.stride(k, d): s for d, s in pairs if s not in (0, 1)}
        return numbers if self.given is None else numbers | self.given.arguments()

    def stride(self, r: int, d: int) -> str:
        """The argument that is access r's stride in loop d."""
        return f"s{r}_{d}" if self.given is None else self.given.stride(r, d)

    def divisibility(self) -> dict[str, int]:
        """What divides arguments, as far as that lets loads and stores be vectors."""
        if self.run == 1:
            return {} if self.count % 16 else {"n": 16}
        return {
            name: self.run
            for name, value in self.arguments().items()
            if name[0] in "solh" and value % self.run == 0
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


def choose_walk(loops: Loops, given: Accesses | None = None, scale: Scale = OWN) -> Walk:
    """Runs where the innermost loop has them; 64-bit indices where 32 bits do not reach.

    A run ends where what is read changes, so that it loads as one vector.
    """
    last = loops.sizes[-1]
    ends = () if given is None else tuple(given.arguments().values())
    fits = [r for r in RUNS if last % r == 0] if len(loops.sizes) > 1 else []
    run = next((r for r in fits if not any(end % r for end in ends)), fits[-1] if fits else 1)
    reach = max(
        sum((size - 1) * abs(stride) for size, stride in zip(loops.sizes, strides, strict=True))
        for strides in loops.strides
    )
    return Walk(loops, run, max(reach, loops.numel) >= REACH, given, scale)


def plan(
    op: Fused, operands: tuple[Operand, ...], variant: int
) -> tuple[Steps, Walk | Tiles | TritonRows]:
    """The steps of a kernel, and its walk: by rows where some operation needs them whole."""
    outputs, whole, scale = outputs_of(op), full_shape(op), VARIANTS[variant]
    shape = whole or outputs[0].shape
    found = steps(op.body, shape)
    given = accesses(shape, reads(found, op.body, operands), tensors(operands), outputs)
    if whole is not None:
        return found, TritonRows(given, scale, once(op.body))
    loops = given.loops()
    return found, tiles_of(given, loops, scale) or choose_walk(loops, given, scale)


class TritonTarget:
    """CUDA as a target. With `rounding`, 16-bit results are rounded where eager rounds them, and
    multiplication and addition are never contracted.

    Under `TRITON_INTERPRET=1` it is the CPU as a target instead, by Triton's interpreter.
    """

    def __init__(self, rounding: bool = False) -> None:
        self.rounding = rounding
        self.binaries = Binaries()
        # Equal layers are of equal groups, which are looked at and printed once.
        self.plan = lru_cache(KNOWN)(plan)
        self.printed = lru_cache(KNOWN)(self.print)
        self.launch = lru_cache(KNOWN)(self.made)

    def prepare(self, op: Generated, operands: tuple[Operand, ...]) -> Kernel:
        """The kernel for a group or an attention; UnsupportedError says why there is none."""
        if isinstance(op, Fused):
            return self.variant(op, operands, 0)
        if isinstance(op, Foreach):
            kernel = foreach_kernel(op, operands, self.rounding)
        elif self.rounding:
            raise UnsupportedError("a short attention rounds less often than eager")
        else:
            kernel = named("attention", Attention(op, operands).source())
        self.binaries.expect(kernel, tensors(operands)[0].device)
        return kernel

    def variants(self, op: Generated, operands: tuple[Operand, ...]) -> Sequence[Kernel]:
        """The group's kernel in other launch shapes, as far as they differ."""
        if not isinstance(op, Fused):
            return ()
        found: dict[str, Kernel] = {}
        for k in range(len(VARIANTS)):
            kernel = self.variant(op, operands, k)
            found.setdefault(kernel.name, kernel)
        return list(found.values())[1:]

    def variant(self, op: Fused, operands: tuple[Operand, ...], variant: int) -> Kernel:
        """The kernel in one of its launch shapes."""
        group_shape(op, operands)
        outputs = outputs_of(op)
        for x in (*tensors(operands), *outputs):
            check(x.dtype)
            if x.device.type != "cuda" and not (x.device.type == "cpu" and interpreting()):
                raise UnsupportedError(f"a Triton kernel cannot read {x}")
        kernel = self.printed(op, operands, variant)
        self.binaries.expect(kernel, outputs[0].device)
        return kernel

    def print(self, op: Fused, operands: tuple[Operand, ...], variant: int) -> Kernel:
        """The text of such a kernel."""
        source = kernel_source(op, operands, *self.plan(op, operands, variant), self.rounding)
        return named(describe(op.body), source, variant)

    def ask(self, kernels: Sequence[Kernel]) -> None:
        """Let prepared kernels be compiled by a process of its own, if there is one."""
        self.binaries.ask(kernels)

    def build(self, kernels: Sequence[Kernel]) -> None:
        """Compile the kernels that are not built yet, in parallel, for the devices they are for."""
        self.binaries.build(kernels)

    def launcher(
        self,
        kernel: Kernel,
        op: Generated,
        operands: tuple[Operand, ...],
        into: tuple[int, ...] = (),
    ) -> Launch:
        """A function that allocates the outputs and runs a built kernel on such operands."""
        if isinstance(op, Foreach):  # it has tables of its own
            return foreach_launch(self.binaries, kernel, op, operands, into)
        return self.launch(kernel, op, operands, into)

    def made(
        self,
        kernel: Kernel,
        op: Fused | ScaledDotProductAttention,
        operands: tuple[Operand, ...],
        into: tuple[int, ...],
    ) -> Launch:
        """Such a function, which holds nothing of its call site."""
        if isinstance(op, Fused):
            _, walk = self.plan(op, operands, kernel.variant)
            outputs = outputs_of(op)
        else:
            walk = Attention(op, operands)
            outputs = (walk.result,)
        numbers = tuple(walk.arguments().values())
        return make_launch(self.binaries, kernel, operands, outputs, walk.grid, numbers, into)


def tensors(operands: tuple[Operand, ...]) -> tuple[TensorType, ...]:
    """The operands that are read from memory; numbers are arguments of the kernel."""
    return tuple([x for x in operands if isinstance(x, TensorType)])


def kernel_source(
    op: Fused,
    operands: tuple[Operand, ...],
    found: Steps,
    walk: Walk | Tiles | TritonRows,
    rounding: bool,
) -> str:
    """A module with the kernel, and what is needed to compile it ahead of its first launch."""
    outputs = outputs_of(op)
    types = (*tensors(operands), *outputs)
    integer = "i64" if walk.wide else "i32"
    signature = {f"p{k}": POINTER[x.dtype] for k, x in enumerate(types)}
    signature |= dict.fromkeys(walk.arguments(), integer)
    scalars = [f"d{k}" for k in range(len(operands) + len(outputs) - len(types))]
    signature |= dict.fromkeys(scalars, "i64")  # the bits of doubles, on every way of launching
    if isinstance(walk, TritonRows):
        statements = row_statements(found, outputs, walk, rounding)
    elif isinstance(walk, Tiles):
        statements = tile_statements(found, outputs, walk, rounding)
    else:
        statements = element_statements(found, outputs, walk, rounding)
    numbers = [*walk.arguments(), *scalars]
    summary, divisibility = describe(op.body), walk.divisibility()
    exact = rounding or not contracts(op.body)
    return module_source(summary, signature, numbers, statements, walk.warps, exact, divisibility)


def element_statements(
    found: Steps, outputs: tuple[TensorType, ...], walk: Walk, rounding: bool
) -> list[str]:
    """Statements that find a program's elements, load, compute and store them."""
    # A mask that may end anywhere makes every load a scalar one: only the last program has it.
    split = walk.large and walk.run == 1 and walk.count % 16 != 0
    if not split:
        return [*indices(walk), *elements(found, outputs, walk, rounding, masked=True)]
    return [
        *indices(walk),
        f"if first + {walk.block // walk.run} <= n:",
        *indented(elements(found, outputs, walk, rounding, masked=False)),
        "else:",
        *indented(elements(found, outputs, walk, rounding, masked=True)),
    ]


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
    found: Steps, outputs: tuple[TensorType, ...], walk: Walk, rounding: bool, masked: bool
) -> list[str]:
    """Statements that load, compute and store the elements whose indices are known."""
    given = walk.given
    assert given is not None
    printer = TritonPrinter(rounding)
    inputs = printer.operands(found.inputs(), lambda r: load(walk, given, r, masked))

    def inside(bounds: tuple[Bound, ...]) -> Expression:
        where = given.condition(bounds, partial(index, walk, block=walk.run > 1))
        return printer.bind(" & ".join(where), torch.bool)

    places = [place(printer, walk, given, r) for r in given.places]
    values = print_steps(printer, found, inputs, inside, places)
    mask = "" if not masked else ", mask" if walk.run == 1 else ", mask[:, None]"
    for r, (x, value) in enumerate(zip(outputs, values, strict=True), len(given.reads)):
        at, code = offset(walk, r, "i" if walk.run == 1 else "c"), stored(value.code, x.dtype)
        printer.lines.append(f"tl.store({given.pointer(r)} + {at}, {code}{mask})")
    return printer.lines


def index(walk: Walk, dim: int, block: bool) -> str:
    """The index of a dimension that has a loop of its own, of every element or of every run."""
    return f"{'c' if block else 'i'}{walk.loops.dims.index((dim,))}"


def load(walk: Walk, given: Accesses, r: int, masked: bool) -> str:
    """Load r: once, once per run, or every element."""
    strides, bounds = walk.loops.strides[r], given.reads[r].bounds
    if not any(strides) and not bounds:
        return f"tl.load({' + '.join([given.pointer(r), *given.start(r)])})"
    inner = len(strides) - 1
    along = any(walk.loops.dims[inner] == (bound.dim,) for bound in bounds)
    per_run = walk.run > 1 and strides[-1] == 0 and not along
    block = walk.run > 1 and not per_run
    where = given.condition(bounds, partial(index, walk, block=block))
    where += ["mask[:, None]" if block else "mask"] if masked else []
    mask = "".join([f", {x}" for x in [" & ".join(where)] * bool(where) + given.other(r)])
    name = "c" if block else "i"
    # A mask of a block takes a block of addresses.
    at = offset(walk, r, name) if any(strides) else f"{name}0 * 0"
    code = f"tl.load({' + '.join([given.pointer(r), *given.start(r), at])}{mask})"
    return f"{code}[:, None]" if per_run else code


def place(printer: TritonPrinter, walk: Walk, given: Accesses, r: int) -> Expression:
    """Access r, which is to no tensor."""
    code = " + ".join([*given.start(r), offset(walk, r, "i" if walk.run == 1 else "c")])
    strides = walk.loops.strides[r]
    if walk.run > 1:
        return printer.place(code, walk.wide, given.run(r, strides, walk.run))
    return printer.place(code, walk.wide, given.run(r, (1,), walk.block) if walk.flat(r) else 1)


def offset(walk: Walk, r: int, index: str) -> str:
    """Where access r has the elements, counted from its start, by the indices of that name."""
    if walk.flat(r):
        return "flat"
    terms = [
        f"{index}{d}" if stride == 1 else f"{index}{d} * {walk.stride(r, d)}"
        for d, stride in enumerate(walk.loops.strides[r])
        if stride
    ]
    return f"({' + '.join(terms)})" if len(terms) > 1 else terms[0]
