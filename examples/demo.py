"""What lazytorch does for three well-known models, on the best device that this machine has.

Compiles ResNet-50, BERT-base and GPT-2 with random weights, compares them with eager, checks their
results against a float64 run, and draws ResNet-50. Takes about a minute on two processor cores.
"""

import sys
from collections.abc import Iterable
from pathlib import Path

import torch
from rich.console import Console
from rich.status import Status

import lazytorch as lt
from lazytorch.bench import Case, Comparison, Model, best_device, compare, machine
from lazytorch.bench.table import table
from lazytorch.errors import LazyTorchError

MODELS = ("resnet50", "bert", "gpt2")
DRAWN = ("resnet50",)


def main(models: Iterable[str] = MODELS, folder: Path = Path(), repeats: int = 15) -> bool:
    """Whether every result was right."""
    console = Console()
    device = best_device()
    found: list[Comparison] = []
    for name in models:
        case = Case(name, device=device)
        with console.status("") as line:

            def tell(text: str, name: str = name, line: Status = line) -> None:
                line.update(f"{name}: {text}")

            tell("building")
            model = case.build()
            found.append(compare(case, repeats=repeats, model=model, progress=tell))
            tell("drawing")
            drawn = draw(model, folder / name) if name in DRAWN else []
        console.print(table(found[-1]))
        for text in drawn:
            console.print(text)
    console.print(", ".join(f"{k} {v}" for k, v in machine(device).items()), style="dim")
    return all(side.right for one in found for side in one.sides.values())


@torch.no_grad()
def draw(model: Model, path: Path) -> list[str]:
    """Pictures of the graph as it was recorded and as it runs; what was written, or why not."""
    fast = lt.compile(model.module)
    fast(*model.args, **model.kwargs)
    fast.wait()
    told: list[str] = []
    for suffix in (".html", ".svg"):
        try:
            told.append(f"wrote {lt.view(fast, path.with_suffix(suffix))}")
        except LazyTorchError as error:  # no `dot` program; the .html needs none
            told.append(str(error))
    return told


if __name__ == "__main__":
    sys.exit(0 if main() else "a result was wrong: see the table")
