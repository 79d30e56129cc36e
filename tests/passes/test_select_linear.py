"""`select` for linear layers: on packed weights, or by the library whose products are the faster."""

# ruff: noqa: E501  golden text is as wide as it is

from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from check import Check, recorded
from torch import nn

from lazytorch.interpret import interpret
from lazytorch.ops.library import (
    Libraries,
    Library,
    OneDnnLinear,
    PackedLinear,
    foreign,
    libraries,
)
from lazytorch.ops.linalg import Linear
from lazytorch.passes import select
from lazytorch.verify import signature, verify

BOTH = Libraries(frozenset((torch.float32, torch.bfloat16)), mkl=True, threads=2)
HERE = libraries()
everywhere = partial(select, cpu=BOTH)
within_nothing = partial(select, cpu=BOTH, budget=0)
foreign_processor = partial(select, cpu=replace(BOTH, products="onednn"), budget=0)


def test_select_packs_linear_layers_whatever_their_form(check: Check) -> None:
    check(
        everywhere,
        """
        graph(%x: f32[2, 3, 256], %w: f32[256, 256] state, %b: f32[256] state) {
          %0 = linear %x %w %b
          %1 = linear %0 %w
          %2 = reshape{shape=(6, 256)} %1
          %3 = addmm %b %2 %w
          return %3
        }
        """,
        """
        graph(%x: f32[2, 3, 256], %w: f32[256, 256] state, %b: f32[256] state) {
          %0: opaque[262144] = packed_linear_weight{library="mkl", rows=6, threads=2} %w
          %1: f32[2, 3, 256] = packed_linear{library="mkl", rows=6} %x %0 %w %b
          %2: opaque[262144] = packed_linear_weight{library="mkl", rows=6, threads=2} %w
          %3: f32[2, 3, 256] = packed_linear{library="mkl", rows=6} %1 %2 %w
          %4: f32[6, 256] = reshape{shape=(6, 256)} %3
          %5: f32[256, 256]{1, 256} = permute{perm=(1, 0)} %w
          %6: opaque[262144] = packed_linear_weight{library="mkl", rows=6, threads=2} %5
          %7: f32[6, 256] = packed_linear{library="mkl", rows=6} %4 %6 %5 %b
          return %7
        }
        """,
        close=1e-4,
    )


LINEAR = "%0 = linear %x %w return %0"


@pytest.mark.parametrize(
    "text",
    [
        f"graph(%x: f32[3, 256], %w: f32[256, 256]) {{ {LINEAR} }}",
        f"graph(%x: f64[3, 256], %w: f64[256, 256] state) {{ {LINEAR} }}",
        f"graph(%x: f16[3, 256], %w: f16[256, 256] state) {{ {LINEAR} }}",
        f"graph(%x: f32[3, 255], %w: f32[256, 255] state) {{ {LINEAR} }}",
        f"graph(%x: f32[1, 256], %w: f32[256, 256] state) {{ {LINEAR} }}",
        f"graph(%x: f32[256], %w: f32[256, 256] state) {{ {LINEAR} }}",
        f"graph(%x: f32[0, 256], %w: f32[256, 256] state) {{ {LINEAR} }}",
        f"graph(%x: bf16[256], %w: bf16[256, 256] state) {{ {LINEAR} }}",
        f"graph(%x: bf16[0, 256], %w: bf16[256, 256] state) {{ {LINEAR} }}",
        f"graph(%x: f32[3, 65536], %w: f32[65536] state) {{ {LINEAR} }}",
        "graph(%x: f32[3, 256], %w: f32[256, 256] state, %b: f32[1] state) { %0 = linear %x %w %b return %0 }",
        "graph(%x: f32[3, 256], %w: f32[256, 256] state, %b: f32[256] state) { %0 = addmm{beta=2} %b %x %w return %0 }",
        "graph(%x: f32[3, 256], %w: f32[256, 256] state, %b: f32[3, 1] state) { %0 = addmm %b %x %w return %0 }",
    ],
    ids=[
        "the weight is an argument", "no library packs float64", "nor float16 here", "small",
        "one row", "a vector", "no rows", "a vector of 16 bits", "no rows of 16 bits", "a vector of weights", "a bias for all columns",
        "addmm that scales", "addmm with a bias for each row",
    ],
)  # fmt: skip
def test_select_declines_linear_layers(check: Check, text: str) -> None:
    check.declines(everywhere, text)
    check.declines(within_nothing, text)
    check.declines(foreign_processor, text)


def test_where_onednns_products_are_faster_it_does_them_on_weights_as_they_are(
    check: Check,
) -> None:
    text = """
        graph(%x: f32[3, 256], %w: f32[256, 256] state, %b: f32[256] state) {
          %0 = linear %x %w
          %1 = addmm %b %0 %w
          return %1
        }
        """
    check.declines(within_nothing, text)
    check(
        foreign_processor,
        text,
        """
        graph(%x: f32[3, 256], %w: f32[256, 256] state, %b: f32[256] state) {
          %0: f32[3, 256] = one_dnn_linear %x %w
          %1: f32[256, 256]{1, 256} = permute{perm=(1, 0)} %w
          %2: f32[3, 256] = one_dnn_linear %0 %1 %b
          return %2
        }
        """,
        close=1e-4,
    )
    bf16 = text.replace("f32", "bf16")
    check.declines(foreign_processor, bf16)  # torch's own linear is oneDNN's there


def test_another_makers_processor_is_known_by_its_name(tmp_path: Path) -> None:
    for name, answer in (("GenuineIntel", False), ("AuthenticAMD", True), (None, False)):
        listing = tmp_path / str(name)
        if name is not None:
            listing.write_text(f"processor\t: 0\nvendor_id\t: {name}\nmodel name\t: any\n")
        assert foreign(listing) == answer


@pytest.mark.parametrize(
    "text",
    [
        "graph(%x: f32[1, 1024], %w: f32[1536, 1024] state) { %0 = linear %x %w return %0 }",
        "graph(%x: f32[1, 1, 1024], %w: f32[1536, 1024]) { %0 = linear %x %w return %0 }",
        "graph(%x: f32[1, 4096], %w: f32[4096, 4096] state) { %0 = mm %x %w return %0 }",
        "graph(%x: f32[3, 0], %w: f32[4096, 0] state) { %0 = linear %x %w return %0 }",
        "graph(%x: bf16[1, 4096], %w: bf16[4096, 4096] state) { %0 = linear %x %w return %0 }",
    ],
    ids=["a state", "an argument", "columns one after the other", "empty", "16 bits"],
)
def test_one_row_is_no_librarys(check: Check, text: str) -> None:
    check.declines(foreign_processor, text)


def test_one_row_of_16_bits_is_packed_too(check: Check) -> None:
    check(
        everywhere,
        "graph(%x: bf16[1, 256], %w: bf16[256, 256] state) { %0 = linear %x %w return %0 }",
        """
        graph(%x: bf16[1, 256], %w: bf16[256, 256] state) {
          %0: opaque[131072] = packed_linear_weight{library="onednn", rows=1, threads=2} %w
          %1: bf16[1, 256] = packed_linear{library="onednn", rows=1} %x %0 %w
          return %1
        }
        """,
        close=1e-2,
    )


def test_select_declines_what_no_library_here_packs(check: Check) -> None:
    text = f"graph(%x: f32[3, 256], %w: f32[256, 256] state) {{ {LINEAR} }}"
    check.declines(partial(select, cpu=replace(BOTH, mkl=False)), text)
    text = f"graph(%x: bf16[3, 256], %w: bf16[256, 256] state) {{ {LINEAR} }}"
    check.declines(partial(select, cpu=replace(BOTH, onednn=frozenset())), text)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(2,), (7,), (2, 3), (2, 1, 5)])
@pytest.mark.parametrize(("into", "out"), [(256, 256), (257, 331), (1000, 67)])
@pytest.mark.parametrize(("products", "budget"), [("mkl", None), ("onednn", None), ("onednn", 0)])
def test_a_librarys_linear_is_the_linear_layer(
    products: Library, budget: int | None, into: int, out: int, shape: tuple[int, ...],
    bias: bool, dtype: torch.dtype,
) -> None:  # fmt: skip
    mkl = products == "mkl" and dtype is torch.float32
    if not (HERE.mkl if mkl else dtype in HERE.onednn):
        pytest.skip("no library packs this dtype here")
    chosen = partial(select, cpu=replace(HERE, products=products), budget=budget)
    call = PackedLinear if budget is None else OneDnnLinear
    if budget == 0 and dtype is not torch.float32:
        pytest.skip("torch's own linear is oneDNN's")
    torch.manual_seed(0)
    net = nn.Linear(into, out, bias=bias).to(dtype)
    wide = nn.Linear(into, out, bias=bias).double()
    wide.load_state_dict(net.state_dict())
    x = torch.randn(*shape, into).to(dtype)
    odd = x.clone()
    odd[..., 3] = torch.inf
    odd[0, ..., 5] = torch.nan
    for value in (x, odd, x.flip(0), torch.randn(into, *shape).to(dtype).movedim(0, -1)):
        graph, values = recorded(net, value)
        after = verify(chosen(graph), after="select")
        assert any(isinstance(x.op, call) for x in after.nodes)
        assert not any(isinstance(x.op, Linear) for x in after.nodes)
        assert signature(after) == signature(graph)
        with torch.no_grad():
            found, expected = interpret(after, *values)[0], interpret(graph, *values)[0]
            exact = wide(value.double())
        assert torch.equal(found.isnan(), expected.isnan())
        assert torch.equal(found.isinf(), expected.isinf())
        finite = expected.isfinite()
        near = 1e-5 if dtype is torch.float32 else 2e-2
        torch.testing.assert_close(
            found[finite].double(), exact[finite], rtol=near, atol=near, check_stride=True
        )
