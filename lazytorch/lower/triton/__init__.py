"""The CUDA target: Triton kernels generated for fused groups; triton is imported at need."""

from lazytorch.lower.triton.kernel import TritonTarget

__all__ = ["TritonTarget"]
