"""The derivative of an overload by torch's own engine, where torch's formula looks at values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from lazytorch.ir import Attribute, Op
from lazytorch.ops.aten import Aten
from lazytorch.ops.copies import relaid
from lazytorch.types import TensorType, TupleType, Type


class AtenBackward(Op):
    """What flows to the operands of `overload(*args, **kwargs)` that `needs` names, zeros where
    nothing does.

    Operands are those of the overload, then the cotangents of the results that `asked` names. The
    overload runs again, with a history that torch's engine walks back: what a graph cannot hold of
    it happens there.
    """

    overload: str
    needs: tuple[bool, ...]
    asked: tuple[bool, ...]
    args: tuple[Attribute, ...] = ()
    kwargs: tuple[tuple[str, Attribute], ...] = ()

    def infer(self, *xs: Type) -> TupleType:
        pairs = zip(xs, self.needs, strict=False)
        return TupleType(
            tuple([x.dense() for x, need in pairs if need and isinstance(x, TensorType)])
        )

    def run(self, *xs: Any) -> tuple[torch.Tensor, ...]:
        count = len(self.needs)
        with torch.inference_mode(False), torch.enable_grad():
            operands = [
                x.detach().requires_grad_() if need else x
                for x, need in zip(xs, self.needs, strict=False)
            ]
            found = Aten(self.overload, self.args, self.kwargs).run(*operands)
            results = found if isinstance(found, tuple | list) else (found,)
            chosen = [y for y, ask in zip(results, self.asked, strict=True) if ask]
            pairs = [(y, g) for y, g in zip(chosen, xs[count:], strict=True) if y.requires_grad]
            wanted = [x for x, need in zip(operands, self.needs, strict=True) if need]
            ends, seeds = [y for y, _ in pairs], [g for _, g in pairs]
            given: Sequence[torch.Tensor | None] = (
                torch.autograd.grad(ends, wanted, seeds, allow_unused=True)
                if pairs
                else [None] * len(wanted)
            )
        return tuple(
            [
                torch.zeros_like(x) if g is None else relaid(g, torch.empty_like(x).stride())
                for x, g in zip(wanted, given, strict=True)
            ]
        )
