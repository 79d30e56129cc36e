"""A small net in double precision and an optimizer, arguments, gradients, how close results are."""

from typing import Any

import torch
from torch import nn

F64 = torch.float64


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2)).double()


def point(i: int) -> torch.Tensor:
    return torch.randn(3, 4, dtype=F64, generator=torch.Generator().manual_seed(i))


def close(a: Any, b: Any) -> None:
    torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)


def detached(x: Any) -> Any:
    return x.detach().clone() if isinstance(x, torch.Tensor) else x


def grads(m: nn.Module) -> list[Any]:
    return [detached(p.grad) for p in m.parameters()]


class Anew(torch.optim.Optimizer):
    """A user's own: at every step another tensor for the average of gradients."""

    def __init__(self, params: Any, lr: float = 0.1) -> None:
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    state = self.state[p]
                    state["mean"] = 0.9 * state.get("mean", torch.zeros_like(p)) + p.grad
                    p.sub_(group["lr"] * state["mean"])
