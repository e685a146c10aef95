"""A phone over a real adb server: state, commands, processes to talk to, files; and what it says when it cannot."""

import hashlib
import os
import re
import socket
import time
from importlib import metadata

import pytest
from adbutils import AdbConnection, AdbError
from loopback_phones import phone_of, running, wait_for

from hexport.config.devices import Device
from hexport.devices.link import adb_server as server_module
from hexport.devices.link import shell_stream
from hexport.devices.link.adb import Phone
from hexport.devices.link.faults import PassingFault, PhoneFault
from hexport.errors import HexportError


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def test_a_command_gives_its_output_its_errors_and_its_exit_code(phone):
    output = phone.shell("printf 'a\\000\\377'; echo wrong >&2; exit 7", 10)
    assert (output.code, output.stdout, output.stderr) == (7, b"a\0\xff", b"wrong\n")
    assert phone.shell("no_such_program", 10).code == 127
    assert phone.shell("true # a comment", 10).code == 0
    assert phone.shell("echo 'unbalanced", 10).code != 0


def test_much_binary_output_arrives_whole(phone):
    output = phone.shell("head -c 3000000 /dev/urandom | tee /data/local/tmp/much | cat", 10)
    digest = phone.shell("sha256sum </data/local/tmp/much; rm /data/local/tmp/much", 10).text().split()[0]
    assert len(output.stdout) == 3_000_000 and hashlib.sha256(output.stdout).hexdigest() == digest


def test_a_process_is_talked_to(phone):
    with phone.open("read -r line; echo got $line; head -c 3; echo; cat; exit 3", 10) as process:
        lines = process.lines()
        process.write(b"one\n")
        assert next(lines) == b"got one"
        process.write(b"xyz")
        assert process.read(4) == b"xyz\n"
        process.write(b"rest")
        output = process.output()
    assert (output.code, output.stdout) == (3, b"rest")


def test_lines_end_with_the_process_and_its_last_one_needs_no_line_end(phone):
    with phone.open("printf 'a\\nb'", 10) as process:
        assert list(process.lines()) == [b"a", b"b"]
        assert process.read(5) == b""
        assert process.output().code == 0


def test_input_to_a_process_that_has_ended_is_no_fault_of_the_link(phone):
    with phone.open("echo last words; exit 4", 10) as process:
        for _ in range(200):
            process.write(b"x" * 10_000)
        output = process.output()
    assert (output.code, output.stdout) == (4, b"last words\n")


def test_a_process_that_nobody_waits_for_is_killed(phone):
    with phone.open("sleep 1234.5", 30):
        wait_for(lambda: running("sleep 1234.5"))
    wait_for(lambda: not running("sleep 1234.5"))


def test_what_a_command_leaves_in_the_background_ends_with_it(phone):
    assert phone.shell("sleep 1234.25 & echo started", 10).stdout == b"started\n"
    wait_for(lambda: not running("sleep 1234.25"))


@pytest.mark.parametrize(
    ("signal", "fault", "says"),
    [("SEGV", PhoneFault, "crashed with SIGSEGV"), ("KILL", PhoneFault, "killed by SIGKILL.*memory")],
)
def test_a_signal_ends_a_process_with_a_line_that_names_it(phone, signal, fault, says):
    says = rf"phone s24 \(.*\): runner: {says}"
    with (
        phone.open(f"echo loading model >&2; kill -{signal} $$", 10, name="runner") as process,
        pytest.raises(HexportError, match=says) as caught,
    ):
        process.output()
    assert type(caught.value) is fault and "loading model" in str(caught.value)


def test_a_command_has_a_total_deadline_however_much_it_says(phone):
    start = time.monotonic()
    with pytest.raises(PhoneFault, match=r"did not end within 1 s, last it said: 1234\.75"):
        phone.shell("while true; do echo 1234.75; sleep 0.075; done", 1)
    assert time.monotonic() - start < 3
    wait_for(lambda: not running("1234.75"))


def test_a_process_that_prints_without_end_fills_no_memory(phone, monkeypatch):
    monkeypatch.setattr(shell_stream, "LIMIT", 4_000_000)
    with pytest.raises(PhoneFault, match="prints garbage without end"):
        phone.shell("yes 1234.125", 30)
    wait_for(lambda: not running("yes 1234.125"))


def test_files_come_and_go(phone, tmp_path):
    content = os.urandom(2_000_003)
    (tmp_path / "there").write_bytes(content)
    phone.push(tmp_path / "there", "/data/local/tmp/file", 10, mode=0o755)
    phone.push(b"bytes", "/data/local/tmp/bytes", 10)
    assert phone.shell("cd /data/local/tmp; [ -x file ] && [ ! -x bytes ] && cat bytes", 10).stdout == b"bytes"
    phone.pull("/data/local/tmp/file", tmp_path / "back", len(content), 10)
    assert (tmp_path / "back").read_bytes() == content
    phone.shell("cd /data/local/tmp; rm file bytes", 10)


def test_a_refused_file_is_a_fault_with_the_phones_own_words(phone, tmp_path):
    refused = [
        (lambda: phone.push(b"x", "/proc/none/file", 10), "No such file or directory"),
        (lambda: phone.pull("/data/local/tmp/none", tmp_path / "none", 1, 10), "No such file or directory"),
    ]
    for attempt, words in refused:
        with pytest.raises(PhoneFault, match=f"the phone refuses: .*{words}") as caught:
            attempt()
        assert not isinstance(caught.value, PassingFault)


def test_a_missing_file_of_this_host_is_no_fault_of_the_phone(phone, tmp_path):
    with pytest.raises(FileNotFoundError):
        phone.push(tmp_path / "none", "/data/local/tmp/none", 10)


@pytest.mark.parametrize("command", ["echo 'a\0b'", "echo " + "x" * 70_000, "echo '\udcff'"])
def test_a_command_that_adb_cannot_carry_is_refused(phone, command):
    with pytest.raises(HexportError, match=r"put it into a file|rename"):
        phone.shell(command, 10)


def test_a_phone_is_missing_until_its_server_connects_to_it(new_device, adb_server):
    phone = phone_of(new_device(), adb_server)
    assert phone.state() == "missing"
    phone.check_online()
    assert phone.state() == "device"


def test_a_phone_that_is_not_there(adb_server):
    usb = Phone("s24", "R5CT000", "127.0.0.1", adb_server.port)
    for phone in (usb, Phone("s24", f"127.0.0.1:{free_port()}", "127.0.0.1", adb_server.port)):
        with pytest.raises(PassingFault, match=rf"phone s24 \({re.escape(phone.serial)}\): missing; check the cable"):
            phone.check_online(0.1)
        with pytest.raises(PassingFault, match="missing; check the cable"):
            phone.shell("true", 5)


def test_a_phone_that_comes_back_is_waited_for(device, phone):
    device.control({"op": "vanish", "secs": 1.5})
    wait_for(lambda: phone.state() != "device")
    phone.check_online(15)
    assert phone.shell("echo back", 5).stdout == b"back\n"


def test_an_offline_phone(new_device, adb_server):
    offline = new_device()
    phone = phone_of(offline, adb_server)
    phone.check_online(5)
    offline.control({"op": "mode", "mode": "offline"})
    wait_for(lambda: phone.state() != "device")
    with pytest.raises(PassingFault, match=r"(offline; unplug and plug in)|(missing; check the cable)"):
        phone.check_online(0.2)


def test_an_unauthorised_phone_is_not_waited_for(new_device, adb_server):
    phone = phone_of(new_device("--mode", "unauthorized"), adb_server)
    start = time.monotonic()
    with pytest.raises(PhoneFault, match="unauthorized; unlock the phone and tap Allow") as caught:
        phone.check_online(30)
    assert not isinstance(caught.value, PassingFault) and time.monotonic() - start < 15
    with pytest.raises(PhoneFault, match="unauthorized"):
        phone.push(b"x", "/data/local/tmp/x", 5)


def test_a_phone_without_exit_codes_is_refused(new_device, adb_server):
    phone = phone_of(new_device("--features", ""), adb_server)
    phone.check_online(5)
    with pytest.raises(PhoneFault, match="tells no exit codes"):
        phone.shell("true", 5)


def test_a_server_of_another_host_is_never_started():
    port = free_port()
    phone = Phone("s24", "R5CT000", "127.0.0.2", port)  # a host of its own, as far as adb knows
    with pytest.raises(PassingFault, match=rf"adb server 127.0.0.2:{port}: does not answer; start it there"):
        phone.check_online()
    with socket.socket() as attempt:
        assert attempt.connect_ex(("127.0.0.1", port)) != 0


def test_a_server_that_hangs_is_given_up():
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        phone = Phone("s24", "R5CT000", *deaf.getsockname())
        with pytest.raises(PassingFault, match="took too long"):
            phone.shell("true", 0.5)


def test_adbutils_is_the_version_that_our_connection_was_tried_with():
    """Ours inherits what sends and understands; it was seen that all of that goes through `conn` and the reading
    methods, in the version named here. With another one, run tests/devices, and name it."""
    assert metadata.version("adbutils") == "2.12.0"
    private = [name for name in vars(server_module.Connection) if name in vars(AdbConnection) and name.startswith("_")]
    assert set(private) <= {"__init__", "__module__", "__doc__", "__dict__", "__weakref__"}
    with socket.create_server(("127.0.0.1", 0)) as listener:
        connection = server_module.Connection(*listener.getsockname(), lambda: 5.0)
        with listener.accept()[0] as server:
            server.sendall(b"OKAY0004002900000000FAIL0005abc\0\n")
            connection.check_okay()
            assert connection.read_string_block() == "0029"
            assert (connection.read_exact(4), connection.read_uint32()) == (b"0000", 0x30303030)
            with pytest.raises(AdbError, match="abc"):
                connection.check_okay()
            connection.send_command("host:version")
            assert server.recv(100) == b"000chost:version"
        assert connection.read(1) == b""
        with pytest.raises(EOFError):
            connection.read_exact(1)
        connection.close()
        assert connection.closed
        with pytest.raises(AdbError):
            connection.send_command("host:version")


def test_the_server_is_the_configured_one_or_the_one_that_adb_uses(monkeypatch):
    remote = Device(name="s24", kind="adb", soc="SM8650", serial="R5C", adb_server={"host": "lab", "port": 6000})
    assert Phone.of(remote) == Phone("s24", "R5C", "lab", 6000)
    monkeypatch.delenv("ANDROID_ADB_SERVER_PORT", raising=False)
    local = Device(name="s24", kind="adb", soc="SM8650", serial="R5C")
    assert Phone.of(local) == Phone("s24", "R5C", "127.0.0.1", 5037)
    monkeypatch.setenv("ANDROID_ADB_SERVER_PORT", "6001")
    assert Phone.of(local).port == 6001
