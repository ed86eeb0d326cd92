"""A pytest plugin: an emulated machine is some 20 times slower: longer limits of seconds, none for hypothesis. With
EMULATED_PART=2/3 every third test alone, from the second on."""

import os

import pytest
from hypothesis import HealthCheck, settings

os.environ["LORA_EDGE_TEST_PATIENCE"] = "20"
settings.register_profile("emulated", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("emulated")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    part, parts = map(int, os.environ.get("EMULATED_PART", "1/1").split("/"))
    items[:] = items[part - 1 :: parts]
