"""A run on a phone whose C++ runner cannot be right is refused before the phone is even looked for."""

from pathlib import Path

import pytest
import torch
from portable_programs import AR, CONSTANTS, CONTEXT, Cached, cached_inputs, save_program

from hexport.config.devices import Device
from hexport.devices.emulator import Run
from hexport.devices.link.adb import Phone
from hexport.devices.runners.qnn_llama_runner import generator, reader
from hexport.devices.runners.version import check_version
from hexport.errors import HexportError
from hexport.programs.inspection import inspect_program
from hexport.progress import Progress
from hexport.runtime.lookahead import Size

pytestmark = pytest.mark.slow

NOWHERE = Phone("s24", "R5C", "127.0.0.1", 1)  # no adb server: who looks for it gets another error
LOOKAHEAD = Run("lookahead", Size(2, 2, 2), "", 0.0, CONTEXT)  # 4 rows
OF_1_4 = b"\x7fELF..kv_cache_dtype was not detected from method inputs\0get_n_layers\0"
OF_MAIN = b"\x7fELF..get_n_layers\0get_n_self_layers\0"


def device(folder: Path, binary: bytes) -> Device:
    path = folder / "build-android" / "examples" / "qualcomm" / "oss_scripts" / "llama" / "qnn_llama_runner"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(binary)
    (folder / "build-android" / "lib").mkdir(exist_ok=True)
    (folder / "build-android" / "lib" / "libqnn_executorch_backend.so").write_bytes(b"\x7fELF")
    return Device(name="s24", kind="adb", soc="SM8650", serial="R5C", build_path=str(folder / "build-android"))


def run(program: Path, device: Device, run: Run) -> None:
    with generator(NOWHERE, device, program, program.parent / "tokenizer.json", run, Progress()):
        pass


@pytest.fixture(scope="module")
def lookahead(tmp_path_factory) -> Path:
    """Of a decode graph with more rows than its prefill graph."""
    methods = {"kv_forward": (Cached(), cached_inputs(AR)), "prefill_forward": (Cached(), cached_inputs(2))}
    path = tmp_path_factory.mktemp("programs") / "lookahead.pte"
    return save_program(path, methods, {**CONSTANTS, "get_ar_len": AR})


class Windowed(Cached):
    """With the mask of a sliding window behind the other one."""

    def forward(self, tokens, mask, window_mask, positions, *caches):
        return super().forward(tokens, mask + window_mask, positions, *caches)


@pytest.fixture(scope="module")
def windowed(tmp_path_factory) -> dict[int, Path]:
    """Hybrid programs by the tokens of their sliding window; their prefill graphs read 4 a call."""

    def inputs(ar_len: int) -> list[torch.Tensor]:
        tokens, mask, *rest = cached_inputs(ar_len)
        return [tokens, mask, mask.clone(), *rest]

    methods = {"kv_forward": (Windowed(), inputs(1)), "prefill_forward": (Windowed(), inputs(AR))}
    folder = tmp_path_factory.mktemp("programs")
    return {
        window: save_program(folder / f"window_{window}.pte", methods, {**CONSTANTS, "get_sliding_window": window})
        for window in (AR - 1, AR)
    }


def test_a_runner_of_1_4_is_refused_where_it_would_abort(lookahead, tmp_path):
    with pytest.raises(
        HexportError, match=r"of executorch 1\.4; 1\.4\.1 looks for caches of 10 .*prefill_ar_len from 4"
    ):
        run(lookahead, device(tmp_path, OF_1_4), LOOKAHEAD)


@pytest.mark.parametrize(
    ("binary", "said"), [(OF_MAIN, ""), (b"\x7fELF stripped", "does not tell its version; in mode")]
)
def test_a_runner_that_may_take_the_program_is_let_run(lookahead, tmp_path, binary, said, capfd):
    check_version(NOWHERE, device(tmp_path, binary), inspect_program(lookahead), "lookahead", Progress())
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == bool(said) and all(said in line and "1.4.1 looks for caches" in line for line in lines)


def test_a_version_is_asked_for_only_where_it_matters(hybrid, tmp_path, capfd):
    check_version(NOWHERE, device(tmp_path, OF_1_4), inspect_program(hybrid), "hybrid", Progress())
    assert capfd.readouterr().err == ""


def test_a_prefill_above_the_sliding_window_is_refused_in_mode_hybrid_alone(windowed, tmp_path):
    hybrid, kv = (Run(mode, None, "", 0.0, CONTEXT) for mode in ("hybrid", "kv"))
    entry = device(tmp_path, OF_MAIN)
    with pytest.raises(
        HexportError, match=r"no qnn_llama_runner is right for mode hybrid: .*4 tokens exceeds .* of 3,.*"
    ):
        run(windowed[3], entry, hybrid)
    with pytest.raises(HexportError, match="or set runner: hexport"):
        run(windowed[3], entry, hybrid)
    check_version(NOWHERE, entry, inspect_program(windowed[3]), kv.mode, Progress())
    check_version(NOWHERE, entry, inspect_program(windowed[4]), hybrid.mode, Progress())


def test_texts_are_scored_by_the_decode_graph_whatever_the_prefill(windowed, tmp_path):
    """So the reader goes on to what it needs next, the tokenizer."""
    arguments = NOWHERE, device(tmp_path, OF_1_4), windowed[3], tmp_path / "tokenizer.json", "kv", Progress()
    with pytest.raises(HexportError, match="tokenizer"), reader(*arguments):
        pass


def test_our_own_runner_takes_such_a_prefill(windowed):
    from hexport.devices.runners.hexport_runner import driven_facts

    assert set(driven_facts(windowed[3]).methods) == {"kv_forward", "prefill_forward"}
