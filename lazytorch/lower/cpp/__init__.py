"""The CPU target: C++ generated for fused groups, with OpenMP and SIMD."""

from lazytorch.lower.cpp.kernel import CppTarget

__all__ = ["CppTarget"]
