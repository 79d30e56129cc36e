"""Single operations compiled, which are kernels of their own where those are faster, beside eager.

    python benchmarks/alone.py [--json FILE] [OPERATION ...]

On the CPU, of tensors in the cache and beyond it. Half of the numbers are negative and half of a
mask is true, in no order: what decides by values does not foresee them.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional

import lazytorch as lt
from lazytorch.bench.machine import commit, machine
from lazytorch.bench.measure import interleaved

Function = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]

OPERATIONS: dict[str, Function] = {
    "where": lambda x, y, mask: torch.where(mask, x, y),
    "masked_fill": lambda x, _, mask: x.masked_fill(mask, 0.0),
    "gt": lambda x, y, _: x > y,
    "eq": lambda x, _y, _mask: x == 1,
    "isnan": lambda x, _y, _mask: x.isnan(),
    "tanh": lambda x, _y, _mask: x.tanh(),
    "elu": lambda x, _y, _mask: functional.elu(x),
    "mish": lambda x, _y, _mask: functional.mish(x),
    "softplus": lambda x, _y, _mask: functional.softplus(x),
    "sin": lambda x, _y, _mask: x.sin(),
    "gelu": lambda x, _y, _mask: functional.gelu(x),
    "gelu, tanh": lambda x, _y, _mask: functional.gelu(x, approximate="tanh"),
    "exp": lambda x, _y, _mask: x.exp(),
    "sigmoid": lambda x, _y, _mask: x.sigmoid(),
    "erf": lambda x, _y, _mask: x.erf(),
    "relu": lambda x, _y, _mask: x.relu(),
    "add": lambda x, y, _: x + y,
    "clamp": lambda x, _y, _mask: x.clamp(-1, 1),
    "abs": lambda x, _y, _mask: x.abs(),
}
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
SIZES = (1 << 16, 1 << 20, 1 << 23)
"""Elements."""


def measured(name: str, dtype: torch.dtype, elements: int) -> dict[str, Any]:
    """One operation on tensors of so many elements."""
    function = OPERATIONS[name]
    x, y = torch.randn(2, elements // 256, 256).to(dtype)
    mask = torch.rand(x.shape) > 0.5
    compiled = lt.compile(function, wait=True)
    torch.testing.assert_close(compiled(x, y, mask), function(x, y, mask))
    sides = {"eager": function, "lazytorch": compiled}
    times = interleaved({k: partial(f, x, y, mask) for k, f in sides.items()}, x.device, 30)
    return {
        "operation": name,
        "dtype": str(dtype).removeprefix("torch."),
        "elements": elements,
        "kernel": ".call(" in compiled.source(),
        **{k: found.median for k, found in times.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("operations", nargs="*", default=list(OPERATIONS), metavar="OPERATION")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    torch.manual_seed(0)
    rows: list[dict[str, Any]] = []
    with torch.no_grad():
        for name in given.operations:
            for dtype in DTYPES:
                found = [measured(name, dtype, elements) for elements in SIZES]
                rows += found
                factors = [x["eager"] / x["lazytorch"] for x in found]
                mean = math.exp(sum(map(math.log, factors)) / len(factors))
                kind = "kernel" if all(x["kernel"] for x in found) else "torch's"
                each = " ".join(f"{x:6.2f}" for x in factors)
                print(f"{name:12} {found[0]['dtype']:9} {kind:8} {each}   {mean:.2f}", flush=True)
    if given.json:
        told = {"machine": machine(torch.device("cpu")), "commit": commit(), "rows": rows}
        given.json.write_text(json.dumps(told, indent=1))


if __name__ == "__main__":
    main()
