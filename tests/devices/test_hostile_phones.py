"""A phone, or who speaks for it, says what no phone should: it ends in one line and in time, and fills no memory."""

import contextlib
import hashlib
import json
import socket
import struct
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from hexport.config.devices import Device
from hexport.devices.link import adb
from hexport.devices.link.adb import Phone
from hexport.devices.link.adb_server import Client
from hexport.devices.link.faults import PassingFault, PhoneFault
from hexport.devices.link.shell_stream import STDOUT, Stream
from hexport.devices.phones.facts import read_facts, temperature
from hexport.devices.phones.job import FOLDER, RUNS, job_folder
from hexport.devices.runners.hexport_runner import RemoteGenerator, RemoteReader
from hexport.devices.runners.phone_process import PhoneProcess
from hexport.errors import HexportError
from hexport.progress import Progress
from hexport.runtime.graph import GraphSizes

DIGITS = "9" * 5000  # Python makes no number of more than 4,300
DEEP = "[" * 100_000


def one_line(raised) -> str:
    assert isinstance(raised.value, PhoneFault)
    line = str(raised.value)
    assert "\n" not in line and line.isprintable() and len(line) < 500
    return line


# An adb server that is none: what it is asked for first, and then what it says.


@contextlib.contextmanager
def server(says: Callable[[socket.socket], None]) -> Iterator[Phone]:
    """The phone R5C of an adb server that answers each connection as told, until the test is over."""

    def serve() -> None:
        while not over.is_set():
            threading.Thread(target=answer, args=[listener.accept()[0]], daemon=True).start()

    def answer(connection: socket.socket) -> None:
        with contextlib.suppress(OSError), connection:
            says(connection)

    over = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield Phone("s24", "R5C", *listener.getsockname())
        over.set()
        socket.create_connection(listener.getsockname()).close()
        thread.join(5)


def trickle(connection: socket.socket) -> None:
    """Never silent for long, and never done."""
    if connection.recv(100):
        connection.sendall(b"OKAYffff")
        while True:
            connection.sendall(b"x")
            time.sleep(0.05)


def sync_server(answer: Callable[[socket.socket], None]) -> Callable[[socket.socket], None]:
    """Has the phone, and answers what a file is asked for with."""

    def says(connection: socket.socket) -> None:
        while request := connection.recv(1000):
            if request.endswith(b"host:version"):
                connection.sendall(b"OKAY00040029")
            elif b"host:tport" in request:
                connection.sendall(b"OKAY" + bytes(8))
            elif b"RECV" in request:
                answer(connection)
                return
            else:
                connection.sendall(b"OKAY")

    return says


def test_a_server_that_answers_for_ever_has_a_total_deadline(monkeypatch):
    monkeypatch.setattr(adb, "STATE_S", 0.5)
    with server(trickle) as phone:
        start = time.monotonic()
        with pytest.raises(PassingFault, match="no adb server answers there") as raised:
            phone.state()
        assert time.monotonic() - start < 5
        one_line(raised)


def huge_piece(connection: socket.socket) -> None:
    connection.sendall(b"DATA" + struct.pack("<I", 0xFFFFFFF0))
    while True:
        connection.sendall(bytes(1 << 16))


def endless_file(connection: socket.socket) -> None:
    while True:
        connection.sendall(b"DATA" + struct.pack("<I", 1 << 16) + bytes(1 << 16))


def slow_file(connection: socket.socket) -> None:
    while True:
        connection.sendall(b"DATA" + struct.pack("<I", 1) + b"x")
        time.sleep(0.02)


@pytest.mark.parametrize(
    ("answer", "line"),
    [
        (huge_piece, r"the link broke while pulling result \(an answer of 4294967280 bytes\)"),
        (endless_file, "'result' has more than its 100000 bytes"),
        (slow_file, "pulling result took too long"),
    ],
)
def test_a_file_without_end_fills_neither_memory_nor_disk(tmp_path, answer, line):
    with server(sync_server(answer)) as phone:
        start = time.monotonic()
        with pytest.raises(PhoneFault, match=line) as raised:
            phone.pull("/data/local/tmp/result", tmp_path / "result", 100_000, 2)
        assert time.monotonic() - start < 5
        one_line(raised)
    assert (tmp_path / "result").stat().st_size <= 100_000


def test_a_guard_that_talks_without_end_is_not_listened_to():
    ours, theirs = socket.socketpair()
    with ours, theirs, contextlib.closing(Client("127.0.0.1", 1, 60)) as client:

        def talk() -> None:
            with contextlib.suppress(OSError):
                while True:
                    theirs.sendall(struct.pack("<BI", STDOUT, 0) * 1000)

        threading.Thread(target=talk, daemon=True).start()
        guard = Stream(client, SimpleNamespace(conn=ours), "marker", "phone s24 (R5C): job folder", 60, "")
        start = time.monotonic()
        for _ in range(3):
            guard.check_runs()
        assert time.monotonic() - start < 10


# Programs of a phone that print what they should not.


@pytest.fixture
def program(device) -> Iterator[Callable[[str, str], None]]:
    """`program(name, script)` takes the place of a program of the phone, up to the end of the test."""
    replaced: dict[Path, bytes | None] = {}

    def make(name: str, script: str) -> None:
        path = Path(device.host_path(f"/system/bin/{name}"))
        replaced.setdefault(path, path.read_bytes() if path.exists() else None)
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    yield make
    for path, content in replaced.items():
        path.unlink() if content is None else path.write_bytes(content)


SIZES = {
    "no number": "abc",
    "nothing": "",
    "other digits": "٣",
    "too many digits": DIGITS,
    "negative": "-1",
    "two lines": "1\\n2",
}


def test_a_size_that_is_none_is_told(phone, program, tmp_path):
    with job_folder(phone, {}, 1.0, Progress()) as folder:
        folder.write("result", b"a result")
        for size in SIZES.values():
            program("stat", f"printf '%b\\n' '{size}'")
            with pytest.raises(PhoneFault, match="its stat does not tell the size of 'result'") as raised:
                folder.fetch("result", tmp_path / "result")
            one_line(raised)
        program("stat", f"echo {10**14}")
        with pytest.raises(PhoneFault, match=f"'result' has {10**14} bytes, expected are 1000 at most"):
            folder.fetch("result", tmp_path / "result", 1000)
    assert list(tmp_path.iterdir()) == []


def test_a_hash_that_is_none_is_no_result(phone, program, tmp_path):
    with job_folder(phone, {}, 1.0, Progress()) as folder:
        folder.write("result", b"a result")
        program("sha256sum", "echo")
        with pytest.raises(PassingFault, match="'result' arrived damaged"):
            folder.fetch("result", tmp_path / "result")
    assert list(tmp_path.iterdir()) == []


def test_a_result_that_is_no_plain_file_is_none(phone, tmp_path):
    """A FIFO would never end, nor would a device; and a link leads to what is no result."""
    with job_folder(phone, {}, 1.0, Progress()) as folder:
        for make in ("mkfifo result", "ln -s /dev/zero result", "mkdir result"):
            folder.run(["sh", "-c", f"rm -rf result; {make}"], {}, 10)
            with pytest.raises(HexportError, match="the program left no file 'result'"):
                folder.fetch("result", tmp_path / "result")
    assert list(tmp_path.iterdir()) == []


def test_names_from_the_phone_lead_nowhere(phone, program, device):
    """What `ls` prints as the jobs that were left: nothing outside the folder of jobs is removed, and nothing fails."""
    host = socket.gethostname()
    names = [f"../{host}-1-1", "/", "..", f"{host}-{DIGITS}-1", f"{host}-999999999-1/../../cache", "$(touch /tmp/x)"]
    phone.shell(f"mkdir -p {FOLDER}/cache {RUNS} && touch {FOLDER}/cache/kept", 10)
    program("ls", f'[ "$1" = {RUNS} ] && printf "%s\\n" {" ".join(repr(name) for name in names)}; exec /bin/ls "$@"')
    with job_folder(phone, {}, 1.0, Progress()):
        pass
    assert phone.shell(f"cat {FOLDER}/cache/kept && rm {FOLDER}/cache/kept", 10).code == 0
    assert not Path(device.host_path("/tmp/x")).exists()


@pytest.mark.parametrize(
    "said", ["", "df: no", f"/dev/x 1 1 {DIGITS} 5% /data", "/dev/x 1 1 1e9 5% /data", DEEP[:9000]]
)
def test_free_space_that_is_none_is_told(phone, program, tmp_path, said):
    (tmp_path / "input").write_text("an input")
    program("df", f"echo '{said}'")
    assert read_facts(phone).free_mb is None
    with (
        pytest.raises(PhoneFault, match="its df does not tell what is free") as raised,
        job_folder(phone, {"input": tmp_path / "input"}, 1.0, Progress()),
    ):
        pass
    one_line(raised)


def test_what_a_phone_says_of_itself_reaches_no_terminal_raw(phone, program):
    program("getprop", "printf 'SM8650\\033[31m\\a' ; printf 'x%.0s' $(seq 3000)")
    facts = read_facts(phone)
    assert facts.soc.startswith("SM8650[31mxxx") and facts.soc.isprintable() and len(facts.soc) == 200
    assert facts.android.isprintable()
    program("uname", ":")
    program("getprop", "printf '\\033[2J' >&2")
    with pytest.raises(PhoneFault, match="its shell does not answer"):
        read_facts(phone)
    program("dumpsys", f"echo '  temperature: {DIGITS}'")
    assert (temperature(phone) or {}).get("battery") in (None, 99999999.9)


# Answers of our own code on a phone, which is none.


def said(event: object, payload: bytes = b"", **changes: object) -> bytes:
    """A line and bytes as `phone_side` sends them, but for the changes."""
    header = {"event": event, "bytes": len(payload), "sha256": hashlib.sha256(payload).hexdigest(), **changes}
    return line(json.dumps(header).encode()) + payload


def line(header: bytes) -> bytes:
    return b"%08x %s\n" % (zlib.crc32(header), header)


class Phones:
    """A phone's folder and its running process, of which all is said beforehand."""

    phone = Phone("s24", "R5C", "127.0.0.1", 1)

    def __init__(self, text: bytes):
        self.text = text

    @contextlib.contextmanager
    def start(self, *_: object) -> Iterator["Phones"]:
        yield self

    def write(self, *_: object) -> None:
        pass

    def lines(self) -> Iterator[bytes]:
        first, _, self.text = self.text.partition(b"\n")
        yield first

    def read(self, n: int) -> bytes:
        data, self.text = self.text[:n], self.text[n:]
        return data

    def rest(self) -> SimpleNamespace:
        return SimpleNamespace(stderr=b"")


BOARD = Device(name="s24", kind="adb", runner="hexport", soc="SM8650", serial="R5C")
LOADED = said("loaded", b'{"load_s": 0.1}')
GRAPH = GraphSizes(4, 16, 3)  # tokens a call, of the context, of the vocabulary
ANSWER = {"token_ids": [1, 2], "tokens_read": 3, "decode_steps": 1, "first_token_s": 0.1, "total_s": 0.2, "n_past": 4}


def answered(answer: bytes) -> object:
    with PhoneProcess(Phones(LOADED + answer), BOARD, {}, Progress()) as process:
        generator = RemoteGenerator(process, GRAPH, GRAPH)
        return generator.generate([0, 1, 2], 16, frozenset(), lambda: None, lambda token: None)


def generation(**changes: object) -> bytes:
    return said("generation", json.dumps(ANSWER | changes).encode())


LOADS = {
    "deep header": line(DEEP.encode()),
    "a header that is a list": line(b"[1]"),
    "no header": line(b""),
    "no size": line(b'{"event": "loaded", "sha256": ""}'),
    "a negative size": said("loaded", bytes=-1),
    "a huge size": said("loaded", bytes=10**12),
    "a size of many digits": line(b'{"event": "loaded", "sha256": "", "bytes": %s}' % DIGITS.encode()),
    "a size that is true": said("loaded", b"x", bytes=True),
    "a size that is text": said("loaded", bytes="1"),
    "no JSON": said("loaded", b"\xff{"),
    "deep JSON": said("loaded", DEEP.encode()),
    "no time": said("loaded", b"{}"),
    "a time that is none": said("loaded", b'{"load_s": NaN}'),
    "a time that is infinite": said("loaded", b'{"load_s": 1e400}'),
    "an error that is none": said("error", b"[]"),
    "an error without words": said("error", b"{}"),
}


@pytest.mark.parametrize("text", LOADS.values(), ids=LOADS)
def test_a_process_that_does_not_load_as_ours_does_is_told(text):
    with pytest.raises(PhoneFault) as raised, PhoneProcess(Phones(text), BOARD, {}, Progress()):
        pass
    assert "its answer is none of hexport's" in one_line(raised)


GENERATIONS = {
    "an id beyond the vocabulary": generation(token_ids=[1, 3]),
    "an id that is none": generation(token_ids=[1, "2"]),
    "no ids": generation(token_ids=[]),
    "ids that are none": generation(token_ids=5),
    "no time": generation(first_token_s=0),
    "a time that runs backwards": generation(total_s=0.05),
    "tokens in no time": generation(total_s=0.1),
    "more than the cache holds": generation(n_past=17),
    "a cache of a negative size": generation(n_past=-1),
    "more steps than tokens": generation(decode_steps=10**9),
    "a token that is none": said("token", token=3) + generation(),
    "a token that is missing": said("token") + generation(),
    "deep JSON": said("generation", DEEP.encode()),
    "another event": said("what"),
}


def test_an_answer_is_understood():
    found = answered(said("block") + said("token", token=2) + generation())
    assert (found.token_ids, found.decode_steps) == ([1, 2], 1)


@pytest.mark.parametrize("text", GENERATIONS.values(), ids=GENERATIONS)
def test_an_answer_that_cannot_be_is_told(text):
    with pytest.raises(PhoneFault) as raised:
        answered(text)
    assert "its answer is none of hexport's" in one_line(raised)


def rows(n: int, left: object, **changes: object) -> bytes:
    return said("rows", np.zeros((n, 3), np.uint16).tobytes(), left=left, **changes)


ROWS = {
    "more rows than a call": rows(5, 0),
    "frames without end": rows(4, 1) * 100,
    "a call of rows that never come": rows(1, 10**9),
    "a negative rest": rows(1, -1),
    "half a row": said("rows", b"12345", left=0),
    "no rest": rows(1, None),
}


@pytest.mark.parametrize("text", ROWS.values(), ids=ROWS)
def test_logits_that_cannot_be_are_told(text):
    with PhoneProcess(Phones(LOADED + text), BOARD, {}, Progress()) as process:
        reader = RemoteReader(process, "kv", GRAPH, "uint16", 1.0, 0)
        with pytest.raises(PhoneFault) as raised:
            list(reader.read([[0, 1, 2]], Progress()))
    assert "its answer is none of hexport's" in one_line(raised)


def test_an_error_from_the_phone_is_one_clean_line():
    error = {"line": "a\x1b[31m\nb" * 1000, "missing": None}
    with (
        pytest.raises(PhoneFault) as raised,
        PhoneProcess(Phones(said("error", json.dumps(error).encode())), BOARD, {}, Progress()),
    ):
        pass
    assert "s24 (R5C): python3: a[31mba" in one_line(raised)
