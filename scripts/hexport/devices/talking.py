"""This module loads a program for a talk: on the emulator of this host, in this process, or on a phone."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

from hexport.config.devices import Device
from hexport.devices.emulator import Run, check_vocabulary, load_generator
from hexport.devices.link.adb import Phone
from hexport.devices.phones.leases import holder, lease
from hexport.devices.runners import hexport_runner
from hexport.errors import HexportError
from hexport.programs.abi import KV_METHOD, PREFILL_METHOD
from hexport.programs.inspection_process import facts_of
from hexport.programs.layout import layouts_of
from hexport.progress import Progress
from hexport.provenance import manifest_path
from hexport.runtime.conversation import AnyGenerator
from hexport.runtime.lookahead import Size
from hexport.targets.modes import LOOKAHEAD_KEYS
from hexport.tokenizers.tokenizer import load_tokenizer


def run_of(program: Path, system_prompt: str, temperature: float, seq_len: int | None) -> Run:
    """Return how a program is talked to: in the mode that its graphs are for.

    Raises HexportError for a program that no runtime can drive, and for a lookahead program without its manifest, which
    has the sizes of its steps.
    """
    layouts = layouts_of(facts_of(program))
    if KV_METHOD not in layouts:
        raise HexportError(f"{program}: has no {KV_METHOD}; scripts/inspect_pte.py tells what it has")
    decode = layouts[KV_METHOD]
    mode = "lookahead" if decode.ar_len > 1 else "hybrid" if PREFILL_METHOD in layouts else "kv"
    longest = decode.context_len + 1
    lookahead = _lookahead_size(program) if mode == "lookahead" else None
    return Run(mode, lookahead, system_prompt, temperature, min(seq_len or longest, longest))


def _lookahead_size(program: Path) -> Size:
    try:
        params = json.loads(manifest_path(program).read_bytes())["params"]
        return Size(*(int(params[key]) for key in LOOKAHEAD_KEYS))
    except (OSError, ValueError, KeyError, TypeError):
        raise HexportError(
            f"{program}: its manifest, which has {', '.join(LOOKAHEAD_KEYS)}, is not beside it; copy it there"
        ) from None


@contextlib.contextmanager
def talking_generator(
    program: Path, tokenizer: Path, device: Device | None, run: Run, progress: Progress
) -> Iterator[AnyGenerator]:
    """Load the program's graphs on the phone, or on the emulator where `device` is None, and yield their generator.

    Raises HexportError where the program cannot be loaded or another process uses the phone, PhoneFault where the phone
    fails.
    """
    loaded = load_tokenizer(tokenizer.parent)
    if device is None:
        generator = load_generator(program, run, progress)
        check_vocabulary(program, generator.decode_graph, loaded)
        yield generator
        return
    phone = Phone.of(device)
    if (taken := lease(phone)) is None:
        raise HexportError(f"device {device.name}: {holder(phone) or 'another process'} uses it; wait for its end")
    with taken:
        phone.check_online()
        with hexport_runner.generator(phone, device, program, tokenizer, run, progress) as remote:
            check_vocabulary(program, remote.decode_graph, loaded)
            yield remote
