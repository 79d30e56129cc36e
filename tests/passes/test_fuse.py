"""fuse: which elementwise operations become one kernel, and why others stay apart."""

# ruff: noqa: E501  golden text is as wide as it is

from textwrap import dedent

import pytest
from check import Check

from lazytorch.ops.fused import Fused
from lazytorch.passes import fuse, why_apart
from lazytorch.text import parse


def test_a_chain_becomes_one_kernel_with_its_constants_inside(check: Check) -> None:
    check(
        fuse,
        """
        graph(%x: f32[8, 4], %y: f32[8, 4]) {
          %0 = mul %x 2.0
          %1 = add %0 %y
          %2 = tanh %1
          return %2
        }
        """,
        """
        graph(%x: f32[8, 4], %y: f32[8, 4]) {
          %0: f32[8, 4] = fused{body=graph(%a0: f32[8, 4], %a1: f32[8, 4]) {
            %0: f32[8, 4] = mul %a0 2.0
            %1: f32[8, 4] = add %0 %a1
            %2: f32[8, 4] = tanh %1
            return %2
          }} %x %y
          return %0
        }
        """,
    )


def test_a_value_with_two_readers_is_computed_once(check: Check) -> None:
    check(
        fuse,
        """
        graph(%x: f32[4]) {
          %0 = exp %x
          %1 = add %0 1.0
          %2 = log %0
          %3 = mul %1 %2
          return %3
        }
        """,
        """
        graph(%x: f32[4]) {
          %0: f32[4] = fused{body=graph(%a0: f32[4]) {
            %0: f32[4] = exp %a0
            %1: f32[4] = add %0 1.0
            %2: f32[4] = log %0
            %3: f32[4] = mul %1 %2
            return %3
          }} %x
          return %0
        }
        """,
    )


def test_values_that_others_read_are_outputs(check: Check) -> None:
    check(
        fuse,
        """
        graph(%x: f32[3, 3]) {
          %0 = exp %x
          %1 = neg %0
          %2 = matmul %0 %0
          %3 = mul %1 %1
          return %1, %2, %3
        }
        """,
        """
        graph(%x: f32[3, 3]) {
          %0: (f32[3, 3], f32[3, 3], f32[3, 3]) = fused{body=graph(%a0: f32[3, 3]) {
            %0: f32[3, 3] = exp %a0
            %1: f32[3, 3] = neg %0
            %2: f32[3, 3] = mul %1 %1
            return %0, %1, %2
          }} %x
          %1: f32[3, 3] = item{index=1} %0
          %2: f32[3, 3] = item{index=0} %0
          %3: f32[3, 3] = matmul %2 %2
          %4: f32[3, 3] = item{index=2} %0
          return %1, %3, %4
        }
        """,
    )


def test_numbers_that_vary_are_operands_and_those_of_tensors_are_read_inside(check: Check) -> None:
    check(
        fuse,
        """
        graph(%x: f32[4], %s: float, %t: f32[], %u: f32[1]) {
          %0 = mul %x %s
          %1 = to_number %t
          %2 = add %0 %1
          %3 = to_number %u
          %4 = sub %2 %3
          return %4
        }
        """,
        """
        graph(%x: f32[4], %s: float, %t: f32[], %u: f32[1]) {
          %0: float = to_number %u
          %1: f32[4] = fused{body=graph(%a0: f32[4], %a1: float, %a2: f32[], %a3: float) {
            %0: f32[4] = mul %a0 %a1
            %1: float = to_number %a2
            %2: f32[4] = add %0 %1
            %3: f32[4] = sub %2 %a3
            return %3
          }} %x %s %t %0
          return %1
        }
        """,
    )


def test_smaller_operands_are_read_repeatedly(check: Check) -> None:
    check(
        fuse,
        """
        graph(%x: f32[2, 3, 4, 4], %bias: f32[3, 1, 1], %s: f32[]) {
          %0 = add %x %bias
          %1 = mul %0 %s
          %2 = relu %1
          return %2
        }
        """,
        """
        graph(%x: f32[2, 3, 4, 4], %bias: f32[3, 1, 1], %s: f32[]) {
          %0: f32[2, 3, 4, 4] = fused{body=graph(%a0: f32[2, 3, 4, 4], %a1: f32[3, 1, 1], %a2: f32[]) {
            %0: f32[2, 3, 4, 4] = add %a0 %a1
            %1: f32[2, 3, 4, 4] = mul %0 %a2
            %2: f32[2, 3, 4, 4] = relu %1
            return %2
          }} %x %bias %s
          return %0
        }
        """,
    )


def test_dtypes_mix_in_one_kernel(check: Check) -> None:
    check(
        fuse,
        """
        graph(%h: bf16[6], %i: i64[6]) {
          %0 = cast{dtype=f32} %h
          %1 = gt %i 1
          %2 = where %1 %0 0.0
          %3 = cast{dtype=bf16} %2
          return %3
        }
        """,
        """
        graph(%h: bf16[6], %i: i64[6]) {
          %0: bf16[6] = fused{body=graph(%a0: i64[6], %a1: bf16[6]) {
            %0: bool[6] = gt %a0 1
            %1: f32[6] = cast{dtype=f32} %a1
            %2: f32[6] = where %0 %1 0.0
            %3: bf16[6] = cast{dtype=bf16} %2
            return %3
          }} %i %h
          return %0
        }
        """,
    )


def test_what_the_prologue_computes_stays_apart(check: Check) -> None:
    check(
        fuse,
        """
        graph(%x: f32[4], %w: f32[4] state, %v: f32[4] state) {
          %0 = add %v 1.0
          %1 = rsqrt %0
          %2 = mul %w %1
          %3 = mul %x %2
          %4 = relu %3
          return %4
        }
        """,
        """
        graph(%x: f32[4], %w: f32[4] state, %v: f32[4] state) {
          %0: f32[4] = add %v 1.0
          %1: f32[4] = rsqrt %0
          %2: f32[4] = mul %w %1
          %3: f32[4] = fused{body=graph(%a0: f32[4], %a1: f32[4]) {
            %0: f32[4] = mul %a0 %a1
            %1: f32[4] = relu %0
            return %1
          }} %x %2
          return %3
        }
        """,
    )


def test_equal_groups_have_equal_kernels() -> None:
    text = """
    graph(%x: f32[4], %y: f32[4]) {
      %0 = mul %x 2.0
      %1 = add %0 %y
      %2 = sum{dims=(0,)} %1
      %3 = add %1 %2
      %4 = cumsum{dim=0} %3
      %5 = mul %4 2.0
      %6 = add %5 %x
      return %6
    }
    """
    kernels = [n.op for n in fuse(parse(dedent(text))) if isinstance(n.op, Fused)]
    assert len(kernels) == 2 and kernels[0] == kernels[1]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("graph(%x: f32[4]) { %0 = exp %x return %0 }", "only one operation"),
        ("graph(%x: f32[4, 4]) { %0 = matmul %x %x return %0 }", "not elementwise"),
        (
            "graph(%x: c64[4]) { %0 = exp %x %1 = neg %0 return %1 }",
            "dtype c64 has no generated kernel",
        ),
        (
            "graph(%x: f32[4], %y: f32[2, 1]) { %0 = exp %x %1 = add %0 %y return %1 }",
            "shape differs",
        ),
        (
            "graph(%x: f32[3, 3]) { %0 = exp %x %1 = matmul %0 %x %2 = add %0 %1 return %2 }",
            "would make a cycle",
        ),
        (
            "graph(%x: f32[4], %w: f32[4] state) { %0 = exp %w %1 = add %0 %x return %1 }",
            "computed once, in the prologue",
        ),
        (
            "graph(%x: f32[4] on cuda, %s: f32[]) { %0 = add %x %s %1 = add %0 %s return %1 }",
            "operands on different devices",
        ),
        (
            "graph(%s: float) { %0 = add %s 1.0 %1 = mul %0 2.0 return %1 }",
            "a number, not a tensor",
        ),
        (
            "graph(%x: f32[4], %s: float) { %0 = pow %x %s return %0 }",
            "the exponent or the base of a power varies",
        ),
        (
            "graph(%x: f32[4], %n: int) { %0 = mul %x %n %1 = exp %0 return %1 }",
            "a number that varies is no float",
        ),
    ],
)
def test_declines_and_says_why(check: Check, text: str, reason: str) -> None:
    check.declines(fuse, text)
    assert reason in why_apart(parse(text)).values()


@pytest.mark.parametrize(
    ("op", "short", "long"),
    [
        ("softmax{dim=1} %x", 16, 384),
        ("log_softmax{dim=1} %x", 16, 384),
        ("layer_norm{normalized_shape=(N,)} %x", 64, 384),
        ("rms_norm{normalized_shape=(N,)} %x", 31, 32),
    ],
)
def test_one_operation_on_short_or_long_rows_is_a_kernel_on_the_cpu(
    op: str, short: int, long: int
) -> None:
    def found(size: int, device: str = "", layout: str = "f32[16, N]") -> bool:
        text = f"graph(%x: {layout}{device}) {{ %0 = {op} return %0 }}".replace("N", str(size))
        return any(isinstance(n.op, Fused) for n in fuse(parse(text)).nodes)

    assert found(2) and found(short) and found(long)
    assert not any(map(found, range(short + 1, long)))
    assert not any(found(short, layout=x) for x in ("f32[15, N]", "f32[16, N]{1, 16}"))
    assert found(short + 1, " on cuda:0")


def test_a_random_draw_is_no_part_of_a_group(check: Check) -> None:
    check.declines(
        fuse,
        """
        graph(%x: f32[4]) {
          %0 = exp %x
          %1 = aten_random{overload="aten.bernoulli.default", args=($0,)} %0
          effects %1
          return %1
        }
        """,
    )


def test_declines_float64_trigonometry_on_the_cpu(check: Check) -> None:
    check.declines(
        fuse,
        """
        graph(%x: f64[4]) {
          %0 = sin %x
          %1 = cos %0
          return %1
        }
        """,
    )


@pytest.mark.parametrize("name", ["remainder", "fmod", "floor_divide"])
@pytest.mark.parametrize(
    ("dtype", "size", "left"), [("f32", 8192, 1), ("f32", 64, 0), ("i64", 8192, 0)]
)
def test_remainders_of_many_floats_on_the_cpu_stay_torchs(
    name: str, dtype: str, size: int, left: int
) -> None:
    graph = parse(f"graph(%x: {dtype}[{size}]) {{ %0 = {name} %x 3 %1 = neg %0 return %1 }}")
    assert sum(node.op.name() == name for node in fuse(graph).nodes) == left


@pytest.mark.parametrize(
    ("inputs", "first"),
    [("%x: bf16[128, 128], %y: bf16[128, 128]", "add %x %y"),
     ("%x: f32[128, 128], %y: f32[128, 128]", "tanh %x")],
)  # fmt: skip
def test_what_could_be_a_kernel_alone_joins_others_first(inputs: str, first: str) -> None:
    dtype = "bf16" if "bf16" in inputs else "f32"
    graph = parse(f"""
        graph({inputs}, %z: {dtype}[128, 128], %w: {dtype}[128, 128]) {{
          %0 = exp %z
          %1 = neg %0
          %2 = mm %1 %w
          %3 = {first}
          %4 = add %2 %3
          return %4
        }}
        """)
    bodies = [
        [x.op.name() for x in n.op.body.nodes] for n in fuse(graph).nodes if isinstance(n.op, Fused)
    ]
    assert sorted(sorted(set(x) - {"input"}) for x in bodies) == [
        ["add"] if "bf16" in inputs else ["add", "tanh"],
        ["exp", "neg"],
    ]
