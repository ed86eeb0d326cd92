"""A pytest plugin: an emulated machine is some 20 times slower: longer limits of seconds, none for hypothesis."""

import os

from hypothesis import HealthCheck, settings

os.environ["LORA_EDGE_TEST_PATIENCE"] = "20"
settings.register_profile("emulated", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("emulated")
