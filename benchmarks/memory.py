"""What `lt.plan` predicts beside what a run allocates: inference and one training step.

    python benchmarks/memory.py FOLDER [--device cuda] [--minutes 9] [MODEL ...]
    python benchmarks/memory.py FOLDER [--device cuda] --table

The prediction is made on tensors without memory; on a GPU in a process that sees none. Measured is
what one call allocates at its highest beyond what was there: the profiler's allocations on the CPU,
the allocator's own count on a GPU, for a direct run without CUDA graphs. Then each line of the
program is run alone, which tells the workspaces of libraries from values that differ; and on a GPU
the program is captured, and the bytes of the graph's pool are those of its segments. One JSON a
model; a later run goes on where one stopped. With `--table` those workspaces go into the table of
this device that ships, and every prediction is made again.
"""

import argparse
import gc
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import nn
from workspaces import name_of, opened, written

import lazytorch as lt
from lazytorch import zoo
from lazytorch.bench.case import MeanSquare
from lazytorch.bench.compare import reason
from lazytorch.bench.lines import Seen, walk
from lazytorch.bench.machine import machine, parse_device
from lazytorch.compiled import Compiled
from lazytorch.devices import device_named
from lazytorch.errors import DeviceError, LazyTorchError
from lazytorch.forecast import plan
from lazytorch.frontend import trees
from lazytorch.lower.allocation import allocation
from lazytorch.lower.memory_plan import MemoryPlan, allocated
from lazytorch.lower.timeline import timeline
from lazytorch.lower.workspaces import FOLDER, NONE, call_key
from lazytorch.runtime.allocations import peak
from lazytorch.runtime.cudagraph import Replayer
from lazytorch.runtime.pool import pool_of

MORE = (
    "alexnet", "vgg11_bn", "squeezenet1_1", "googlenet", "shufflenet_v2_x1_0", "mobilenet_v2",
    "mnasnet1_0", "regnet_y_400mf", "resnext50_32x4d", "wide_resnet50_2", "vit_b_32",
    "maxvit_t", "densenet169", "efficientnet_v2_s", "swin_v2_t",
)  # fmt: skip
LATE = ("vgg19", "llama_1b", "retinanet", "whisper")
"""Those that take longest come last."""

Call = tuple[nn.Module, tuple[Any, ...], dict[str, Any]]


def built(name: str, batch: int, device: str, train: bool) -> Call:
    """A model of the zoo, or of torchvision by name, with a call's arguments."""
    if name in zoo.models():
        return zoo.build(name, device=device, batch=batch, train=train)
    import torchvision

    torch.manual_seed(0)
    with torch.device(device):
        model = torchvision.models.get_model(name, weights=None)
        return model.train(train), (torch.randn(batch, 3, 224, 224),), {}


def predicted(name: str, batch: int, mode: str, device: str) -> MemoryPlan:
    """The plan, from tensors without memory."""
    model, args, kwargs = built(name, batch, "meta", mode == "train")
    if mode == "inference":
        return plan(model, args, device=device, kwargs=kwargs)
    adam = torch.optim.AdamW
    return plan(MeanSquare(model), args, device=device, kwargs=kwargs, optimizer=adam)


def measured(name: str, batch: int, mode: str, device: torch.device) -> dict[str, Any]:
    """What a run allocates, line by line too, and what eager allocates."""
    model, args, kwargs = built(name, batch, str(device), mode == "train")
    if mode == "inference":
        compiled = lt.compile(model, wait=True)
        call: Callable[[], Any] = lambda: compiled(*args, **kwargs)  # noqa: E731
        eager: Callable[[], Any] = lambda: model(*args, **kwargs)  # noqa: E731
        leaves = trees.flatten((args, kwargs))[0]
    else:
        adam = torch.optim.AdamW(model.parameters(), 1e-6)
        step = lt.train_step(MeanSquare(model), None, adam, wait=True)
        compiled = step.compiled
        call = lambda: step(*args, **kwargs)  # noqa: E731
        eager = lambda: step.eager(args, kwargs)  # noqa: E731
        call()
        step.hold()
        leaves = trees.flatten(((step.settings(), args, kwargs), {}))[0]
    with torch.set_grad_enabled(mode == "train"):
        eager()
        theirs = peak(eager, device)
        call()
        if mode == "train" and step.refused:
            raise RuntimeError(f"eager's own: {step.refused}")
        if device.type == "cuda":
            torch.cuda.empty_cache()  # what eager left idle is cut otherwise than new memory
        highest = peak(lambda: direct(compiled, leaves), device)
        found = {"measured": highest, "eager": theirs, **by_line(compiled, leaves, device)}
        return {**found, "pool": pooled(call, compiled, device)}


def pooled(call: Callable[[], Any], compiled: Compiled, device: torch.device) -> int | None:
    """Bytes that the pool of a captured program holds; None where nothing is captured."""
    if device.type != "cuda":
        return None
    for _ in range(3):
        call()
    (stage,) = compiled.programs()
    values = pool_of(device).values
    if values is None or not isinstance(stage.replay, Replayer) or stage.replay.captured is None:
        return None
    segments: list[dict[str, Any]] = torch.cuda.memory_snapshot()
    handle = tuple(values.handle)
    return sum(x["total_size"] for x in segments if tuple(x["segment_pool_id"]) == handle)


def direct(compiled: Compiled, leaves: list[Any]) -> Any:
    """One call of the program itself."""
    (stage,) = compiled.programs()
    with torch.no_grad():
        return stage.main.run(*stage.state.inputs(leaves, []), *stage.values)


def by_line(compiled: Compiled, leaves: list[Any], device: torch.device) -> dict[str, Any]:
    """The program's plan with the workspaces that its lines take, and the lines that differ."""
    (stage,) = compiled.programs()
    with torch.no_grad():
        inputs = [*stage.state.inputs(leaves, []), *stage.values]
        seen = list(walk(stage.main, inputs, device))
    called = [x for x in seen if x.line.node and x.line.does == "call"]
    took = {call_key(x.line.node): x.scratch for x in called}
    asked = {
        call_key(x.line.node)
        for x in called
        if not isinstance(x.line.node.op, NONE)
        and not allocation(x.line.node, x.line.site).generated
    }
    plain = allocated(timeline(stage.main))
    whole = allocated(timeline(stage.main, lambda node: took.get(call_key(node), 0)))
    different = [describe(x) for x in seen if x.left != expected(x, device)]
    sums = dict.fromkeys(("owned", "library"), 0)
    for x in whole.blocks:
        if x.kind in sums:
            sums[x.kind] += x.taken
    return {
        "lines": len(seen),
        "lines_that_differ": different,
        **{f"{kind}_bytes": nbytes for kind, nbytes in sums.items()},
        "without_workspaces": max(plain.levels(), default=0),
        "with_workspaces": max(whole.levels(), default=0),
        "workspaces": {k: n for k, n in took.items() if k in asked},
    }


def expected(x: Seen, device: torch.device) -> int:
    """What a line should leave; on a GPU in whole units of the allocator's."""
    line = x.line
    if line.does in ("item", "same", "overwrite") or line.node is None:
        return 0
    if line.does in ("copy", "clone"):
        return x.left  # measured below, with the whole call
    does = allocation(line.node, line.site)
    sizes = [n for k, n in enumerate(does.sizes) if k not in line.into]
    if device.type == "cuda":
        return x.left if abs(x.left - sum(sizes)) <= 2**20 * len(sizes) else sum(sizes)
    return sum(sizes)


def describe(x: Seen) -> str:
    """A line in words, with what it left."""
    return f"{x.line.text.split('; del ')[0]}: left {x.left}"


def prediction(name: str, batch: int, mode: str, device: str) -> dict[str, Any]:
    """The prediction for a device by its name; for a GPU from a process that sees none."""
    if device == "cpu":
        return numbers(predicted(name, batch, mode, device))
    call = [sys.executable, __file__, "-", "--predict", name, str(batch), mode, device]
    hidden = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    told = subprocess.run(call, env=hidden, check=False, capture_output=True, text=True)
    if told.returncode:
        raise LazyTorchError(reason(RuntimeError(told.stderr.strip().splitlines()[-1])))
    return json.loads(told.stdout.splitlines()[-1])


def known(device: str) -> str:
    """A name that plans take: `cuda` for a GPU that none is known of."""
    try:
        return device_named(device).name
    except DeviceError:
        return "cuda"


def numbers(found: MemoryPlan) -> dict[str, Any]:
    """A plan as JSON; `call` is what one call takes beside what it finds."""
    call = max(found.levels[found.prologue_lines :], default=0) - found.prologue
    return {
        "peak": found.peak_bytes, "call": call, "parameters": found.parameters,
        "arguments": found.arguments, "prologue": found.prologue, "unknown": found.unknown,
        "pool": found.pool,
    }  # fmt: skip


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("folder", type=Path)
    asked.add_argument("models", nargs="*")
    asked.add_argument("--device", default="cpu")
    asked.add_argument("--batch", type=int, default=2)
    asked.add_argument("--minutes", type=float, default=9)
    asked.add_argument("--predict", nargs=4, help="a model, a batch, a mode and a device")
    asked.add_argument("--table", action="store_true", help="keep the workspaces, predict again")
    given = asked.parse_intermixed_args()
    zoo._ready_for_torchvision()
    if given.predict:
        name, batch, mode, device = given.predict
        print(json.dumps(numbers(predicted(name, int(batch), mode, known(device)))))
        return
    if given.table:
        predict_again(given.folder, given.device)
        return
    device, until = parse_device(given.device), time.monotonic() + 60 * given.minutes
    if device.type == "cuda":
        device = torch.device("cuda", torch.cuda.current_device())  # by which it has a pool
    every = [*(x for x in (*zoo.models(), *MORE) if x not in LATE), *LATE]
    given.folder.mkdir(parents=True, exist_ok=True)
    for name in given.models or every:
        file = given.folder / f"{device.type}_{name}_b{given.batch}.json"
        if file.exists() or time.monotonic() > until:
            continue
        result: dict[str, Any] = {"model": name, "batch": given.batch, "machine": machine(device)}
        for mode in ("inference", "train"):
            try:
                found = {"predicted": prediction(name, given.batch, mode, name_of(device))}
                result[mode] = {**found, **measured(name, given.batch, mode, device)}
                print(name, mode, line(result[mode]), flush=True)
            except Exception as error:
                result[mode] = {"failed": reason(error)}
                print(name, mode, result[mode]["failed"], flush=True)
            lt.reset()
            gc.collect()  # a program's pool of memory goes with it
        file.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def predict_again(folder: Path, kind: str) -> None:
    """Put the workspaces of all results on a kind of device into the tables of these devices, the
    most where they vary; then predict with them."""
    files = sorted(folder.glob(f"{kind}_*.json"))
    results = [json.loads(file.read_text(encoding="utf-8")) for file in files]
    for name in {device_of(x) for x in results}:
        table_file, table = opened(FOLDER, name)
        calls: dict[str, int] = table["calls"]
        for x in [x for x in results if device_of(x) == name]:
            for mode in ("inference", "train"):
                for key, nbytes in x[mode].get("workspaces", {}).items():
                    calls[key] = max(nbytes, calls.get(key, 0))
        written(table_file, table)
    with ThreadPoolExecutor(max(torch.get_num_threads() // 2, 1)) as pool:
        for file in pool.map(again, files, results):
            print(file.stem, flush=True)


def device_of(result: dict[str, Any]) -> str:
    """The name of the device that a result is of."""
    return result["machine"].get("gpu", "cpu")


def again(file: Path, result: dict[str, Any]) -> Path:
    """One model's predictions, made again."""
    for mode in ("inference", "train"):
        if "failed" not in result[mode]:
            found = prediction(result["model"], result["batch"], mode, device_of(result))
            result[mode]["predicted"] = found
    file.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return file


def line(found: dict[str, Any]) -> str:
    """One mode's numbers for the terminal."""
    highest = found["measured"] or 1
    pool = found["pool"]
    captured = f", a pool of {pool}, planned {found['predicted']['pool']}" if pool else ""
    return (
        f"measured {highest}, planned {100 * found['predicted']['call'] / highest:.2f} % of it, "
        f"with workspaces {100 * found['with_workspaces'] / highest:.2f} %, "
        f"{len(found['lines_that_differ'])} of {found['lines']} lines differ{captured}"
    )


if __name__ == "__main__":
    main()
