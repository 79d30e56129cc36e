"""Generates C++ kernels for elementwise groups, and builds and launches all C++ kernels."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from lazytorch.errors import LazyTorchError, UnsupportedError
from lazytorch.lower.cpp import toolchain
from lazytorch.lower.cpp.around import Form, around, around_arguments, around_source
from lazytorch.lower.cpp.columns import column_source, in_lanes, lane_loop
from lazytorch.lower.cpp.foreach import foreach_launch, foreach_source
from lazytorch.lower.cpp.pages import allocator
from lazytorch.lower.cpp.products import Pixels
from lazytorch.lower.cpp.rows import row_source
from lazytorch.lower.cpp.tile import MOST, part, tile_source
from lazytorch.lower.cpp.windows import WindowRows
from lazytorch.lower.expression import check
from lazytorch.lower.index import Loops, kernel_loops
from lazytorch.lower.kernel import (
    NAME,
    Generated,
    Kernel,
    Launch,
    Operand,
    contracts,
    describe,
    group_shape,
    named,
    outputs_of,
)
from lazytorch.lower.rows import Rows, rows_of
from lazytorch.lower.steps import steps
from lazytorch.ops.affine import Affine
from lazytorch.ops.base import broadcast_strides
from lazytorch.ops.conv import KernelConvolution
from lazytorch.ops.depthwise import DepthwiseConvolution
from lazytorch.ops.foreach import Foreach
from lazytorch.ops.fused import Fused, full_shape
from lazytorch.types import Shape, Strides, TensorType, tensor_type

NUMBER = tensor_type((), torch.float64)

SHORT = 8
"""Innermost loops shorter than this fill no vector: another loop becomes the vector loop."""

BLOCK = 4096
"""Elements walked at a time when rows interleave, so that a cache line is read once."""

ACROSS = 64
"""Elements of a row walked at a time when an operand lies across the rows."""

FEWEST = 16
"""Rows, and elements of a row, for which it is worth to put what lies across them beside first."""

QUICK = 32768
"""Kernels of fewer elements keep Python's lock."""


@dataclass(frozen=True, slots=True)
class Walk:
    """Which loop becomes SIMD code, and how the others are walked (see loops.h). Operands that are
    `swapped` lie across the rows: what a row reads of them is put side by side first."""

    loops: Loops
    vector: int
    row: int | None
    block: int
    swapped: tuple[int, ...] = ()

    @property
    def steps(self) -> Strides:
        """Every operand's stride in the vector loop."""
        return tuple(strides[self.vector] for strides in self.loops.strides)

    def arguments(self, itemsizes: Sequence[int]) -> list[int]:
        """The run-time description of a launch, strides in bytes."""
        sizes = self.loops.sizes
        strides = [
            [stride * size for stride in operand]
            for operand, size in zip(self.loops.strides, itemsizes, strict=True)
        ]
        outer = [i for i in reversed(range(len(sizes))) if i not in (self.vector, self.row)]
        rows = 1 if self.row is None else sizes[self.row]
        described = [sizes[self.vector], rows, self.block, len(outer), *(sizes[i] for i in outer)]
        for i in (self.vector, self.row, *outer):
            described += [0 if i is None else operand[i] for operand in strides]
        return described


def choose_walk(loops: Loops, reads: Sequence[TensorType]) -> Walk:
    """The innermost loop in memory becomes the vector loop, unless it is short and another is not.

    Then the short loop becomes the rows, which interleave. Long rows interleave too where an
    operand lies across them, so that what is read of it stays in the cache for the next row, and
    where they would not fit into a buffer. The first operands are `reads`, the others are written.
    """
    sizes = loops.sizes
    last = len(sizes) - 1
    if last == 0:
        return Walk(loops, 0, None, 0)
    if sizes[last] < SHORT:
        long = [i for i in range(last) if sizes[i] >= SHORT]
        if long:
            return Walk(loops, long[-1], last, max(BLOCK // sizes[last], 64))
    swapped = tuple(
        [k for k, s in enumerate(loops.strides[: len(reads)]) if s[last - 1] == 1 and s[last] > 1]
    )
    if swapped and len(swapped) <= MOST and min(sizes[last - 1 :]) >= FEWEST:
        width, _ = part([reads[k] for k in swapped])
        return Walk(loops, last, last - 1, width if sizes[last] > width else 0, swapped)
    across = any(0 < s[last - 1] < s[last] for s in loops.strides)
    return Walk(loops, last, last - 1, ACROSS if across and sizes[last] > 4 * ACROSS else 0)


class CppTarget:
    """The CPU as a target.

    With `rounding`, 16-bit results are rounded where eager rounds them, and multiplication and
    addition are never contracted. `load` compiles and loads, as the toolchain's own does.
    """

    def __init__(
        self, rounding: bool = False, load: Callable[..., ctypes.CDLL] = toolchain.load
    ) -> None:
        self.rounding = rounding
        self.load = load
        self.addresses: dict[str, int] = {}

    def prepare(self, op: Generated, operands: tuple[Operand, ...]) -> Kernel:
        """The kernel for a group; UnsupportedError says why there is none. Compiles nothing."""
        if isinstance(op, Foreach):
            return self.foreach(op, operands)
        if not isinstance(op, Fused):
            raise UnsupportedError("a CPU's attention is torch's own")
        shape, outputs = group_shape(op, operands), outputs_of(op)
        reads = in_memory(operands)
        for x in (*reads, *outputs):
            check(x.dtype)
            if x.device.type != "cpu":
                raise UnsupportedError(f"a C++ kernel cannot read {x}")
        whole = full_shape(op)
        if (form := form_of(op)) is not None:
            if whole is not None:
                raise UnsupportedError("convolutions have kernels without rows")
            source = around_source(around(op.body, reads, outputs), form, self.rounding)
            return named(describe(op.body), source, contract=contracts(op.body))
        found = steps(op.body, shape)
        if any(isinstance(x.node.op, Affine) for x in found.all):
            raise UnsupportedError("C++ kernels read every operand at the element's own place")
        if whole is not None:
            rows = row_walk(whole, reads, outputs)
            write = column_source if in_lanes(rows, op.body) else row_source
            source = write(found, op.body, reads, outputs, rows, self.rounding)
        else:
            walk = choose_walk(kernel_loops(reads, outputs), reads)
            tile = tile_source(
                found, op.body, reads, outputs, walk.steps, walk.swapped, self.rounding
            )
            source = kernel_source(tile, len(walk.steps))
        return named(describe(op.body), source, contract=contracts(op.body))

    def foreach(self, op: Foreach, operands: tuple[Operand, ...]) -> Kernel:
        """The kernel for equal groups on several members."""
        made = op.infer(*operands).items
        for x in (*in_memory(operands), *[x for x in made if isinstance(x, TensorType)]):
            check(x.dtype)
            if x.device.type != "cpu":
                raise UnsupportedError(f"a C++ kernel cannot read {x}")
        source = foreach_source(op, self.rounding)
        return named(f"foreach_{describe(op.body)}", source, contract=contracts(op.body))

    def variants(self, op: Generated, operands: tuple[Operand, ...]) -> Sequence[Kernel]:
        """None: a loop has one shape here."""
        return ()

    def ask(self, kernels: Sequence[Kernel]) -> None:
        """Nothing: a translation unit holds all kernels of a graph."""

    def build(self, kernels: Sequence[Kernel]) -> None:
        """Compile the kernels that are not built yet as one translation unit, and load it; those
        that contract nothing as another."""
        for contract in (True, False):
            wanted = [x for x in kernels if x.name not in self.addresses]
            self.build_unit([x for x in wanted if x.contract is contract], contract)

    def build_unit(self, kernels: Sequence[Kernel], contract: bool) -> None:
        """Compile and load one translation unit."""
        missing = {x.name: x.source for x in kernels}
        if not missing:
            return
        library = self.load("\n".join(missing.values()), contract=contract and not self.rounding)
        for name in missing:
            address = ctypes.cast(getattr(library, name), ctypes.c_void_p).value
            assert address is not None
            self.addresses[name] = address

    def launcher(
        self,
        kernel: Kernel,
        op: Generated,
        operands: tuple[Operand, ...],
        into: tuple[int, ...] = (),
    ) -> Launch:
        """A function that allocates the outputs and runs a built kernel."""
        if kernel.name not in self.addresses or not isinstance(op, Fused | Foreach):
            raise LazyTorchError(f"kernel {kernel.name} is not built")
        if isinstance(op, Foreach):
            return foreach_launch(self.addresses[kernel.name], op, operands, into)
        reads, outputs, shape = in_memory(operands), outputs_of(op), full_shape(op)
        itemsizes = [x.dtype.itemsize for x in (*reads, *outputs)]
        if (form := form_of(op)) is not None:
            described = around_arguments(around(op.body, reads, outputs), form)
        elif shape is not None:
            described = row_arguments(row_walk(shape, reads, outputs), itemsizes)
        else:
            described = choose_walk(kernel_loops(reads, outputs), reads).arguments(itemsizes)
        elements = math.prod(shape or outputs[0].shape)
        if form is not None:
            elements = described[0] * described[1]  # products, which take as long
        address = self.addresses[kernel.name]
        return make_launch(address, described, elements, operands, outputs, into)


def form_of(op: Fused) -> Form | None:
    """How the convolutions of a group are summed, by the first one's kind; None of other groups."""
    for node in op.body.nodes:
        if isinstance(node.op, KernelConvolution):
            return WindowRows() if isinstance(node.op, DepthwiseConvolution) else Pixels()
    return None


def in_memory(operands: tuple[Operand, ...]) -> tuple[TensorType, ...]:
    """What the kernel reads: of a number, one double."""
    return tuple([x if isinstance(x, TensorType) else NUMBER for x in operands])


EXPORTED = """
extern "C" void {name}(const int64_t* n, {parameters}) {{
    void* const p[] = {{{arguments}}};
    lt::launch(tile_{name}, n, {count}, p);
}}
"""


def kernel_source(tile: str, count: int) -> str:
    """A tile, and the exported function that launches it on `count` pointers."""
    given = [f"p{k}" for k in range(count)]
    return tile + EXPORTED.format(
        name=NAME,
        parameters=", ".join(f"void* {p}" for p in given),
        arguments=", ".join(given),
        count=count,
    )


def row_walk(shape: Shape, operands: Sequence[TensorType], outputs: Sequence[TensorType]) -> Rows:
    """The rows of a kernel over `shape`."""
    reads = [broadcast_strides(x, shape) for x in operands]
    return rows_of(shape, reads, [broadcast_strides(x, shape) for x in outputs])


def row_arguments(rows: Rows, itemsizes: Sequence[int]) -> list[int]:
    """The description of a launch over rows: the walk over them, their length and steps."""
    lane, loops = lane_loop(rows), range(len(rows.outer.sizes))
    walk = Walk(rows.outer, lane, max((i for i in loops if i != lane), default=None), 0)
    return [*walk.arguments(itemsizes), rows.size, *rows.steps]


def make_launch(
    address: int,
    described: list[int],
    elements: int,
    operands: tuple[Operand, ...],
    outputs: tuple[TensorType, ...],
    into: tuple[int, ...],
) -> Launch:
    """The function that a call site calls; few Python steps, because models have hundreds of them.

    What it calls is at `address`, and takes what `described` says of sizes and strides first. The
    outputs `into` are given behind the operands.
    """
    reads = in_memory(operands)
    array = (ctypes.c_int64 * len(described))(*described)
    # Letting other threads run costs more than a small kernel does.
    prototype = ctypes.PYFUNCTYPE if elements < QUICK else ctypes.CFUNCTYPE
    function = prototype(None, *[ctypes.c_void_p] * (1 + len(reads) + len(outputs)))(address)
    n = ctypes.byref(array)  # holds the array, and is passed faster
    new = [allocator(x) for x in outputs]
    allocate = new[0]

    def launch_one(*xs: torch.Tensor) -> torch.Tensor:
        result = allocate()
        function(n, *[x.data_ptr() for x in xs], result.data_ptr())
        return result

    def launch_several(*xs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        results = tuple([allocate() for allocate in new])
        function(n, *[x.data_ptr() for x in xs], *[x.data_ptr() for x in results])
        return results

    place = {k: len(reads) + i for i, k in enumerate(into)}
    places = [place.get(k) for k in range(len(outputs))]

    def launch_any(*xs: Any) -> torch.Tensor | tuple[torch.Tensor, ...]:
        results = [
            allocate() if at is None else xs[at] for allocate, at in zip(new, places, strict=True)
        ]
        if elements:
            pointers = [
                ctypes.byref(ctypes.c_double(x)) if isinstance(x, float) else x.data_ptr()
                for x in xs[: len(reads)]
            ]
            function(n, *pointers, *[x.data_ptr() for x in results])
        return tuple(results) if len(results) > 1 else results[0]

    if into or not elements or reads != operands:
        return launch_any
    return launch_one if len(new) == 1 else launch_several
