"""This module answers: it reads the prompt in blocks, then generates tokens, one a call or, by lookahead, several."""

import time
from dataclasses import dataclass

from hexport.runtime.graph import Graph
from hexport.runtime.kv_cache import KVCache
from hexport.runtime.lookahead import OnToken, Size, decode_ahead
from hexport.runtime.prefill import OnBlock, prefill, read_block
from hexport.runtime.sampling import Sampler


@dataclass(frozen=True)
class Generation:
    """A generation holds the generated ids, with the stop token if one ended the answer. Times are in seconds from the
    start of the prompt.

    `tokens_read` counts the prompt's tokens that were not in the cache, `decode_steps` the calls of the decode graph.
    """

    token_ids: list[int]
    tokens_read: int
    decode_steps: int
    first_token_s: float
    total_s: float

    @property
    def accepted_tokens(self) -> int:
        """Return the tokens gained beyond the one of each call. The first token is the prefill's."""
        return len(self.token_ids) - 1 - self.decode_steps


@dataclass
class Generator:
    """A generator holds the graphs of a mode, and the cache that they share. In mode kv, one AR-1 graph reads the
    prompt too.

    With a lookahead size, the decode graph has an AR length of size.rows or more, and answers are greedy. `load_s`: the
    seconds that loading the graphs took.
    """

    prefill_graph: Graph
    decode_graph: Graph
    sample: Sampler
    lookahead_size: Size | None = None
    load_s: float = 0.0

    def __post_init__(self):
        self.cache = KVCache(self.prefill_graph, self.decode_graph)

    def begin(self, conversation: int) -> None:
        """Draw what follows as a part of the conversation of this number."""
        self.sample.conversation = conversation

    def generate(
        self,
        tokens: list[int],
        end: int,
        stop_ids: frozenset[int],
        on_block: OnBlock = lambda: None,
        on_token: OnToken = lambda token: None,
    ) -> Generation:
        """Continue tokens, of which the cache holds the first ones, until a stop token, or until there are `end` in
        all, or until the context is full.
        """
        start, n_prompt, n_past = time.perf_counter(), len(tokens), self.cache.n_past
        tokens, end = list(tokens), min(end, self.decode_graph.context_len + 1)
        tokens.append(self.sample(prefill(self.prefill_graph, self.cache, tokens[n_past:], on_block)))
        on_token(tokens[-1])
        first_token_s = time.perf_counter() - start
        if self.lookahead_size is None:
            steps = self._decode(tokens, end, stop_ids, on_token)
        else:
            size, graph = self.lookahead_size, self.decode_graph
            steps = decode_ahead(graph, self.cache, tokens, end, stop_ids, size, on_token)
        return Generation(tokens[n_prompt:], n_prompt - n_past, steps, first_token_s, time.perf_counter() - start)

    def _decode(self, tokens: list[int], end: int, stop_ids: frozenset[int], on_token: OnToken) -> int:
        """Append tokens, one a call of an AR-1 graph, until there are `end`, or the last is a stop token. Return the
        number of calls.

        The cache holds all but the last token. `end` is at most CL + 1: the last token that can be read stands at
        position CL - 1, and the one that it gives still belongs to the answer.
        """
        steps = 0
        while len(tokens) < end and tokens[-1] not in stop_ids:
            tokens.append(self.sample(read_block(self.decode_graph, self.cache, tokens[-1:])))
            on_token(tokens[-1])
            steps += 1
        return steps
