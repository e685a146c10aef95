"""The tokenizer that the C++ runner gets, in the library that the runner is linked to."""

import pytest
from pytorch_tokenizers import CppHFTokenizer

from hexport.devices.runners.id_tokenizer import IdTokenizer


def loaded(tokenizer: IdTokenizer, folder) -> CppHFTokenizer:
    tokenizer.write(folder)
    library = CppHFTokenizer()
    library.load(str(folder))
    return library


def stops(library: CppHFTokenizer) -> list[int]:
    """As runner.cpp finds them for Gemma."""
    return [library.eos_tok(), library.encode("<end_of_turn>", 0, 0)[0]]


@pytest.mark.parametrize(("eos", "end_of_turn"), [(2, 0), (1000, 7), (1200, 1201)])
def test_what_the_library_writes_tells_the_ids(tmp_path, eos, end_of_turn):
    tokenizer = IdTokenizer(1200, eos, end_of_turn)
    library = loaded(tokenizer, tmp_path)
    assert stops(library) == [eos, end_of_turn]
    ids = [*range(1199, -1, -1), *range(1200), 0, 0, 11, 1, 111]
    assert tokenizer.ids("".join(map(library.decode, ids)).encode()) == ids


def test_equal_ids_give_equal_files(tmp_path):
    first, second = (IdTokenizer(50, 3, 4).write(tmp_path) for _ in range(2))
    assert [path.name for path in first] == ["tokenizer.json", "tokenizer_config.json"]
    contents = [path.read_bytes() for path in first]
    assert contents == [path.read_bytes() for path in second]
    assert contents != [path.read_bytes() for path in IdTokenizer(50, 4, 3).write(tmp_path)]


@pytest.mark.parametrize("text", [b"1 2", b" 1 ", b"1 x 2 ", b"\xff", b"1\n2 ", b"50 ", b"-1 ", b"1  2 ", b"<eos"])
def test_other_text_has_no_ids(text):
    assert IdTokenizer(50, 3, 4).ids(text) is None


def test_two_stop_ids_are_the_runners_the_eos_first():
    class Stops:
        eos_id, stop_ids = 9, frozenset({9, 4, 30})

    class NoStops:
        eos_id, stop_ids = None, frozenset()

    assert IdTokenizer.of(Stops, 50) == IdTokenizer(50, 9, 4)
    assert IdTokenizer.of(NoStops, 50) == IdTokenizer(50, 50, 51)  # no id that the program can give
