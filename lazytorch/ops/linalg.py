"""Matrix products; results are always row-major."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from lazytorch.errors import ShapeError
from lazytorch.ir import Op
from lazytorch.ops.base import Rowwise
from lazytorch.ops.checks import check_alike
from lazytorch.ops.reduction import tensor
from lazytorch.types import Shape, TensorType, broadcast, tensor_type

if TYPE_CHECKING:
    from lazytorch.ir import Node
    from lazytorch.ops.calculus import Calculus, Cotangents
    from lazytorch.ops.emitter import RowEmitter, Value

Number = int | float | complex


def fail(op: Op, message: str, **operands: TensorType) -> ShapeError:
    """A ShapeError that shows the operands."""
    return ShapeError(f"{op.name()}: {message}", operands)


def check_inner(op: Op, left: TensorType, right: TensorType) -> None:
    """ShapeError unless the columns of `left` are as many as the rows of `right`."""
    rows = right.shape[-2] if right.rank > 1 else right.shape[0]
    if left.shape[-1] != rows:
        raise fail(op, f"inner sizes differ: {left.shape[-1]} != {rows}", left=left, right=right)


def check_ranks(op: Op, left: TensorType, right: TensorType, ranks: tuple[int, int]) -> None:
    """ShapeError unless the operands have these numbers of dimensions."""
    if (left.rank, right.rank) != ranks:
        raise fail(op, f"expected a {ranks[0]}-d and a {ranks[1]}-d tensor", left=left, right=right)


class Matmul(Op):
    """`left @ right` with torch's rules: vectors, matrices, or batches of them that broadcast."""

    def infer(self, left: TensorType, right: TensorType) -> TensorType:
        if not left.rank or not right.rank:
            raise fail(self, "both operands need at least 1 dimension", left=left, right=right)
        check_alike(self, left, right)
        check_inner(self, left, right)
        rows = left.shape[-2:-1]
        columns = right.shape[-1:] if right.rank > 1 else ()
        batch: Shape = ()
        if left.rank > 2 or right.rank > 2:
            try:
                batch = broadcast([left.shape[:-2], right.shape[:-2]])
            except ValueError as error:
                raise fail(self, str(error), left=left, right=right) from None
        return tensor_type((*batch, *rows, *columns), left.dtype, left.device)

    def run(self, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        return torch.matmul(left, right)

    def vjp(self, s: Calculus, g: Node, out: Node, left: Node, right: Node) -> Cotangents:
        a, b = tensor(left).shape, tensor(right).shape
        rows, columns = s.as_matrices(left, 0), s.as_matrices(right, 1)
        if len(a) == 1:
            g = s.reshape(g, (*tensor(g).shape[: len(b) - 2], 1, *b[-1:][: len(b) - 1]))
        if len(b) == 1:
            g = s.reshape(g, (*tensor(g).shape, 1))
        if len(b) <= 2:
            flat_g, flat = s.rows(g), s.rows(rows)
            return (
                s.reshape(s.mm(flat_g, s.transpose(columns)), a),
                s.reshape(product(s, s.transpose(flat), flat_g, columns), b),
            )
        found = (s.matmul(g, s.transpose(columns)), s.matmul(s.transpose(rows), g))
        return (s.reshape(s.sum_to(found[0], tensor(rows).shape), a), found[1])


class Mm(Op):
    """Product of two matrices."""

    def infer(self, left: TensorType, right: TensorType) -> TensorType:
        check_ranks(self, left, right, (2, 2))
        check_alike(self, left, right)
        check_inner(self, left, right)
        return left.with_shape((left.shape[0], right.shape[1]))

    def run(self, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        return torch.mm(left, right)

    def vjp(self, s: Calculus, g: Node, out: Node, left: Node, right: Node) -> Cotangents:
        return (
            product(s, g, s.transpose(right), left),
            product(s, s.transpose(left), g, right),
        )


class Bmm(Op):
    """Products of two equally long batches of matrices."""

    def infer(self, left: TensorType, right: TensorType) -> TensorType:
        check_ranks(self, left, right, (3, 3))
        check_alike(self, left, right)
        check_inner(self, left, right)
        if left.shape[0] != right.shape[0]:
            raise fail(self, "batch sizes differ", left=left, right=right)
        return left.with_shape((*left.shape[:2], right.shape[2]))

    def run(self, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        return torch.bmm(left, right)

    def vjp(self, s: Calculus, g: Node, out: Node, left: Node, right: Node) -> Cotangents:
        return (s.bmm(g, s.transpose(right)), s.bmm(s.transpose(left), g))


class Dot(Op):
    """Inner product of two vectors."""

    def infer(self, left: TensorType, right: TensorType) -> TensorType:
        check_ranks(self, left, right, (1, 1))
        check_alike(self, left, right)
        check_inner(self, left, right)
        return left.with_shape(())

    def run(self, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        return torch.dot(left, right)

    def vjp(self, s: Calculus, g: Node, out: Node, left: Node, right: Node) -> Cotangents:
        return (s.mul(g, right), s.mul(g, left))


class Mv(Op):
    """Product of a matrix and a vector."""

    def infer(self, left: TensorType, right: TensorType) -> TensorType:
        check_ranks(self, left, right, (2, 1))
        check_alike(self, left, right)
        check_inner(self, left, right)
        return left.with_shape(left.shape[:1])

    def run(self, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        return torch.mv(left, right)

    def vjp(self, s: Calculus, g: Node, out: Node, left: Node, right: Node) -> Cotangents:
        column = s.reshape(g, (tensor(g).numel, 1))
        return (s.mul(column, right), s.mv(s.transpose(left), g))


class RowDots(Rowwise):
    """Inner product of each row of `x` (..., n) with a vector (n), plus what broadcasts to (..., 1)
    where there is a third operand: (..., 1).

    A matrix times a vector, in the form that generated kernels compute; `row_products` makes it of
    operations that were differentiated before.
    """

    def infer(
        self, x: TensorType, vector: TensorType, bias: TensorType | None = None
    ) -> TensorType:
        if not x.rank or vector.rank != 1:
            raise fail(self, "expected rows and a vector", x=x, vector=vector)
        check_alike(self, x, vector)
        check_inner(self, x, vector)
        found = x.with_shape((*x.shape[:-1], 1))
        return found if bias is None else added(self, bias, found)

    def along_rows(self, x: TensorType) -> bool:
        return True

    def emit(self, s: RowEmitter, *xs: Value) -> Value:
        x, vector, *bias = xs
        dots = s.row_sum(x * vector)
        return dots + bias[0] if bias else dots

    def run(
        self, x: torch.Tensor, vector: torch.Tensor, bias: torch.Tensor | None = None
    ) -> torch.Tensor:
        dots = torch.matmul(x, vector).unsqueeze(-1)
        return dots if bias is None else dots + bias


class Addmm(Op):
    """`beta * base + alpha * (left @ right)`; a beta of 0 ignores NaN in the base."""

    beta: Number = 1
    alpha: Number = 1

    def infer(self, base: TensorType, left: TensorType, right: TensorType) -> TensorType:
        return added(self, base, Mm().infer(left, right))

    def run(self, base: torch.Tensor, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        return torch.addmm(base, left, right, beta=self.beta, alpha=self.alpha)  # type: ignore[arg-type]

    def vjp(
        self, s: Calculus, g: Node, out: Node, base: Node, left: Node, right: Node
    ) -> Cotangents:
        scaled = s.scaled(g, self.alpha)
        return (s.scaled(g, self.beta), *Mm().vjp(s, scaled, out, left, right))


class Baddbmm(Op):
    """`beta * base + alpha * (left @ right)` over batches of matrices."""

    beta: Number = 1
    alpha: Number = 1

    def infer(self, base: TensorType, left: TensorType, right: TensorType) -> TensorType:
        return added(self, base, Bmm().infer(left, right))

    def run(self, base: torch.Tensor, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        return torch.baddbmm(base, left, right, beta=self.beta, alpha=self.alpha)  # type: ignore[arg-type]

    def vjp(
        self, s: Calculus, g: Node, out: Node, base: Node, left: Node, right: Node
    ) -> Cotangents:
        scaled = s.scaled(g, self.alpha)
        return (s.scaled(g, self.beta), *Bmm().vjp(s, scaled, out, left, right))


def added(op: Op, base: TensorType, product: TensorType) -> TensorType:
    """The type of `product` when `base`, which must expand to it, is added."""
    check_alike(op, base, product)
    try:
        fits = broadcast([base.shape, product.shape]) == product.shape
    except ValueError:
        fits = False
    if not fits:
        raise fail(op, "the base does not expand to the product", base=base, product=product)
    return product


class Linear(Op):
    """`x @ weight.T` plus a bias where there is a third operand; weight is (out, in)."""

    def infer(
        self, x: TensorType, weight: TensorType, bias: TensorType | None = None
    ) -> TensorType:
        if not x.rank or weight.rank not in (1, 2):
            raise fail(
                self, "expected an input (..., in) and a weight (out, in)", input=x, weight=weight
            )
        check_alike(self, x, weight, *(() if bias is None else (bias,)))
        if x.shape[-1] != weight.shape[-1]:
            message = f"input has {x.shape[-1]} features, weight expects {weight.shape[-1]}"
            raise fail(self, message, input=x, weight=weight)
        if bias is not None and (weight.rank == 1 or bias.rank > 1 or not expands(bias, weight)):
            raise fail(self, "bias does not fit weight", weight=weight, bias=bias)
        return x.with_shape((*x.shape[:-1], *weight.shape[:-1]))

    def run(
        self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None
    ) -> torch.Tensor:
        return torch.nn.functional.linear(x, weight, bias)

    def vjp(
        self, s: Calculus, g: Node, out: Node, x: Node, weight: Node, *bias: Node
    ) -> Cotangents:
        w = s.as_matrices(weight, 0)
        g = g if tensor(weight).rank == 2 else s.reshape(g, (*tensor(g).shape, 1))
        flat_g, flat = s.rows(g), s.rows(s.as_matrices(x, 0))
        by_x = s.reshape(s.mm(flat_g, w), tensor(x).shape)
        by_weight = s.reshape(s.mm(s.transpose(flat_g), flat), tensor(weight).shape)
        return (by_x, by_weight, *[g for _ in bias])


def expands(bias: TensorType, weight: TensorType) -> bool:
    """Whether a bias covers the rows of a weight."""
    return not bias.rank or bias.shape[0] in (1, weight.shape[0])


def product(s: Calculus, left: Node, right: Node, like: Node) -> Node:
    """`left @ right`, column-major in memory where `like` is: so torch lays gradients out."""
    t = tensor(like)
    if t.strides[0] == 1 and t.strides[1] == t.shape[0] and not t.is_contiguous:
        return s.transpose(s.mm(s.transpose(right), s.transpose(left)))
    return s.mm(left, right)
