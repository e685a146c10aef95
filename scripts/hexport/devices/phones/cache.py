"""This module keeps files on a phone under the SHA-256 of their content. What is there already is not pushed again."""

import contextlib
import re
import shlex
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from hexport.devices.link.adb import Phone, free_bytes
from hexport.devices.link.faults import PassingFault, PhoneFault, said_by_phone
from hexport.file_hashes import sha256
from hexport.progress import Progress

FOLDER = "/data/local/tmp/hexport"  # nothing outside it is ever touched
CACHE = f"{FOLDER}/cache"
COMMAND_S = 30.0
SLOWEST = 1e6  # bytes per second; a link or a storage that is slower is taken for broken
SPARE = 16e6  # bytes that the runs themselves may write
SURVEY = """
mkdir -p {cache} && cd {cache} || exit 1
rm -f *.part
sha256sum {needed} 2>/dev/null
echo files
stat -c '%s %Y %n' ./* 2>/dev/null
df -k . | tail -n 1
"""
ADMIT = """
cd {cache} || exit 1
[ "$(sha256sum <{name}.part)" = "$(printf '%s  -' {name})" ] && mv -f {name}.part {name} && exit 0
rm -f {name}.part
exit 3
"""
OURS = re.compile(r"([0-9]{1,15}) ([0-9]{1,15}) \./([0-9a-f]{64})")  # size, time and name of a file of the cache


@dataclass(frozen=True)
class CachedFile:
    """A cached file has its SHA-256 as `name`, its size in bytes, and the time of its last use, in the phone's own
    seconds.
    """

    name: str
    size: int
    used: int


def ensure_cached(phone: Phone, files: list[Path], cache_gb: float, progress: Progress) -> dict[Path, str]:
    """Push those files to the phone's cache that are not whole there already, and return the path of each on the phone.

    The least recently used files make room. Raises PhoneFault where there is not enough, PassingFault where a file was
    damaged on its way.
    """
    hashes = {file: sha256(file) for file in files}
    sizes = {name: file.stat().st_size for file, name in hashes.items()}
    verified, cached, free = _survey(phone, sizes)
    missing = {name: file for file, name in hashes.items() if name not in verified}
    _make_room(phone, sizes, missing, cached, free, cache_gb * 1e9)
    for name, file in missing.items():
        _push(phone, file, name, sizes[name], progress)
    if sizes:
        said_well(phone, f"cd {CACHE} && touch -c {' '.join(sizes)}", COMMAND_S)
    return {file: f"{CACHE}/{name}" for file, name in hashes.items()}


def said_well(phone: Phone, command: str, seconds: float) -> str:
    """Return what a command prints. Raises PhoneFault with its complaint where it fails."""
    output = phone.shell(command, seconds)
    if output.code:
        raise PhoneFault(f"{phone}: {output.last_line() or f'exit code {output.code}'}; see `adb shell ls -l {FOLDER}`")
    return output.text()


def transfer_s(size: int) -> float:
    """Return the seconds that a file of `size` bytes may take."""
    return COMMAND_S + size / SLOWEST


def _survey(phone: Phone, sizes: dict[str, int]) -> tuple[set[str], list[CachedFile], float]:
    """Return which of the needed files are there and whole, all files that are there, and the free bytes of their
    storage.
    """
    command = SURVEY.format(cache=CACHE, needed=" ".join(sizes) or "/dev/null")
    hashes, _, rest = said_well(phone, command, transfer_s(sum(sizes.values()))).partition("files\n")
    verified = {words[1] for line in hashes.splitlines() if len(words := line.split()) == 2 and words[0] == words[1]}
    *files, storage = rest.splitlines() or [""]
    cached = [CachedFile(found[3], int(found[1]), int(found[2])) for line in files if (found := OURS.fullmatch(line))]
    return verified, cached, _free(phone, storage)


def _free(phone: Phone, line: str) -> int:
    free = free_bytes(line)
    if free is None:
        raise PhoneFault(f"{phone}: its df does not tell what is free ({said_by_phone(line)!r}); see `adb shell df -k`")
    return free


def _make_room(
    phone: Phone, sizes: dict[str, int], missing: dict[str, Path], cached: list[CachedFile], free: float, limit: float
) -> None:
    """Remove files, the least recently used first, until the missing ones fit the limit and the storage."""
    needed, incoming = sum(sizes.values()), sum(sizes[name] for name in missing)
    if needed > limit:
        raise PhoneFault(
            f"{phone}: the files of this run take {needed / 1e6:.0f} MB, and cache_gb allows {limit / 1e6:.0f} MB; "
            "raise cache_gb in devices.yaml"
        )
    goes = [file for file in cached if file.name in missing]  # these are damaged and pushed anew
    others = sorted((file for file in cached if file.name not in sizes), key=lambda file: file.used)
    kept = sum(file.size for file in cached) - sum(file.size for file in goes)
    free += sum(file.size for file in goes)
    space = incoming + SPARE if missing else 0.0
    while others and (kept + incoming > limit or free < space):
        goes.append(others.pop(0))
        kept -= goes[-1].size
        free += goes[-1].size
    if goes:
        names = shlex.join(f"./{file.name}" for file in goes)
        free = _free(phone, said_well(phone, f"cd {CACHE} && rm -f {names} && df -k . | tail -n 1", COMMAND_S))
    if free < space:
        raise PhoneFault(
            f"{phone}: no space: {space / 1e6:.0f} MB needed, {free / 1e6:.0f} MB free; free some of its storage"
        )


def _push(phone: Phone, file: Path, name: str, size: int, progress: Progress) -> None:
    part = f"{CACHE}/{name}.part"
    progress.say(f"{phone}: pushing {file.name}, {size / 1e6:.1f} MB", passing=True)
    try:
        phone.push(file, part, transfer_s(size), 0o555, _passing(progress, f"{phone}: pushing {file.name}", size))
        code = phone.shell(ADMIT.format(cache=CACHE, name=name), transfer_s(size)).code
    except BaseException:
        with contextlib.suppress(PhoneFault):
            phone.shell(f"rm -f {part}", 5.0)
        raise
    if code:
        raise PassingFault(f"{phone}: {file.name} arrived damaged; check the cable")


def _passing(progress: Progress, doing: str, size: int) -> Callable[[int], None]:
    """Return a function that says every second how much is sent and how long the rest takes."""
    start = said = time.monotonic()

    def on_bytes(sent: int) -> None:
        nonlocal said
        now = time.monotonic()
        if sent and now - said > 1:
            said = now
            progress.say(f"{doing}: {sent / size:.0%}, {(now - start) / sent * (size - sent):.0f} s left", passing=True)

    return on_bytes
