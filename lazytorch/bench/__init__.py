"""Measures models side by side: latency, start, memory and error of eager, lazytorch and others.

Takes no extra but `models` for the zoo's models and `peers` for compilers other than torch's; only
the tables, `progress` and `runs` take `cli`.
"""

from lazytorch.bench.case import Case, Model
from lazytorch.bench.compare import Comparison, Measured, compare
from lazytorch.bench.machine import best_device, machine
from lazytorch.bench.measure import Timing, interleaved
from lazytorch.bench.sides import SIDES
from lazytorch.bench.start import Start, starts

__all__ = [
    "SIDES",
    "Case",
    "Comparison",
    "Measured",
    "Model",
    "Start",
    "Timing",
    "best_device",
    "compare",
    "interleaved",
    "machine",
    "starts",
]
