"""Generates C++ for groups around convolutions of each channel, channels last.

A thread computes one row of the result after the other, or a part of its channels: the sums of each
convolution of the group go into a buffer, which the first result itself is where that is possible;
then one loop over the row does what is elementwise.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from lazytorch.errors import UnsupportedError
from lazytorch.ir import Graph, Node, input, with_inputs
from lazytorch.lower.cpp.blocks import simd_loop
from lazytorch.lower.cpp.printer import MEMORY, CppPrinter, loaded
from lazytorch.lower.expression import Expression, print_steps
from lazytorch.lower.kernel import NAME
from lazytorch.lower.steps import steps
from lazytorch.ops.base import broadcast_strides
from lazytorch.ops.conv import channels_last
from lazytorch.ops.depthwise import DepthwiseConvolution
from lazytorch.types import Shape, Strides, TensorType

COUNTS = (8, 4, 1)
"""How many neighbouring results are computed together: the most that a row has."""

WINDOWS = 6
"""Numbers that describe a convolution: `Windows` in windows.h, without the channels."""


@dataclass(frozen=True)
class Windowed:
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
        """Whether a row is one piece in all that the loop reads and writes."""
        size, width = self.shape[1], self.shape[3]
        return all((s[1], s[3]) in ((1, size), (0, 0)) or width == 1 for s in self.strides)


def windowed(
    body: Graph, operands: tuple[TensorType, ...], outputs: tuple[TensorType, ...]
) -> Windowed:
    """A group's parts. UnsupportedError where a convolution reads what the group computes."""
    place = {x: k for k, x in enumerate(body.inputs)}
    convolutions = tuple([x for x in body.nodes if isinstance(x.op, DepthwiseConvolution)])
    if any(y not in place for x in convolutions for y in x.inputs):
        raise UnsupportedError("a convolution reads what its own kernel computes")
    results = {x: input(f"w{i}", x.type) for i, x in enumerate(convolutions)}
    done = {**{x: x for x in body.inputs}, **results}
    for node in body.nodes:
        if node not in done:
            done[node] = with_inputs(node, [done[x] for x in node.inputs])
    rest = Graph((*body.inputs, *results.values()), tuple([done[x] for x in body.outputs]))
    given = tuple([tuple([place[y] for y in x.inputs]) for x in convolutions])
    return Windowed(convolutions, given, rest, operands, outputs)


def window_source(group: Windowed, rounding: bool) -> str:
    """The function that computes some rows, and the exported one that shares them out."""
    if any(x.dtype not in (torch.float32, torch.bfloat16) for x in group.outputs):
        raise UnsupportedError("convolutions are for float32 and bfloat16")
    count = next(n for n in COUNTS if group.shape[3] >= n)
    first = len(group.operands)
    calls: list[str] = []
    for i, (node, given) in enumerate(zip(group.convolutions, group.given, strict=True)):
        op, taps = node.op, node.inputs[1].type
        assert isinstance(op, DepthwiseConvolution) and isinstance(taps, TensorType)
        sizes = [count, *taps.shape[:2], *op.stride, *op.dilation]
        image, weight, *bias = given
        pixel = MEMORY[group.operands[image].dtype]
        pointers = [f"(const {pixel}*)p[{image}]", f"(const float*)p[{weight}]"]
        pointers.append(f"(const float*)p[{bias[0]}]" if bias else "nullptr")
        arguments = ", ".join([*pointers, f"b{i}", "r", "c0", "c1", f"s{i}"])
        calls.append(f"lt::depthwise<{', '.join(map(str, sizes))}>({arguments});")
    printer = CppPrinter(rounding)
    rows: list[str] = []
    inputs: dict[Node, Expression] = {}
    strides = group.strides
    for j, k in enumerate(group.walked):
        x, step = group.operands[k], strides[j][1]
        rows.append(pointer(k, j, x, step, write=False))
        inputs[group.body.inputs[k]] = printer.bind(loaded(at(k, step), x.dtype), x.dtype)
    for i in range(len(calls)):
        rows.append(f"float* e{i} = b{i} + q * channels + c0;")
        value = printer.bind(f"e{i}[i]", group.operands[group.given[i][0]].dtype)
        inputs[group.body.inputs[first + i]] = printer.round16(value) if rounding else value
    found = steps(group.body, group.shape)
    values = print_steps(printer, found, [inputs[x] for x in found.inputs()])
    for j, (x, value) in enumerate(zip(group.outputs, values, strict=True), len(group.walked)):
        k, step = first + j - len(group.walked), strides[j][1]
        rows.append(pointer(k, j, x, step, write=True))
        printer.lines.append(f"{at(k, step)} = {printer.stored(value, x.dtype)};")
    inside = [*rows, *simd_loop("i", "0", "inner", printer.lines)]
    return TEMPLATE.format(
        name=NAME,
        described="\n    ".join(described(group)),
        buffers="\n        ".join(buffers(group)),
        calls="\n        ".join(calls),
        outer="parts == 1 ? 1 : width" if group.flat else "width",
        inner="parts == 1 ? width * channels : c1 - c0" if group.flat else "c1 - c0",
        body="\n            ".join(inside),
        parameters=", ".join(f"void* p{k}" for k in range(first + len(group.outputs))),
        pointers=", ".join(f"p{k}" for k in range(first + len(group.outputs))),
    )


def described(group: Windowed) -> list[str]:
    """What a launch is described with, under names."""
    lines = ["const int64_t height = n[1], width = n[2], channels = n[3];"]
    for i in range(len(group.convolutions)):
        numbers = [f"n[{5 + WINDOWS * i + k}]" for k in range(WINDOWS)]
        lines.append(f"const lt::Windows s{i}{{{', '.join(numbers)}, channels}};")
    lines.append(f"const int64_t* const strides = n + {5 + WINDOWS * len(group.convolutions)};")
    return lines


def buffers(group: Windowed) -> list[str]:
    """Where each convolution's row lies; counted so that channel 0 is first."""
    scratch = len(group.convolutions) - group.in_place
    lines: list[str] = []
    if scratch:
        lines.append(
            f"float* const memory = (float*)lt::scratch({4 * scratch} * width * channels);"
        )
    for i in range(len(group.convolutions)):
        if group.in_place and not i:
            first = len(group.operands)
            lines.append(f"float* const b0 = (float*)p[{first}] + r * width * channels;")
        else:
            lines.append(f"float* const b{i} = memory + {i - group.in_place} * width * channels;")
    return lines


def pointer(k: int, j: int, x: TensorType, step: int, write: bool) -> str:
    """The declaration of where operand k begins; its strides are number j."""
    kind, const = MEMORY[x.dtype], "" if write else "const "
    s = [f"strides[{4 * j + d}]" for d in range(4)]
    place = f"image * {s[0]} + c0 * {s[1]} + line * {s[2]} + q * {s[3]}"
    stride = f"const int64_t t{k} = {s[1]}; " if step not in (0, 1) else ""
    return f"{stride}{const}{kind}* p{k} = ({const}{kind}*)p[{k}] + {place};"


def at(k: int, step: int) -> str:
    """An element of operand k."""
    return f"p{k}[{'0' if not step else 'i' if step == 1 else f'i * t{k}'}]"


def window_arguments(group: Windowed) -> list[int]:
    """The run-time description of a launch, strides in elements."""
    images, channels, height, width = group.shape
    numbers: list[int] = []
    products = 0
    for node, given in zip(group.convolutions, group.given, strict=True):
        op, image, taps = node.op, group.operands[given[0]], group.operands[given[1]]
        assert isinstance(op, DepthwiseConvolution)
        numbers += [*image.shape[2:], height, width, *op.padding]
        products += taps.numel * width
    strides = [s for operand in group.strides for s in operand]
    return [products, height, width, channels, images * height, *numbers, *strides]


TEMPLATE = """
static void rows_{name}(void* const* p, const int64_t* n, int64_t parts, int64_t begin,
                        int64_t end) {{
    {described}
    for (int64_t unit = begin; unit < end; ++unit) {{
        const int64_t r = unit / parts, part = unit % parts, image = r / height, line = r % height;
        const int64_t whole = channels / lt::lanes, c0 = whole * part / parts * lt::lanes;
        const int64_t c1 = part + 1 == parts ? channels : whole * (part + 1) / parts * lt::lanes;
        {buffers}
        {calls}
        const int64_t outer = {outer}, inner = {inner};
        for (int64_t q = 0; q < outer; ++q) {{
            {body}
        }}
    }}
}}
extern "C" void {name}(const int64_t* n, {parameters}) {{
    void* const p[] = {{{pointers}}};
    lt::launch_rows(rows_{name}, n, p, n[4], n[0], n[3]);
}}
"""
