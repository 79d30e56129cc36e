"""Generates C++ for groups around convolutions, channels last: sums, then what is elementwise.

A thread computes one piece of the result after the other, or a part of its channels: the sums of
each convolution of the group go into a buffer, which is the first result itself where that is
possible; then a loop over the piece does what is elementwise. What a piece is, and how the sums are
computed, a `Form` says.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from lazytorch.errors import UnsupportedError
from lazytorch.ir import Graph, Node, input, with_inputs
from lazytorch.lower.cpp.blocks import simd_loop
from lazytorch.lower.cpp.printer import MEMORY, CppPrinter, loaded
from lazytorch.lower.expression import Expression, print_steps
from lazytorch.lower.kernel import NAME
from lazytorch.lower.steps import steps
from lazytorch.ops.base import broadcast_strides
from lazytorch.ops.conv import KernelConvolution, channels_last
from lazytorch.types import Shape, Strides, TensorType


@dataclass(frozen=True)
class Around:
    """A group on its way to a kernel: its convolutions, each with the numbers of its operands, and
    the body that is elementwise, which reads their results behind the group's operands."""

    convolutions: tuple[Node, ...]
    given: tuple[tuple[int, ...], ...]
    body: Graph
    operands: tuple[TensorType, ...]
    outputs: tuple[TensorType, ...]

    @property
    def shape(self) -> Shape:
        """Of every result: (N, C, H, W)."""
        return self.outputs[0].shape

    @property
    def walked(self) -> list[int]:
        """The numbers of the operands that the loop reads."""
        used = {x for node in self.body.nodes for x in node.inputs} | {*self.body.outputs}
        count = len(self.operands)
        return [k for k, x in enumerate(self.body.inputs[:count]) if x in used]

    @property
    def strides(self) -> list[Strides]:
        """Of what the loop reads, then of the results."""
        reads = [broadcast_strides(self.operands[k], self.shape) for k in self.walked]
        return [*reads, *[x.strides for x in self.outputs]]

    @property
    def in_place(self) -> bool:
        """Whether the first result's memory is the buffer of the first convolution."""
        first = self.outputs[0]
        return first.dtype is torch.float32 and first.strides == channels_last(self.shape)

    @property
    def flat(self) -> bool:
        """Whether neighbouring pixels lie one after the other in all that the loop reads and
        writes, or are one number."""
        last = channels_last(self.shape)
        return all(s in (last, (0, 0, 0, 0)) for s in self.strides)

    def pointers(self, i: int) -> list[str]:
        """The operands of convolution i, as its function takes them."""
        image, weight, *bias = self.given[i]
        kind = MEMORY[self.operands[image].dtype]
        start = f"(const float*)p[{bias[0]}]" if bias else "nullptr"
        return [f"(const {kind}*)p[{image}]", f"(const float*)p[{weight}]", start]


class Form(Protocol):
    """One kind of convolution: what a piece of its result is, and how that is summed."""

    def arguments(self, group: Around) -> list[int]:
        """Numbers that describe a launch: pieces, products of one, channels, and the form's own."""
        ...

    def head(self, group: Around) -> list[str]:
        """The form's own numbers under names, from n[3] on."""
        ...

    def piece(self) -> list[str]:
        """Where piece `r` lies: its `first` pixel of all, and how many `pixels` it has."""
        ...

    def call(self, group: Around, i: int) -> str:
        """Sums convolution i of the piece, the channels [c0, c1), into its buffer."""
        ...

    def place(self, strides: Sequence[str]) -> str:
        """Where pixel number q of the piece lies, from an operand's strides."""
        ...


def around(
    body: Graph, operands: tuple[TensorType, ...], outputs: tuple[TensorType, ...]
) -> Around:
    """A group's parts. UnsupportedError where a convolution reads what the group computes, or there
    are two kinds of them."""
    place = {x: k for k, x in enumerate(body.inputs)}
    convolutions = tuple([x for x in body.nodes if isinstance(x.op, KernelConvolution)])
    if any(y not in place for x in convolutions for y in x.inputs):
        raise UnsupportedError("a convolution reads what its own kernel computes")
    if len({type(x.op) for x in convolutions}) > 1:
        raise UnsupportedError("convolutions of channels and of pixels have kernels of their own")
    results = {x: input(f"w{i}", x.type) for i, x in enumerate(convolutions)}
    done = {**{x: x for x in body.inputs}, **results}
    for node in body.nodes:
        if node not in done:
            done[node] = with_inputs(node, [done[x] for x in node.inputs])
    rest = Graph((*body.inputs, *results.values()), tuple([done[x] for x in body.outputs]))
    given = tuple([tuple([place[y] for y in x.inputs]) for x in convolutions])
    return Around(convolutions, given, rest, operands, outputs)


def around_source(group: Around, form: Form, rounding: bool) -> str:
    """The function that computes some pieces, and the exported one that shares them out."""
    if any(x.dtype not in KernelConvolution.dtypes for x in group.outputs):
        raise UnsupportedError("convolutions are for float32 and bfloat16")
    first, count = len(group.operands), len(group.convolutions)
    printer = CppPrinter(rounding)
    rows: list[str] = []
    inputs: dict[Node, Expression] = {}
    strides = group.strides
    for j, k in enumerate(group.walked):
        x, step = group.operands[k], strides[j][1]
        rows.append(pointer(form, k, j, x, step, write=False))
        inputs[group.body.inputs[k]] = printer.bind(loaded(at(k, step), x.dtype), x.dtype)
    for i in range(count):
        rows.append(f"float* e{i} = b{i} + q * channels + c0;")
        value = printer.bind(f"e{i}[i]", group.operands[group.given[i][0]].dtype)
        inputs[group.body.inputs[first + i]] = printer.round16(value) if rounding else value
    found = steps(group.body, group.shape)
    values = print_steps(printer, found, [inputs[x] for x in found.inputs()])
    for j, (x, value) in enumerate(zip(group.outputs, values, strict=True), len(group.walked)):
        k, step = first + j - len(group.walked), strides[j][1]
        rows.append(pointer(form, k, j, x, step, write=True))
        printer.lines.append(f"{at(k, step)} = {printer.stored(value, x.dtype)};")
    names = [f"p{k}" for k in range(first + len(group.outputs))]
    own = len(form.arguments(group))
    return TEMPLATE.format(
        name=NAME,
        described="\n    ".join([*form.head(group), f"const int64_t* const strides = n + {own};"]),
        piece="\n        ".join([*form.piece(), *buffers(group)]),
        calls="\n        ".join([form.call(group, i) for i in range(count)]),
        outer="parts == 1 ? 1 : pixels" if group.flat else "pixels",
        inner="parts == 1 ? pixels * channels : c1 - c0" if group.flat else "c1 - c0",
        body="\n            ".join([*rows, *simd_loop("i", "0", "inner", printer.lines)]),
        parameters=", ".join(f"void* {p}" for p in names),
        pointers=", ".join(names),
    )


def around_arguments(group: Around, form: Form) -> list[int]:
    """The run-time description of a launch, strides in elements."""
    return [*form.arguments(group), *[s for operand in group.strides for s in operand]]


def buffers(group: Around) -> list[str]:
    """Where the sums of a piece lie, those of channel 0 first."""
    scratch = len(group.convolutions) - group.in_place
    lines: list[str] = []
    if scratch:
        lines.append(
            f"float* const memory = (float*)lt::scratch({4 * scratch} * pixels * channels);"
        )
    for i in range(len(group.convolutions)):
        if group.in_place and not i:
            k = len(group.operands)
            lines.append(f"float* const b0 = (float*)p[{k}] + first * channels;")
        else:
            lines.append(f"float* const b{i} = memory + {i - group.in_place} * pixels * channels;")
    return lines


def pointer(form: Form, k: int, j: int, x: TensorType, step: int, write: bool) -> str:
    """The declaration of where operand k begins; its strides are number j."""
    kind, const = MEMORY[x.dtype], "" if write else "const "
    s = [f"strides[{4 * j + d}]" for d in range(4)]
    stride = f"const int64_t t{k} = {s[1]}; " if step not in (0, 1) else ""
    place = f"{form.place(s)} + c0 * {s[1]}"
    return f"{stride}{const}{kind}* p{k} = ({const}{kind}*)p[{k}] + {place};"


def at(k: int, step: int) -> str:
    """An element of operand k."""
    return f"p{k}[{'0' if not step else 'i' if step == 1 else f'i * t{k}'}]"


TEMPLATE = """
static void pieces_{name}(void* const* p, const int64_t* n, int64_t parts, int64_t begin,
                          int64_t end) {{
    const int64_t channels = n[2];
    {described}
    for (int64_t unit = begin; unit < end; ++unit) {{
        const int64_t r = unit / parts, part = unit % parts, whole = channels / lt::lanes;
        const int64_t c0 = whole * part / parts * lt::lanes;
        const int64_t c1 = part + 1 == parts ? channels : whole * (part + 1) / parts * lt::lanes;
        {piece}
        {calls}
        const int64_t outer = {outer}, inner = {inner};
        for (int64_t q = 0; q < outer; ++q) {{
            {body}
        }}
    }}
}}
extern "C" void {name}(const int64_t* n, {parameters}) {{
    void* const p[] = {{{pointers}}};
    lt::launch_pieces(pieces_{name}, n, p, n[0], n[1], n[2]);
}}
"""
