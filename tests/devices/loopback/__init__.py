"""Adb devices that live on this Linux host, for tests.

A real adb server and adbutils talk to them over TCP. What is pushed lands in a folder; the shell's commands really run,
in a file system of the device's own. Faults come on demand: see `loopback.faults`.
"""

from loopback.phone import LoopbackDevice
from loopback.server import AdbServer

__all__ = ["AdbServer", "LoopbackDevice"]
