"""All devices of the home that have a room, or of which there is one."""

from __future__ import annotations

from dataclasses import replace

from .actions import Device
from .appliances import APPLIANCES
from .comfort import COMFORT
from .words import ROOMS

DEVICES: dict[str, Device] = {
    device.key: replace(device, rooms=[room for room in device.rooms if room in ROOMS])
    for device in (*COMFORT, *APPLIANCES)
}
