"""This module measures what a program answers and how fast, in one run or several equal ones, and makes the entries of
result.json from that.
"""

import statistics
from dataclasses import dataclass
from pathlib import Path

from hexport.devices.emulator import Run, check_vocabulary
from hexport.progress import Progress
from hexport.runtime.conversation import AnyGenerator, Script, Turn, check_prompts, converse
from hexport.targets.modes import MODES
from hexport.tokenizers.tokenizer import Tokenizer

# Figures of each answer in result.json. Rates are per second.
FIGURES = ("load_ms", "ttft_ms", "prefill_tokens_per_s", "decode_tokens_per_s")
LOOKAHEAD_COUNTS = ("accepted_tokens", "decode_steps")


@dataclass(frozen=True)
class Answer:
    """An answer is a turn of a conversation, with the number of that conversation, from 0 on, the mode that the program
    ran in, and the seconds that loading the program took.
    """

    turn: Turn
    conversation: int
    mode: str
    load_s: float

    def as_json(self) -> dict:
        """Return an entry of `prompts` in result.json. Rates are per second, times in ms.

        `decode_tokens_per_s` is None for an answer of one token. Mode lookahead adds LOOKAHEAD_COUNTS.
        """
        answer = self.turn.generation
        decode_s = answer.total_s - answer.first_token_s
        decoded = len(answer.token_ids) - 1
        return {
            "conversation": self.conversation,
            "prompt": self.turn.prompt,
            "prompt_tokens": self.turn.prompt_tokens,
            "generated_tokens": len(answer.token_ids),
            "text": self.turn.text,
            "token_ids": answer.token_ids,
            "load_ms": round(self.load_s * 1e3, 3),
            "ttft_ms": round(answer.first_token_s * 1e3, 3),
            "prefill_tokens_per_s": round(answer.tokens_read / answer.first_token_s, 3),
            "decode_tokens_per_s": round(decoded / decode_s, 3) if decoded else None,
            **{key: getattr(answer, key) for key in LOOKAHEAD_COUNTS if MODES[self.mode].looks_ahead},
        }


def answer_prompts(
    program: Path,
    generator: AnyGenerator,
    tokenizer: Tokenizer,
    conversations: list[list[str]],
    run: Run,
    progress: Progress,
) -> list[list[Answer]]:
    """Answer the turns of each conversation, each from an empty cache, `run.repeats` times. Before, do so `run.warmup`
    times and drop the answers.

    Return a list for each repeat, with the answers of all conversations. Tokenizer and prompts are checked before the
    first one runs; `program` is for messages. At a temperature, a conversation draws tokens as if it were the only one;
    when it is repeated, it goes on drawing where it stopped. Raises HexportError where the tokenizer has more tokens
    than the program, or a prompt leaves no room for an answer.
    """
    check_vocabulary(program, generator.decode_graph, tokenizer)
    scripts = [
        Script(tokenizer, run.system_prompt, turns, number, len(conversations))
        for number, turns in enumerate(conversations)
    ]
    for script in scripts:
        check_prompts(generator, script, run.seq_len)
    repeated = []
    for i in range(run.warmup + run.repeats):
        if run.warmup + run.repeats > 1:
            line = f"repeat {i + 1 - run.warmup} of {run.repeats}" if i >= run.warmup else f"warm-up {i + 1}"
            progress.say(line, passing=True)
        answers = []
        for script in scripts:
            turns = converse(generator, script, run.seq_len, tokenizer.stop_ids, progress)
            answers += [Answer(turn, script.number, run.mode, generator.load_s) for turn in turns]
        repeated.append(answers)
    return repeated[run.warmup :]


def result_facts(repeated: list[list[Answer]], run: Run) -> dict:
    """Return what result.json says of the answers of one or more equal repeats.

    `prompts` are those of the first repeat. Where there are several, figures are medians, and `repeats` has the
    samples. In mode lookahead, `accepted_tokens` and `decode_steps` are sums over the prompts.
    """
    entries = [[answer.as_json() for answer in answers] for answers in zip(*repeated, strict=True)]  # by prompt
    figures = [{figure: _distribution([entry[figure] for entry in same]) for figure in FIGURES} for same in entries]
    prompts = [
        first | {figure: found["median"] for figure, found in of_prompt.items()}
        for (first, *_), of_prompt in zip(entries, figures, strict=True)
    ]
    facts: dict = {"prompts": prompts}
    if run.lookahead:
        facts |= {key: sum(prompt[key] for prompt in prompts) for key in LOOKAHEAD_COUNTS}
    if run.repeats > 1:
        facts["repeats"] = {
            "repeats": run.repeats,
            "warmup": run.warmup,
            "same_answers": all(entry["token_ids"] == same[0]["token_ids"] for same in entries for entry in same),
            "prompts": figures,
        }
    return facts


def _distribution(values: list[float | None]) -> dict:
    """Return the median, the spread (largest less smallest) and the samples in their order. An answer of one token has
    no rate.
    """
    known = [value for value in values if value is not None]
    return {
        "median": round(statistics.median(known), 3) if known else None,
        "spread": round(max(known) - min(known), 3) if known else None,
        "samples": values,
    }
