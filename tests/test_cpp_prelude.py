"""The prelude's functions against torch's own kernels: values, special values, vector code."""

from __future__ import annotations

import ctypes
import dataclasses
import math
import re
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch

from lazytorch.lower.cpp import toolchain
from lazytorch.lower.cpp.prelude import prelude

if toolchain.find_compiler() is None:
    pytest.skip("needs a C++ compiler", allow_module_level=True)

CTYPE = {
    torch.float64: "double",
    torch.float32: "float",
    torch.bfloat16: "uint16_t",
    torch.float16: "uint16_t",
    torch.int64: "int64_t",
    torch.int32: "int32_t",
    torch.int16: "int16_t",
    torch.int8: "int8_t",
    torch.uint8: "uint8_t",
    torch.bool: "uint8_t",
}

POSITIVE = ["log", "log2", "log10", "sqrt", "rsqrt", "reciprocal"]
UNARY = [
    *("exp", "exp2", "expm1", "log1p", "sigmoid", "tanh", "erf", "erfc", *POSITIVE),
    *("sin", "cos", "tan", "asin", "acos", "atan", "sinh", "cosh", "asinh", "acosh", "atanh"),
    *("floor", "ceil", "trunc", "round", "abs", "sign", "frac", "relu"),
    *("isnan", "isinf", "isfinite", "signbit"),
]
EXACT_BINARY = ["maximum", "minimum", "fmod", "floor_divide", "remainder"]
FLOAT_BINARY = [*EXACT_BINARY, "pow", "atan2", "hypot"]
DIVISIONS = ["floor_divide", "remainder", "trunc_divide", "fmod"]
INTEGER_BINARY = [*DIVISIONS, "pow", "shift_left", "shift_right", "maximum", "minimum"]
FLOATS = [torch.float32, torch.float64]
INTEGERS = [torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8]
CASTS = [
    (torch.float32, torch.int64),
    (torch.float32, torch.uint8),
    (torch.float32, torch.int8),
    (torch.float64, torch.int32),
    (torch.int64, torch.float32),
    (torch.int64, torch.int8),
    (torch.uint8, torch.float32),
]
SPECIAL = [
    0.0,
    -0.0,
    math.inf,
    -math.inf,
    math.nan,
    1.0,
    -1.0,
    0.5,
    -2.5,
    1e-40,
    -1e-40,
    1e30,
    200.0,
]

Kernel = tuple[str, torch.dtype, torch.dtype, str]


def torch_function(name: str):
    names = {"round": torch.round, "erf": torch.erf, "erfc": torch.erfc}
    return names.get(name) or getattr(torch, name)


def kernels() -> list[Kernel]:
    """Name, operand dtype, result dtype and expression of every loop."""
    found: list[Kernel] = []
    for dtype in FLOATS:
        for name in UNARY:
            result = torch_function(name)(torch.zeros(1, dtype=dtype)).dtype
            found.append((f"{name}_{CTYPE[dtype]}", dtype, result, f"lt::{name}(x)"))
        for name in FLOAT_BINARY:
            found.append((f"{name}_{CTYPE[dtype]}", dtype, dtype, f"lt::{name}(x, y)"))
    for dtype in INTEGERS:
        for name in INTEGER_BINARY:
            found.append((f"{name}_{CTYPE[dtype]}", dtype, dtype, f"lt::{name}(x, y)"))
    for half, name in ((torch.bfloat16, "bf16"), (torch.float16, "f16")):
        found.append((f"from_{name}", half, torch.float32, f"lt::from_{name}(x)"))
        found.append((f"to_{name}", torch.float32, half, f"lt::to_{name}(x)"))
        tanh = f"lt::to_{name}(lt::tanh(lt::from_{name}(x)))"
        found.append((f"tanh_{name}", half, half, tanh))
    for a, b in CASTS:
        found.append((f"cast_{CTYPE[a]}_{CTYPE[b]}", a, b, f"lt::cast<{CTYPE[b]}>(x)"))
    found.append(("to_bool", torch.float32, torch.bool, "lt::to_bool(x)"))
    for name in ("exp_nonpositive", "one_plus_erf"):
        found.append((f"{name}_float", torch.float32, torch.float32, f"lt::{name}(x)"))
    return found


def source(kernels: list[Kernel]) -> str:
    """One function per kernel, on one line each after the prelude."""
    return "".join(
        f'\nextern "C" void k_{name}(int64_t n, const {CTYPE[a]}* __restrict p, '
        f"const {CTYPE[a]}* __restrict q, {CTYPE[b]}* __restrict r) {{ _Pragma("
        f'"omp simd") for (int64_t i = 0; i < n; i++) {{ {CTYPE[a]} x = p[i], y = q[i]; '
        f"(void)y; r[i] = {code}; }} }}"
        for name, a, b, code in kernels
    )


def targets() -> dict[str, tuple[str, ...]]:
    """Flags for the CPU's whole set of instructions, and for AVX2 where it is more than that."""
    compiler = toolchain.find_compiler()
    assert compiler is not None
    flags = {"native": compiler.flags}
    if torch.backends.cpu.get_cpu_capability() == "AVX512":
        flags["avx2"] = ("-march=haswell", "-fopenmp")
    return flags


@cache
def build(target: str) -> tuple[ctypes.CDLL, str]:
    """All kernels for a target, and what g++ reports of its vector code."""
    found = toolchain.find_compiler()
    assert found is not None
    with TemporaryDirectory() as folder:
        path, report = Path(folder) / "kernels.so", Path(folder) / "report"
        asked = (f"-fopt-info-vec-optimized={report}",) if reports(found) else ()
        compiler = dataclasses.replace(found, flags=targets()[target] + asked)
        # The polynomials must not need contraction; AVX2 stands for the builds without it.
        compiler.build(prelude() + source(kernels()), target == "native", path)
        return ctypes.CDLL(str(path)), report.read_text() if asked else ""


def reports(compiler: toolchain.Compiler) -> bool:
    """Whether the compiler is GCC, which says what it made vector code of."""
    return "Free Software Foundation" in compiler.version


@pytest.fixture(params=targets())
def library(request: pytest.FixtureRequest) -> ctypes.CDLL:
    return build(request.param)[0]


def run(library: ctypes.CDLL, name: str, result: torch.dtype, *xs: torch.Tensor) -> torch.Tensor:
    out = torch.empty(xs[0].shape, dtype=result)
    pointers = [ctypes.c_void_p(x.data_ptr()) for x in (xs[0], xs[-1], out)]
    getattr(library, f"k_{name}")(ctypes.c_int64(out.numel()), *pointers)
    return out


def assert_same(ours: torch.Tensor, eager: torch.Tensor, **tolerance: float) -> None:
    torch.testing.assert_close(ours, eager, equal_nan=True, **tolerance)
    if ours.is_floating_point():
        known = ~eager.isnan()
        assert torch.equal(ours.signbit()[known], eager.signbit()[known])


def samples(name: str, dtype: torch.dtype) -> torch.Tensor:
    """Numbers of every magnitude that matters to a function, most of them around 1."""
    g = torch.Generator().manual_seed(0)
    near = torch.empty(4000, dtype=torch.float64).uniform_(-3, 3, generator=g)
    far = torch.empty(4000, dtype=torch.float64).uniform_(-80, 80, generator=g)
    small = torch.empty(4000, dtype=torch.float64).uniform_(-30, 3, generator=g).exp2()
    x = torch.cat([near, far, small, -small])
    if name in POSITIVE or name == "acosh":
        x = torch.cat([x.abs(), far.exp2()]) + (name == "acosh")
    if name in ("asin", "acos", "atanh"):
        x = x[x.abs() < 1]
    return (x[x > -1] if name == "log1p" else x).to(dtype)


def rms_ulps(x: torch.Tensor, exact: torch.Tensor) -> float:
    """Root mean square error in units in the last place of float32."""
    unit = torch.exp2(torch.frexp(exact.abs().clamp_min(2**-126)).exponent.double() - 24)
    return ((x.double() - exact) / unit).square().mean().sqrt().item()


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("name", UNARY)
def test_special_values_are_torchs(library: ctypes.CDLL, name: str, dtype: torch.dtype) -> None:
    x = torch.tensor(SPECIAL * 3, dtype=dtype)  # long enough for vector code and its rest
    eager = torch_function(name)(x)
    ours = run(library, f"{name}_{CTYPE[dtype]}", eager.dtype, x)
    if name in ("sin", "cos", "tan"):
        x, eager, ours = (y[x.abs() != torch.tensor(1e30, dtype=dtype)] for y in (x, eager, ours))
    assert_same(ours, eager, rtol=2e-6 if dtype is torch.float32 else 4e-15, atol=1e-37)


@pytest.mark.parametrize("name", UNARY)
def test_float32_error_is_at_most_twice_torchs(library: ctypes.CDLL, name: str) -> None:
    x = samples(name, torch.float32)
    exact = torch_function(name)(x.double())
    if exact.dtype is torch.bool:
        return
    eager = rms_ulps(torch_function(name)(x), exact)
    ours = rms_ulps(run(library, f"{name}_float", torch.float32, x), exact)
    assert ours <= 2 * eager + 1e-3


def test_the_exponential_of_what_is_not_positive_is_the_other_ones(library: ctypes.CDLL) -> None:
    every = torch.arange(-(2**31), 2**31, 20011).to(torch.int32).view(torch.float32)
    odd = torch.tensor([0.0, -0.0, -math.inf, math.nan, -103.9, -87.4, -104.1])  # and payloads:
    odd = torch.cat([odd, torch.tensor([0x7FC00081, -0x3FFEFF]).to(torch.int32).view(odd.dtype)])
    x = torch.cat([every[~(every > 0)], odd.repeat(3), torch.linspace(-110, 0, 40001)])
    ours, other = (
        run(library, f"{name}_float", torch.float32, x) for name in ("exp_nonpositive", "exp")
    )
    assert_same(ours, other, rtol=0.0, atol=0.0)


def test_one_plus_erf_is_closer_than_the_sum(library: ctypes.CDLL) -> None:
    x = torch.cat([torch.linspace(-7, 7, 100001), torch.tensor([-0.0, 4.0, -4.0, 1e-30])])
    exact = x.double().erf() + 1
    ours = run(library, "one_plus_erf_float", torch.float32, x).double()
    apart, eagers = (ours - exact).abs(), ((x.erf() + 1).double() - exact).abs()
    assert apart.max() < 1.3e-7 and apart.square().mean() < 0.9 * eagers.square().mean()
    odd = torch.tensor([math.inf, -math.inf, math.nan, 9.0, -9.0] * 7)
    assert_same(run(library, "one_plus_erf_float", torch.float32, odd), odd.erf() + 1)


@pytest.mark.parametrize("name", UNARY)
def test_float64_agrees_to_four_units(library: ctypes.CDLL, name: str) -> None:
    x = samples(name, torch.float64)
    eager = torch_function(name)(x)
    ours = run(library, f"{name}_double", eager.dtype, x)
    assert_same(ours, eager, rtol=1e-15, atol=1e-18 if name == "log1p" else 0.0)


@pytest.mark.parametrize("name", FLOAT_BINARY)
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_two_floats(library: ctypes.CDLL, name: str, dtype: torch.dtype) -> None:
    values = torch.cat([torch.tensor(SPECIAL, dtype=dtype), samples("", dtype)[::100]])
    x, y = (v.contiguous().flatten() for v in torch.meshgrid(values, values, indexing="ij"))
    if name in ("fmod", "remainder"):  # torch's vector code is wrong for quotients above 2^126
        keep = ~((x / y).abs() > 2.0**120)
        x, y = x[keep], y[keep]
    eager = torch_function(name)(x, y)
    ours = run(library, f"{name}_{CTYPE[dtype]}", dtype, x, y)
    if name in ("maximum", "minimum"):  # which zero wins is left open by both
        ours, eager = ours + 0.0, eager + 0.0
    close = {"rtol": 2e-6 if dtype is torch.float32 else 4e-15, "atol": 1e-37}
    exact = name in EXACT_BINARY
    assert_same(ours, eager, **({"rtol": 0.0, "atol": 0.0} if exact else close))


def pairs(dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """All pairs of 8-bit numbers; of wider ones, pairs with the extremes among them."""
    info = torch.iinfo(dtype)
    values = torch.arange(max(info.min, -128), min(info.max, 127) + 1).to(dtype)
    if info.bits > 8:
        extremes = torch.tensor([info.min, info.min + 1, info.max, info.max - 1], dtype=dtype)
        values = torch.cat([values[::3], extremes])
    x, y = torch.meshgrid(values, values, indexing="ij")
    return x.contiguous().flatten(), y.contiguous().flatten()


@pytest.mark.parametrize("name", INTEGER_BINARY)
@pytest.mark.parametrize("dtype", INTEGERS, ids=str)
def test_two_integers(library: ctypes.CDLL, name: str, dtype: torch.dtype) -> None:
    x, y = pairs(dtype)
    if name in DIVISIONS:
        # torch itself traps on the smallest number divided by -1
        keep = (y != 0) & ~((x == torch.iinfo(dtype).min) & (y == -1))
        x, y = x[keep], y[keep]
    if name == "pow":
        keep = y.long().abs() < 64
        x, y = x[keep], y[keep]
    eager = {
        "trunc_divide": lambda: torch.div(x, y, rounding_mode="trunc"),
        "shift_left": lambda: torch.bitwise_left_shift(x, y),
        "shift_right": lambda: torch.bitwise_right_shift(x, y),
    }.get(name, lambda: torch_function(name)(x, y))()
    assert torch.equal(run(library, f"{name}_{CTYPE[dtype]}", dtype, x, y), eager)


@pytest.mark.parametrize("name", DIVISIONS)
def test_smallest_integer_divided_by_minus_one_wraps(library: ctypes.CDLL, name: str) -> None:
    x = torch.full((40,), torch.iinfo(torch.int64).min)
    ours = run(library, f"{name}_int64_t", torch.int64, x, torch.full_like(x, -1))
    assert torch.equal(ours, x if "divide" in name else torch.zeros_like(x))


@pytest.mark.parametrize("half, name", [(torch.bfloat16, "bf16"), (torch.float16, "f16")])
def test_every_16_bit_float_widens_exactly(
    library: ctypes.CDLL, half: torch.dtype, name: str
) -> None:
    x = torch.arange(-(2**15), 2**15).to(torch.int16).view(half)
    assert_same(run(library, f"from_{name}", torch.float32, x), x.float(), rtol=0.0, atol=0.0)


@pytest.mark.parametrize("half, name", [(torch.bfloat16, "bf16"), (torch.float16, "f16")])
def test_float32_rounds_to_16_bits_as_torch_rounds(
    library: ctypes.CDLL, half: torch.dtype, name: str
) -> None:
    g = torch.Generator().manual_seed(1)
    every = torch.randint(-(2**31), 2**31, (200000,), generator=g).to(torch.int32)
    tie = torch.arange(-(2**15), 2**15).to(torch.int16).view(half).float().view(torch.int32)
    x = torch.cat([every, *(tie + d for d in (-1, 0, 1, 0xFFF, 0x1000, 0x1001, 0x7FFF, 0x8000))])
    x = x.view(torch.float32)
    assert_same(run(library, f"to_{name}", half, x), x.to(half), rtol=0.0, atol=0.0)


@pytest.mark.parametrize("half, name", [(torch.bfloat16, "bf16"), (torch.float16, "f16")])
def test_float16_subnormals_survive_flushing(
    library: ctypes.CDLL, half: torch.dtype, name: str
) -> None:
    x = torch.arange(1, 1024).to(torch.int16).view(torch.float16).float()
    expected = x.to(half)
    torch.set_flush_denormal(True)
    try:
        ours = run(library, f"to_{name}", half, x)
        back = run(library, f"from_{name}", torch.float32, ours)
    finally:
        torch.set_flush_denormal(False)
    assert torch.equal(ours, expected) and torch.equal(back, expected.float())


@pytest.mark.parametrize("a, b", CASTS, ids=str)
def test_casts(library: ctypes.CDLL, a: torch.dtype, b: torch.dtype) -> None:
    low = 0 if torch.uint8 in (a, b) else -120
    x = torch.linspace(low, 120, 999, dtype=torch.float64).to(a)
    assert torch.equal(run(library, f"cast_{CTYPE[a]}_{CTYPE[b]}", b, x), x.to(b))


def test_everything_but_zero_is_true(library: ctypes.CDLL) -> None:
    x = torch.tensor(SPECIAL * 3)
    assert torch.equal(run(library, "to_bool", torch.bool, x), x.bool())


def test_results_do_not_depend_on_the_position(library: ctypes.CDLL) -> None:
    x = samples("", torch.float32)[:37]
    for name in ["exp", "exp2", "expm1", "log1p", "sigmoid", "tanh", "erf"]:
        whole = run(library, f"{name}_float", torch.float32, x)
        alone = [run(library, f"{name}_float", torch.float32, v[None]) for v in x]
        assert_same(whole, torch.cat(alone), rtol=0.0, atol=0.0)


def is_scalar(name: str) -> bool:
    """Whether a loop has no vector form: integer division and powers, and the exact fmod."""
    return name.startswith(tuple(DIVISIONS)) or (name.startswith("pow") and "int" in name)


@pytest.mark.parametrize("target", targets())
def test_loops_become_vector_code(target: str) -> None:
    found = toolchain.find_compiler()
    assert found is not None
    if not reports(found):
        pytest.skip("reads GCC's report")
    report = build(target)[1]
    lines = {int(x) for x in re.findall(r":(\d+):\d+: optimized: loop vectorized", report)}
    first = prelude().count("\n") + 2
    scalar = {name for i, (name, *_) in enumerate(kernels()) if first + i not in lines}
    expected = {name for name, *_ in kernels() if is_scalar(name)}
    if target == "avx2":  # which has no conversion between these
        expected |= {"cast_float_int64_t", "cast_int64_t_float"}
    assert scalar <= expected
