"""Normalization as torch's overloads name it.

batch_norm and its kin update running statistics that their schemas call read-only: imported as the
functional form, and a write for each.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from lazytorch.errors import UnsupportedError
from lazytorch.frontend.imports import Written, imports
from lazytorch.ir import Builder, Item, Node, Operand
from lazytorch.ops import norm as ops
from lazytorch.ops.aten import Aten, AtenMutating
from lazytorch.ops.conv import suggested
from lazytorch.types import TensorType, TupleType

Optional = Node | None


def present(*operands: Optional) -> tuple[Node, ...]:
    """The operands that are there."""
    return tuple([x for x in operands if x is not None])


def paired(mean: Optional, var: Optional) -> bool:
    """Whether there are running statistics."""
    if (mean is None) != (var is None):
        raise UnsupportedError("running_mean and running_var must be given together")
    return mean is not None


def dtype(x: Node) -> torch.dtype:
    """The dtype of a tensor node."""
    assert isinstance(x.type, TensorType)
    return x.type.dtype


@imports("batch_norm")
def batch_norm(
    b: Builder,
    input: Node,
    weight: Optional,
    bias: Optional,
    running_mean: Optional,
    running_var: Optional,
    training: bool,
    momentum: float | Node,
    eps: float,
    cudnn_enabled: bool,
) -> Any:
    stats = paired(running_mean, running_var)
    operands = present(weight, bias, running_mean, running_var)
    affine = (weight is not None, bias is not None)
    if not training:
        if not stats:
            return NotImplemented
        return b(ops.BatchNorm(eps, *affine), input, *operands)
    varying = isinstance(momentum, Node)
    op = ops.BatchNormTrain(None if varying else momentum, eps, *affine, stats)
    results = b(op, input, *operands, *((momentum,) if varying else ()))
    if not stats:
        return b(Item(0), results)
    return Written(b(Item(0), results), ((3, b(Item(1), results)), (4, b(Item(2), results))))


@imports("instance_norm")
def instance_norm(
    b: Builder,
    input: Node,
    weight: Optional,
    bias: Optional,
    running_mean: Optional,
    running_var: Optional,
    use_input_stats: bool,
    momentum: float,
    eps: float,
    cudnn_enabled: bool,
) -> Any:
    stats = paired(running_mean, running_var)
    operands = present(weight, bias, running_mean, running_var)
    affine = (weight is not None, bias is not None)
    if not (stats and use_input_stats):
        return b(ops.InstanceNorm(eps, *affine, stats), input, *operands)
    if isinstance(momentum, Node):
        raise UnsupportedError("instance_norm with a momentum that is a tensor's value")
    results = b(ops.InstanceNormTrain(momentum, eps, *affine), input, *operands)
    return Written(b(Item(0), results), ((3, b(Item(1), results)), (4, b(Item(2), results))))


@imports("native_batch_norm")
def native_batch_norm(b: Builder, *arguments: Any) -> Any:
    """(input, weight, bias, running_mean, running_var, training, momentum, eps)."""
    return updating(b, "aten.native_batch_norm.default", arguments)


@imports("cudnn_batch_norm")
def cudnn_batch_norm(b: Builder, *arguments: Any) -> Any:
    """(input, weight, bias, running_mean, running_var, training, factor, epsilon)."""
    return updating(b, "aten.cudnn_batch_norm.default", arguments)


@imports("_batch_norm_impl_index")
def _batch_norm_impl_index(b: Builder, *arguments: Any) -> Any:  # pyright: ignore[reportUnusedFunction]
    """Its last results are bytes and a number that only torch's backward reads."""
    raise UnsupportedError(
        "torch._batch_norm_impl_index is torch's own plumbing",
        hint="call torch.nn.functional.batch_norm",
    )


def updating(b: Builder, overload: str, arguments: tuple[Any, ...]) -> Any:
    """A batch norm with several results: torch's own overload, on copies of the statistics."""
    operands = present(*[x for x in arguments if isinstance(x, Node)])
    place = {x: Operand(i) for i, x in reversed(list(enumerate(operands)))}
    static = tuple([place[x] if isinstance(x, Node) else x for x in arguments])
    mean, var, training = arguments[3:6]
    written = training and paired(mean, var)
    mutated = (operands.index(mean), operands.index(var)) if written else ()
    op = AtenMutating(overload, static, mutated=mutated) if written else Aten(overload, static)
    typed = op.infer(*[x.type for x in operands])
    x = operands[0].type
    assert isinstance(typed, TupleType)
    assert isinstance(x, TensorType)
    if x.device.type == "cpu":  # torch's fake kernel keeps the strides, its CPU kernel does not
        typed = TupleType((suggested(x, x.shape), *typed.items[1:]))
        op = op.with_attributes(observed=typed)
    results = b(op, *operands)
    assert isinstance(results.type, TupleType)
    items = [b(Item(i), results) for i in range(len(results.type.items))]
    if not written:
        return tuple(items)
    return Written(tuple(items[:-2]), ((3, items[-2]), (4, items[-1])))


@imports("layer_norm")
def layer_norm(
    b: Builder,
    input: Node,
    normalized_shape: Sequence[int],
    weight: Optional = None,
    bias: Optional = None,
    eps: float = 1e-05,
    cudnn_enable: bool = True,
) -> Node:
    op = ops.LayerNorm(tuple(normalized_shape), eps, weight is not None, bias is not None)
    return b(op, input, *present(weight, bias))


@imports("group_norm")
def group_norm(
    b: Builder,
    input: Node,
    num_groups: int,
    weight: Optional = None,
    bias: Optional = None,
    eps: float = 1e-05,
    cudnn_enabled: bool = True,
) -> Node:
    op = ops.GroupNorm(num_groups, eps, weight is not None, bias is not None)
    return b(op, input, *present(weight, bias))


@imports("rms_norm")
def rms_norm(
    b: Builder,
    input: Node,
    normalized_shape: Sequence[int],
    weight: Optional = None,
    eps: float | None = None,
) -> Node:
    if weight is not None and dtype(weight) is not dtype(input):
        return NotImplemented
    return b(ops.RmsNorm(tuple(normalized_shape), eps), input, *present(weight))
