"""`mask_rows`: masks of attention lie one number after the other along the keys."""

from functools import partial

import pytest
from check import Check, assert_same_values

from lazytorch.ir import Graph
from lazytorch.ops.attention import ScaledDotProductAttention
from lazytorch.passes import mask_rows
from lazytorch.text import parse
from lazytorch.verify import verify

everywhere = partial(mask_rows, fits=lambda x: True)


def graph(
    mask: str, query: str = "f32[2, 3, 5, 8]", more: str = "", shown: str = "2, 3, 5, 4"
) -> Graph:
    """Two layers that share a mask, which is expanded."""
    heads = "f32[2, 3, 4, 8]"
    attend = f"scaled_dot_product_attention{{scale=0.5{more}}}"
    return parse(f"""
    graph(%q: {query}, %k: {heads}, %v: {heads}, %m: {mask}) {{
      %e = expand{{shape=({shown})}} %m
      %0 = {attend} %q %k %v %e
      %1 = {attend} %q %v %k %e
      return %0, %1
    }}
    """)


def masks(found: Graph) -> list[str]:
    return [str(x.inputs[3].type) for x in found if isinstance(x.op, ScaledDotProductAttention)]


@pytest.mark.parametrize(
    ("mask", "shown", "after"),
    [
        ("f32[2, 3, 5, 4]{60, 1, 12, 3}", "2, 3, 5, 4", "f32[2, 3, 5, 4]"),
        ("f32[1, 3, 5, 4]{60, 1, 12, 3}", "2, 3, 5, 4", "f32[2, 3, 5, 4]{0, 20, 4, 1}"),
        ("f32[2, 1, 5, 1]", "2, 1, 5, 4", "f32[2, 1, 5, 4]"),
        ("f32[5, 4]{1, 5}", "5, 4", "f32[5, 4]"),
    ],
    ids=["permuted", "repeated", "repeated along the keys", "a matrix"],
)
def test_layers_share_a_copy_in_rows(mask: str, shown: str, after: str) -> None:
    before = graph(mask, shown=shown)
    found = verify(everywhere(before))
    assert masks(found) == [after] * 2
    assert str(found).count("clone") == 1
    assert_same_values(before, found, 1e-5)
    assert everywhere(found) is found


@pytest.mark.parametrize(
    "declined",
    [
        graph("f32[2, 3, 5, 4]"),
        graph("f32[2, 3, 5, 1]{15, 1, 3, 3}", shown="2, 3, 5, 1"),
        graph("f32[2, 3, 5, 4]{60, 1, 12, 3}", "f32[2, 3, 5, 8]{120, 40, 1, 5}"),
        graph("f32[2, 3, 5, 4]{60, 1, 12, 3}", more=', kernels=("MATH",)'),
    ],
    ids=["in rows", "one column", "queries that no kernel takes", "written out"],
)
def test_declines(check: Check, declined: Graph) -> None:
    check.declines(everywhere, str(declined))


def test_off_the_gpu_kernels_read_any_mask(check: Check) -> None:
    permuted = graph("f32[2, 3, 5, 4]{60, 1, 12, 3}")
    check.declines(partial(mask_rows, fits=lambda x: x.device.type == "cuda"), str(permuted))
