"""What a user sees of an error of a script, and what the log keeps of it."""

import errno
import re
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from hexport.errors import HexportError, one_line_errors, printable


class Panic(BaseException):
    """As the libraries in Rust raise it: no Exception."""


def fails_with(error: BaseException, log: Path | None = None):
    @click.command()
    @click.option("--log", type=click.Path(path_type=Path))
    @one_line_errors
    def main(log: Path | None) -> None:
        raise error

    done = CliRunner().invoke(main, [] if log is None else ["--log", str(log)])
    assert done.exit_code == 1
    assert done.stdout == ""
    return done.stderr.splitlines()


def test_a_users_fault_is_one_line_and_the_log_has_the_trace(tmp_path):
    log = tmp_path / "logs" / "x.log"
    assert fails_with(HexportError("a.gguf: not whole; download it again"), log) == [
        "error: a.gguf: not whole; download it again"
    ]
    assert "Traceback" in log.read_text()
    assert "raise error" in log.read_text()


def test_every_fault_has_a_line():
    assert fails_with(HexportError("a: bad", "b: bad")) == ["error: a: bad", "error: b: bad"]


@pytest.mark.parametrize("error", [KeyError("shape"), RecursionError("too deep"), Panic("in Rust")])
def test_a_bug_is_one_line_that_names_its_log(tmp_path, error):
    (line,) = fails_with(error, tmp_path / "x.log")
    assert line.startswith(f"error: a bug of hexport, please report it with its log {tmp_path / 'x.log'}: ")
    assert type(error).__name__ in line
    assert "Traceback" in (tmp_path / "x.log").read_text()


def test_a_bug_of_a_script_without_a_log_has_a_log_of_its_own():
    (line,) = fails_with(KeyError("shape"))
    log = Path(re.search(r"with its log (\S+): KeyError", line)[1])
    assert "Traceback" in log.read_text()
    log.unlink()


def test_what_data_holds_cannot_steer_a_terminal():
    (line,) = fails_with(HexportError("tensor a\n\x1b[31mb\x00\ud800: surplus"))
    assert line == "error: tensor a\\n\\x1b[31mb\\x00\\ud800: surplus"


def test_a_long_line_keeps_its_ends():
    text = printable(f"start {'a' * 100_000} end")
    assert len(text) < 2000
    assert len(printable("\0" * 100_000)) < 2000
    assert text.startswith("start ") and text.endswith(" end")


def test_a_full_disk_says_which_file_and_how_much_was_free(tmp_path):
    error = OSError(errno.ENOSPC, "No space left on device", str(tmp_path / "a" / "model.safetensors"))
    (line,) = fails_with(error, tmp_path / "x.log")
    expected = (
        rf"error: {tmp_path}/a/model\.safetensors: no space left for it: \d+ MB are free in {tmp_path}; free some"
    )
    assert re.match(expected, line)


def test_an_error_of_the_system_names_the_file(tmp_path):
    error = PermissionError(errno.EACCES, "Permission denied", "secret")
    assert fails_with(error, tmp_path / "x.log") == ["error: Permission denied: secret"]
    assert "Traceback" in (tmp_path / "x.log").read_text()


def test_a_log_that_cannot_be_written_does_not_hide_the_error(tmp_path):
    (tmp_path / "file").touch()
    assert fails_with(HexportError("a: bad"), tmp_path / "file" / "x.log") == ["error: a: bad"]
