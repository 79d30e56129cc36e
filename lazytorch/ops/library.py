"""torch's library calls that do several operations, or do one on weights of their own layout."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch

from lazytorch.errors import ShapeError
from lazytorch.ir import Op
from lazytorch.ops.conv import Convolution, Sizes, channels_last, settled
from lazytorch.ops.linalg import Linear
from lazytorch.types import OpaqueType, Shape, TensorType

Library = Literal["mkl", "onednn"]


@dataclass(frozen=True)
class Libraries:
    """Which of torch's CPU libraries are here.

    onednn: the dtypes whose weights oneDNN packs on this processor.
    mkl: whether matrix products in float32 are MKL's, which packs weights too.
    threads: how many threads they run on; packed weights are laid out for that number.
    products: whose matrix products in float32 are the faster, where both are here.
    """

    onednn: frozenset[torch.dtype]
    mkl: bool
    threads: int
    products: Library = "mkl"


def libraries() -> Libraries:
    """Those of this build of torch, as they are switched now."""
    found: set[torch.dtype] = set()
    if torch.backends.mkldnn.is_available() and torch.backends.mkldnn.enabled:  # type: ignore[attr-defined]  # a property of the module's class
        found = {x for x in (torch.float32, torch.bfloat16, torch.float16) if onednn_packs(x)}
    products: Library = "onednn" if foreign() and torch.float32 in found else "mkl"
    return Libraries(frozenset(found), bool(torch._C.has_mkl), torch.get_num_threads(), products)


@cache
def foreign(listing: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether the processor is known to be another maker's than Intel's, for whom MKL is made.

    On AMD's Zen 4, oneDNN does 100 float32 GFLOP/s on a core, MKL 90, and 60 on large weights.
    """
    text = listing.read_text() if listing.exists() else ""
    return "vendor_id" in text and "GenuineIntel" not in text


@cache
def onednn_packs(dtype: torch.dtype) -> bool:
    """Whether this build and processor run convolutions of `dtype` on packed weights."""
    if not torch.backends.mkldnn.is_available():
        return False
    if dtype is torch.bfloat16:
        return torch.ops.mkldnn._is_mkldnn_bf16_supported()
    if dtype is torch.float16:
        return torch.ops.mkldnn._is_mkldnn_fp16_supported()
    return dtype is torch.float32


def blocked(weight: TensorType, groups: int = 1) -> int:
    """Bytes of a weight (out, in, ...) in oneDNN's blocks, or a little more than it takes.

    Channels come in blocks of 16, in 16-bit types of 32; up to 4 input channels are not padded,
    except to pairs in 16-bit types.
    """
    block = 16 if weight.dtype.itemsize == 4 else 32
    out, into = weight.shape[:2]
    if into == 1:  # depthwise: the groups are what is blocked
        return -(-out // block) * block * weight.nbytes // max(out, 1)
    padded = groups * -(-out // groups // block) * block * (-(-into // block) * block)
    if into <= 4:
        pair = 4 // weight.dtype.itemsize
        padded = padded // block * (-(-into // pair) * pair)
    return padded * weight.nbytes // max(out * into, 1)


def dense(bias: torch.Tensor | None) -> torch.Tensor | None:
    """A bias as oneDNN's calls read it, which is without a look at its strides."""
    return None if bias is None else bias.contiguous()


class PackedWeight(Op):
    """A convolution's weight reordered by oneDNN for one input shape and number of threads.

    For another shape it still gives right results, but each call then reorders it again.
    """

    convolution: Convolution
    input_shape: Shape
    threads: int

    def infer(self, weight: TensorType) -> OpaqueType:
        return OpaqueType(blocked(weight, self.convolution.groups), weight.device)

    def run(self, weight: torch.Tensor) -> torch.Tensor:
        c = self.convolution
        return torch.ops.mkldnn._reorder_convolution_weight(
            settled(weight.detach()),
            c.padding,
            c.stride,
            c.dilation,
            c.groups,
            list(self.input_shape),
        )


class OneDnnConvolution(Op, abstract=True):
    """What convolutions by oneDNN on a packed weight have in common.

    The result is channels last whatever the input is. oneDNN's relu is not used: it turns NaN
    into 0.
    """

    stride: Sizes
    padding: Sizes
    dilation: Sizes
    groups: int
    kernel: Shape

    def result(self, x: TensorType, weight: Any, bias: TensorType | None) -> TensorType:
        """The convolution's type."""
        if not isinstance(weight, OpaqueType):
            raise ShapeError(f"{self.name()}: the weight must be packed")
        dense = TensorType(self.kernel, x.dtype, x.device, channels_last(self.kernel))
        plain = Convolution(self.stride, self.padding, self.dilation, False, (), self.groups)
        found = plain.infer(x, dense) if bias is None else plain.infer(x, dense, bias)
        return found.with_strides(channels_last(found.shape))

    @cached_property
    def sizes(self) -> tuple[Sizes, Sizes, Sizes, int]:
        """The attributes in the order in which torch's calls take them."""
        return self.padding, self.stride, self.dilation, self.groups


Activation = Literal["none", "hardswish", "swish", "sigmoid"]
"""What oneDNN does behind a convolution as torch does it, NaN and infinities included."""


class PackedConvolution(OneDnnConvolution):
    """A convolution by oneDNN on a packed weight, then an activation; a third operand is the bias.

    In 16-bit types it is rounded once, behind the activation.
    """

    activation: Activation = "none"

    def infer(self, x: TensorType, weight: Any, bias: TensorType | None = None) -> TensorType:
        return self.result(x, weight, bias)

    def run(
        self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None
    ) -> torch.Tensor:
        return torch.ops.mkldnn._convolution_pointwise.default(
            x, weight, dense(bias), *self.sizes, self.activation, [], ""
        )


class PackedConvolutionAdd(OneDnnConvolution):
    """A convolution by oneDNN on a packed weight, plus the third operand, which has its type.

    A fourth operand is the bias. In 16-bit types the sum is rounded once.
    """

    overwrites: ClassVar[int | None] = 2

    def infer(
        self, x: TensorType, weight: Any, other: TensorType, bias: TensorType | None = None
    ) -> TensorType:
        found = self.result(x, weight, bias)
        if other != found:
            raise ShapeError(f"{self.name()}: expected {found} to add", {"other": other})
        return found

    def run(
        self,
        x: torch.Tensor,
        weight: torch.Tensor,
        other: torch.Tensor,
        bias: torch.Tensor | None = None,
    ) -> torch.Tensor:
        return torch.ops.mkldnn._convolution_pointwise.binary(
            x, other, weight, dense(bias), *self.sizes, "add", 1.0, None, [], None
        )

    def overwrite(
        self,
        x: torch.Tensor,
        weight: torch.Tensor,
        other: torch.Tensor,
        bias: torch.Tensor | None = None,
    ) -> torch.Tensor:
        return torch.ops.mkldnn._convolution_pointwise_.binary(
            other, x, weight, dense(bias), *self.sizes, "add", 1.0, None, [], None
        )


class PackedLinearWeight(Op):
    """A linear layer's weight (out, in) reordered by MKL or oneDNN for inputs of so many rows.

    MKL sets aside 7.5 MiB more than it touches; what is never touched takes no memory.
    """

    library: Library
    rows: int
    threads: int

    def infer(self, weight: TensorType) -> OpaqueType:
        if weight.rank != 2:
            raise ShapeError("packed_linear_weight: expected (out, in)", {"weight": weight})
        padded = self.library == "onednn"
        return OpaqueType(blocked(weight) if padded else weight.nbytes, weight.device)

    def run(self, weight: torch.Tensor) -> torch.Tensor:
        dense = weight.detach().contiguous()
        if self.library == "mkl":
            return torch.ops.mkl._mkl_reorder_linear_weight(dense, self.rows)
        return torch.ops.mkldnn._reorder_linear_weight(dense, self.rows)


class PackedLinear(Op):
    """`x @ weight.T` plus a bias where there is a fourth operand, on a packed weight.

    Operands: x of `rows` rows in all, the packed weight, the weight itself (for its type, and for
    MKL, which falls back to it), bias (out). oneDNN's fused activations are not used: its relu
    turns NaN into 0.
    """

    library: Library
    rows: int

    def infer(
        self, x: TensorType, packed: Any, weight: TensorType, bias: TensorType | None = None
    ) -> TensorType:
        if not isinstance(packed, OpaqueType):
            raise ShapeError("packed_linear: the weight must be packed")
        operands = (x, weight) if bias is None else (x, weight, bias)
        found = Linear().infer(*operands)
        if x.numel != self.rows * x.shape[-1]:
            raise ShapeError(f"packed_linear: the weight is packed for {self.rows} rows", {"x": x})
        return found

    def run(
        self,
        x: torch.Tensor,
        packed: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None = None,
    ) -> torch.Tensor:
        if self.library == "mkl":
            return torch.ops.mkl._mkl_linear.default(x, packed, weight, bias, self.rows)
        return torch.ops.mkldnn._linear_pointwise.default(x, packed, dense(bias), "none", [], "")


class OneDnnLinear(Op):
    """`x @ weight.T` plus a bias (out) where there is a third operand, by oneDNN.

    The weight (out, in) stays as it is; it may be a transposed view.
    """

    def infer(
        self, x: TensorType, weight: TensorType, bias: TensorType | None = None
    ) -> TensorType:
        if weight.rank != 2 or (bias is not None and bias.shape != weight.shape[:1]):
            raise ShapeError(f"{self.name()}: expected (out, in), and (out)", {"weight": weight})
        return Linear().infer(x, weight) if bias is None else Linear().infer(x, weight, bias)

    def run(
        self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None
    ) -> torch.Tensor:
        return torch.ops.mkldnn._linear_pointwise.default(x, weight, dense(bias), "none", [], "")
