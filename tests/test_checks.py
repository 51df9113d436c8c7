"""What holds for the checks of every chapter."""

import importlib
import pkgutil

import pytest

from course_utils import checks

CHECKS = [
    getattr(module, name)
    for module in (
        importlib.import_module(f"course_utils.checks.{found.name}")
        for found in pkgutil.iter_modules(checks.__path__)
    )
    for name in getattr(module, "__all__", dir(module))
    if name.startswith("check_")
]


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_a_stub_is_not_attempted_yet(check):
    def not_attempted(*_):
        raise NotImplementedError

    assert check(not_attempted).passed is None
