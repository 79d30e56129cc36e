"""A whole training step beside eager's and torch.compile's, in one process, interleaved.

    python benchmarks/training.py FOLDER [MODEL ...] [--modes default reduce-overhead ...]

AdamW, bfloat16 autocast on a GPU and float32 on the CPU, random data; each side has its own copy of
the model and of the optimizer (the fused one for the peers). Dropout is off, so that losses can be
compared, but in the models named after it, which drop a tenth as published. One JSON a model:
medians in milliseconds, seconds to the first step, the most bytes that a step allocates, the losses
of all sides, and the machine. Without names the large models run on a GPU and the small ones on the
CPU.
"""

import argparse
import copy
import json
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from small_gpt import SmallGpt
from torch import nn
from torch.nn import functional

import lazytorch as lt
from lazytorch import zoo
from lazytorch.bench import best_device, machine

ROUNDS = 12
Batch = tuple[torch.Tensor, torch.Tensor]


class Logits(nn.Module):
    """A language model that returns its logits alone."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.model(input_ids=x).logits


def tokens(vocabulary: int, rows: int, length: int) -> Batch:
    x = torch.randint(0, vocabulary, (rows, length))
    return x, x


def bert(dropout: float = 0.0) -> tuple[nn.Module, Batch]:
    import transformers

    rates = {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout}
    model = transformers.BertForMaskedLM(transformers.BertConfig(**rates))
    return Logits(model), tokens(30000, 32, 128)


def gpt2(dropout: float = 0.0) -> tuple[nn.Module, Batch]:
    import transformers

    rates = dict.fromkeys(("attn_pdrop", "resid_pdrop", "embd_pdrop"), dropout)
    config = transformers.GPT2Config(**rates, bos_token_id=None, eos_token_id=None)
    return Logits(transformers.GPT2LMHeadModel(config)), tokens(50000, 8, 512)


def llama() -> tuple[nn.Module, Batch]:
    return Logits(zoo.build("llama_1b", train=True)[0]), tokens(32000, 4, 1024)


def resnet50() -> tuple[nn.Module, Batch]:
    model, (x, *_), _ = zoo.build("resnet50", batch=64, train=True)
    return model, (x, torch.randint(0, 1000, (64,)))


def resnet18() -> tuple[nn.Module, Batch]:
    model = zoo.build("resnet18", train=True)[0]
    return model, (torch.randn(16, 3, 64, 64), torch.randint(0, 1000, (16,)))


def gpt_small() -> tuple[nn.Module, Batch]:
    return SmallGpt(1000, 128, width=256, layers=4, heads=4, dropout=0.0), tokens(1000, 8, 128)


MODELS = {
    "bert": bert,
    "gpt2": gpt2,
    "resnet50": resnet50,
    "llama": llama,
    "resnet18": resnet18,
    "gpt_small": gpt_small,
    "bert_dropout": partial(bert, dropout=0.1),
    "gpt2_dropout": partial(gpt2, dropout=0.1),
}
USUAL = {"cuda": ("bert", "gpt2", "resnet50", "llama"), "cpu": ("resnet18", "gpt_small")}
AMP = {"cuda": torch.bfloat16}


def loss_of(y: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return functional.cross_entropy(y.reshape(-1, y.shape[-1]).float(), target.reshape(-1))


def ordinary(
    model: nn.Module, run: Callable[..., torch.Tensor], batch: Batch
) -> Callable[[], torch.Tensor]:
    """The loop that people write."""
    optimizer = torch.optim.AdamW(model.parameters(), 1e-5, fused=True)
    kind = batch[0].device.type

    def step() -> torch.Tensor:
        with torch.autocast(kind, AMP.get(kind), enabled=kind in AMP):
            loss = loss_of(run(batch[0]), batch[1])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss.detach()

    return step


def timed(step: Callable[[], torch.Tensor], device: torch.device) -> float:
    """Seconds of one step."""
    began = time.perf_counter()
    step()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began


def highest(step: Callable[[], torch.Tensor], device: torch.device) -> int | None:
    """The most bytes that a step allocates beyond what was there before; None on the CPU."""
    if device.type != "cuda":
        return None
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    step()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def measured(name: str, modes: Sequence[str], device: torch.device) -> dict[str, Any]:
    """All sides of one model."""
    torch.manual_seed(0)
    model, (x, y) = MODELS[name]()
    model, batch = model.to(device), (x.to(device), y.to(device))
    others = {side: copy.deepcopy(model) for side in ("eager", *modes)}
    peaks: dict[str, int | None] = {}
    first: dict[str, float] = {}
    optimizer = torch.optim.AdamW(model.parameters(), 1e-5)
    whole = lt.train_step(model, loss_of, optimizer, amp=AMP.get(device.type))
    sides: dict[str, Callable[[], torch.Tensor]] = {"lazytorch": lambda: whole(*batch)}
    first["lazytorch"] = timed(sides["lazytorch"], device)
    began = time.perf_counter()
    timed(sides["lazytorch"], device)
    whole.wait()
    peaks["lazytorch"] = highest(sides["lazytorch"], device)  # a direct run; captured later
    for _ in range(2):
        timed(sides["lazytorch"], device)
    full = time.perf_counter() - began
    for side, other in others.items():
        run = other if side == "eager" else torch.compile(other, mode=side)
        sides[side] = ordinary(other, run, batch)
        first[side] = timed(sides[side], device)
        for _ in range(3):
            timed(sides[side], device)
        peaks[side] = highest(sides[side], device)
    losses = {side: float(step()) for side, step in sides.items()}
    times: dict[str, list[float]] = {side: [] for side in sides}
    for _ in range(ROUNDS):
        for side, step in sides.items():
            times[side].append(timed(step, device) * 1e3)
    return {
        "model": name,
        "ms": {side: sorted(found)[ROUNDS // 2] for side, found in times.items()},
        "first_s": first,
        "peak_bytes": peaks,
        "to_full_speed_s": first["lazytorch"] + full,
        "losses": losses,
        "plan": whole.explain().splitlines()[0],
        "machine": machine(device),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Training steps beside eager's and torch.compile's"
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("models", nargs="*")
    parser.add_argument("--modes", nargs="+", default=["default"], help="of torch.compile")
    asked = parser.parse_args()
    device = best_device()
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.benchmark = True
    asked.folder.mkdir(parents=True, exist_ok=True)
    for name in asked.models or USUAL[device.type]:
        found = measured(name, asked.modes, device)
        file = asked.folder / f"{device.type}_training_{name}.json"
        file.write_text(json.dumps(found, indent=2) + "\n")
        print(name, found["ms"], found["first_s"], found["losses"], found["peak_bytes"], flush=True)


if __name__ == "__main__":
    main()
