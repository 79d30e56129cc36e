"""The passes that run on a GPU, and how copies of weights are kept within eager's memory."""

from collections import Counter

import pytest

from lazytorch.lower.optimize import optimize
from lazytorch.text import parse

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
