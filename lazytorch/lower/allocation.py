"""What one call allocates: which results are memory of their own, and what it needs meanwhile.

A generated kernel allocates its outputs and nothing else. Anything else is tried on torch's fake
tensors, which have no memory: which result is a view of which operand, and what torch's own
composition of smaller calls holds on the way, come out as they would in the run. What a library
takes inside a single kernel does not show there: that is a workspace, which has to be measured
(`lower.workspaces`).
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from lazytorch.interpret import storage
from lazytorch.ir import Item, Node, Op
from lazytorch.lower.call import KernelCall, LibraryCall
from lazytorch.ops.aten import fake_value
from lazytorch.ops.aten_backward import AtenBackward
from lazytorch.ops.attention import ScaledDotProductAttention
from lazytorch.ops.chains import is_copy
from lazytorch.ops.conv import channels_last
from lazytorch.ops.cudnn import CudnnConvolution, CudnnConvolutionRelu
from lazytorch.ops.loss import BinaryCrossEntropy, MseLoss, SmoothL1Loss
from lazytorch.ops.offload import ToHost
from lazytorch.types import OpaqueType, ScalarType, TensorType, TupleType, Type, broadcast


@dataclass(frozen=True)
class Allocation:
    """What a call does to memory.

    For each result (each element, of a tuple) `results` has the operands that it shows, none for
    one in new memory; `owners` the element whose new memory it is, which is mostly itself; and
    `sizes` the bytes of what it owns. `scratch` is what is allocated at the same time as the
    results, at most, and freed before the call returns; of it, these pieces are allocated `first`,
    before the results. `generated` says that a kernel of ours fills the memory: it could lie
    anywhere.
    """

    results: tuple[tuple[int, ...], ...]
    owners: tuple[int, ...]
    sizes: tuple[int, ...]
    scratch: int = 0
    generated: bool = False
    first: tuple[int, ...] = ()


def extent(x: Type) -> int:
    """Bytes of the memory that a fresh value of this type takes, what it skips included."""
    if isinstance(x, OpaqueType):
        return x.nbytes
    if not isinstance(x, TensorType) or not x.numel:
        return 0
    last = sum((size - 1) * stride for size, stride in zip(x.shape, x.strides, strict=True))
    return (last + 1) * x.dtype.itemsize


def allocation(node: Node, site: KernelCall | LibraryCall | None = None) -> Allocation:
    """What the call of a node does to memory; with a `site`, in the way that was chosen there."""
    op = node.op
    if isinstance(site, KernelCall) and site.generated:
        return made(node.type, generated=True)
    if isinstance(site, LibraryCall):
        op = site.chosen
    if isinstance(op, AtenBackward | ToHost):  # which ask for the device, which need not be here
        return made(node.type)
    types = tuple([x.type for x in node.inputs])
    if isinstance(op, ScaledDotProductAttention) and on_gpu(types[0]):
        return replace(made(node.type), scratch=row_sums(types[0]))
    if isinstance(op, CudnnConvolution | CudnnConvolutionRelu):
        return replace(made(node.type), first=(laid_out(types[0]),))
    tried = trial(op, types) if types else None
    if tried is not None:
        return replace(tried, sizes=(oversized(types),)) if shrinks(op) else tried
    if op.view and not isinstance(op, Item) and not is_copy(node):
        return Allocation(((0,),), (0,), (0,))
    return made(node.type)


def shrinks(op: Op) -> bool:
    """Whether a kernel of torch's makes a result and then calls a part of it the result: the whole
    memory stays."""
    return isinstance(op, MseLoss | SmoothL1Loss | BinaryCrossEntropy) and bool(op.reduction)


def oversized(types: tuple[Type, ...]) -> int:
    """Bytes of a loss before it was reduced."""
    first, second, *_ = [x for x in types if isinstance(x, TensorType)]
    return math.prod(broadcast((first.shape, second.shape))) * first.dtype.itemsize


def on_gpu(typed: Type) -> bool:
    """Whether a value lies on a GPU."""
    return isinstance(typed, TensorType) and typed.device.type == "cuda"


def laid_out(image: Type) -> int:
    """Bytes of the copy that a call of cuDNN's begins with where an image has another layout than
    its result. Source: ATen/native/cudnn/ConvShared.cpp."""
    assert isinstance(image, TensorType)
    return 0 if image.strides == channels_last(image.shape) else extent(image)


def row_sums(query: Type) -> int:
    """Bytes of the sums that attention on a GPU leaves for its derivative, one a row in float32;
    torch's fake kernel would write the whole thing out."""
    assert isinstance(query, TensorType)
    return 4 * math.prod(query.shape[:-1])


def made(typed: Type, generated: bool = False) -> Allocation:
    """Memory of its own for each element of a result."""
    items = typed.items if isinstance(typed, TupleType) else (typed,)
    sizes = tuple([extent(x) for x in items])
    return Allocation(((),) * len(items), tuple(range(len(items))), sizes, 0, generated)


@lru_cache(maxsize=16384)
def trial(op: Op, types: tuple[Type, ...]) -> Allocation | None:
    """What `op` does on fake tensors of these types; None where they do not tell.

    They do not where an operand is a library's own format, or a size depends on values; nor on a
    GPU where torch would run the call to find out.
    """
    if not all(isinstance(x, TensorType | TupleType | ScalarType) for x in types):
        return None
    runs = not any(on_gpu(x) for x in types)
    with FakeTensorMode(allow_fallback_kernels=runs, allow_non_fake_inputs=True) as mode:
        operands = [fake_value(x, mode) for x in types]
        watched = Watched([x for x in operands if isinstance(x, torch.Tensor)])
        try:
            with torch.no_grad(), watched:
                result = op.run(*operands)
        except Exception:  # an overload without a fake kernel, or one that asks for a value
            return None
        return watched.allocation(result, operands)


class Watched(TorchDispatchMode):
    """Counts the memory of the tensors that calls make, and when it is given back."""

    def __init__(self, given: Sequence[torch.Tensor]) -> None:
        super().__init__()
        self.given = {storage(x) for x in given}
        self.holders: dict[int, int] = {}  # tensors alive by storage
        self.sizes: dict[int, int] = {}
        self.earlier: dict[int, dict[int, int]] = {}  # what was there when a storage came
        self.seen: set[int] = set()
        self.now = self.most = 0

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for x in result if isinstance(result, tuple | list) else (result,):
            if isinstance(x, torch.Tensor):
                self.see(x)
        return result

    def see(self, x: torch.Tensor) -> None:
        """A tensor came out of a call."""
        key = storage(x)
        if key in self.given or id(x) in self.seen:
            return
        if key not in self.holders:
            self.holders[key] = 0
            self.earlier[key] = dict(self.sizes)
            self.sizes[key] = x.untyped_storage().nbytes()
            self.now += self.sizes[key]
            self.most = max(self.most, self.now)
        self.holders[key] += 1
        self.seen.add(id(x))
        weakref.finalize(x, self.gone, key, id(x))

    def gone(self, key: int, tensor: int) -> None:
        """A tensor is no more."""
        self.seen.discard(tensor)
        self.holders[key] -= 1
        if not self.holders[key]:
            self.now -= self.sizes.pop(key)
            del self.holders[key]

    def allocation(self, result: Any, operands: Sequence[Any]) -> Allocation:
        """What was seen, told by the result's elements."""
        items = result if isinstance(result, tuple | list) else (result,)
        where: dict[int, list[int]] = {}
        for i, x in enumerate(operands):
            if isinstance(x, torch.Tensor):
                where.setdefault(storage(x), []).append(i)
        shown: list[tuple[int, ...]] = []
        owners: list[int] = []
        sizes: list[int] = []
        new: dict[int, int] = {}
        for k, x in enumerate(items):
            key = storage(x) if isinstance(x, torch.Tensor) else -1
            shown.append(tuple(where.get(key, ())))
            first = isinstance(x, torch.Tensor) and key not in where and key not in new
            owners.append(new.setdefault(key, k))
            sizes.append(x.untyped_storage().nbytes() if first else 0)
        scratch = max(self.most - sum(sizes), 0)
        before: dict[int, int] = next((self.earlier[x] for x in new if x in self.earlier), {})
        first = tuple([nbytes for key, nbytes in before.items() if key not in new])
        return Allocation(tuple(shown), tuple(owners), tuple(sizes), scratch, False, first)
