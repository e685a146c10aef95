"""This module makes the folder of a job on a phone, with the files that a program needs. When the job ends, the folder
and all that ran there are gone.
"""

import contextlib
import hashlib
import itertools
import os
import re
import shlex
import socket
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from hexport.devices.link.adb import Phone
from hexport.devices.link.faults import PassingFault, PhoneFault, said_by_phone
from hexport.devices.link.shell_stream import LIMIT, Output, Stream
from hexport.devices.phones.cache import COMMAND_S, FOLDER, ensure_cached, said_well, transfer_s
from hexport.errors import HexportError
from hexport.file_hashes import sha256
from hexport.job_process import is_running
from hexport.progress import Progress
from hexport.provenance import atomic_path

RUNS = f"{FOLDER}/runs"
CONNECTED_S = 5.0  # a phone over TCP connects within this time
LONGEST_S = 7 * 86400.0
LOGCAT_BYTES = 200_000
PART = ".hexport.part"
# Processes are known by their working folder, never by an id that was noted down: nothing else is ever killed.
CLEAR = r"""
cd {runs} 2>/dev/null || exit 0  # no job was ever here
here=$(pwd -P)
for i in 1 2 3 4 5; do
  found=$(ls -ld /proc/[0-9]*/cwd 2>/dev/null |
    sed -n "s| (deleted)\$||; s|\$|/|; s|^[^/]*/proc/\([0-9]*\)/cwd -> $here/{pattern}/.*|\1|p")
  [ "$found" ] || break
  kill -9 $found 2>/dev/null
done
rm -rf {pattern} && exit 0
sleep 1
rm -rf {pattern}
"""
_number = itertools.count()


@dataclass(frozen=True)
class JobFolder:
    """A job folder is the folder `path` of a phone. `since` is the phone's time when it was made, in logcat's form.

    `guard` waits on the phone as long as the link holds, and then clears the folder. Without the guard there is no
    folder.
    """

    phone: Phone
    path: str
    since: str
    guard: Stream

    def write(self, name: str, data: bytes) -> None:
        """Write `data` to the file `name` of the folder. Raises PassingFault where it was damaged on its way."""
        _check_name(name)
        self.guard.check_runs()
        seconds = transfer_s(len(data))
        self.phone.push(data, f"{self.path}/{PART}", seconds)
        digest = hashlib.sha256(data).hexdigest()
        command = f'cd {self.path} && [ "$(sha256sum <{PART})" = "{digest}  -" ] && mv -f {PART} {_quoted(name)}'
        if self.phone.shell(command, seconds).code:
            raise PassingFault(f"{self.phone}: {name!r} arrived damaged; check the cable")

    def read(self, name: str, limit: int = LIMIT) -> bytes:
        """Return the content of a file of the folder. Raises as `fetch` does."""
        with tempfile.TemporaryDirectory(prefix="hexport-") as folder:
            self.fetch(name, Path(folder, "file"), limit)
            return Path(folder, "file").read_bytes()

    def fetch(self, name: str, target: Path, limit: int = LIMIT) -> None:
        """Copy a file of the folder, of `limit` bytes at most, to this host, whole or not at all.

        Raises HexportError where there is no such file, PhoneFault where it is larger or the phone does not tell its
        size, PassingFault where it was damaged on its way.
        """
        _check_name(name)
        self.guard.check_runs()
        found = self.phone.shell(
            f"cd {self.path} && [ -f {_quoted(name)} ] && stat -L -c %s {_quoted(name)}", COMMAND_S
        )
        if found.code:
            self.guard.check_runs()  # where the guard has ended, the folder is gone with all that was in it
            raise HexportError(f"{self.phone}: the program left no file {name!r}; see the log of the run")
        size = re.fullmatch(r"([0-9]{1,15})\n", found.text())
        if size is None:
            raise PhoneFault(
                f"{self.phone}: its stat does not tell the size of {name!r}: {said_by_phone(found.text())!r}"
            )
        if int(size[1]) > limit:
            raise PhoneFault(f"{self.phone}: {name!r} has {size[1]} bytes, expected are {limit} at most; see the log")
        seconds = transfer_s(int(size[1]))
        digest = said_well(self.phone, f"cd {self.path} && sha256sum <{_quoted(name)}", seconds)
        with atomic_path(target) as temporary:
            self.phone.pull(f"{self.path}/{name}", temporary, int(size[1]), seconds)
            if digest.split() != [sha256(temporary), "-"]:
                raise PassingFault(f"{self.phone}: {name!r} arrived damaged; check the cable")

    def run(self, argv: list[str], environment: dict[str, str], seconds: float) -> Output:
        """Run a program in the folder, without input, to its end. No exit code raises an error.

        Raises PhoneFault where the program crashed by a signal, was killed or is overdue, PassingFault where the link
        broke.
        """
        with self.start(argv, environment, seconds) as stream:
            return stream.output()

    @contextlib.contextmanager
    def start(self, argv: list[str], environment: dict[str, str], seconds: float) -> Iterator[Stream]:
        """Start a program in the folder and yield it as a stream to talk to. Where the block ends before it, the
        program is killed.
        """
        self.guard.check_runs()
        command = shlex.join(["env", *(f"{name}={value}" for name, value in environment.items()), *argv])
        name, too_short = argv[0].rsplit("/", 1)[-1], ", or raise timeout in devices.yaml"
        with self.phone.open(command, seconds, folder=self.path, name=name, too_short=too_short) as stream:
            yield stream

    def logcat(self) -> str:
        """Return the last LOGCAT_BYTES of what the phone logged since the folder was made; an empty text where it has
        no logcat or does not answer.
        """
        command = f"logcat -d -t {shlex.quote(self.since)} 2>/dev/null | tail -c {LOGCAT_BYTES}"
        with contextlib.suppress(PhoneFault):
            return self.phone.shell(command, COMMAND_S).text()
        return ""


@contextlib.contextmanager
def job_folder(phone: Phone, files: dict[str, Path], cache_gb: float, progress: Progress) -> Iterator[JobFolder]:
    """Yield a folder on the phone that has these files by name. A program must not write to them.

    What a process of this host left that runs no more is cleared first. If the job fails, the phone's own log goes to
    the log of the run. Raises HexportError for a name that no file of a phone can have, PhoneFault and PassingFault
    where the phone fails.
    """
    for name in files:
        _check_name(name)
    phone.check_online(CONNECTED_S)
    host = re.sub(r"\W", "_", socket.gethostname() or "host", flags=re.ASCII)
    for left in said_well(phone, f"ls {RUNS} 2>/dev/null || :", COMMAND_S).split():
        if (job := re.fullmatch(rf"{host}-([0-9]{{1,9}})-[0-9]+", left)) and not _alive(int(job[1])):
            said_well(phone, CLEAR.format(runs=RUNS, pattern=left), COMMAND_S)
    cached = ensure_cached(phone, list(dict.fromkeys(files.values())), cache_gb, progress)
    own = f"{host}-{os.getpid()}-{next(_number)}"
    path = f"{RUNS}/{own}"
    links = "".join(f" && ln -s ../../cache/{Path(cached[file]).name} {_quoted(name)}" for name, file in files.items())
    clear = CLEAR.format(runs=RUNS, pattern=own)
    with phone.open("cat", LONGEST_S, name="job folder", if_lost=clear) as guard:
        try:
            since = said_well(phone, f"mkdir -p {path} && cd {path}{links} && date '+%m-%d %H:%M:%S.000'", COMMAND_S)
            folder = JobFolder(phone, path, since.strip(), guard)
            try:
                yield folder
            except PassingFault:
                raise
            except HexportError:
                progress.log(folder.logcat())
                raise
        finally:
            with contextlib.suppress(PhoneFault):
                phone.shell(clear, COMMAND_S)


def _alive(pid: int) -> bool:
    """Tell whether another process of this host may be at work: it may use the same phone under
    another serial number.
    """
    return pid != os.getpid() and is_running(pid)


def _quoted(name: str) -> str:
    return shlex.quote(f"./{name}")


def _check_name(name: str) -> None:
    """Raise HexportError for a name that no file of a folder can have. Any other name arrives as it is."""
    if name in ("", ".", "..", PART) or "/" in name or "\0" in name or len(name.encode(errors="replace")) > 255:
        raise HexportError(f"{name!r}: no name for a file on a phone; rename the file")
