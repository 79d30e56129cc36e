"""Options that tests share: `pytest --accept` rewrites golden texts in place.

Without a GPU, Triton kernels run in Triton's interpreter, which must be known before anything
imports triton.
"""

import os
from collections.abc import Iterator

import pytest
import torch

os.environ.setdefault("TRITON_INTERPRET", "0" if torch.cuda.is_available() else "1")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--accept",
        action="store_true",
        help="rewrite the golden text of tests that differ, in the test files (without -n)",
    )


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--accept") and config.getoption("numprocesses", None):
        raise pytest.UsageError("--accept rewrites files, which several processes may not: drop -n")


@pytest.fixture
def one_thread() -> Iterator[None]:
    """For tests whose tensors are tiny."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
