"""Talk to a program, on this host's emulator or on a phone: PROGRAM is a .pte, whoever made it.

A line is a prompt, and the answer is printed as it comes. Ctrl-C ends the answer, Ctrl-D the talk, and the line /new
begins another one. On a phone, this needs the runner hexport, as ExecuTorch's takes all prompts at once.
"""

import contextlib
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TextIO

import click

from hexport.config.devices import Device, read_devices
from hexport.errors import HexportError, one_line_errors
from hexport.progress import Progress

NEW = "/new"


@click.command(help=__doc__)
@click.argument("program", type=click.Path(path_type=Path))
@click.option("--tokenizer", type=click.Path(path_type=Path), help="tokenizer.json; default: hexport's of this model")
@click.option("--device", "name", help="of devices.yaml; default: the emulator of this host")
@click.option("--devices", type=click.Path(path_type=Path), default="devices.yaml", show_default=True)
@click.option("--system-prompt", default="", help="in front of the conversation")
@click.option("--temperature", default=0.0, show_default=True, help="0 answers greedily")
@click.option("--seq-len", type=click.IntRange(min=2), help="tokens of the conversation; default: the context")
@click.option("--log", type=click.Path(path_type=Path), default="chat.log", show_default=True)
@one_line_errors
def main(
    program: Path,
    tokenizer: Path | None,
    name: str | None,
    devices: Path,
    system_prompt: str,
    temperature: float,
    seq_len: int | None,
    log: Path,
) -> None:
    tokenizer = tokenizer or program.absolute().parents[3] / "tokenizer" / "tokenizer.json"
    if not tokenizer.is_file():
        raise HexportError(f"{tokenizer}: no such file; name the model's tokenizer.json by --tokenizer")
    device = _device(devices, name) if name else None
    terminal, progress = os.fdopen(os.dup(1), "w"), Progress(log)
    with progress.library_output_in_log(), contextlib.ExitStack() as stack:
        from hexport.qnn_sdk import use_qnn_sdk

        use_qnn_sdk()
        from hexport.devices.talking import run_of, talking_generator
        from hexport.runtime.talk import Talk
        from hexport.tokenizers.tokenizer import load_tokenizer

        run = run_of(program, system_prompt, temperature, seq_len)
        generator = stack.enter_context(talking_generator(program, tokenizer, device, run, progress))
        loaded, interrupt, here = load_tokenizer(tokenizer.parent), _Interrupt(), device is None
        settings = generator, loaded, system_prompt, run.seq_len, here, lambda: interrupt.is_set
        print(f"{program.name} is loaded ({generator.load_s:.1f} s).", file=terminal, flush=True)
        _converse(lambda: Talk(*settings), generator, here, interrupt, terminal)
    terminal.flush()


def _converse(begin: Callable, generator: object, here: bool, interrupt: "_Interrupt", terminal: TextIO) -> None:
    """Answer what is typed, up to the end of input. `begin` begins another talk; `here` says that no phone answers."""
    talk = begin()
    for line in _lines(terminal):
        if line == NEW:
            generator.cache.keep(0)
            talk = begin()
        else:
            if not here:
                generator.renew()
            with interrupt:
                _answer(talk, line, terminal)


class _Interrupt:
    """While an interrupt is entered, Ctrl-C sets it, and does nothing else."""

    is_set = False

    def __enter__(self) -> None:
        self.is_set = False
        self._before = signal.signal(signal.SIGINT, self._set)

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGINT, self._before)

    def _set(self, *_: object) -> None:
        self.is_set = True


def _device(devices: Path, name: str) -> Device | None:
    """Return the phone of this name; None where the name is an emulator's. Raises HexportError where there is no such
    device, or where its runner cannot talk."""
    known = read_devices(str(devices))
    if name not in known:
        raise HexportError(f"{devices}: there is no device {name!r}; known: {', '.join(known)}")
    device = known[name]
    if device.kind == "adb" and device.runner != "hexport":
        raise HexportError(f"{devices}: devices.{name}.runner: qnn_llama_runner takes all prompts at once; set hexport")
    return device if device.kind == "adb" else None


def _lines(terminal: TextIO) -> Iterator[str]:
    """Yield what is typed, up to the end of input. Ctrl-C at the prompt tells how to end."""
    while True:
        print("> ", end="", file=terminal, flush=True)
        try:
            line = sys.stdin.readline()
        except KeyboardInterrupt:
            print("\nCtrl-D ends the talk.", file=terminal)
            continue
        if not line:
            print(file=terminal)
            return
        if line.strip():
            yield line.rstrip("\n")


def _answer(talk, prompt: str, terminal: TextIO) -> None:
    """Print the answer as it comes, and how fast it was; or print why there is none."""
    try:
        generation = talk.answer(prompt, lambda piece: print(piece, end="", file=terminal, flush=True))
    except HexportError as error:
        print(f"{error} ({NEW} begins another talk)", file=terminal)
        return
    if generation is None or talk.stopped():
        print("\n[stopped]", file=terminal)
        return
    n, seconds = len(generation.token_ids), generation.total_s - generation.first_token_s
    rate = f", {(n - 1) / seconds:.2f} tokens/s" if n > 1 else ""
    print(f"\n[{n} tokens, the first after {generation.first_token_s:.2f} s{rate}]", file=terminal)


if __name__ == "__main__":
    main()
