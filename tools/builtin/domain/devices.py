"""All devices of the home that have a room, or of which there is one."""

from __future__ import annotations

from .actions import Device
from .appliances import APPLIANCES
from .comfort import COMFORT

DEVICES: dict[str, Device] = {device.key: device for device in (*COMFORT, *APPLIANCES)}
