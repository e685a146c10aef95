"""A private adb server and loopback phones on it: real adb, real programs, real files, and faults where asked for."""

import contextlib
from collections.abc import Callable, Iterator

import pytest
from loopback import AdbServer, LoopbackDevice
from loopback_phones import phone_of

from hexport.devices.link.adb import Phone


@pytest.fixture(scope="session")
def adb_server(tmp_path_factory) -> Iterator[AdbServer]:
    with AdbServer(tmp_path_factory.mktemp("adb")) as server:
        yield server


@pytest.fixture(scope="session")
def session_device(tmp_path_factory) -> Iterator[LoopbackDevice]:
    with LoopbackDevice(tmp_path_factory.mktemp("phone")) as device:
        yield device


@pytest.fixture
def device(session_device) -> Iterator[LoopbackDevice]:
    """One loopback phone for all tests, without faults and without what other tests left in its journal."""
    session_device.control({"op": "clear"})
    open(session_device.journal, "w").close()
    yield session_device
    session_device.control({"op": "clear"})


@pytest.fixture
def phone(device, adb_server) -> Phone:
    """The loopback phone, online, as hexport sees it."""
    phone = phone_of(device, adb_server)
    phone.check_online(15)
    return phone


@pytest.fixture
def new_device(tmp_path_factory) -> Iterator[Callable[..., LoopbackDevice]]:
    """Start further loopback phones, with arguments of their own."""
    with contextlib.ExitStack() as stack:
        yield lambda *args: stack.enter_context(LoopbackDevice(tmp_path_factory.mktemp("phone"), args=args))
