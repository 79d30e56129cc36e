"""What recording costs: seconds at import, microseconds per operation, a cold ResNet-50.

python benchmarks/recording.py benchmarks/results/recording_cpu.json

Eager's own `x + y` on 8x8 tensors is measured beside it, because machines differ by a factor of
five in how fast they run Python. The file it writes is read by people; the README quotes it.
"""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch

from lazytorch import zoo
from lazytorch.bench import machine
from lazytorch.frontend import trees
from lazytorch.frontend.record import record

OPERATIONS = 1000
REPEATS = 7
IMPORT = (
    "import torch, time; began = time.perf_counter(); import lazytorch; "
    "print(time.perf_counter() - began)"
)
COLD = (
    "import time, torch; from lazytorch import zoo; from lazytorch.frontend import trees; "
    "from lazytorch.frontend.record import record; m, a, k = zoo.build('resnet50'); "
    "torch.set_grad_enabled(False); leaves, spec = trees.flatten((a, k)); "
    "began = time.perf_counter(); record(m, leaves, spec); print(time.perf_counter() - began)"
)


def chain(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Alternating sums and products, one line each."""
    for _ in range(OPERATIONS // 2):
        x = x + y
        x = x * y
    return x


def best(run: Callable[[], object]) -> float:
    """Seconds of the fastest of some runs."""
    times: list[float] = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        run()
        times.append(time.perf_counter() - began)
    return min(times)


def fresh(program: str) -> float:
    """Median of what a few fresh processes print."""
    command = [sys.executable, "-c", program]
    run = [subprocess.run(command, capture_output=True, text=True, check=True) for _ in range(4)]
    return median(float(one.stdout) for one in run[1:])  # the first may write byte code


def main(file: Path) -> None:
    """Measure and write."""
    torch.set_grad_enabled(False)
    x, y = torch.randn(8, 8), torch.randn(8, 8)
    leaves, spec = trees.flatten(((x, y), {}))
    module, args, kwargs = zoo.build("resnet50")
    model_leaves, model_spec = trees.flatten((args, kwargs))
    found = {
        "machine": machine(torch.device("cpu")),
        "import lazytorch after torch, s": fresh(IMPORT),
        "ResNet-50 recorded, cold process, ms": 1e3 * fresh(COLD),
        "ResNet-50 recorded, warm, ms": 1e3
        * best(lambda: record(module, model_leaves, model_spec)),
        "elementwise operation recorded, us": 1e6
        * best(lambda: record(chain, leaves, spec))
        / OPERATIONS,
        "eager elementwise operation, us": 1e6 * best(lambda: chain(x, y)) / OPERATIONS,
    }
    file.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    sys.stdout.write(file.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
