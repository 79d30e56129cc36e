"""The passes that run on a GPU, and how copies of weights are kept within eager's memory."""

from collections import Counter

import pytest
import torch

from lazytorch.lower.optimize import optimize
from lazytorch.ops.cudnn import CudnnConvolution, CudnnConvolutionRelu, padded
from lazytorch.text import parse
from lazytorch.types import tensor_type
from lazytorch.view.memory import copied_anew

LAYERS = """
graph(%x: f16[64, 1024] on cuda:0, %q: f16[64, 1024] on cuda:0 state, %k: f16[64, 1024] on cuda:0 state,
      %w: f16[5001, 1024] on cuda:0 state, %y: f16[1024, SIZE] on cuda:0) {
  %0 = neg %y
  %1 = exp %y
  %2 = add %0 %1
  %3 = sum{dims=(0,)} %2
  %4 = linear %x %q
  %5 = linear %x %k
  %6 = matmul %4 %5
  %7 = neg %x
  %8 = linear %7 %w
  return %3, %6, %8
}
"""  # noqa: E501
"""Eager holds two tensors of y's size at once, a fused kernel one."""


def operations(text: str, freeze: bool) -> Counter[str]:
    return Counter(node.op.name() for node in optimize(parse(text), freeze))


@pytest.mark.parametrize(
    ("size", "freeze", "joined", "padded"),
    [
        (1024, True, True, True),
        (1024, False, True, False),
        (16384, False, True, True),
        (1, False, False, False),
    ],
    ids=["frozen", "padded weights do not fit", "all fit", "none fits"],
)
def test_weights_are_copied_only_within_the_memory_of_eager(
    size: int, freeze: bool, joined: bool, padded: bool
) -> None:
    found = operations(LAYERS.replace("SIZE", str(size)), freeze)
    assert (found["cat"] == 1) == joined
    assert (found["pad"] == 1) == padded


def test_numerics_of_eager_take_no_library_calls_with_other_roundings() -> None:
    found = optimize(parse(LAYERS.replace("SIZE", "1024")), True, numerics="eager")
    assert not {"cat", "pad"} & {node.op.name() for node in found}


CONVOLUTIONS = """
graph(%x: f16[1, 64, 8, 8] on cuda:0, %y: f16[1, 8, 64, SIZE] on cuda:0,
      %s: f16[64] on cuda:0 state, %d: f16[64, 8, 1, 1] on cuda:0 state,
      %a: f16[64, 64, 3, 3] on cuda:0 state, %b: f16[512, 64, 3, 3] on cuda:0 state,
      %c: f16[64, 512, 3, 3] on cuda:0 state) {
  %0 = convolution{stride=(1, 1), padding=(0, 0), dilation=(1, 1)} %y %d
  %1 = batch_norm{eps=1e-05, weight=False, bias=False} %0 %s %s
  %2 = relu %1
  %3 = sum{dims=(2, 3)} %2
  %4 = convolution{stride=(1, 1), padding=(1, 1), dilation=(1, 1)} %x %a
  %5 = relu %4
  %6 = convolution{stride=(1, 1), padding=(1, 1), dilation=(1, 1)} %5 %b
  %7 = relu %6
  %8 = convolution{stride=(1, 1), padding=(1, 1), dilation=(1, 1)} %7 %c
  %9 = relu %8
  return %3, %9
}
"""
"""Eager holds two images of SIZE times 8 KiB, compiled code one; copies of weights take 1, 72, 576
and 576 KiB."""


@pytest.mark.parametrize(
    ("size", "freeze", "convolutions", "copies"),
    [
        (40, False, 0, 0),
        (60, False, 4, 2),
        (100, False, 4, 1),
        (200, False, 4, 0),
        (40, True, 4, 0),
    ],
    ids=["none fits", "one at a time", "one is kept", "all fit", "frozen"],
)
def test_copies_of_weights_that_do_not_fit_are_made_at_every_call(
    size: int, freeze: bool, convolutions: int, copies: int
) -> None:
    stages: list[str] = []
    text = CONVOLUTIONS.replace("SIZE", str(size))
    graph = optimize(parse(text), freeze, observe=lambda name, *_: stages.append(name))
    assert stages.count("fuse") == 1 or convolutions, "what cannot fit was tried"
    found = [x.op.name() for x in graph.nodes if x not in graph.steady]
    assert found.count("cudnn_convolution_relu") == convolutions
    assert copied_anew(graph) == copies


STEM = """
graph(%x: f16[4, 3, 64, 64] on cuda:0, %y: f16[1024, SIZE] on cuda:0,
      %a: f16[32, 3, 3, 3] on cuda:0 state, %b: f16[64, 32, 3, 3] on cuda:0 state) {
  %0 = neg %y
  %1 = exp %y
  %2 = add %0 %1
  %3 = sum{dims=(0,)} %2
  %4 = convolution{stride=(4, 4), padding=(1, 1), dilation=(1, 1)} %x %a
  %5 = relu %4
  %6 = convolution{stride=(2, 2), padding=(1, 1), dilation=(1, 1)} %5 %b
  %7 = relu %6
  return %3, %7
}
"""
"""For the image of three channels cuDNN takes 256 KiB where eager takes SIZE times 4 KiB."""


@pytest.mark.parametrize(("size", "both"), [(50, False), (100, True)])
def test_a_convolution_stays_whose_image_cudnn_would_copy_without_room(
    size: int, both: bool
) -> None:
    graph = optimize(parse(STEM.replace("SIZE", str(size))), False)
    found = [x.op.name() for x in graph.nodes if "convolution" in x.op.name()]
    assert found == ["cudnn_convolution_relu" if both else "convolution", "cudnn_convolution_relu"]


def test_what_cudnn_copies_an_image_for_counts() -> None:
    """24 bytes for each place of three channels in float32 were measured."""
    image = tensor_type((32, 3, 224, 224), torch.float32, "cuda")
    assert padded(image) == 32 * 224 * 224 * 24
    assert padded(tensor_type((1, 3, 8, 8), torch.float16, "cuda")) == 8 * 8 * 16
    assert padded(tensor_type((1, 4, 8, 8), torch.float32, "cuda")) == 0
    assert padded(tensor_type((1, 0, 8, 8), torch.float32, "cuda")) == 0
    weight = tensor_type((64, 3, 7, 7), torch.float32, "cuda")
    assert CudnnConvolution((2, 2), (3, 3), (1, 1)).scratch(image, weight) == padded(image)
    relu = CudnnConvolutionRelu((2, 2), (3, 3), (1, 1))
    assert relu.scratch(image, weight, weight) == padded(image)
