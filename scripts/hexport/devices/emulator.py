"""The x86-64 HTP emulator: runs a program on this host, through executorch's own runtime."""

import time
from dataclasses import dataclass
from pathlib import Path

from hexport.config.socs import HTP_ARCH
from hexport.errors import HexportError
from hexport.lowering.abi import KV_METHOD, PREFILL_METHOD
from hexport.lowering.inspection import inspect_program
from hexport.progress import Progress
from hexport.runtime.conversation import Script, Turn, converse
from hexport.runtime.decode import Generator
from hexport.runtime.lookahead import Size, check_lookahead
from hexport.runtime.program import Graph, Program
from hexport.runtime.sampling import sampler
from hexport.tokenizers.tokenizer import Tokenizer


@dataclass(frozen=True)
class Run:
    """How a program is run. `lookahead` is the size in mode lookahead, and None in the others."""

    mode: str
    lookahead: Size | None
    system_prompt: str
    temperature: float
    seq_len: int

    @classmethod
    def of(cls, settings: dict) -> "Run":
        """From the settings of scripts/run.py."""
        mode = settings["mode"]
        size = Size(settings["ngram"], settings["window"], settings["gcap"]) if mode == "lookahead" else None
        return cls(mode, size, settings["system_prompt"], settings["temperature"], settings["seq_len"])


@dataclass(frozen=True)
class Answer:
    """A turn of the conversation, the mode it was had in, and the seconds that loading the program took."""

    turn: Turn
    mode: str
    load_s: float

    def as_json(self) -> dict:
        """An entry of `prompts` in result.json. Rates are per second; times are in ms."""
        answer = self.turn.generation
        decode_s = answer.total_s - answer.first_token_s
        decoded = len(answer.token_ids) - 1
        lookahead = {"accepted_tokens": answer.accepted_tokens, "decode_steps": answer.decode_steps}
        return {
            "prompt": self.turn.prompt,
            "prompt_tokens": self.turn.prompt_tokens,
            "generated_tokens": len(answer.token_ids),
            "text": self.turn.text,
            "token_ids": answer.token_ids,
            "load_ms": round(self.load_s * 1e3, 3),
            "ttft_ms": round(answer.first_token_s * 1e3, 3),
            "prefill_tokens_per_s": round(answer.tokens_read / answer.first_token_s, 3),
            "decode_tokens_per_s": round(decoded / decode_s, 3) if decoded else None,
            **(lookahead if self.mode == "lookahead" else {}),
        }


def result_facts(answers: list[Answer]) -> dict:
    """What result.json says of all answers together, one or more: the prompts, and in mode lookahead what it gained."""
    prompts = [answer.as_json() for answer in answers]
    counts = ("accepted_tokens", "decode_steps") if answers[0].mode == "lookahead" else ()
    return {"prompts": prompts, **{key: sum(prompt[key] for prompt in prompts) for key in counts}}


def answer_prompts(path: Path, tokenizer: Tokenizer, prompts: list[str], run: Run, progress: Progress) -> list[Answer]:
    """Answer prompts as the turns of one conversation. All are checked before the first one runs."""
    start = time.perf_counter()
    with progress.stage("load"):
        generator = load_generator(path, run)
    load_s = time.perf_counter() - start
    check_vocabulary(path, generator.decode_graph, tokenizer)
    script = Script(tokenizer, run.system_prompt, prompts)
    turns = converse(generator, script, run.seq_len, tokenizer.stop_ids, progress)
    return [Answer(turn, run.mode, load_s) for turn in turns]


def check_vocabulary(path: Path, graph: Graph, tokenizer: Tokenizer) -> None:
    """Raise HexportError where the tokenizer has tokens that the program does not know."""
    if tokenizer.vocab_size > graph.vocab_size:
        raise HexportError(
            f"{path}: the program knows {graph.vocab_size} tokens, the tokenizer {tokenizer.vocab_size}; "
            "they belong to different models"
        )


def check_htp(path: Path, target: str) -> None:
    """Raise HexportError where a ready program was compiled for another HTP than the target's: its result would be
    recorded under a wrong name, and no device of that name could load it."""
    options, soc = inspect_program(path).options, target.removesuffix("-emulator")
    if options is not None and options.htp_arch != f"V{HTP_ARCH[soc]}":
        raise HexportError(
            f"{path}: compiled for {options.soc} ({options.htp_arch}), and the device is {soc} (V{HTP_ARCH[soc]}); "
            "name a device of its SoC, or export it for this one"
        )


def load_generator(path: Path, run: Run) -> Generator:
    """Load the graphs of a mode. Raises HexportError for a program that has not got them."""
    program = Program(path)
    if run.mode != "kv" and PREFILL_METHOD not in program.methods:
        raise HexportError(
            f"{path}: mode {run.mode} needs {PREFILL_METHOD}, which this program lacks; "
            "run it in mode kv, or export it for this mode"
        )
    decode_graph = program.graph(KV_METHOD)
    if run.lookahead:
        check_lookahead(decode_graph, run.lookahead, run.temperature, str(path))
    elif decode_graph.ar_len != 1:
        raise HexportError(
            f"{path}: mode {run.mode} needs {KV_METHOD} with AR length 1, here it has {decode_graph.ar_len}; "
            "run this program in mode lookahead, or export it for this mode"
        )
    prefill_graph = decode_graph if run.mode == "kv" else program.graph(PREFILL_METHOD)
    return Generator(prefill_graph, decode_graph, sampler(run.temperature), run.lookahead)
