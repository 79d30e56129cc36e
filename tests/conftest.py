"""Options that tests share: `pytest --accept` rewrites golden texts in place."""

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--accept",
        action="store_true",
        help="rewrite the golden text of tests that differ, in the test files (without -n)",
    )


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--accept") and config.getoption("numprocesses", None):
        raise pytest.UsageError("--accept rewrites files, which several processes may not: drop -n")
