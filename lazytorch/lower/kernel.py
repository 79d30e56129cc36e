"""What a target offers: kernels generated from fused groups, compiled together, then launched."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from lazytorch.errors import UnsupportedError
from lazytorch.ir import Const, Graph, Input, Node
from lazytorch.lower.steps import Operand
from lazytorch.ops.activation import LogSigmoid, Silu, Softplus
from lazytorch.ops.affine import Affine
from lazytorch.ops.attention import ScaledDotProductAttention
from lazytorch.ops.base import Pointwise, Rowwise
from lazytorch.ops.conv import KernelConvolution
from lazytorch.ops.elementary import Exp, Exp2, Expm1, Sigmoid, Tanh
from lazytorch.ops.foreach import Foreach
from lazytorch.ops.fused import Fused, full_shape
from lazytorch.ops.number import ToNumber
from lazytorch.ops.pointwise import Sub
from lazytorch.types import ScalarType, Shape, TensorType

Launch = Callable[..., torch.Tensor | tuple[torch.Tensor, ...]]
"""Called with one tensor or float per operand, then one tensor per output that is not to be
allocated; allocates the others and returns all outputs as `Fused.run` does.

Operands and outputs have the very types that the launcher was made for. That is the caller's
promise and is not checked again: a Program has guards for it.
"""

Generated = Fused | Foreach | ScaledDotProductAttention
"""What a target may have a kernel for."""

COMPUTED = Pointwise | Rowwise | Affine | KernelConvolution
"""What a group may hold."""

NAME = "KERNEL"
"""Stands for the kernel's name in source text that `named` has not seen yet."""

MAGNIFYING = (Exp, Exp2, Expm1, Sigmoid, Tanh, Softplus, LogSigmoid, Silu)
"""Operations that make of a difference another number altogether, however small it is beside what
it is of."""


@dataclass(frozen=True)
class Kernel:
    """Source of one kernel. Equal structure gives an equal name, so equal layers share one.

    The name covers everything the source depends on: operations, dtypes, and how operands are
    walked; not sizes and strides, which are run-time arguments. `variant` numbers the launch shapes
    that the target knows for a group; 0 is the one that it takes unless another is measured.
    Without `contract`, a product and a sum are rounded each.
    """

    name: str
    source: str
    variant: int = 0
    contract: bool = True

    @property
    def way(self) -> str:
        """What a measurement calls it."""
        return f"generated/{self.variant}" if self.variant else "generated"


class Target(Protocol):
    """A way to generate code for one kind of device."""

    def prepare(self, op: Generated, operands: tuple[Operand, ...]) -> Kernel:
        """The kernel for a group, for equal groups on several members, or for an attention;
        UnsupportedError says why there is none.

        Compiles nothing.
        """
        ...

    def variants(self, op: Generated, operands: tuple[Operand, ...]) -> Sequence[Kernel]:
        """The group's kernel in other launch shapes, which may be faster; compiles nothing."""
        ...

    def ask(self, kernels: Sequence[Kernel]) -> None:
        """Let prepared kernels be compiled in the background, where that is possible."""
        ...

    def build(self, kernels: Sequence[Kernel]) -> None:
        """Compile all kernels of a graph together, skipping those that are built already.

        May be called from any thread. CompilerError when the compiler is missing or refuses.
        """
        ...

    def launcher(
        self,
        kernel: Kernel,
        op: Generated,
        operands: tuple[Operand, ...],
        into: tuple[int, ...] = (),
    ) -> Launch:
        """A function for one call site of a built kernel: what was given to `prepare`.

        The outputs numbered `into` are not allocated: the tensors that they are written to follow
        the operands.
        """
        ...


def outputs_of(op: Fused) -> tuple[TensorType, ...]:
    """The types of a group's outputs, all tensors."""
    return tuple([x.type for x in op.body.outputs if isinstance(x.type, TensorType)])


def named(hint: str, source: str, variant: int = 0, contract: bool = True) -> Kernel:
    """A kernel from source text in which `NAME` stands where its name belongs."""
    digest = hashlib.sha256(source.encode()).hexdigest()[:16]
    name = f"{hint[:40].strip('_')}_{digest}"
    return Kernel(name, source.replace(NAME, name), variant, contract)


def contracts(body: Graph) -> bool:
    """Whether products and sums of a group may be contracted: no operation rounds as torch does,
    none compares what others made with a row's extreme, no exponential magnifies a difference (of a
    product, say, and what another kernel rounded), and there is more than one element, or nothing
    would be gained."""
    nodes = [n for n in body.nodes if not isinstance(n.op, Input | Const)]
    exact = any([isinstance(n.op, Pointwise) and n.op.eagers for n in nodes])
    exact |= len(nodes) > 1 and any([isinstance(n.op, Rowwise) and n.op.extreme for n in nodes])
    differences: set[Node] = set()
    for node in nodes:
        apart = not differences.isdisjoint(node.inputs)
        exact |= apart and isinstance(node.op, MAGNIFYING)
        if apart or isinstance(node.op, Sub):
            differences.add(node)
    shapes = [x.type.shape for x in (*body.inputs, *body.outputs) if isinstance(x.type, TensorType)]
    return not exact and any(shapes)


def once(body: Graph) -> bool:
    """Whether one pass over a row gives everything: each operation on rows takes one, and none
    reads what another made."""
    behind: set[Node] = set()
    for node in body.nodes:
        apart = behind.isdisjoint(node.inputs)
        if isinstance(node.op, Rowwise):
            if not apart or not node.op.once:
                return False
            behind.add(node)
        elif not apart:
            behind.add(node)
    return True


def describe(body: Graph) -> str:
    """The operations of a group, as the readable part of its kernel's name."""
    return "_".join(n.op.name() for n in body.nodes if not isinstance(n.op, Input | Const))


def group_shape(op: Fused, operands: tuple[Operand, ...]) -> Shape:
    """The full shape of a group: that of its outputs, or of what it reduces.

    UnsupportedError when the group holds anything but operations on elements and rows, choices of
    where to read and convolutions, on tensors of one device, or when an output has another shape.
    """
    body, whole = op.body, full_shape(op)
    for node in body.nodes:
        if isinstance(node.op, ToNumber):
            continue
        if not isinstance(node.op, COMPUTED | Const | Input):
            raise UnsupportedError(f"{node.op.name()} has no generated kernel", where=node.where)
        if node.op.effect:
            raise UnsupportedError(f"{node.op.name()} is an effect", where=node.where)
        if not isinstance(node.op, Const | Input) and not isinstance(node.type, TensorType):
            raise UnsupportedError(f"{node.op.name()} is a {node.type}", where=node.where)
    for node, operand in zip(body.inputs, operands, strict=True):
        if not same_kind(node.type, operand):
            raise UnsupportedError(f"operand {operand} is given where {node.type} is expected")
    shapes = [x.shape for x in outputs_of(op)]
    allowed = (shapes[0],) if whole is None else (whole, (*whole[:-1], 1))
    if len(shapes) != len(body.outputs) or not all(shape in allowed for shape in shapes):
        raise UnsupportedError(
            "outputs of different shapes",
            {f"output {i}": x.type for i, x in enumerate(body.outputs)},
        )
    devices = {x.device for x in operands if isinstance(x, TensorType)}
    if len(devices) > 1:
        raise UnsupportedError(f"operands on {' and '.join(sorted(map(str, devices)))}")
    return whole or shapes[0]


def same_kind(expected: object, operand: Operand) -> bool:
    """Whether a group that was written for `expected` can read an operand."""
    if not isinstance(expected, TensorType) or not isinstance(operand, TensorType):
        return expected == operand == ScalarType(float)
    return expected.shape == operand.shape and expected.dtype is operand.dtype
