"""Triton kernels that do the same for each of several members, in one launch.

What a program needs of its member is in memory: a table of addresses (each member's operands, then
each member's results, then the bits of each member's numbers) and `spans`, with the program that
begins each member and its elements. `blocks` says whose program it is. So neither the number of
members nor their sizes are in the source.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch

from lazytorch.errors import UnsupportedError
from lazytorch.ir import Node
from lazytorch.lower.call import copied_into
from lazytorch.lower.expression import Expression, check, print_steps
from lazytorch.lower.kernel import Kernel, Launch, contracts, describe, named, outputs_of
from lazytorch.lower.steps import Operand, Steps, steps
from lazytorch.lower.tables import Tables
from lazytorch.lower.triton.binary import Binaries, interpreting
from lazytorch.lower.triton.launch import allocator, bits, on_device, start_lines
from lazytorch.lower.triton.module import indented, module_source
from lazytorch.lower.triton.printer import LOCAL, POINTER, TritonPrinter, loaded, stored
from lazytorch.lower.triton.source import ALIGNMENT
from lazytorch.ops.foreach import FLAT, Foreach
from lazytorch.ops.fused import Fused
from lazytorch.types import TensorType

BLOCK = 1024
"""Elements of one program."""

WARPS = 4

ELEMENT = LOCAL | {torch.float16: "tl.float16", torch.bfloat16: "tl.bfloat16"}
"""What a value of a dtype is in memory."""


class Layout:
    """What one kernel's arguments and tables hold, by the body's input number.

    `tensors` and `numbers` are each member's own, `pointers` and `values` all members' common ones.
    """

    def __init__(self, op: Foreach) -> None:
        def kept(found: Sequence[int], tensor: bool) -> list[int]:
            inputs = op.body.inputs
            return [i for i in found if isinstance(inputs[i].type, TensorType) == tensor]

        self.tensors, self.numbers = kept(op.own, True), kept(op.own, False)
        self.pointers, self.values = kept(op.common, True), kept(op.common, False)
        self.outputs = len(op.body.outputs)

    def results(self) -> str:
        """Where in the table the addresses of a member's results begin."""
        return f"members * {len(self.tensors)} + m * {self.outputs}"

    def bits(self, k: int) -> str:
        """Where in the table the bits of a member's number k are."""
        every = len(self.tensors) + self.outputs
        return f"members * {every} + m * {len(self.numbers)} + {k}"


def foreach_kernel(op: Foreach, operands: tuple[Operand, ...], rounding: bool) -> Kernel:
    """The kernel; UnsupportedError says why there is none."""
    made = op.infer(*operands).items
    for x in (*operands, *made):
        if isinstance(x, TensorType):
            check(x.dtype)
            if x.device.type != "cuda" and not (x.device.type == "cpu" and interpreting()):
                raise UnsupportedError(f"a Triton kernel cannot read {x}")
    layout = Layout(op)
    signature = {"table": "*i64", "blocks": "*i32", "spans": "*i64"}
    for i in layout.pointers:
        typed = op.body.inputs[i].type
        assert isinstance(typed, TensorType)
        signature[f"p{i}"] = POINTER[typed.dtype]
    numbers = {"members": "i32"} | {f"d{i}": "i64" for i in layout.values}
    source = module_source(
        f"foreach {describe(op.body)}",
        signature | numbers,
        list(numbers),
        statements(op, layout, rounding),
        WARPS,
        rounding or not contracts(op.body),
        {},
    )
    return named(f"foreach_{describe(op.body)}", source)


def statements(op: Foreach, layout: Layout, rounding: bool) -> list[str]:
    """Find the member and its addresses; compute a block, as vectors where all of it is there.

    An address comes from memory, so only the program itself can see whether it allows vectors.
    """
    own = [f"a{i}" for i in layout.tensors if i in op.flat]
    own += [f"r{j}" for j in range(layout.outputs)]
    place = {i: f"m * {len(layout.tensors)} + {k}" for k, i in enumerate(layout.tensors)}
    lines = [
        "m = tl.load(blocks + tl.program_id(0))",
        f"first = (tl.program_id(0) - tl.load(spans + 2 * m)) * {BLOCK}",
        "n = tl.load(spans + 2 * m + 1)",
        *[f"a{i} = tl.load(table + {at})" for i, at in place.items()],
        *[f"r{j} = tl.load(table + {layout.results()} + {j})" for j in range(layout.outputs)],
        f"i = tl.arange(0, {BLOCK})",
    ]
    found = steps(op.body, FLAT)
    whole = f"(first + {BLOCK} <= n) & (({' | '.join(own)}) % {ALIGNMENT} == 0)"
    lines += [f"if {whole}:", *indented(elements(op, layout, found, rounding, True))]
    lines += ["else:", *indented(elements(op, layout, found, rounding, False))]
    return lines


def elements(op: Foreach, layout: Layout, found: Steps, rounding: bool, whole: bool) -> list[str]:
    """Statements that load, compute and store a block: all of it, or what is there."""
    printer = TritonPrinter(rounding)
    number = {x: i for i, x in enumerate(op.body.inputs)}
    if not whole:
        printer.lines.append("mask = i < n - first")
    mask = "" if whole else ", mask"

    def pointer(name: str, dtype: torch.dtype) -> str:
        cast = f"{name}.to(tl.pointer_type({ELEMENT[dtype]}))"
        return f"tl.multiple_of({cast}, {ALIGNMENT}) + first" if whole else f"{cast} + first"

    def operand(x: Node) -> Expression:
        i = number[x]
        if not isinstance(x.type, TensorType):
            own = i in layout.numbers
            bits = f"tl.load(table + {layout.bits(layout.numbers.index(i))})" if own else f"d{i}"
            code = f"{bits}.to(tl.int64).to(tl.float64, bitcast=True)"
            return printer.bind(code, torch.float64)
        dtype = x.type.dtype
        if i in op.flat:
            code = f"tl.load({pointer(f'a{i}', dtype)} + i{mask})"
        elif i in layout.pointers:
            code = f"tl.load(p{i})"
        else:
            code = f"tl.load(a{i}.to(tl.pointer_type({ELEMENT[dtype]})))"
        return printer.bind(loaded(code, dtype), dtype)

    values = print_steps(printer, found, [operand(x) for x in found.inputs()])
    for j, (x, value) in enumerate(zip(outputs_of(Fused(op.body)), values, strict=True)):
        at = f"{pointer(f'r{j}', x.dtype)} + i"
        printer.lines.append(f"tl.store({at}, {stored(value.code, x.dtype)}{mask})")
    return printer.lines


def foreach_launch(
    binaries: Binaries,
    kernel: Kernel,
    op: Foreach,
    operands: tuple[Operand, ...],
    into: tuple[int, ...],
) -> Launch:
    """The function for one call site; the outputs `into` are given behind the operands.

    Where no table can be made (somebody else records a CUDA graph), torch's kernels run.
    """
    made = [x for x in op.infer(*operands).items if isinstance(x, TensorType)]
    layout, device = Layout(op), made[0].device
    places = [op.place(m, i) for m in range(op.count) for i in layout.tensors]
    numbers = [op.place(m, i) for m in range(op.count) for i in layout.numbers]
    place = {k: len(operands) + i for i, k in enumerate(into)}
    sources = [place.get(k) for k in range(len(made))]
    new = [allocator(x) for x in made]
    blocks, spans = walked([x.numel for x in made[:: layout.outputs]], device)
    start = starter(binaries, kernel, layout, op.count, len(blocks), device)
    common = [op.place(0, i) for i in (*layout.pointers, *layout.values)]
    tables, find, by_torch = Tables(device), torch.Tensor.data_ptr, partial(copied_into, op, into)

    def launch(*xs: Any) -> Any:
        results = tuple(
            [make() if at is None else xs[at] for make, at in zip(new, sources, strict=True)]
        )
        addresses = [find(xs[i]) for i in places]
        addresses += map(find, results)
        addresses += [bits(xs[i]) for i in numbers]
        table = tables.find(*addresses)
        if table is None:
            return by_torch(*xs)
        start(table, blocks, spans, *[xs[i] for i in common])
        return results

    if device.type == "cuda" and torch.cuda.device_count() > 1:
        return partial(on_device, device.index or 0, launch)
    return launch


def walked(sizes: Sequence[int], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """The member of each program; and of each member the program that begins it, and its size."""
    blocks: list[int] = []
    spans: list[int] = []
    for m, size in enumerate(sizes):
        spans += [len(blocks), size]
        blocks += [m] * -(-size // BLOCK)
    whose = torch.tensor(blocks, dtype=torch.int32, device=device)
    return whose, torch.tensor(spans, dtype=torch.int64, device=device)


def starter(
    binaries: Binaries,
    kernel: Kernel,
    layout: Layout,
    members: int,
    grid: int,
    device: torch.device,
) -> Any:
    """The function that launches a built kernel on its tables and what is common to all."""
    pointers = [f"p{i}" for i in layout.pointers]
    values = [f"d{i}" for i in layout.values]
    tensors = ["table", "blocks", "spans", *pointers]
    space: dict[str, Any] = {"bits": bits}
    numbers = [str(members), *[f"bits({x})" for x in values]]
    lines = start_lines(binaries, kernel, device, grid, tensors, numbers, space)
    text = "\n    ".join([f"def begin({', '.join([*tensors, *values])}):", *lines])
    exec(compile(text, f"<lazytorch launch of {kernel.name}>", "exec"), space)
    return space["begin"]  # in whose lines `start` is Triton's own
