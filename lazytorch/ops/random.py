"""Random draws: torch's generator makes them in program order, so a seed gives eager's numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar

import torch

from lazytorch.errors import ShapeError
from lazytorch.ir import Item, Node, Op
from lazytorch.types import Shape, Strides, TensorType, TupleType, contiguous_strides, tensor_type

if TYPE_CHECKING:
    from lazytorch.ir import Node
    from lazytorch.ops.calculus import Calculus, Cotangents


class Draw(Op, abstract=True):
    """A tensor that `fill` fills from the generator.

    Strides matter beyond the layout of the result: torch draws in memory order for some
    distributions, so they are those of the tensor that eager fills.
    """

    effect: ClassVar[bool] = True
    shape: Shape
    dtype: torch.dtype
    device: torch.device
    strides: Strides | None = None

    def infer(self) -> TensorType:
        if any(size < 0 for size in self.shape):
            raise ShapeError(
                "Trying to create tensor with negative dimension "
                f"{min(self.shape)}: {list(self.shape)}"
            )
        return tensor_type(self.shape, self.dtype, self.device, self.strides)

    def run(self) -> torch.Tensor:
        strides = contiguous_strides(self.shape) if self.strides is None else self.strides
        out = torch.empty_strided(self.shape, strides, dtype=self.dtype, device=self.device)
        self.fill(out)
        return out

    def fill(self, out: torch.Tensor) -> None:
        """Torch's own in-place draw."""
        raise NotImplementedError(f"{self.name()} draws nothing")


class Uniform(Draw):
    """Uniform in [low, high)."""

    low: float = 0.0
    high: float = 1.0

    def fill(self, out: torch.Tensor) -> None:
        out.uniform_(self.low, self.high)


class Normal(Draw):
    """Normal with mean and standard deviation."""

    mean: float = 0.0
    std: float = 1.0

    def fill(self, out: torch.Tensor) -> None:
        out.normal_(self.mean, self.std)


class RandomInteger(Draw):
    """Integers in [low, high); all that the dtype represents exactly where `high` is None."""

    low: int = 0
    high: int | None = None

    def fill(self, out: torch.Tensor) -> None:
        if self.high is None:
            out.random_()
        else:
            out.random_(self.low, self.high)


class Bernoulli(Draw):
    """1 with probability `p`, else 0."""

    compiled: ClassVar[Callable[[torch.Tensor, float], bool] | None] = None
    """Fills a tensor as torch would, but faster, where it says that it did."""
    p: float = 0.5

    def fill(self, out: torch.Tensor) -> None:
        if Bernoulli.compiled is None or not Bernoulli.compiled(out, self.p):
            out.bernoulli_(self.p)


class Exponential(Draw):
    """Exponential with rate `rate`."""

    rate: float = 1.0

    def fill(self, out: torch.Tensor) -> None:
        out.exponential_(self.rate)


class Randperm(Op):
    """A random permutation of 0 to n - 1."""

    effect: ClassVar[bool] = True
    n: int
    dtype: torch.dtype
    device: torch.device

    def infer(self) -> TensorType:
        if self.n < 0:
            raise ShapeError(f"n must be non-negative, got {self.n}")
        return tensor_type((self.n,), self.dtype, self.device)

    def run(self) -> torch.Tensor:
        return torch.randperm(self.n, dtype=self.dtype, device=self.device)


class BernoulliOf(Op):
    """1 with the probability that the operand holds for the element, else 0."""

    effect: ClassVar[bool] = True

    def infer(self, p: TensorType) -> TensorType:
        return p.with_shape(p.shape)

    def run(self, p: torch.Tensor) -> torch.Tensor:
        return torch.bernoulli(p)


class Multinomial(Op):
    """Positions drawn from each row of weights. Shape: (rows, num_samples), or (num_samples,)."""

    effect: ClassVar[bool] = True
    num_samples: int
    replacement: bool = False

    def infer(self, weights: TensorType) -> TensorType:
        if weights.rank not in (1, 2):
            raise ShapeError("prob_dist must be 1 or 2 dim")
        if self.num_samples < 1:
            raise ShapeError("cannot sample n_sample <= 0 samples")
        if not self.replacement and self.num_samples > weights.shape[-1]:
            raise ShapeError(
                "cannot sample n_sample > prob_dist.size(-1) samples without replacement"
            )
        shape = (*weights.shape[:-1], self.num_samples)
        return tensor_type(shape, torch.int64, weights.device)

    def run(self, weights: torch.Tensor) -> torch.Tensor:
        return torch.multinomial(weights, self.num_samples, self.replacement)


class NativeDropout(Op):
    """(x * mask / (1 - p), mask), with 1 - p the probability of True: CUDA's fused kernel.

    Which number it draws for an element depends on how x lies in memory: where `strides` are
    stated, x is copied to lie so, if it does not, and the results lie as they do then.

    On the CPU eager makes the mask and the product one by one, and so does the import of dropout.
    """

    effect: ClassVar[bool] = True
    p: float
    strides: Strides | None = None

    def infer(self, x: TensorType) -> TupleType:
        x = x if self.strides is None else x.with_strides(self.strides)
        return TupleType((x.dense(), x.dense().with_dtype(torch.bool)))

    def run(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if self.strides is not None and tuple(x.stride()) != self.strides:
            x = x.new_empty_strided(x.shape, self.strides).copy_(x)
        return torch.native_dropout(x, self.p, True)

    def vjp(self, s: Calculus, g: list[Node | None], out: Node, x: Node) -> Cotangents:
        if g[0] is None:
            return (None,)
        kept = 1 / (1 - self.p) if self.p < 1 else 0.0
        return (s.mul(s.mul(g[0], s(Item(1), out)), kept),)
