"""Functions over large tensors, by which generated kernels are measured.

lazytorch/bench/kernel_speed.py measures them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.nn import functional as F

Tensors = tuple[torch.Tensor, ...]
Function = Callable[..., torch.Tensor]

ROWS = (1000, 4096, 50257)
DROPPED = 0.1


@dataclass(frozen=True)
class Kernel:
    """A function over tensors; `inputs` makes them for so many elements, the result's included.

    A function that drops elements of its first argument has `exact`, which takes what was kept as
    its last one: float64 draws other random numbers.
    """

    name: str
    run: Function
    inputs: Callable[[int], Tensors]
    exact: Function | None = None


def add_relu(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """A sum, then relu."""
    return torch.relu(x + y)


def bias_gelu(x: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """What follows a matrix product in a transformer."""
    return F.gelu(x + bias)


def softmax(x: torch.Tensor) -> torch.Tensor:
    """Over each row."""
    return torch.softmax(x, -1)


def layer_norm(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """Over each row."""
    return F.layer_norm(x, weight.shape, weight, bias)


def rms_norm(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Over each row."""
    return F.rms_norm(x, weight.shape, weight, 1e-6)


def column_sum(x: torch.Tensor) -> torch.Tensor:
    """The sum of each column."""
    return x.sum(0)


def transposed_add(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """A sum with an operand that lies the other way in memory."""
    return x + y.T


def dropout_norm(
    x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor
) -> torch.Tensor:
    """The end of a transformer's block in training."""
    return layer_norm(residual + F.dropout(x, DROPPED, training=True), weight, bias)


def masked_norm(
    x: torch.Tensor,
    residual: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    mask: torch.Tensor,
) -> torch.Tensor:
    """The same with the mask given."""
    return layer_norm(residual + x * (mask != 0) / (1 - DROPPED), weight, bias)


def cross_entropy(x: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """The loss of a language model."""
    return F.cross_entropy(x, target)


def matrices(count: int, width: int, vectors: int, share: float) -> Callable[[int], Tensors]:
    """Some matrices of one width, `share` of the elements in all, then vectors of that width."""

    def made(elements: int) -> Tensors:
        rows = max(1, int(elements * share) // (count * width))
        tables = [torch.randn(rows, width) for _ in range(count)]
        return (*tables, *(torch.rand(width) + 0.5 for _ in range(vectors)))

    return made


def squares(elements: int) -> Tensors:
    """Two square matrices, of a side that tiles fit into; the result is a third."""
    side = max(64, int((elements / 3) ** 0.5) // 64 * 64)
    return torch.randn(side, side), torch.randn(side, side)


def classes(elements: int) -> Tensors:
    """Scores of GPT-2's vocabulary, and which is right."""
    rows = max(1, elements // ROWS[-1])
    return torch.randn(rows, ROWS[-1]), torch.randint(0, ROWS[-1], (rows,))


def kernels() -> dict[str, Kernel]:
    """The suite by name; the elements that inputs are asked for count the result's too."""
    norm = Kernel(
        "dropout_residual_layer_norm",
        dropout_norm,
        matrices(2, 4096, 2, 2 / 3),
        exact=masked_norm,
    )
    listed = [
        Kernel("add_relu", add_relu, matrices(2, 4096, 0, 2 / 3)),
        Kernel("bias_gelu", bias_gelu, matrices(1, 4096, 1, 1 / 2)),
        *(Kernel(f"softmax_{w}", softmax, matrices(1, w, 0, 1 / 2)) for w in ROWS),
        *(Kernel(f"layer_norm_{w}", layer_norm, matrices(1, w, 2, 1 / 2)) for w in ROWS),
        *(Kernel(f"rms_norm_{w}", rms_norm, matrices(1, w, 1, 1 / 2)) for w in ROWS),
        Kernel("column_sum", column_sum, matrices(1, 4096, 0, 1)),
        Kernel("transposed_add", transposed_add, squares),
        norm,
        Kernel("cross_entropy", cross_entropy, classes),
    ]
    return {kernel.name: kernel for kernel in listed}
