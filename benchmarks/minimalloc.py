"""Arenas for the public sets of MiniMalloc: greedy's height and the search's, beside what is known.

python benchmarks/minimalloc.py FOLDER [minutes for each] [out.json]

A file NAME.CAPACITY.csv of the folder holds blocks that are known to fit into CAPACITY bytes. The
bound is the most bytes alive at once. The search ends at 1 % above the capacity, or after the
minutes given.
"""

import csv
import json
import sys
import time
from pathlib import Path
from typing import Any

import torch

from lazytorch.bench import machine
from lazytorch.offsets import Block, clashes, greedy, live
from lazytorch.packing import pack

MARGIN = 1.01


def read(path: Path) -> list[Block]:
    """The blocks of a file."""
    with path.open() as file:
        return [
            Block(int(row["size"]), int(row["lower"]), int(row["upper"]))
            for row in csv.DictReader(file)
        ]


def measured(path: Path, seconds: float) -> dict[str, Any]:
    """Heights and seconds of one set."""
    blocks, capacity = read(path), int(path.stem.split(".")[1])
    started, used = time.perf_counter(), time.process_time()
    first = greedy(blocks)
    middle = time.perf_counter()
    found = pack(blocks, steps=sys.maxsize, seconds=seconds, enough=int(capacity * MARGIN))
    wrong = [*clashes(first), *clashes(found)]
    assert not wrong, wrong
    return {
        "set": path.stem.split(".")[0],
        "blocks": len(blocks),
        "capacity": capacity,
        "bound": live(blocks),
        "greedy": first.height,
        "greedy_seconds": round(middle - started, 3),
        "search": found.height,
        "search_seconds": round(time.perf_counter() - middle, 2),
        "cpu_seconds": round(time.process_time() - used, 2),
        "ratio": round(found.height / capacity, 4),
    }


def main() -> None:
    if not 2 <= len(sys.argv) <= 4:
        sys.exit(__doc__)
    minutes = float(sys.argv[2]) if len(sys.argv) > 2 else 10
    results: list[dict[str, Any]] = []
    for path in sorted(Path(sys.argv[1]).glob("*.[0-9]*.csv")):
        results.append(measured(path, minutes * 60))
        print(*[f"{name} {value}" for name, value in results[-1].items()], sep="  ", flush=True)
        if len(sys.argv) > 3:
            text = json.dumps({"machine": machine(torch.device("cpu")), "sets": results}, indent=1)
            Path(sys.argv[3]).write_text(text + "\n")


if __name__ == "__main__":
    main()
