"""This module answers prompts as the turns of a conversation. A turn reads what the concatenated text would be, and
what of it already stands in the cache is not read again.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from hexport.errors import HexportError
from hexport.progress import Progress
from hexport.runtime.decode import Generation
from hexport.runtime.graph import GraphSizes
from hexport.runtime.kv_cache import TokenCache
from hexport.runtime.lookahead import OnToken
from hexport.runtime.prefill import OnBlock, check_prompt, n_blocks, prompt_limit
from hexport.runtime.reading import common_prefix
from hexport.tokenizers.tokenizer import Tokenizer


class AnyGenerator(Protocol):
    """A generator continues a conversation on any kind of device, as `runtime.decode.Generator` does on this host."""

    prefill_graph: GraphSizes
    decode_graph: GraphSizes
    cache: TokenCache
    load_s: float

    def begin(self, conversation: int) -> None: ...

    def generate(
        self, tokens: list[int], end: int, stop_ids: frozenset[int], on_block: OnBlock, on_token: OnToken
    ) -> Generation: ...


@dataclass(frozen=True)
class Turn:
    """A turn is a prompt and its answer; `text` is without the stop token. `prompt_tokens` counts the tokens that are
    new in the conversation.
    """

    prompt: str
    prompt_tokens: int
    generation: Generation
    text: str


@dataclass(frozen=True)
class Script:
    """A script is what a conversation is made of, but for the answers. The conversation has this number, from 0 on,
    among so many.
    """

    tokenizer: Tokenizer
    system_prompt: str
    prompts: list[str]
    number: int = 0
    among: int = 1

    def place(self, turn: int) -> str:
        """Return the place of a turn's prompt in config.yaml: `prompts[2]`, or `prompts[0][2]` where there are several
        conversations.
        """
        return f"prompts[{turn}]" if self.among == 1 else f"prompts[{self.number}][{turn}]"

    def ids(self, answers: list[list[int]]) -> list[int]:
        """Return the ids of the conversation up to the prompt that follows these answers, as the model continues it.

        Answers are ids without a final stop token. A chat template sees them as text, and may leave parts of earlier
        ones out. Without a template, texts stand one behind the other, BOS in front of the first one only.
        """
        first, *later = self.prompts[: len(answers) + 1]
        if self.tokenizer.chat_template is None:
            ids = self.tokenizer.prompt_ids(first, self.system_prompt)
            for answer, prompt in zip(answers, later, strict=True):
                ids = [*ids, *answer, *self.tokenizer.encode(prompt)]
            return ids
        messages = [{"role": "system", "content": self.system_prompt}] if self.system_prompt else []
        messages.append({"role": "user", "content": first})
        for answer, prompt in zip(answers, later, strict=True):
            messages.append({"role": "assistant", "content": self.tokenizer.decode(answer)})
            messages.append({"role": "user", "content": prompt})
        return self.tokenizer.chat_ids(messages)


@dataclass(frozen=True)
class Budget:
    """A budget shares out the room for answers. `lengths` are the tokens of the conversation up to each prompt if all
    answers were empty. All numbers are tokens.
    """

    lengths: list[int]
    seq_len: int
    context_len: int
    prompt_limit: int

    def end(self, turn: int, n_tokens: int) -> int:
        """Return how many tokens the conversation may have after the answer of a turn that reads n_tokens.

        The room that all prompts leave is divided equally among the answers still to come; what an answer leaves is the
        next ones'. Each answer has at least one token, and the last prompt must still fit in front of the last answer.
        """
        later = self.lengths[-1] - self.lengths[turn]
        answers = len(self.lengths) - turn
        share = (min(self.seq_len, self.context_len + 1) - n_tokens - later) // answers
        if answers > 1:
            share = min(share, (min(self.prompt_limit, self.seq_len - 1) - n_tokens - later) // (answers - 1))
        return n_tokens + max(share, 1)


def check_prompts(generator: AnyGenerator, script: Script, seq_len: int) -> Budget:
    """Raise HexportError, before anything runs, if a prompt cannot be read even if all answers have one token. Else
    return the budget of the conversation.
    """
    graph, lengths = generator.prefill_graph, []
    for i, prompt in enumerate(script.prompts):
        if i and script.tokenizer.chat_template is None and not script.tokenizer.encode(prompt):
            raise HexportError(f"{script.place(i)}: the prompt has no tokens")
        ids = script.ids([[]] * i)
        _check(generator, script, ids, seq_len, turn=i, to_come=i)
        lengths.append(len(ids))
    return Budget(lengths, seq_len, graph.context_len, prompt_limit(graph))


def converse(
    generator: AnyGenerator, script: Script, seq_len: int, stop_ids: frozenset[int], progress: Progress
) -> Iterator[Turn]:
    """Answer the prompts one after the other, from an empty cache, in at most seq_len tokens of prompts and answers
    together. Yield each turn.

    All prompts are checked before the first one runs. Raises HexportError too where a later turn turns out not to fit,
    because the chat template or the tokenizer makes more of the answers than they had tokens.
    """
    budget = check_prompts(generator, script, seq_len)
    generator.begin(script.number)
    answers: list[list[int]] = []
    said: list[int] = []  # the conversation, with the tokens that ended answers
    of_several = "" if script.among == 1 else f"conversation {script.number + 1} of {script.among}, "
    for i, prompt in enumerate(script.prompts):
        ids = script.ids(answers)
        _check(generator, script, ids, seq_len, turn=i)
        n_known = common_prefix(ids, said)
        roll_back(generator, ids, n_known)
        with progress.stage(f"{of_several}prompt {i + 1} of {len(script.prompts)}"):
            generation = _generate(generator, ids, budget.end(i, len(ids)), stop_ids, progress)
        said = ids + generation.token_ids
        answers.append([*generation.token_ids[:-1], *(t for t in generation.token_ids[-1:] if t not in stop_ids)])
        yield Turn(prompt, len(ids) - n_known, generation, script.tokenizer.decode(answers[-1]))


def roll_back(generator: AnyGenerator, ids: list[int], n_known: int) -> None:
    """Keep in the cache what ids begin with, but for the last one, whose logits are wanted. n_known: how many tokens
    ids and the conversation so far begin with alike.

    A prefill graph as long as the context reads no cache: it reads everything again.
    """
    cache, whole = generator.cache, generator.prefill_graph.cache_len == 0
    cache.keep(0 if whole else min(cache.n_past, n_known, len(ids) - 1))


def _generate(
    generator: AnyGenerator, ids: list[int], end: int, stop_ids: frozenset[int], progress: Progress
) -> Generation:
    graph, n_read = generator.prefill_graph, len(ids) - generator.cache.n_past
    blocks = progress.steps(
        itertools.repeat(None), "prefill", n_blocks(graph, n_read), unit="token" if graph.ar_len == 1 else "block"
    )
    tokens = progress.steps(itertools.repeat(None), "answer", end - len(ids), unit="token")
    return generator.generate(ids, end, stop_ids, lambda: next(blocks), lambda _: next(tokens))


def _check(generator: AnyGenerator, script: Script, ids: list[int], seq_len: int, turn: int, to_come: int = 0) -> None:
    what = "the conversation up to this prompt" if turn else "the prompt"
    check_prompt(generator.prefill_graph, ids, seq_len, script.place(turn), what, to_come)
