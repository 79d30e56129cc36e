"""Libraries are loaded for graphs that call them on a GPU, once a process, and never in the way."""

import threading

import pytest
import torch

from lazytorch.ir import Builder, Graph, Node, input
from lazytorch.ops.activation import Relu
from lazytorch.ops.conv import Convolution
from lazytorch.runtime import libraries
from lazytorch.types import tensor_type

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)


def graph(device: torch.device, convolves: bool) -> Graph:
    x, weight = (
        input("x", tensor_type((2, 3, 9, 9), torch.half, device)),
        input("weight", tensor_type((4, 3, 3, 3), torch.half, device)),
    )
    b = Builder()
    y: Node = x
    if convolves:
        y = b(Convolution((1, 1), (0, 0), (1, 1)), x, weight)
    return Graph((x, weight), (b(Relu(), y),))


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[torch.device, torch.dtype]]:
    found: list[tuple[torch.device, torch.dtype]] = []

    def loading(device: torch.device, dtype: torch.dtype) -> threading.Thread:
        found.append((device, dtype))
        return threading.Thread()

    monkeypatch.setattr(libraries, "loading", loading)
    monkeypatch.setattr(torch.backends.cudnn, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    return found


def test_a_convolution_on_a_gpu_has_cudnn_loaded(
    asked: list[tuple[torch.device, torch.dtype]],
) -> None:
    assert libraries.load(graph(GPU, convolves=True)) is not None
    assert asked == [(GPU, torch.half)]


@pytest.mark.parametrize(("device", "convolves"), [(CPU, True), (GPU, False)])
def test_nothing_else_has(
    device: torch.device, convolves: bool, asked: list[tuple[torch.device, torch.dtype]]
) -> None:
    assert libraries.load(graph(device, convolves)) is None
    assert not asked


def test_nothing_is_loaded_where_torch_is_told_not_to_use_it(
    asked: list[tuple[torch.device, torch.dtype]],
) -> None:
    with torch.backends.cudnn.flags(enabled=False):
        assert libraries.load(graph(GPU, convolves=True)) is None
    assert not asked


def test_nothing_is_loaded_into_a_graph_of_the_user(
    asked: list[tuple[torch.device, torch.dtype]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    assert libraries.load(graph(GPU, convolves=True)) is None
    assert not asked


def test_a_convolution_that_cudnn_refuses_is_left_to_the_program() -> None:
    """On a CPU cuDNN's own function refuses; the thread ends quietly."""
    libraries.convolve(torch.zeros(1, 8, 8, 8), torch.zeros(8, 8, 3, 3))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_it_is_loaded_once_and_keeps_no_memory() -> None:
    device = torch.device("cuda", torch.cuda.current_device())
    before = torch.cuda.memory_allocated(device)
    thread = libraries.loading(device, torch.half)
    thread.join()
    assert libraries.loading(device, torch.half) is thread
    assert torch.cuda.memory_allocated(device) == before
