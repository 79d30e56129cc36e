"""How long a program takes at least on a device: a roofline, an estimate and nothing more.

Each line takes as long as its operands and results take to be read and written, or as its products
take at the rate of their type, whichever is longer. Launches, caches and how near a kernel comes to
either are left out.
"""

from __future__ import annotations

import math
from functools import partial

import torch

from lazytorch.devices import Device
from lazytorch.ir import Node
from lazytorch.lower.allocation import extent
from lazytorch.lower.program import Program
from lazytorch.offload import Link
from lazytorch.ops.aten import Aten
from lazytorch.ops.attention import ScaledDotProductAttention
from lazytorch.ops.attention_backward import AttentionBackward, AttentionSaving
from lazytorch.ops.conv import Convolution
from lazytorch.ops.cublas import LinearActivation
from lazytorch.ops.cudnn import CudnnConvolution, CudnnConvolutionRelu
from lazytorch.ops.depthwise import DepthwiseConvolution
from lazytorch.ops.linalg import Addmm, Bmm, Linear, Matmul, Mm, RowDots
from lazytorch.ops.offload import Transfer
from lazytorch.ops.pixel_products import PixelProducts
from lazytorch.types import TensorType, TupleType, Type

REACHED = 0.8
"""Of the bandwidth to the host, what copies from and to pinned memory reach: 55 of 64 GB/s on an
H200, each way, also at the same time."""

SLOWER = 1.4
"""How many times the roofline kernels take at least: steps of 34 models in float32 took 1.5 to 7.4
times theirs on an H200, but for one that launches more than it computes (39), GPT-2 and ResNet-50
under bfloat16 1.4 and 2.1 times."""


def seconds(program: Program, device: Device) -> float | None:
    """The least that a call takes; None for a device whose rates are not known."""
    if not device.bandwidth:
        return None
    called = [x.node for x in program.lines if x.does in ("call", "overwrite") and x.node]
    computing = [x for x in called if not (x.op.view or isinstance(x.op, Transfer))]
    return sum(line_seconds(x, device) for x in computing)


def link(device: Device) -> Link | None:
    """The way to the host's memory, by this estimate; None for a device of unknown rates."""
    if not device.bandwidth or not device.host:
        return None
    return Link(REACHED * device.host, partial(node_seconds, device=device))


def node_seconds(node: Node, device: Device) -> float:
    """What a kernel takes at least for a node."""
    return 0.0 if node.op.view else SLOWER * line_seconds(node, device)


def line_seconds(node: Node, device: Device) -> float:
    """The longer of moving its bytes and doing its products."""
    moved = sum(nbytes(x.type) for x in (*dict.fromkeys(node.inputs), node))
    rate = rate_of(node, device)
    return max(moved / device.bandwidth, flops(node) / rate if rate else 0.0)


def nbytes(x: Type) -> int:
    """Bytes of a value, of a tuple those of its elements."""
    return sum(map(nbytes, x.items)) if isinstance(x, TupleType) else extent(x)


def rate_of(node: Node, device: Device) -> float:
    """Operations a second of a product."""
    typed = node.inputs[0].type if node.inputs else None
    if not isinstance(typed, TensorType):
        return 0.0
    if typed.dtype.itemsize == 2:
        return device.half
    tf32 = torch.backends.cudnn.allow_tf32 if convolves(node) else matmul_in_tf32()
    return (device.tf32 if tf32 else 0.0) or device.float32


def convolves(node: Node) -> bool:
    """Whether a node is a convolution or the derivative of one."""
    match node.op:
        case Convolution() | CudnnConvolution() | CudnnConvolutionRelu():
            return True
        case Aten(overload="aten.convolution_backward.default"):
            return True
        case _:
            return False


def matmul_in_tf32() -> bool:
    """Whether torch multiplies float32 matrices in TF32, as it is set now."""
    return torch.get_float32_matmul_precision() != "highest"


def flops(node: Node) -> int:
    """Multiplications and additions of products, convolutions and attention, and of the derivatives
    of the last two; 0 for all else."""
    out, types = node.type, [x.type for x in node.inputs if isinstance(x.type, TensorType)]
    if len(types) < 2:
        return 0
    first, second = types[:2]
    match node.op:
        case Aten(overload="aten.convolution_backward.default") if isinstance(out, TupleType):
            wanted = sum(isinstance(x, TensorType) for x in out.items[:2])  # image and weight
            small = second if node.op.args[7] else first  # transposed: the other way around
            return wanted * 2 * small.numel * math.prod(types[2].shape[1:])
        case ScaledDotProductAttention() | AttentionSaving():
            return attended(first, second, node.op.is_causal) * 2
        case AttentionBackward():  # the scores are computed again
            return attended(second, types[2], node.op.is_causal) * 5
        case _ if not isinstance(out, TensorType):
            return 0
        case Convolution(transposed=True):
            return 2 * first.numel * math.prod(second.shape[1:])
        case Convolution() | CudnnConvolution() | CudnnConvolutionRelu():
            return 2 * out.numel * math.prod(second.shape[1:])
        case Linear() | LinearActivation() | Matmul() | Mm() | Bmm():
            return 2 * out.numel * first.shape[-1]
        case PixelProducts():
            return 2 * out.numel * first.shape[1]
        case DepthwiseConvolution():
            return 2 * out.numel * math.prod(second.shape[:2])
        case RowDots():
            return 2 * first.numel
        case Addmm():
            return 2 * out.numel * second.shape[-1]
        case _:
            return 0


def attended(query: TensorType, key: TensorType, causal: bool) -> int:
    """Operations of one product with the scores, half of which a causal mask leaves out."""
    return 2 * query.numel * key.shape[-2] // (2 if causal else 1)
