"""Reductions along dimensions, softmax and cumulative sums; results are always row-major."""

from __future__ import annotations

import torch

from lazytorch.errors import BoundsError, DTypeError, ShapeError
from lazytorch.ir import Op
from lazytorch.ops.base import Rowwise
from lazytorch.ops.emitter import RowEmitter, Value
from lazytorch.types import Shape, TensorType, TupleType, tensor_type

Number = int | float


def normalized_dim(dim: int, rank: int) -> int:
    """`dim` counted from the front; BoundsError where a tensor of that rank has no such one."""
    bound = rank or 1
    if not -bound <= dim < bound:
        raise BoundsError(
            f"Dimension out of range (expected to be in range of [{-bound}, {bound - 1}], "
            f"but got {dim})"
        )
    return dim % bound


def reduced_shape(shape: Shape, dims: tuple[int, ...], keepdim: bool) -> Shape:
    """The shape that is left when `dims` are reduced; ShapeError when one is named twice."""
    for i, dim in enumerate(dims):
        normalized_dim(dim, len(shape))
        if dim in dims[:i]:
            raise ShapeError(f"dim {dim} appears multiple times in the list of dims")
    if keepdim:
        return tuple([1 if d in dims else size for d, size in enumerate(shape)])
    return tuple([size for d, size in enumerate(shape) if d not in dims])


def counted(dtype: torch.dtype) -> torch.dtype:
    """The dtype in which sums and products of `dtype` come: integers and booleans widen to i64."""
    return dtype if dtype.is_floating_point or dtype.is_complex else torch.int64


def need_float(op: Op, dtype: torch.dtype) -> torch.dtype:
    """`dtype`, or DTypeError for integers and booleans."""
    if not (dtype.is_floating_point or dtype.is_complex):
        raise DTypeError(f"{op.name()}: expected a floating point or complex dtype, got {dtype}")
    return dtype


def need_elements(op: Op, x: TensorType, dims: tuple[int, ...]) -> None:
    """ShapeError where there is nothing to take the extremum of."""
    for dim in dims if x.rank else ():
        if x.shape[dim] == 0:
            raise ShapeError(
                f"{op.name()}: dimension {dim} has size 0, and the operation has no identity"
            )


class Reduction(Rowwise, abstract=True):
    """Reduces `dims` (counted from the front, ascending, each once; every one for a whole sum)."""

    dims: tuple[int, ...]
    keepdim: bool = False

    def along_rows(self, x: TensorType) -> bool:
        return self.keepdim and self.dims == (x.rank - 1,)

    def infer(self, x: TensorType) -> TensorType | TupleType:
        return tensor_type(
            reduced_shape(x.shape, self.dims, self.keepdim), self.result(x), x.device
        )

    def result(self, x: TensorType) -> torch.dtype:
        """The dtype of the result."""
        return x.dtype


class Sum(Reduction):
    """Sum; `dtype` is what the elements are converted to first."""

    dtype: torch.dtype | None = None

    def result(self, x: TensorType) -> torch.dtype:
        return self.dtype or counted(x.dtype)

    def emit(self, s: RowEmitter, *xs: Value) -> Value:
        return s.row_sum(xs[0])

    def run(self, x: torch.Tensor) -> torch.Tensor:
        return torch.sum(x, self.dims, self.keepdim, dtype=self.dtype)


class Mean(Reduction):
    """Arithmetic mean of floating point or complex elements."""

    dtype: torch.dtype | None = None

    def result(self, x: TensorType) -> torch.dtype:
        return need_float(self, self.dtype or x.dtype)

    def emit(self, s: RowEmitter, *xs: Value) -> Value:
        return s.row_mean(xs[0])

    def run(self, x: torch.Tensor) -> torch.Tensor:
        return torch.mean(x, self.dims, self.keepdim, dtype=self.dtype)


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

    def infer(self, x: TensorType) -> TensorType | TupleType:
        need_elements(self, x, self.dims)
        return super().infer(x)

    def emit(self, s: RowEmitter, *xs: Value) -> Value:
        return s.row_max(xs[0])

    def run(self, x: torch.Tensor) -> torch.Tensor:
        return torch.amax(x, self.dims, self.keepdim)


class Amin(Reduction):
    """Smallest element; NaN wins."""

    def infer(self, x: TensorType) -> TensorType | TupleType:
        need_elements(self, x, self.dims)
        return super().infer(x)

    def emit(self, s: RowEmitter, *xs: Value) -> Value:
        return s.row_min(xs[0])

    def run(self, x: torch.Tensor) -> torch.Tensor:
        return torch.amin(x, self.dims, self.keepdim)


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

    def result(self, x: TensorType) -> torch.dtype:
        floating = x.dtype.is_floating_point or x.dtype.is_complex
        return x.dtype if floating else torch.get_default_dtype()

    def emit(self, s: RowEmitter, *xs: Value) -> Value:
        largest = s.row_max(xs[0])
        total = s.row_sum(s.exp(xs[0] - largest))
        return s.where(s.isinf(largest), largest, s.log(total) + largest)

    def run(self, x: torch.Tensor) -> torch.Tensor:
        return torch.logsumexp(x, self.dims, self.keepdim)


class VectorNorm(Reduction):
    """The norm of order `ord` (also 0, inf, -inf) of the vectors that `dims` span."""

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


class Var(Reduction):
    """Variance: squared deviations over the count less `correction`."""

    correction: Number = 1

    def result(self, x: TensorType) -> torch.dtype:
        return need_float(self, x.dtype).to_real()

    def run(self, x: torch.Tensor) -> torch.Tensor:
        return torch.var(x, self.dims, correction=self.correction, keepdim=self.keepdim)


class Std(Var):
    """Standard deviation: the square root of the variance."""

    def run(self, x: torch.Tensor) -> torch.Tensor:
        return torch.std(x, self.dims, correction=self.correction, keepdim=self.keepdim)


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


class StdMean(VarMean):
    """Standard deviation and mean in one pass."""

    def run(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        std, mean = torch.std_mean(x, self.dims, correction=self.correction, keepdim=self.keepdim)
        return std, mean


class Argmax(Op):
    """Index of the largest element along `dim`, or in the flattened tensor."""

    dim: int | None = None
    keepdim: bool = False

    def infer(self, x: TensorType) -> TensorType:
        dims = tuple(range(x.rank)) if self.dim is None else (self.dim,)
        if self.dim is None and not x.numel:
            raise ShapeError(f"{self.name()}: expected a nonempty tensor when no dim is given")
        need_elements(self, x, dims)
        return tensor_type(reduced_shape(x.shape, dims, self.keepdim), torch.int64, x.device)

    def run(self, x: torch.Tensor) -> torch.Tensor:
        return torch.argmax(x, self.dim, self.keepdim)


class Argmin(Argmax):
    """Index of the smallest element along `dim`, or in the flattened tensor."""

    def run(self, x: torch.Tensor) -> torch.Tensor:
        return torch.argmin(x, self.dim, self.keepdim)


class MaxDim(Op):
    """Largest elements along `dim`, and their indices."""

    dim: int
    keepdim: bool = False

    def infer(self, x: TensorType) -> TupleType:
        need_elements(self, x, (self.dim,))
        values = x.with_shape(reduced_shape(x.shape, (self.dim,), self.keepdim))
        return TupleType((values, values.with_dtype(torch.int64)))

    def run(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.max(x, self.dim, self.keepdim)


class MinDim(MaxDim):
    """Smallest elements along `dim`, and their indices."""

    def run(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.min(x, self.dim, self.keepdim)


class Softmax(Rowwise):
    """Exponentials along `dim` that sum to one; `dtype` is what the elements are converted to."""

    dim: int
    dtype: torch.dtype | None = None

    def infer(self, x: TensorType) -> TensorType:
        normalized_dim(self.dim, x.rank)
        dtype = self.dtype or x.dtype
        if not dtype.is_floating_point:
            raise DTypeError(f"{self.name()}: expected a floating point dtype, got {dtype}")
        return tensor_type(x.shape, dtype, x.device)

    def along_rows(self, x: TensorType) -> bool:
        return x.rank > 0 and normalized_dim(self.dim, x.rank) == x.rank - 1

    def emit(self, s: RowEmitter, *xs: Value) -> Value:
        largest, total = s.row_exp_sum(xs[0])
        return s.exp(xs[0] - largest) * s.reciprocal(total)

    def run(self, x: torch.Tensor) -> torch.Tensor:
        return torch.softmax(x, self.dim, self.dtype)


class LogSoftmax(Softmax):
    """Logarithm of softmax, without underflow."""

    def emit(self, s: RowEmitter, *xs: Value) -> Value:
        largest, total = s.row_exp_sum(xs[0])
        return (xs[0] - largest) - s.log(total)

    def run(self, x: torch.Tensor) -> torch.Tensor:
        return torch.log_softmax(x, self.dim, self.dtype)


class Cumsum(Op):
    """Sums of the elements up to each one along `dim`."""

    dim: int
    dtype: torch.dtype | None = None

    def infer(self, x: TensorType) -> TensorType:
        normalized_dim(self.dim, x.rank)
        return tensor_type(x.shape, self.dtype or counted(x.dtype), x.device)

    def run(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cumsum(x, self.dim, dtype=self.dtype)


class Cumprod(Cumsum):
    """Products of the elements up to each one along `dim`."""

    def run(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cumprod(x, self.dim, dtype=self.dtype)
