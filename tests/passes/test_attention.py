"""`attention`: softmax(query @ key.T * scale + mask) @ value becomes one operation."""

import math
from collections.abc import Callable

import pytest
import torch
from check import Check
from torch import nn

import lazytorch as lt
from lazytorch.accuracy import accuracy
from lazytorch.interpret import interpret
from lazytorch.ir import Graph
from lazytorch.ops.attention import ScaledDotProductAttention
from lazytorch.passes import RECOGNIZED, REWRITES, attention, optimize
from lazytorch.text import parse
from lazytorch.verify import verify

Formula = Callable[..., torch.Tensor]
INF = math.inf

WRITTEN = """
graph(%q: f32[2, 3, 5, 8], %k: f32[2, 3, 7, 8], %v: f32[2, 3, 7, 8], %m: bool[5, 7], %s: float) {
  %0 = permute{perm=(0, 1, 3, 2)} %k
  %1 = matmul %q %0
  %2 = mul %1 0.25
  %3 = masked_fill %2 %m -inf
  %4 = softmax{dim=3} %3
  %5 = matmul %4 %v
  return %5
}
"""

TWICE = "%8 = masked_fill %2 %m -1e30\n  %3 = masked_fill %8 %m -1e30"
NARROW = "%8 = cast{dtype=bf16} %3\n  %7 = softmax{dim=3} %8\n  %4 = cast{dtype=f32} %7"


def test_attention_takes_scale_and_mask(check: Check) -> None:
    check(
        attention,
        WRITTEN,
        """
        graph(%q: f32[2, 3, 5, 8], %k: f32[2, 3, 7, 8], %v: f32[2, 3, 7, 8], %m: bool[5, 7], %s: float) {
          %0: bool[1, 1, 5, 7] = reshape{shape=(1, 1, 5, 7)} %m
          %1: f32[1, 1, 5, 7] = where %0 -inf 0.0
          %2: f32[1, 1, 5, 1] = amax{dims=(3,), keepdim=True} %1
          %3: bool[1, 1, 5, 1] = eq %2 -inf
          %4: f32[1, 1, 5, 7] = where %3 nan %1
          %5: f32[2, 3, 5, 8] = scaled_dot_product_attention{scale=0.25} %q %k %v %4
          return %5
        }
        """,  # noqa: E501
        close=1e-5,
    )


def test_attention_through_batches_of_matrices(check: Check) -> None:
    check(
        attention,
        """
        graph(%q: f32[2, 5, 3, 8], %k: f32[2, 7, 3, 8], %v: f32[2, 7, 3, 8]) {
          %0 = permute{perm=(0, 2, 1, 3)} %q
          %1 = div %0 2.0
          %2 = reshape{shape=(6, 5, 8)} %1
          %3 = permute{perm=(0, 2, 3, 1)} %k
          %4 = reshape{shape=(6, 8, 7)} %3
          %5 = permute{perm=(0, 2, 1, 3)} %v
          %6 = reshape{shape=(6, 7, 8)} %5
          %7 = bmm %2 %4
          %8 = softmax{dim=2} %7
          %9 = bmm %8 %6
          return %9
        }
        """,
        """
        graph(%q: f32[2, 5, 3, 8], %k: f32[2, 7, 3, 8], %v: f32[2, 7, 3, 8]) {
          %0: f32[2, 3, 5, 8]{120, 8, 24, 1} = permute{perm=(0, 2, 1, 3)} %q
          %1: f32[2, 3, 7, 8]{168, 8, 24, 1} = permute{perm=(0, 2, 1, 3)} %k
          %2: f32[2, 3, 7, 8]{168, 8, 24, 1} = permute{perm=(0, 2, 1, 3)} %v
          %3: f32[2, 3, 5, 8]{120, 8, 24, 1} = scaled_dot_product_attention{scale=0.5} %0 %1 %2
          %4: f32[6, 5, 8] = reshape{shape=(6, 5, 8)} %3
          return %4
        }
        """,
        close=1e-5,
    )


@pytest.mark.parametrize(
    ("reason", "before", "after"),
    [
        ("the scores are read elsewhere", "return %5", "return %5, %2"),
        ("the weights are read elsewhere", "return %5", "return %5, %4"),
        ("the weights are read by another operation", "return %5", "%9 = exp %4\n  return %5, %9"),
        ("a number that varies", "mul %1 0.25", "mul %1 %s"),
        ("a negative scale", "0.25", "-0.25"),
        ("no scale", "0.25", "0.0"),
        ("another dimension", "softmax{dim=3}", "softmax{dim=2}"),
        ("a step of another kind", "mul %1 0.25", "tanh %1"),
        ("a number that hides nothing", "-inf", "-100.0"),
        ("a number that does the opposite", "-inf", "inf"),
        ("a mask that is scaled", "%4 =", "%9 = mul %3 2.0\n  %4 = softmax{dim=3} %9\n  %10 ="),
        ("two masks that are numbers", "%3 = masked_fill %2 %m -inf", TWICE),
        ("another size of values", "%v: f32[2, 3, 7, 8]", "%v: f32[2, 3, 7, 9]"),
        ("heads too wide", ", 8]", ", 264]"),
        ("a narrower softmax", "%4 = softmax{dim=3} %3", NARROW),
        ("no keys", "7", "0"),
    ],
)
def test_attention_declines(check: Check, reason: str, before: str, after: str) -> None:
    assert before in WRITTEN and attention(parse(WRITTEN)) != parse(WRITTEN)
    check.declines(attention, WRITTEN.replace(before, after))


def traced(formula: Formula, *args: torch.Tensor) -> Graph:
    """The graph of a formula, before what is written out is recognised."""

    class Spelled(nn.Module):
        def forward(self, *args: torch.Tensor) -> torch.Tensor:
            return formula(*args)

    with torch.no_grad():
        return optimize(lt.trace(Spelled(), *args), REWRITES)


def found(graph: Graph) -> list[ScaledDotProductAttention]:
    """The attentions of a graph."""
    return [node.op for node in graph if isinstance(node.op, ScaledDotProductAttention)]


def scores(q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
    return q @ k.transpose(-2, -1) * 0.25


def tril(q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
    return torch.ones(q.shape[-2], k.shape[-2]).tril()


def flat(x: torch.Tensor) -> torch.Tensor:
    return x.reshape(-1, *x.shape[2:])


def bhqk(q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
    return torch.einsum("bhqd,bhkd->bhqk", q, k)


def swapped(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    q, k, v = (x.transpose(1, 2).contiguous() for x in (q, k, v))
    weights = torch.softmax(torch.einsum("bqhd,bkhd->bhqk", q, k) / 4.0, -1)
    return torch.einsum("bhqk,bkhd->bqhd", weights, v)


def added_product(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    base = torch.empty(1, 1, 1, dtype=q.dtype)
    s = torch.baddbmm(base, flat(q), flat(k).transpose(1, 2), beta=0, alpha=0.25)
    return (s.softmax(-1) @ flat(v)).view(*q.shape)


SPELLINGS: dict[str, Formula] = {
    "after": lambda q, k, v: torch.softmax(q @ k.mT / 4.0, -1) @ v,
    "query": lambda q, k, v: torch.softmax((q * 0.25) @ k.mT, -1) @ v,
    "both": lambda q, k, v: torch.softmax((q / 2.0) @ (k / 2.0).mT, -1) @ v,
    "float32": lambda q, k, v: torch.softmax(scores(q, k).float(), -1).to(q.dtype) @ v,
    "in float32": lambda q, k, v: (
        torch.softmax(scores(q, k), -1, dtype=torch.float32).to(q.dtype) @ v
    ),
    "bmm": lambda q, k, v: torch.bmm(
        torch.bmm(flat(q), flat(k).mT).mul(0.25).softmax(-1), flat(v)
    ).view(q.shape),
    "baddbmm": added_product,
    "einsum": lambda q, k, v: torch.einsum("bhqk,bhkd->bhqd", (bhqk(q, k) * 0.25).softmax(-1), v),
    "einsum of other orders": swapped,
    "one key head": lambda q, k, v: torch.softmax(scores(q, k[:, :1]), -1) @ v[:, :1],
    "no batch": lambda q, k, v: torch.softmax(scores(q[0], k[0]), -1) @ v[0],
    "one head": lambda q, k, v: torch.softmax(scores(q[0, 0], k[0, 0]), -1) @ v[0, 0],
    "turned key": lambda q, k, v: torch.softmax(q @ (k.mT.contiguous() * 0.25), -1) @ v,
}
MASKED: dict[str, Formula] = {
    "filled with inf": lambda s, m: s.masked_fill(m == 0, -INF),
    "filled with a number": lambda s, m: s.masked_fill(m == 0, -1e9),
    "filled with the least": lambda s, m: s.masked_fill(m == 0, torch.finfo(torch.float32).min),
    "chosen": lambda s, m: torch.where(m > 0, s, -INF),
    "chosen the other way": lambda s, m: torch.where(m == 0, -1e30, s),
    "added": lambda s, m: s + torch.where(m > 0, 0.0, -INF),
    "added first": lambda s, m: torch.where(m > 0, 0.0, -INF) + s,
    "added to a bias": lambda s, m: (s + m).masked_fill(m == 0, -INF),
}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", SPELLINGS)
def test_attention_finds_every_spelling(name: str, dtype: torch.dtype) -> None:
    formula = SPELLINGS[name]
    if name.endswith("float32") and dtype is torch.float64:
        pytest.skip("narrower than the product")
    for largest in (1.0, 30.0):
        torch.manual_seed(0)
        args = [torch.randn(2, 3, 5, 16), torch.randn(2, 3, 7, 16), torch.randn(2, 3, 7, 16)]
        args[0] *= largest
        agree(formula, [x.to(dtype) for x in args])


def agree(formula: Formula, args: list[torch.Tensor]) -> Graph:
    """One attention is found, and computes what eager does."""
    graph = traced(formula, *args)
    after = verify(attention(graph), after="attention")
    assert len(found(after)) == 1, str(graph)
    assert attention(after) is after
    done = optimize(graph, RECOGNIZED)
    exact = formula(*[x.double() if x.is_floating_point() else x for x in args])
    for one in (after, done):
        got = list(interpret(one, *args))
        assert got[0].stride() == formula(*args).stride()
        if got[0].dtype is torch.float64:  # eager is what the rule compares with
            torch.testing.assert_close(got[0], exact, equal_nan=True)
            continue
        judged = accuracy(got, [formula(*args)], [exact.double()])
        assert judged.right, judged.fault
    return after


@pytest.mark.parametrize("name", MASKED)
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("dead", [True, False])
def test_attention_finds_every_mask(name: str, causal: bool, dead: bool) -> None:
    torch.manual_seed(0)
    args = [torch.randn(2, 3, 7, 16) for _ in range(3)]
    masked = MASKED[name]
    if causal:
        if dead:
            pytest.skip("a causal mask hides all keys from no query")
        graph = agree(lambda q, k, v: masked(scores(q, k), tril(q, k)).softmax(-1) @ v, args)
        assert found(graph)[0].is_causal == (name != "added to a bias")
        return
    mask = torch.rand(2, 1, 7, 7).gt(0.4).float()
    mask[:, :, :, 0] = 1.0
    mask[1, 0, 3] = 0.0 if dead else 1.0
    agree(lambda q, k, v, m: masked(scores(q, k), m).softmax(-1) @ v, [*args, mask])


@pytest.mark.parametrize("low", [-INF, torch.finfo(torch.float32).min, -100.0])
def test_a_mask_from_outside_is_added(low: float) -> None:
    torch.manual_seed(0)
    args = [torch.randn(2, 3, 7, 16) for _ in range(3)]
    mask = torch.zeros(2, 1, 1, 7)
    mask[0, ..., 3:] = low
    mask[1] = low
    agree(lambda q, k, v, m: (scores(q, k) + m).softmax(-1) @ v, [*args, mask])


def test_attention_declines_where_a_constant_mask_hides_all_keys() -> None:
    args = [torch.randn(2, 3, 7, 16) for _ in range(3)]
    for formula in (MASKED["filled with inf"], MASKED["added"]):
        graph = traced(
            lambda q, k, v, f=formula: f(scores(q, k), tril(q, k).tril(-1)).softmax(-1) @ v, *args
        )
        assert attention(graph) is graph


def test_attention_declines_where_a_mask_would_lose_digits() -> None:
    args = [torch.randn(2, 3, 7, 16).bfloat16() for _ in range(3)]
    graph = traced(
        lambda q, k, v, m: (scores(q, k) + m).softmax(-1).to(q.dtype) @ v, *args, torch.randn(7, 7)
    )
    assert attention(graph) is graph


def test_attention_declines_where_float16_has_no_number_that_hides() -> None:
    args = [torch.randn(2, 3, 7, 16).half() for _ in range(3)]
    graph = traced(
        lambda q, k, v, m: scores(q, k).masked_fill(m, -65504.0).softmax(-1) @ v,
        *args,
        torch.rand(7, 7) > 0.5,
    )
    assert attention(graph) is graph


def test_attention_declines_on_a_mask_that_would_be_repeated() -> None:
    q = torch.randn(4, 3, 7, 16)

    def windows(q: torch.Tensor, m: torch.Tensor) -> torch.Tensor:
        s = scores(q, q).view(2, 2, 3, 7, 7) + m
        return s.view(4, 3, 7, 7).softmax(-1) @ q

    once = traced(windows, q, torch.randn(2, 2, 1, 7, 7))
    again = traced(windows, q, torch.randn(2, 1, 7, 7))
    assert len(found(attention(once))) == 1
    assert attention(again) is again


def test_attention_declines_on_what_the_prologue_computes() -> None:
    text = WRITTEN.replace("8],", "8] state,").replace("7, 8] state, %m", "7, 8] state, %m")
    text = text.replace("bool[5, 7],", "bool[5, 7] state,").replace(", %s: float", "")
    graph = parse(text)
    assert graph.outputs[0] in graph.steady
    assert attention(graph) is graph


def test_attention_declines_on_dropout() -> None:
    args = [torch.randn(2, 3, 7, 16) for _ in range(3)]
    graph = traced(
        lambda q, k, v: nn.functional.dropout(scores(q, k).softmax(-1), 0.1, True) @ v, *args
    )
    assert attention(graph) is graph


def test_attention_declines_where_weights_are_repeated_on_the_way() -> None:
    args = [torch.randn(1, 8, 16) for _ in range(3)]
    graph = traced(
        lambda q, k, v: scores(q, k).softmax(-1).expand(4, 8, 8).reshape(2, 2, 8, 8) @ v, *args
    )
    assert attention(graph) is graph
