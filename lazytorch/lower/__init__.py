"""Graph to Program: kernels generated for fused groups, and the list of calls that runs."""
