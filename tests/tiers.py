"""The two tiers of tests: `make test` leaves out those marked `long`, `make test-all` runs them too."""

import pytest


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "long(reason): left out of `make test`; `make test-long` runs it")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        for mark in item.iter_markers("long"):
            if [type(argument) for argument in mark.args] != [str] or not mark.args[0].strip() or mark.kwargs:
                raise pytest.UsageError(f"{item.nodeid}: long takes one argument, the reason")
