"""The `check` fixture of golden tests."""

import pytest
from check import Check


@pytest.fixture
def check(request: pytest.FixtureRequest) -> Check:
    return Check(accept=request.config.getoption("--accept"))
