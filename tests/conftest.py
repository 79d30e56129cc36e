"""Options that tests share: `pytest --accept` rewrites golden texts in place.

Without a GPU, Triton kernels run in Triton's interpreter, which must be known before anything
imports triton. Every test draws its numbers from generators that begin anew, so that it finds the
same ones alone and in whatever order tests run.
"""

import os
import random
from collections.abc import Iterator

import numpy as np
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


@pytest.fixture(autouse=True)
def seeds() -> None:
    torch.manual_seed(0)
    np.random.seed(0)
    random.seed(0)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """For tests whose tensors are tiny."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
