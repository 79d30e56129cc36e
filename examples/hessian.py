"""How sharp a loss is: the Hessian's largest eigenvalue, by Hessian-vector products.

    python examples/hessian.py

The Hessian is never built: its product with a direction is the tangent of the gradient in that
direction, and a few products turn any direction towards the steepest one. Eager's is the gradient
of the gradient along the direction, which is the faster way there.
"""

from collections.abc import Callable

import torch
from beside import agree, beside
from torch import nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy

import lazytorch as lt

Tree = dict[str, torch.Tensor]
Product = Callable[[Tree, Tree], Tree]


def main(count: int = 128, width: int = 256, powers: int = 20, rounds: int = 30) -> float:
    """Compare products and eigenvalue with eager's, and time a product of each."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Linear(32, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh(), nn.Linear(width, 10)
    )
    x, y = torch.randn(count, 32), torch.randint(0, 10, (count,))
    at = {name: p.detach() for name, p in net.named_parameters()}

    def loss(weights: Tree) -> torch.Tensor:
        return cross_entropy(functional_call(net, weights, (x,)), y)

    def ours(weights: Tree, direction: Tree) -> Tree:
        return lt.jvp(lt.grad(loss), (weights,), (direction,))[1]

    def eager(weights: Tree, direction: Tree) -> Tree:
        places = {name: w.detach().requires_grad_() for name, w in weights.items()}
        by, along = list(places.values()), list(direction.values())
        slopes = torch.autograd.grad(loss(places), by, create_graph=True)
        return dict(zip(places, torch.autograd.grad(slopes, by, along), strict=True))

    fast = lt.compile(ours, wait=True)
    start = {name: torch.randn_like(p) for name, p in at.items()}
    agree("product", fast(at, start), eager(at, start), 1e-5)
    found, want = (sharpness(product, at, start, powers) for product in (fast, eager))
    print(f"largest eigenvalue after {powers} products: {float(found):.4f}")
    agree("eigenvalue", found, want, 1e-4)
    return beside(lambda: eager(at, start), lambda: fast(at, start), rounds)


def sharpness(product: Product, at: Tree, direction: Tree, powers: int) -> torch.Tensor:
    """The largest eigenvalue by the power iteration."""
    size = torch.zeros(())
    for _ in range(powers):
        direction = product(at, direction)
        size = torch.stack([x.square().sum() for x in direction.values()]).sum().sqrt()
        direction = {name: x / size for name, x in direction.items()}
    return size


if __name__ == "__main__":
    main()
