"""Models that stand for a family, with the batches and types that they are measured in."""

from __future__ import annotations

import torch

from lazytorch.bench.case import Case

HALF, BRAIN, SINGLE = torch.float16, torch.bfloat16, torch.float32

GPU: dict[str, tuple[tuple[str, int, torch.dtype], ...]] = {
    "cnn": (
        ("resnet50", 1, HALF),
        ("resnet50", 32, HALF),
        ("resnet50", 128, HALF),
        ("resnet50", 32, SINGLE),  # convolutions in TF32, as torch has them by default
        ("resnet101", 32, HALF),
        ("vgg19", 32, HALF),
        ("densenet121", 32, HALF),
        ("inception_v3", 32, HALF),
        ("retinanet", 8, HALF),
    ),
    "transformers": (
        ("bert", 1, HALF),
        ("bert", 32, HALF),
        ("gpt2", 8, HALF),
        ("vit_b_16", 32, HALF),
        ("yolos", 8, HALF),
        ("llama_1b", 1, BRAIN),
    ),
}

CPU: dict[str, tuple[tuple[str, int, torch.dtype], ...]] = {
    "cnn": (
        ("resnet50", 1, SINGLE),
        ("resnet50", 1, BRAIN),
        ("vgg19", 1, SINGLE),
        ("mobilenet_v3_large", 1, SINGLE),
    ),
    "transformers": (("bert", 1, SINGLE), ("gpt2", 1, SINGLE)),
}


def suite(name: str, device: torch.device) -> list[Case]:
    """The cases of a suite on a kind of device."""
    listed = (GPU if device.type == "cuda" else CPU)[name]
    return [Case(model, batch, dtype, device) for model, batch, dtype in listed]
