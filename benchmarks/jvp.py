"""What `lt.jvp` of an MLP costs beside a forward-mode pass written by hand, both compiled.

python benchmarks/jvp.py [--width 1024] [--batch 256] [--json FILE]

`lt.jvp` takes two reverse passes; what is left of them after optimization should be the products
and the elementwise work of one forward pass with tangents.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional

import lazytorch as lt
from lazytorch.bench.machine import commit, machine
from lazytorch.bench.measure import interleaved
from lazytorch.bench.paired import ratio

LAYERS = 4


def gelu_slope(x: torch.Tensor) -> torch.Tensor:
    """The derivative of gelu."""
    density = (-0.5 * x * x).exp() / math.sqrt(2 * math.pi)
    return 0.5 * (1 + (x / math.sqrt(2)).erf()) + x * density


ACTIVATIONS: dict[str, tuple[Any, Any]] = {
    "tanh": (torch.tanh, lambda x: 1 - torch.tanh(x).square()),
    "gelu": (functional.gelu, gelu_slope),
}


def sides(name: str, weights: list[torch.Tensor]) -> dict[str, Any]:
    """The value and its tangent along `v`, in both ways."""
    activation, slope = ACTIVATIONS[name]

    def mlp(x: torch.Tensor) -> torch.Tensor:
        for w in weights[:-1]:
            x = activation(x @ w)
        return x @ weights[-1]

    def by_hand(x: torch.Tensor, v: torch.Tensor) -> Any:
        for w in weights[:-1]:
            x, v = x @ w, v @ w
            x, v = activation(x), slope(x) * v
        return x @ weights[-1], v @ weights[-1]

    def ours(x: torch.Tensor, v: torch.Tensor) -> Any:
        return lt.jvp(mlp, (x,), (v,))

    return {"lt.jvp": lt.compile(ours, wait=True), "by hand": lt.compile(by_hand, wait=True)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    device = torch.device(given.device)
    torch.manual_seed(0)
    shape = (given.width, given.width)
    weights = [torch.randn(shape, device=device) / given.width**0.5 for _ in range(LAYERS)]
    x, v = (torch.randn(given.batch, given.width, device=device) for _ in range(2))
    rows: dict[str, Any] = {}
    with torch.no_grad():
        for name in ACTIVATIONS:
            compiled = sides(name, weights)
            calls = {side: lambda f=f: f(x, v) for side, f in compiled.items()}
            torch.testing.assert_close(*[call() for call in calls.values()], rtol=1e-4, atol=1e-4)
            for _ in range(5):
                for call in calls.values():
                    call()
            found = interleaved(calls, device)
            ms = {side: 1e3 * timing.median for side, timing in found.items()}
            cost = ratio(found["by hand"], found["lt.jvp"])
            rows[name] = {"ms": ms, "cost": cost.median, "interval": [cost.low, cost.high]}
            print(f"{name}: {ms}, {cost.median:.3f} of the pass by hand ({cost.low:.3f} to "
                  f"{cost.high:.3f})")  # fmt: skip
    if given.json is not None:
        told = {"machine": machine(device), "commit": commit(), "rows": rows}
        given.json.write_text(json.dumps(told, indent=1))


if __name__ == "__main__":
    main()
