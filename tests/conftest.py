"""Shared by all tests: a cache of their own, and what happens to tests whose data are not there."""

import os

import pytest

from prunebench import make_problem
from prunebench.core.problem import DATA_VARIABLE

REQUIRE_VARIABLE = "PRUNEBENCH_REQUIRE_DATA"


def pytest_configure(config):
    config.addinivalue_line(
        "markers",
        f"needs_data(problem, ...): uses these problems' data under ${DATA_VARIABLE}; "
        f"skipped without, failed if {REQUIRE_VARIABLE}=1",
    )


def pytest_runtest_setup(item):
    for marker in item.iter_markers("needs_data"):
        reason = _absent(marker.args)
        if reason and os.environ.get(REQUIRE_VARIABLE) == "1":
            pytest.fail(f"{REQUIRE_VARIABLE} is 1 but {reason}", pytrace=False)
        if reason:
            pytest.skip(reason)


def _absent(problems):
    if not os.environ.get(DATA_VARIABLE):
        return f"{DATA_VARIABLE} is not set"
    return "; ".join(text for text in (make_problem(name).missing() for name in problems) if text)


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory):
    """No test reads or writes the user's cache; trained networks are shared within one session."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield
