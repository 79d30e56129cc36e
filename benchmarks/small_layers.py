"""Small layers of one image or one row on the CPU: generated kernels, beside eager and oneDNN.

    python benchmarks/small_layers.py [--json FILE]

Convolutions of each channel, of single pixels, each with a relu, as MobileNet and ConvNeXt have
them, channels last, and linear layers of one row. All are compiled with freeze=True; oneDNN's side
is a convolution on a packed weight and a relu in its memory.
"""

from __future__ import annotations

import argparse
import json
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

import lazytorch as lt
from lazytorch.bench.machine import commit, machine
from lazytorch.bench.measure import interleaved

CHANNELS = (
    (16, 3, 1, 112),
    (64, 3, 2, 112),
    (120, 5, 1, 28),
    (480, 3, 1, 14),
    (960, 5, 1, 7),
    (96, 7, 1, 56),
)
"""Channels, the kernel's size, stride, the image's size."""

PIXELS = ((16, 64, 112), (24, 72, 56), (40, 120, 28), (184, 80, 14), (112, 672, 14), (960, 160, 7))
"""Channels in and out, the image's size."""

ROWS = ((120, 32), (512, 512), (960, 1280), (4096, 4096))
"""Features in and out."""


def compared(case: str, net: nn.Module, x: torch.Tensor, onednn: Any = None) -> dict[str, Any]:
    """One layer's medians in microseconds."""
    compiled = lt.compile(net, wait=True, freeze=True)
    torch.testing.assert_close(compiled(x), net(x), rtol=2e-2, atol=2e-2)
    sides = {"eager": partial(net, x), "lazytorch": partial(compiled, x)}
    sides |= {} if onednn is None else {"onednn": onednn}
    found = {k: 1e6 * v.median for k, v in interleaved(sides, x.device, 60).items()}
    print(f"{case:36}", *[f"{k} {v:8.1f}" for k, v in found.items()], flush=True)
    return {"case": case, "dtype": str(x.dtype).removeprefix("torch."), "us": found}


def packed(conv: nn.Conv2d, x: torch.Tensor) -> Any:
    """The convolution and the relu by oneDNN's own calls."""
    sizes = (conv.padding, conv.stride, conv.dilation, conv.groups)
    weight = torch.ops.mkldnn._reorder_convolution_weight(conv.weight, *sizes, list(x.shape))
    call = torch.ops.mkldnn._convolution_pointwise.default
    return lambda: call(x, weight, conv.bias, *sizes, "none", [], "").relu_()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    torch.manual_seed(0)
    rows: list[dict[str, Any]] = []
    with torch.no_grad():
        for dtype in (torch.float32, torch.bfloat16):
            convolutions = [
                (
                    f"{c} channels, {k} x {k} / {s}, {h} x {h}",
                    nn.Conv2d(c, c, k, s, k // 2, groups=c),
                    c,
                    h,
                )
                for c, k, s, h in CHANNELS
            ]
            if dtype is torch.float32:
                convolutions += [
                    (f"pixels, {a} to {b}, {h} x {h}", nn.Conv2d(a, b, 1), a, h)
                    for a, b, h in PIXELS
                ]
            for case, conv, channels, size in convolutions:
                conv = conv.to(dtype)
                conv.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch documents it
                x = torch.randn(1, channels, size, size).to(dtype)
                x = x.contiguous(memory_format=torch.channels_last)
                net = nn.Sequential(conv, nn.ReLU()).eval()
                rows.append(compared(f"{case}, {str(dtype)[6:]}", net, x, packed(conv, x)))
        for into, out in ROWS:
            net, x = nn.Linear(into, out).eval(), torch.randn(1, into)
            rows.append(compared(f"one row, {into} to {out}", net, x))
    if given.json:
        told = {"machine": machine(torch.device("cpu")), "commit": commit(), "rows": rows}
        given.json.write_text(json.dumps(told, indent=1))


if __name__ == "__main__":
    main()
