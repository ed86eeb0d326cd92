"""All devices of the home that have a room, or of which there is one."""

from __future__ import annotations

from dataclasses import replace

from .actions import Device
from .appliances import APPLIANCES
from .comfort import COMFORT
from .words import ROOMS

_ALL = {device.key: device for device in (*COMFORT, *APPLIANCES)}
_KEPT = ("light", "heating", "blinds", "fan", "speaker")
DEVICES: dict[str, Device] = {
    key: replace(_ALL[key], rooms=[room for room in _ALL[key].rooms if room in ROOMS]) for key in _KEPT
}
