"""Tangents of an operation's results, recorded from torch's own forward formulas.

As in `derive`, the operation's torch kernel is called on lazy stand-ins, above autograd; here they
carry tangents, and what torch's forward mode does with them is recorded.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch.autograd import forward_ad
from typing_extensions import override

from lazytorch.autodiff.derive import Deriving, above_autograd, lazily, missing, stand_in
from lazytorch.autodiff.devices import CPU, on, relocated
from lazytorch.errors import LazyTorchError
from lazytorch.frontend.tensor import LazyTensor
from lazytorch.ir import Const, Node, Op, constant, input
from lazytorch.types import TensorType, Type

aten = torch.ops.aten


@dataclass(frozen=True)
class Pushed:
    """A rule of forward mode: from `operands`, the `tangents` of some of them (None for those that
    stand still) and `results` to the tangents of the results, None for what does not move."""

    operands: tuple[Node, ...]
    tangents: tuple[Node | None, ...]
    results: tuple[Node | None, ...]
    moved: tuple[Node | None, ...]


class Pushing(Deriving):
    """Records the kernel of one operation with torch's forward mode above it."""

    def __init__(self, op: Op) -> None:
        super().__init__(op)
        self.still: set[Node] = set()  # zeros by definition: not even an infinity moves them

    @override
    def call(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        own = OWN.get(func)
        if own is not None:
            return own(self, func, args, kwargs)
        made = super().call(func, args, kwargs)
        factors = FACTORS.get(func, 0)
        if any([isinstance(x, LazyTensor) and self.read(x) in self.still for x in args[:factors]]):
            return standing(self, super().call(aten.zeros_like.default, (made,), {}))
        return made


def standing(r: Pushing, x: LazyTensor) -> LazyTensor:
    """A tangent of what does not move."""
    r.still.add(r.read(x))
    return x


def same_values(r: Pushing, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """What torch hangs a tangent on: the tensor itself, below autograd."""
    return r.view(r.lazy(args[0]), (), False)


def zeros(r: Pushing, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The tangent of what stands still beside what moves."""
    return standing(r, r.call(aten.zeros.default, args, kwargs))


def laid_out(r: Pushing, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Memory for a tangent that lies as its value does."""
    return r.call(aten.zeros_like.default, (args[1],), {})


OWN: dict[Any, Callable[..., Any]] = {
    aten._make_dual.default: same_values,
    aten._fw_primal.default: same_values,
    aten._efficientzerotensor.default: zeros,
    aten._new_zeros_with_same_feature_meta.default: laid_out,
    # Of memory that a view does not show: stand-ins have none.
    aten._has_same_storage_numel.default: lambda r, f, args, k: args[0].numel() == args[1].numel(),
}
"""What forward mode asks of tensors besides its formulas."""
FACTORS = {aten.mul.Tensor: 2, aten.div.Tensor: 1}
"""How many operands, the first ones, make the result zero where one of them is."""


@lru_cache(maxsize=16384)
def by_formula(op: Op, given: tuple[Type | Const, ...], moves: tuple[bool, ...]) -> Pushed:
    """The rule of `op` on operands of such types; UnsupportedError where torch has none."""
    op = relocated(op.recordable(), CPU)
    r = Pushing(op)
    operands = tuple(
        [
            constant(x.value) if isinstance(x, Const) else input(f"x{i}", on(x, CPU))
            for i, x in enumerate(given)
        ]
    )
    tangents = tuple(
        [
            input(f"t{i}", x.type) if move else None
            for i, (x, move) in enumerate(zip(operands, moves, strict=True))
        ]
    )
    with (
        above_autograd(),
        torch.no_grad(),
        r.mode,
        torch._C.DisableTorchFunctionSubclass(),  # it goes past autograd, where tangents are lost
        forward_ad.dual_level(),
    ):
        try:
            values = [
                stand_in(r, x, False) if t is None else dual(r, x, t)
                for x, t in zip(operands, tangents, strict=True)
            ]
            returned = op.run(*values)
            results = list(returned) if isinstance(returned, tuple | list) else [returned]
            found = [tangent(y) for y in results]
            nodes = [r.read(y) if isinstance(y, LazyTensor) else None for y in results]
            moved = [None if t is None else r.read(r.lazy(t)) for t in found]
        except LazyTorchError:
            raise
        except (RuntimeError, NotImplementedError, TypeError, ValueError) as error:
            r.refused(f"is not known to torch's forward mode: {str(error).splitlines()[0]}")
    if any([x.op.effect for x in missing(moved, nodes)]):
        r.refused("draws random numbers that its results do not tell")
    return Pushed(operands, tangents, tuple(nodes), tuple(moved))


def dual(r: Pushing, operand: Node, along: Node) -> Any:
    """A stand-in that carries a tangent."""
    assert isinstance(operand.type, TensorType)
    value = lazily(r, operand, operand.type, False)
    return forward_ad.make_dual(value, lazily(r, along, operand.type, False))


def tangent(y: Any) -> torch.Tensor | None:
    """The tangent that a result carries."""
    return forward_ad.unpack_dual(y).tangent if isinstance(y, torch.Tensor) else None
