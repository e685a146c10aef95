"""A talk with a program: answers as they come, an end in mid-answer, and what the script makes of it."""

import shutil

import pytest
from forks import FORKS
from tiny_model import CONTEXT, SCRIPTS, environment

from hexport.devices.talking import run_of, talking_generator
from hexport.errors import HexportError
from hexport.progress import Progress
from hexport.runtime.conversation import Script, converse
from hexport.runtime.talk import Talk
from hexport.tokenizers.tokenizer import load_tokenizer

ROOM = CONTEXT - 4  # of a conversation, so that two prompts find some


@pytest.fixture
def talking(tiny):
    """A generator of the tiny program, and its tokenizer."""
    run = run_of(tiny.program, "", 0.0, None)
    with talking_generator(tiny.program, tiny.tokenizer, None, run, Progress()) as generator:
        yield generator, load_tokenizer(tiny.tokenizer.parent)


def test_answers_are_those_of_a_conversation_and_come_in_pieces(talking):
    generator, tokenizer = talking
    (expected,) = converse(generator, Script(tokenizer, "", ["Once"]), CONTEXT, tokenizer.stop_ids, Progress())
    generator.cache.keep(0)
    pieces: list[str] = []
    answer = Talk(generator, tokenizer, "", CONTEXT).answer("Once", pieces.append)
    assert answer.token_ids == expected.generation.token_ids
    assert "".join(pieces) and expected.text.startswith("".join(pieces))


def test_an_answer_that_is_stopped_is_a_part_of_the_talk(talking):
    """What follows is what a fresh cache gives to the same tokens."""
    generator, tokenizer = talking
    seen: list[int] = []
    talk = Talk(generator, tokenizer, "", ROOM, stopped=lambda: bool(seen.append(0)) or len(seen) == 2)
    assert talk.answer("Once", lambda piece: None) is None
    stopped = list(talk.answers[0])
    assert len(stopped) == 2
    talk.stopped = lambda: False
    found = talk.answer("up", lambda piece: None)
    generator.cache.keep(0)
    ids = [*tokenizer.prompt_ids("Once", ""), *stopped, *tokenizer.encode("up")]
    assert found.token_ids == generator.generate(ids, ROOM, tokenizer.stop_ids).token_ids


def test_a_prompt_without_room_is_refused_and_forgotten(talking):
    generator, tokenizer = talking
    talk = Talk(generator, tokenizer, "", ROOM)
    with pytest.raises(HexportError, match=f"has {CONTEXT + 1} tokens"):
        talk.answer("x" * CONTEXT, lambda piece: None)
    assert talk.prompts == []
    assert talk.answer("Once", lambda piece: None) is not None


def test_the_script_reads_prompts_and_prints_answers(tiny, tmp_path):
    words = [str(SCRIPTS / "chat.py"), str(tiny.program), "--log", str(tmp_path / "log")]
    done = FORKS.run(*words, env=environment(), input="Once\n/new\nOnce\n" + "x" * 40 + "\n")
    assert (done.returncode, done.stderr) == (0, "") or "load" in done.stderr
    first, second, refused = done.stdout.split("> ")[1], done.stdout.split("> ")[3], done.stdout.split("> ")[4]
    assert "tokens, the first after" in first
    assert first.split("[")[0] == second.split("[")[0]
    assert "/new begins another talk" in refused


def test_what_cannot_be_talked_to_is_one_line(tiny, tmp_path):
    shutil.copy(tiny.program, tmp_path / "program.pte")
    done = FORKS.run(str(SCRIPTS / "chat.py"), "program.pte", cwd=tmp_path, env=environment())
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "tokenizer.json: no such file; name the model's tokenizer.json by --tokenizer" in done.stderr
