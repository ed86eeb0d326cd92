"""A pytest plugin: under emulation clocks mean nothing, so hypothesis judges no test by them."""

from hypothesis import HealthCheck, settings

settings.register_profile("emulated", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("emulated")
