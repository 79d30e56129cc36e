"""Generated Triton kernels on a real GPU: right, fast, and what compiling and launching cost.

    python benchmarks/h200_kernels.py results.json [section ...]

Sections: costs, checks, cases, speed; all by default. Needs torch and triton alone, besides this
repository.
"""
# ruff: noqa: E402  # triton and this repository are looked for where the first lines say

from __future__ import annotations

import importlib.util
import json
import os
import statistics
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
os.environ["TRITON_CACHE_DIR"] = tempfile.mkdtemp()  # else an earlier run would have compiled all
if importlib.util.find_spec("optree") is None:
    # Recording needs optree, kernels do not: enter the package beside its front door.
    package = ModuleType("lazytorch")
    package.__path__ = [str(ROOT / "lazytorch")]
    sys.modules["lazytorch"] = package

import torch
from kernel_accuracy import check
from kernel_cases import Case, Tensors, all_cases, b, mixed, type_of, whole

from lazytorch.errors import CompilerError
from lazytorch.lower.kernel import Launch
from lazytorch.lower.triton import TritonTarget
from lazytorch.lower.triton import launch as launching
from lazytorch.ops.activation import Gelu, Relu, Silu
from lazytorch.ops.fused import Fused
from lazytorch.ops.pointwise import Add, Cast, Mul, Sub

MIB = 2**20
Body = Callable[..., Any]


def moved(x: torch.Tensor) -> torch.Tensor:
    """The same on the GPU, with the same strides and the same offset in its storage."""
    reach = sum((size - 1) * stride for size, stride in zip(x.shape, x.stride(), strict=True))
    memory = x.as_strided((x.storage_offset() + reach + 1 if x.numel() else 0,), (1,), 0)
    return memory.cuda().as_strided(x.shape, x.stride(), x.storage_offset())


def launch_of(target: TritonTarget, body: Body, tensors: Tensors) -> tuple[Fused, Launch]:
    """A group and its built launcher."""
    op = Case("", body, lambda: tensors).op(tensors)
    types = tuple(map(type_of, tensors))
    kernel = target.prepare(op, types)
    target.build([kernel])
    return op, target.launcher(kernel, op, types)


def add_relu(x: Any, y: Any) -> Any:
    return b(Relu(), b(Add(), x, y))


def bias_gelu(x: Any, y: Any) -> Any:
    return b(Gelu(), b(Add(), x, y))


def swiglu(x: Any, y: Any) -> Any:
    return b(Mul(), b(Silu(), x), y)


def normalize(x: Any, mean: Any, scale: Any, weight: Any, bias: Any) -> Any:
    centred = b(Mul(), b(Sub(), x, mean), scale)
    return b(Cast(torch.bfloat16), b(Add(), b(Mul(), centred, weight), bias))


def costs() -> dict[str, Any]:
    """Seconds to compile, of the process's first kernel too; microseconds to launch."""
    torch.cuda.init()
    torch.empty(1, device="cuda")
    results: dict[str, Any] = {}
    target = TritonTarget()
    tensors = (torch.randn(1024, device="cuda"), torch.randn(1024, device="cuda"))

    def seconds(bodies: list[Body]) -> float:
        types = tuple(map(type_of, tensors))
        kernels = [target.prepare(Case("", f, lambda: tensors).op(tensors), types) for f in bodies]
        start = time.perf_counter()
        target.build(kernels)
        return time.perf_counter() - start

    results["compile, first kernel of the process (s)"] = seconds([add_relu])
    results["compile, one more kernel (s)"] = seconds([bias_gelu])
    bodies = [lambda x, y, i=i: bias_gelu(b(Mul(), x, 3.0 + i), y) for i in range(20)]
    results["compile, 20 kernels at once (s)"] = seconds(bodies)
    results["compile, the same 20 again (s)"] = seconds(bodies)

    _, launch = launch_of(target, add_relu, tensors)
    direct, launching.LAUNCHERS = launching.LAUNCHERS, {}
    _, by_name = launch_of(target, add_relu, tensors)
    launching.LAUNCHERS = direct
    x, y = tensors
    for label, call in {
        "launch, ours (us)": lambda: launch(x, y),
        "launch, kernel[grid] (us)": lambda: by_name(x, y),
        "launch, eager add (us)": lambda: torch.add(x, y),
        "launch, eager add and relu (us)": lambda: torch.relu(torch.add(x, y)),
        "allocation alone (us)": lambda: torch.empty_strided((1024,), (1,), device="cuda"),
    }.items():
        results[label] = microseconds(call)
    return results


def microseconds(call: Callable[[], object]) -> float:
    """Of the host alone: the GPU keeps up with kernels this small."""
    samples: list[float] = []
    for _ in range(30):
        torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(200):
            call()
        samples.append((time.perf_counter() - start) / 200 * 1e6)
    return round(statistics.median(samples), 2)


def checks() -> dict[str, str]:
    """Streams, graphs, threads, tensors that begin anywhere: `ok`, or what went wrong."""
    results: dict[str, str] = {}
    for work in (on_a_stream, in_a_graph, in_threads, unaligned, by_name, far, fresh_thread):
        try:
            work(TritonTarget())
            results[work.__name__] = "ok"
        except Exception:
            results[work.__name__] = traceback.format_exc()
    return results


def on_a_stream(target: TritonTarget) -> None:
    x, y = torch.zeros(4096, device="cuda"), torch.ones(4096, device="cuda")
    _, launch = launch_of(target, add_relu, (x, y))
    torch.cuda.synchronize()
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        torch.cuda._sleep(100_000_000)
        x.fill_(2)
        result = launch(x, y)
    side.synchronize()
    assert isinstance(result, torch.Tensor) and (result == 3).all()


def in_a_graph(target: TritonTarget) -> None:
    x, y = torch.zeros(64, 48, device="cuda"), torch.ones(48, device="cuda")
    _, launch = launch_of(target, add_relu, (x, y))
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = launch(x, y)
    assert isinstance(result, torch.Tensor)
    for value in (1, 5, -7):
        x.fill_(value)
        graph.replay()
        torch.cuda.synchronize()
        assert (result == max(value + 1, 0)).all()


def in_threads(target: TritonTarget) -> None:
    y = torch.ones(4096, device="cuda")
    _, launch = launch_of(target, add_relu, (y, y))
    wrong: list[int] = []

    def work(i: int) -> None:
        with torch.cuda.stream(torch.cuda.Stream()):
            for k in range(300):
                x = torch.full((4096,), float(i * 1000 + k), device="cuda")
                result = launch(x, y)
                assert isinstance(result, torch.Tensor)
                if not (result == i * 1000 + k + 1).all():
                    wrong.append(i)

    torch.cuda.synchronize()
    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong, wrong


def fresh_thread(target: TritonTarget) -> None:
    """Built and launched first in a thread that has used no CUDA yet."""
    x = torch.ones(4096, device="cuda")
    results: list[Any] = []

    def work() -> None:
        _, launch = launch_of(target, lambda a, c: b(Add(), b(Mul(), a, 123.0), c), (x, x))
        results.append(launch(x, x))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    torch.cuda.synchronize()
    assert (results[0] == 124).all()


def unaligned(target: TritonTarget) -> None:
    base = torch.randn(1 << 20, device="cuda")
    op, launch = launch_of(target, mixed, (base[: 1 << 19], base[: 1 << 19]))
    for i, k in ((0, 1), (3, 5), (4, 8)):
        x, y = base[i : i + (1 << 19)], base[k : k + (1 << 19)]
        check(Case("", mixed, lambda: ()), (x, y), op, launch(x, y))


def by_name(target: TritonTarget) -> None:
    """As in a version of triton whose launcher is not known."""
    direct, launching.LAUNCHERS = launching.LAUNCHERS, {}
    try:
        for shapes in (((1000,), (1000,)), ((64, 1), (1, 48)), ((1, 1), (1, 1))):
            tensors = tuple(moved(whole(*shape)) for shape in shapes)
            op, launch = launch_of(target, mixed, tensors)
            check(Case("", mixed, lambda: ()), tensors, op, launch(*tensors))
    finally:
        launching.LAUNCHERS = direct


def far(target: TritonTarget) -> None:
    """More elements than 32 bits count; and a stride beyond them."""
    x = torch.randint(0, 100, ((1 << 31) + 4096,), dtype=torch.uint8, device="cuda")
    op, launch = launch_of(target, lambda a, c: b(Add(), b(Mul(), a, 2), c), (x, x))
    result, wanted = launch(x, x), op.run(x, x)
    assert torch.equal(result, wanted)
    del result, wanted
    rows = x[: 1 << 31].view(2, 1 << 30)[:, :64]
    wide = x.as_strided((2, 64), ((1 << 31) - 64, 1))
    for some in ((rows, rows), (wide, rows)):
        op, launch = launch_of(target, lambda a, c: b(Add(), b(Mul(), a, 2), c), some)
        assert torch.equal(launch(*some), op.run(*some))


def cases() -> dict[str, Any]:
    """Every case of the tests, on large tensors too."""
    failed: dict[str, str] = {}
    target, prepared = TritonTarget(), []
    large = [
        Case(f"large {shapes}", mixed, lambda shapes=shapes: tuple(whole(*x) for x in shapes))
        for shapes in (
            *(((1 << 20,), (1 << 20,)), (((1 << 20) + 3,), ((1 << 20) + 3,))),
            *(((1024, 1024), (1024,)), ((1024, 1024), (1024, 1)), ((1031, 1029), (1029,))),
            *(((16, 64, 56, 56), (64, 1, 1)), ((16, 64, 14, 14), (64, 1, 1))),
            *(((16, 64, 7, 7), (64, 1, 1)), ((1024, 1), (1, 1024))),
        )
    ]
    start = time.perf_counter()
    for case in (*all_cases(), *large):
        tensors = tuple(map(moved, case.tensors()))
        op = case.op(tensors)
        types = tuple(map(type_of, tensors))
        prepared.append((case, tensors, op, types, target.prepare(op, types)))
    middle = time.perf_counter()
    try:
        target.build([x[-1] for x in prepared])
    except CompilerError as error:
        failed["build"] = str(error)
    end = time.perf_counter()
    for case, tensors, op, types, kernel in prepared:
        try:
            target.build([kernel])
            check(case, tensors, op, target.launcher(kernel, op, types)(*tensors))
        except Exception as error:
            failed[case.label] = f"{type(error).__name__}: {error}"[:600]
    return {
        "cases": len(prepared),
        "kernels": len({x[-1].name for x in prepared}),
        "prepare (s)": round(middle - start, 2),
        "build (s)": round(end - middle, 2),
        "failed": failed,
    }


def speed() -> dict[str, Any]:
    """Median times with a cold L2, of ours, of eager, and of a copy of as many bytes."""
    from triton.testing import do_bench

    def tensor(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        return torch.randn(shape, device="cuda").to(dtype)

    half = torch.bfloat16
    row, rows = 4096, 16384
    table: dict[str, tuple[Body, Callable[[], Tensors]]] = {
        "add relu f32": (add_relu, lambda: (tensor(64 * MIB), tensor(64 * MIB))),
        "add relu bf16": (
            add_relu,
            lambda: (tensor(128 * MIB, dtype=half), tensor(128 * MIB, dtype=half)),
        ),
        "add relu f32, odd size": (
            add_relu,
            lambda: (tensor(64 * MIB + 3), tensor(64 * MIB + 3)),
        ),
        "add relu f32, unaligned": (
            add_relu,
            lambda: (tensor(64 * MIB + 1)[1:], tensor(64 * MIB + 1)[1:]),
        ),
        "bias gelu f32": (bias_gelu, lambda: (tensor(rows, row), tensor(row))),
        "bias gelu bf16": (
            bias_gelu,
            lambda: (tensor(2 * rows, row, dtype=half), tensor(row, dtype=half)),
        ),
        "bias gelu bf16, rows of 4097": (
            bias_gelu,
            lambda: (tensor(2 * rows, 4097, dtype=half), tensor(4097, dtype=half)),
        ),
        "swiglu bf16": (
            swiglu,
            lambda: (tensor(2 * rows, row, dtype=half), tensor(2 * rows, row, dtype=half)),
        ),
        "normalize bf16": (
            normalize,
            lambda: (
                *(tensor(2 * rows, row, dtype=half), tensor(2 * rows, 1), tensor(2 * rows, 1)),
                *(tensor(row, dtype=half), tensor(row, dtype=half)),
            ),
        ),
        "channel 56x56 f32": (add_relu, lambda: (tensor(83, 256, 56, 56), tensor(256, 1, 1))),
        "channel 14x14 bf16": (
            add_relu,
            lambda: (tensor(1024, 668, 14, 14, dtype=half), tensor(668, 1, 1, dtype=half)),
        ),
        "transposed f32": (add_relu, lambda: (tensor(8192, 8192).t(), tensor(8192, 8192))),
        "heads transposed bf16": (
            add_relu,
            lambda: (
                tensor(64, 512, 64, 64, dtype=half).transpose(1, 2),
                tensor(64, 64, 512, 64, dtype=half),
            ),
        ),
        "cast bf16 to f32": (
            lambda x: b(Cast(torch.float32), x),
            lambda: (tensor(64 * MIB, dtype=half),),
        ),
    }
    results: dict[str, Any] = {}
    target = TritonTarget()
    for label, (body, tensors) in table.items():
        xs = tensors()
        op, launch = launch_of(target, body, xs)
        size = sum(x.numel() * x.element_size() for x in xs)
        size += sum(x.type.nbytes for x in op.body.outputs)
        source = torch.empty(size // 2, dtype=torch.uint8, device="cuda")
        goal = torch.empty_like(source)
        ours = do_bench(lambda: launch(*xs), return_mode="median")  # noqa: B023
        eager = do_bench(lambda: op.run(*xs), return_mode="median")  # noqa: B023
        copy = do_bench(lambda: goal.copy_(source), return_mode="median")  # noqa: B023
        results[label] = {
            "ours (us)": round(ours * 1e3, 1),
            "eager (us)": round(eager * 1e3, 1),
            "copy of as many bytes (us)": round(copy * 1e3, 1),
            "ours (TB/s)": round(size / ours / 1e9, 2),
            "copy (TB/s)": round(size / copy / 1e9, 2),
        }
    return results


def main() -> None:
    import triton

    sections = {"costs": costs, "checks": checks, "cases": cases, "speed": speed}
    path = Path(sys.argv[1])
    results: dict[str, Any] = {
        "device": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "triton": triton.__version__,
        "processors": os.cpu_count(),
    }
    for name in sys.argv[2:] or sections:
        try:
            results[name] = sections[name]()
        except Exception:
            results[name] = traceback.format_exc()
        path.write_text(json.dumps(results, indent=1) + "\n")
    print(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
