"""This module tells which version the C++ runner of a device has, and whether that version runs a program rightly,
before anything is pushed.
"""

from hexport.config.devices import Device
from hexport.devices.link.adb import Phone
from hexport.devices.phones.libraries import RUNNER, runner_files
from hexport.errors import HexportError
from hexport.programs.facts import ProgramFacts
from hexport.programs.runners import MAIN, RELEASE, runner_fit, sliding_window
from hexport.progress import Progress
from hexport.runtime.graph import GraphSizes
from hexport.runtime.lookahead import Size

OR_OURS = "or set runner: hexport for a device that has Python"
# Names and messages in a runner's binary that only one of the versions has.
SIGNS = {MAIN: b"get_n_self_layers", RELEASE: b"kv_cache_dtype was not detected from method inputs"}


def check_version(phone: Phone, device: Device, facts: ProgramFacts, mode: str, progress: Progress) -> None:
    """Raise HexportError where no version of the runner, or not that of the device, runs the program rightly.

    Where the runner does not tell its version and needs to be MAIN, a line of progress says so.
    """
    fit = runner_fit(facts, mode)
    if fit.since is None:
        raise HexportError(f"{facts.path}: no {RUNNER} is right for mode {mode}: {fit.limit}, {OR_OURS}")
    if fit.since == MAIN:
        binary = runner_files(device)[RUNNER].read_bytes()
        version = next((version for version, sign in SIGNS.items() if sign in binary), None)
        if version is None:
            progress.say(f"{phone}: {RUNNER} does not tell its version; in mode {mode}, {fit.limit}")
        elif version != MAIN:
            raise HexportError(f"{facts.path}: {RUNNER} of {device.build_path} is of executorch 1.4; {fit.limit}")


def check_runner_lookahead(facts: ProgramFacts, size: Size, decode_graph: GraphSizes) -> None:
    """Raise HexportError for a size with which the runner answers wrongly.

    The runner reads a mask of all rows, whether the size fills them or not, and holds cached tokens only to a sliding
    window.
    """
    if size.rows != decode_graph.ar_len:
        raise HexportError(
            f"{facts.path}: {RUNNER} needs a lookahead step, (window + gcap) * (ngram - 1) = {size.rows} tokens, "
            f"as long as the decode graph's AR length, {decode_graph.ar_len}; choose sizes that give a power of 2"
        )
    window = sliding_window(facts)
    if window is not None and size.ngram > window:
        raise HexportError(
            f"{facts.path}: ngram {size.ngram} exceeds the sliding window of {window}, to which {RUNNER} holds cached "
            f"tokens only; choose an ngram up to {window}, {OR_OURS}"
        )
