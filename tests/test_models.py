"""Whole models of the zoo are right in every use; slow, run by `make models`."""

import pytest
import torch

import lazytorch as lt
from lazytorch import zoo
from lazytorch.bench.right import faults

LARGE = {"llama_1b"}  # too much for a test machine; measured by the benchmarks


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("name", sorted(set(zoo.models()) - LARGE))
def test_model_is_right_in_every_use(name: str, dtype: torch.dtype) -> None:
    assert faults(name, dtype, torch.device("cpu")) == []


@pytest.mark.parametrize("name", ["resnet18", "distilbert"])
def test_a_convnet_and_a_transformer_are_right(name: str) -> None:
    assert faults(name, torch.float32, torch.device("cpu")) == []


def test_common_models_are_primitives_throughout() -> None:
    for name in ("resnet18", "distilbert"):
        module, args, kwargs = zoo.build(name)
        with torch.no_grad():
            graph = lt.trace(module, *args, **kwargs)
        assert [node for node in graph if node.op.name().startswith("aten")] == []
