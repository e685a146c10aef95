"""The x86-64 HTP emulator: runs a program on this host, through executorch's own runtime."""

import time
from dataclasses import dataclass
from pathlib import Path

from hexport.errors import HexportError
from hexport.progress import Progress
from hexport.runtime.decode import Generation, check_prompt, generate
from hexport.runtime.program import Program
from hexport.runtime.sampling import sampler
from hexport.tokenizers.tokenizer import Tokenizer


@dataclass(frozen=True)
class Answer:
    """What a prompt gave: its ids, the generation, and the seconds that loading the program took."""

    prompt: str
    prompt_ids: list[int]
    generation: Generation
    text: str
    load_s: float

    def as_json(self) -> dict:
        """An entry of `prompts` in result.json. Rates are per second; times are in ms."""
        prompt, answer = len(self.prompt_ids), self.generation
        decode_s = answer.total_s - answer.first_token_s
        decoded = len(answer.token_ids) - 1
        return {
            "prompt": self.prompt,
            "prompt_tokens": prompt,
            "generated_tokens": len(answer.token_ids),
            "text": self.text,
            "token_ids": answer.token_ids,
            "load_ms": round(self.load_s * 1e3, 3),
            "ttft_ms": round(answer.first_token_s * 1e3, 3),
            "prefill_tokens_per_s": round(prompt / answer.first_token_s, 3),
            "decode_tokens_per_s": round(decoded / decode_s, 3) if decoded else None,
        }


def answer_prompts(
    program: Path,
    tokenizer: Tokenizer,
    prompts: list[str],
    *,
    system_prompt: str,
    temperature: float,
    seq_len: int,
    progress: Progress,
) -> list[Answer]:
    """Answer each prompt from an empty cache. All prompts are checked before the first one runs."""
    start = time.perf_counter()
    with progress.stage("load"):
        graph = Program(program).graph()
    load_s = time.perf_counter() - start
    encoded = [tokenizer.prompt_ids(prompt, system_prompt) for prompt in prompts]
    for i, ids in enumerate(encoded):
        check_prompt(graph, ids, seq_len, f"prompts[{i}]")
    if tokenizer.vocab_size > graph.vocab_size:
        raise HexportError(
            f"{program}: the program knows {graph.vocab_size} tokens, the tokenizer {tokenizer.vocab_size}; "
            "they belong to different models"
        )
    answers = []
    for prompt, ids in zip(prompts, encoded, strict=True):
        with progress.stage(f"prompt {len(answers) + 1} of {len(prompts)}"):
            steps = iter(progress.steps(range(seq_len), "token", seq_len - 1, unit="position"))
            generation = generate(
                graph, ids, seq_len, tokenizer.stop_ids, sampler(temperature), lambda *_, steps=steps: next(steps)
            )
        answers.append(Answer(prompt, ids, generation, _text(tokenizer, generation), load_s))
    return answers


def _text(tokenizer: Tokenizer, generation: Generation) -> str:
    """The answer without the stop token that ended it."""
    ids = generation.token_ids
    return tokenizer.decode(ids[:-1] if ids[-1] in tokenizer.stop_ids else ids)
