"""Programs whose bytes are not those that were written: one line, or the right answer; never a signal or a hang."""

from damaged_programs import DAMAGES, outcomes
from tiny_model import EMULATOR

from hexport.lowering.context_binary import MAGIC
from hexport.lowering.inspection import inspect_program
from hexport.lowering.inspection_process import facts_of

SETTINGS = {
    "model": "tiny",
    "recipe": "16a8w",
    "target": EMULATOR,
    "mode": "kv",
    "prompts": ["On"],
    "system_prompt": "",
    "temperature": 0.0,
    "seq_len": 6,
    "repeats": 1,
    "warmup": 0,
}


def test_a_damaged_program_is_refused_in_a_line_or_answers_as_the_whole_one(tiny, tmp_path):
    found = outcomes(tiny.program, tmp_path, 150)
    assert {kind for kind, _ in found} == set(DAMAGES)
    answers = {outcome for _, outcome in found if outcome.startswith("answered: ")}
    assert len(answers) == 1  # of those whose damage lies where nothing is read
    refusals = [outcome for _, outcome in found if outcome.startswith("refused: ")]
    assert len(refusals) + sum(outcome in answers for _, outcome in found) == len(found), found
    assert len(refusals) > 100
    for refusal in refusals:
        assert "\n" not in refusal
        assert "damaged.pte" in refusal


def signed_by_a_clock(content: bytes) -> bytearray:
    """As executorch signs a program that hexport did not make: nothing tells whether it is whole."""
    content = bytearray(content)
    header = content.index(MAGIC)
    content[header + 4 : header + 12] = (1_790_000_000_000_000_000).to_bytes(8, "little")
    return content


def test_facts_that_come_from_another_process_are_the_same(tiny):
    assert facts_of(tiny.program) == inspect_program(tiny.program)
