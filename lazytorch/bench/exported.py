"""ONNX Runtime and OpenVINO on the CPU, on the program that torch.export makes of a model."""

from __future__ import annotations

import copy
import importlib
import warnings
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import nn

from lazytorch.bench.case import Model, converted, tensors
from lazytorch.bench.measure import Pending
from lazytorch.bench.side import Side
from lazytorch.errors import LazyTorchError
from lazytorch.frontend import trees

PRECISIONS = {torch.float32: "f32", torch.bfloat16: "bf16", torch.float16: "f16"}


class Flat(nn.Module):
    """A model from its tensors in order to its result's, whatever both are nested in."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.module = model.module
        self.leaves, self.spec = trees.flatten((model.args, model.kwargs))

    def forward(self, *given: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """The tensors of the model's result."""
        rest = iter(given)
        leaves = [next(rest) if isinstance(x, torch.Tensor) else x for x in self.leaves]
        args, kwargs = trees.unflatten(self.spec, leaves)
        return tuple(tensors(self.module(*args, **kwargs)))


def exported(model: Model) -> torch.export.ExportedProgram:
    """The model as torch.export sees it; LazyTorchError off the CPU."""
    given = tuple(tensors((model.args, model.kwargs)))
    if any(x.device.type != "cpu" for x in given):
        raise LazyTorchError("compared on the CPU alone")
    return torch.export.export(Flat(model).eval(), given, strict=False)


def onnx_file(program: torch.export.ExportedProgram, folder: Path) -> Path:
    """The program in ONNX."""
    made = torch.onnx.export(program, dynamo=True, verbose=False)
    assert made is not None
    made.save(folder / "model.onnx")
    return folder / "model.onnx"


def onnxruntime(model: Model) -> Side:
    """ONNX Runtime on a file that torch.onnx.export writes, in the model's own type."""
    runtime: Any = importlib.import_module("onnxruntime")
    with TemporaryDirectory() as folder, quietly():
        file = onnx_file(exported(model), Path(folder))
        options = runtime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        # Else its threads go on spinning into the time of whatever is measured next.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        session = runtime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    names = [given.name for given in session.get_inputs()]
    values = tensors((model.args, model.kwargs))
    if len(names) != len(values):
        raise LazyTorchError(f"the ONNX file takes {len(names)} inputs, the model {len(values)}")
    if torch.bfloat16 in (x.dtype for x in values):
        raise LazyTorchError("its inputs are NumPy arrays, which have no bfloat16")
    feeds = {name: x.numpy() for name, x in zip(names, values, strict=True)}
    return arrays("onnxruntime", lambda: session.run(None, feeds), None)


def openvino(model: Model) -> Side:
    """OpenVINO, set to the model's precision: in 16 bits it is given the model in float32."""
    package: Any = importlib.import_module("openvino")
    dtype = next((x.dtype for x in model.module.parameters() if x.is_floating_point()), None)
    precision = PRECISIONS[dtype or torch.float32]
    if precision != "f32":
        args, kwargs = converted((model.args, model.kwargs), torch.float32, None)
        model = Model(copy.deepcopy(model.module).float(), args, kwargs)
    with quietly():
        settings = {
            "INFERENCE_PRECISION_HINT": precision,
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        }
        program = exported(model)
        try:
            compiled = package.compile_model(package.convert_model(program), "CPU", settings)
        except Exception:  # of OpenVINO's own: it reads some operations of ONNX alone
            with TemporaryDirectory() as folder:
                file = onnx_file(program, Path(folder))
                compiled = package.compile_model(package.Core().read_model(file), "CPU", settings)
    request = compiled.create_infer_request()
    values = [x.numpy() for x in tensors((model.args, model.kwargs))]
    outputs = range(len(compiled.outputs))

    def call() -> list[Any]:
        found = request.infer(values, share_inputs=True, share_outputs=True)
        return [found[i] for i in outputs]

    return arrays("openvino", call, dtype)


def arrays(name: str, call: Callable[[], list[Any]], dtype: torch.dtype | None) -> Side:
    """A side whose calls return NumPy arrays: copied, and floating ones in a dtype, when read."""

    def run() -> Pending:
        found = call()

        def read() -> list[torch.Tensor]:
            copies = [torch.tensor(x) for x in found]
            return [x.to(dtype) if dtype and x.is_floating_point() else x for x in copies]

        return Pending(read)

    return Side(name, run, foreign=True)


def quietly() -> warnings.catch_warnings[None]:
    """Without what exporters say of each other."""
    return warnings.catch_warnings(action="ignore")
