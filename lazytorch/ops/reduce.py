"""Reductions along dimensions, softmax and cumulative sums; results are always row-major."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar

import torch

from lazytorch.errors import DTypeError
from lazytorch.ir import Item, Node, Op
from lazytorch.ops.base import Rowwise
from lazytorch.ops.copies import Flip
from lazytorch.ops.emitter import RowEmitter, Value, cast
from lazytorch.ops.extrema import Argmax as Argmax
from lazytorch.ops.extrema import Argmin as Argmin
from lazytorch.ops.extrema import MaxDim as MaxDim
from lazytorch.ops.extrema import MinDim as MinDim
from lazytorch.ops.reduction import (
    Reduction,
    counted,
    need_elements,
    need_float,
    normalized_dim,
    reduced_shape,
    tensor,
)
from lazytorch.types import TensorType, TupleType, tensor_type

if TYPE_CHECKING:
    from lazytorch.ops.calculus import Calculus, Cotangents

Number = int | float


class Sum(Reduction):
    """Sum; `dtype` is what the elements are converted to first."""

    once: ClassVar[bool] = True
    dtype: torch.dtype | None = None

    def result(self, x: TensorType) -> torch.dtype:
        return self.dtype or counted(x.dtype)

    def emit(self, s: RowEmitter, *xs: Value) -> Value:
        return s.row_sum(xs[0])

    def run(self, x: torch.Tensor) -> torch.Tensor:
        return torch.sum(x, self.dims, self.keepdim, dtype=self.dtype)

    def vjp(self, s: Calculus, g: Node, out: Node, x: Node) -> Cotangents:
        t = tensor(x)
        return (s.unreduced(s.cast(g, t.dtype), self.dims, self.keepdim, t.shape),)


class Mean(Reduction):
    """Arithmetic mean of floating point or complex elements."""

    once: ClassVar[bool] = True
    dtype: torch.dtype | None = None

    def result(self, x: TensorType) -> torch.dtype:
        return need_float(self, self.dtype or x.dtype)

    def emit(self, s: RowEmitter, *xs: Value) -> Value:
        return s.row_mean(xs[0])

    def run(self, x: torch.Tensor) -> torch.Tensor:
        return torch.mean(x, self.dims, self.keepdim, dtype=self.dtype)

    def vjp(self, s: Calculus, g: Node, out: Node, x: Node) -> Cotangents:
        t = tensor(x)
        each = s.cast(s.div(g, self.count(t)), t.dtype)
        return (s.unreduced(each, self.dims, self.keepdim, t.shape),)


class Prod(Reduction):
    """Product along one dimension, or of all elements."""

    dtype: torch.dtype | None = None

    def result(self, x: TensorType) -> torch.dtype:
        return self.dtype or counted(x.dtype)

    def run(self, x: torch.Tensor) -> torch.Tensor:
        if len(self.dims) == 1:
            return torch.prod(x, self.dims[0], self.keepdim, dtype=self.dtype)
        result = torch.prod(x, dtype=self.dtype)
        return result.reshape((1,) * x.dim()) if self.keepdim else result


class Amax(Reduction):
    """Largest element; NaN wins."""

    once: ClassVar[bool] = True
    extreme: ClassVar[bool] = True

    def infer(self, x: TensorType) -> TensorType | TupleType:
        need_elements(self, x, self.dims)
        return super().infer(x)

    def emit(self, s: RowEmitter, *xs: Value) -> Value:
        return s.row_max(xs[0])

    def run(self, x: torch.Tensor) -> torch.Tensor:
        return torch.amax(x, self.dims, self.keepdim)

    def vjp(self, s: Calculus, g: Node, out: Node, x: Node) -> Cotangents:
        return (self.shared(s, g, s.eq(x, self.again(s, out, x)), x),)


class Amin(Reduction):
    """Smallest element; NaN wins."""

    once: ClassVar[bool] = True
    extreme: ClassVar[bool] = True

    def infer(self, x: TensorType) -> TensorType | TupleType:
        need_elements(self, x, self.dims)
        return super().infer(x)

    def emit(self, s: RowEmitter, *xs: Value) -> Value:
        return s.row_min(xs[0])

    def run(self, x: torch.Tensor) -> torch.Tensor:
        return torch.amin(x, self.dims, self.keepdim)

    def vjp(self, s: Calculus, g: Node, out: Node, x: Node) -> Cotangents:
        return (self.shared(s, g, s.eq(x, self.again(s, out, x)), x),)


class Any(Reduction):
    """Whether an element is nonzero; u8 in, u8 out, as torch has it."""

    def result(self, x: TensorType) -> torch.dtype:
        return torch.uint8 if x.dtype is torch.uint8 else torch.bool

    def run(self, x: torch.Tensor) -> torch.Tensor:
        return torch.any(x, self.dims, self.keepdim) if self.dims else torch.any(x)


class All(Reduction):
    """Whether every element is nonzero; u8 in, u8 out, as torch has it."""

    def result(self, x: TensorType) -> torch.dtype:
        return torch.uint8 if x.dtype is torch.uint8 else torch.bool

    def run(self, x: torch.Tensor) -> torch.Tensor:
        return torch.all(x, self.dims, self.keepdim) if self.dims else torch.all(x)


class LogSumExp(Reduction):
    """Logarithm of the sum of exponentials, without overflow; integers become floating."""

    once: ClassVar[bool] = True
    extreme: ClassVar[bool] = True

    def result(self, x: TensorType) -> torch.dtype:
        floating = x.dtype.is_floating_point or x.dtype.is_complex
        return x.dtype if floating else torch.get_default_dtype()

    def emit(self, s: RowEmitter, *xs: Value) -> Value:
        largest, total = s.row_exponentials(xs[0])
        return s.where(s.isinf(largest), largest, s.log(total) + largest)

    def run(self, x: torch.Tensor) -> torch.Tensor:
        return torch.logsumexp(x, self.dims, self.keepdim)

    def vjp(self, s: Calculus, g: Node, out: Node, x: Node) -> Cotangents:
        g, out, x = s.wide(g, out, x)
        return (s.mul(self.again(s, g, x), s.exp(s.sub(x, self.again(s, out, x)))),)


class VectorNorm(Reduction):
    """The norm of order `ord` (also 0, inf, -inf) of the vectors that `dims` span."""

    once: ClassVar[bool] = True
    pushed_by_torch: ClassVar[bool] = True

    ord: Number = 2
    dtype: torch.dtype | None = None

    def result(self, x: TensorType) -> torch.dtype:
        return need_float(self, self.dtype or x.dtype).to_real()

    def along_rows(self, x: TensorType) -> bool:
        return self.ord == 2 and super().along_rows(x)

    def emit(self, s: RowEmitter, *xs: Value) -> Value:
        return s.sqrt(s.row_sum(xs[0] * xs[0]))

    def run(self, x: torch.Tensor) -> torch.Tensor:
        return torch.ops.aten.linalg_vector_norm(
            x, self.ord, self.dims, self.keepdim, dtype=self.dtype
        )

    def vjp(self, s: Calculus, g: Node, out: Node, x: Node) -> Cotangents:
        x = s.match(x, out)
        match self.ord:
            case 0:
                return s.zeros(x)
            case 1:
                return (s.mul(s.sign(x), self.again(s, g, x)),)
            case 2:
                # Zero at a norm of zero; the mask is outermost, so that what follows is NaN there.
                along = s.mul(x, self.again(s, s.div(g, out), x))
                return (s.choose(self.again(s, s.eq(out, 0.0), x), 0.0, along),)
            case order if math.isinf(order):
                largest = s.logical_or(s.eq(s.abs(x), self.again(s, out, x)), s.isnan(x))
                return (s.mul(s.sign(x), self.shared(s, g, largest, x)),)
            case _:
                return NotImplemented


class Var(Reduction):
    """Variance: squared deviations over the count less `correction`."""

    correction: Number = 1

    def result(self, x: TensorType) -> torch.dtype:
        return need_float(self, x.dtype).to_real()

    def emit(self, s: RowEmitter, *xs: Value) -> Value:
        _, variance = s.row_centered(xs[0])
        if not self.correction:
            return variance
        count = cast(s, s.row_size(), xs[0].dtype)
        return variance * count / s.clamp_min(count - self.correction, 0.0)

    def run(self, x: torch.Tensor) -> torch.Tensor:
        return torch.var(x, self.dims, correction=self.correction, keepdim=self.keepdim)

    def vjp(self, s: Calculus, g: Node, out: Node, x: Node) -> Cotangents:
        count = self.count(tensor(x)) - self.correction
        if count <= 0:
            return NotImplemented
        apart = s.sub(x, s(Mean(self.dims, True), x))
        return (s.mul(s.mul(self.again(s, g, x), 2.0 / count), apart),)


class Std(Var):
    """Standard deviation: the square root of the variance."""

    pushed_by_torch: ClassVar[bool] = True

    def emit(self, s: RowEmitter, *xs: Value) -> Value:
        return s.sqrt(super().emit(s, *xs))

    def run(self, x: torch.Tensor) -> torch.Tensor:
        return torch.std(x, self.dims, correction=self.correction, keepdim=self.keepdim)

    def vjp(self, s: Calculus, g: Node, out: Node, x: Node) -> Cotangents:
        g = s.choose(s.eq(out, 0.0), 0.0, s.div(g, s.mul(out, 2.0)))
        return super().vjp(s, g, out, x)


class VarMean(Reduction):
    """Variance and mean in one pass."""

    correction: Number = 1

    def infer(self, x: TensorType) -> TupleType:
        need_float(self, x.dtype)
        shape = reduced_shape(x.shape, self.dims, self.keepdim)
        mean = tensor_type(shape, x.dtype, x.device)
        return TupleType((mean.with_dtype(x.dtype.to_real()), mean))

    def run(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.var_mean(x, self.dims, correction=self.correction, keepdim=self.keepdim)

    def vjp(self, s: Calculus, g: list[Node | None], out: Node, x: Node) -> Cotangents:
        count = self.count(tensor(x)) - self.correction
        if count <= 0:
            return NotImplemented
        spread, shift = g
        found: list[Node] = []
        if spread is not None:
            apart = s.sub(x, self.again(s, s(Item(1), out), x))
            scale = s.mul(self.towards_variance(s, spread, out), 2.0 / count)
            found.append(s.mul(self.again(s, scale, x), apart))
        if shift is not None:
            found.append(self.again(s, s.div(shift, self.count(tensor(x))), x))
        return (s.total(found),)

    def towards_variance(self, s: Calculus, g: Node, out: Node) -> Node:
        """The cotangent of the variance from that of the first result."""
        return g


class StdMean(VarMean):
    """Standard deviation and mean in one pass."""

    pushed_by_torch: ClassVar[bool] = True

    def run(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        std, mean = torch.std_mean(x, self.dims, correction=self.correction, keepdim=self.keepdim)
        return std, mean

    def towards_variance(self, s: Calculus, g: Node, out: Node) -> Node:
        std = s(Item(0), out)
        return s.choose(s.eq(std, 0.0), 0.0, s.div(g, s.mul(std, 2.0)))


class Softmax(Rowwise):
    """Exponentials along `dim` that sum to one; `dtype` is what the elements are converted to."""

    extreme: ClassVar[bool] = True
    dim: int
    dtype: torch.dtype | None = None

    def infer(self, x: TensorType) -> TensorType:
        normalized_dim(self.dim, x.rank)
        dtype = self.dtype or x.dtype
        if x.numel and not dtype.is_floating_point:  # torch returns before it meets the dtype
            raise DTypeError(f"{self.name()}: expected a floating point dtype, got {dtype}")
        return tensor_type(x.shape, dtype, x.device)

    def along_rows(self, x: TensorType) -> bool:
        return x.rank > 0 and normalized_dim(self.dim, x.rank) == x.rank - 1

    def emit(self, s: RowEmitter, *xs: Value) -> Value:
        largest, total = s.row_exp_sum(xs[0])
        return s.exp(xs[0] - largest) * s.reciprocal(total)

    def run(self, x: torch.Tensor) -> torch.Tensor:
        return torch.softmax(x, self.dim, self.dtype)

    def vjp(self, s: Calculus, g: Node, out: Node, x: Node) -> Cotangents:
        g, out = s.wide(g, out)
        total = s.sum(s.mul(g, out), (self.along(tensor(x)),), True)
        return (s.mul(out, s.sub(g, total)),)

    def along(self, x: TensorType) -> int:
        """The dimension, counted from the front."""
        return normalized_dim(self.dim, x.rank)


class SafeSoftmax(Softmax):
    """Softmax, but 0 in rows of -inf alone: attention whose queries may see nothing."""

    def emit(self, s: RowEmitter, *xs: Value) -> Value:
        return s.where(s.eq(s.row_max(xs[0]), -math.inf), 0.0, super().emit(s, *xs))

    def run(self, x: torch.Tensor) -> torch.Tensor:
        return torch.ops.aten._safe_softmax(x, self.dim, self.dtype)


class LogSoftmax(Softmax):
    """Logarithm of softmax, without underflow."""

    def emit(self, s: RowEmitter, *xs: Value) -> Value:
        largest, total = s.row_exp_sum(xs[0])
        return (xs[0] - largest) - s.log(total)

    def run(self, x: torch.Tensor) -> torch.Tensor:
        return torch.log_softmax(x, self.dim, self.dtype)

    def vjp(self, s: Calculus, g: Node, out: Node, x: Node) -> Cotangents:
        g, out = s.wide(g, out)
        total = s.sum(g, (self.along(tensor(x)),), True)
        return (s.sub(g, s.mul(s.exp(out), total)),)


class Cumsum(Op):
    """Sums of the elements up to each one along `dim`."""

    dim: int
    dtype: torch.dtype | None = None

    def infer(self, x: TensorType) -> TensorType:
        normalized_dim(self.dim, x.rank)
        return tensor_type(x.shape, self.dtype or counted(x.dtype), x.device)

    def run(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cumsum(x, self.dim, dtype=self.dtype)

    def vjp(self, s: Calculus, g: Node, out: Node, x: Node) -> Cotangents:
        if not tensor(x).rank:
            return (g,)
        turned = s(Flip((self.dim,)), g)
        return (s(Flip((self.dim,)), s(Cumsum(self.dim), turned)),)


class Cumprod(Cumsum):
    """Products of the elements up to each one along `dim`."""

    def run(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cumprod(x, self.dim, dtype=self.dtype)

    def vjp(self, s: Calculus, g: Node, out: Node, x: Node) -> Cotangents:
        return NotImplemented
