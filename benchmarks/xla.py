"""ResNet-50 and a BERT encoder against XLA: the same models in plain JAX, with the same weights.

    python benchmarks/xla.py FOLDER [--dtype float16] [--repeats 30] [--no-start] [MODEL:BATCH ...]

Both default to what is claimed: resnet50 at 32 and 128 images, bert at 1 and 32 texts. lazytorch,
with and without frozen weights, and JAX are timed in one process, interleaved; what `jax.jit` takes
is timed in a fresh one. JAX's results are judged against the torch model's, by the rule for all.
"""

import argparse
import os
from pathlib import Path

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # torch needs memory, too

import torch

from lazytorch.bench import Case, best_device
from lazytorch.bench.runs import bench_models
from lazytorch.bench.shards import Shards
from lazytorch.bench.sides import OURS

MODELS = ("resnet50:32", "resnet50:128", "bert:1", "bert:32")
SIDES = (*OURS, "jax", "jax-folded")


def main() -> None:
    """Measure what is left and write."""
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("folder", type=Path)
    asked.add_argument("models", nargs="*", default=MODELS)
    asked.add_argument("--dtype", default="float16")
    asked.add_argument("--repeats", type=int, default=30)
    asked.add_argument("--no-start", action="store_true")
    given = asked.parse_args()
    dtype, device = getattr(torch, given.dtype), best_device()
    pairs = [model.split(":") for model in given.models]
    cases = [Case(model, int(batch), dtype, device) for model, batch in pairs]
    bench_models(cases, SIDES, given.repeats, not given.no_start, Shards(given.folder))


if __name__ == "__main__":
    main()
