"""The float decoder in the place of a program's graph, to compare the runtime with transformers exactly."""

import dataclasses

import numpy as np
import torch

from hexport.decoder.config import DecoderConfig
from hexport.decoder.masks import ATTEND, MASKED, causal_masks
from hexport.decoder.model import Decoder, empty_caches
from hexport.decoder.weights import Checkpoint, load_decoder
from hexport.runtime.kv_cache import KVCache


@dataclasses.dataclass
class FloatGraph:
    """A fixed AR length, mask codes, caches of a fixed size: what `runtime.program.Graph` has, without codes."""

    decoder: Decoder
    config: DecoderConfig
    ar_len: int
    context_len: int
    cache_dtype: type = np.float32

    @classmethod
    def of(cls, checkpoint: Checkpoint, ar_len: int, context_len: int) -> "FloatGraph":
        return cls(load_decoder(checkpoint, context_len), checkpoint.config, ar_len, context_len)

    @property
    def cache_len(self) -> int:
        return self.context_len - self.ar_len

    def __getattr__(self, name: str) -> int:
        return getattr(self.config, name)

    def call(self, tokens, masks, positions, caches):
        additive = [torch.from_numpy(np.where(mask == 65535, np.float32(ATTEND), np.float32(MASKED))) for mask in masks]
        ids, positions, *caches = (torch.from_numpy(array) for array in (tokens, positions, *caches))
        with torch.no_grad():
            logits, *new = self.decoder(ids, additive, positions, *caches)
        return logits[0].numpy(), [tensor.numpy() for tensor in new]


def whole_sequence(decoder: Decoder, config: DecoderConfig, tokens: list[int]) -> np.ndarray:
    """Logits (n, vocab) of one call that reads all tokens, with empty caches."""
    n = len(tokens)
    ids, positions = (torch.tensor([row], dtype=torch.int32) for row in (tokens, range(n)))
    masks = causal_masks(n, n, 0, config.sliding_window)
    with torch.no_grad():
        return decoder(ids, masks, positions, *empty_caches(config, 0))[0][0].numpy()


def block_by_block(graph: FloatGraph, tokens: list[int]) -> np.ndarray:
    """Logits (n, vocab) as the runtime gets them: the last block is padded, and free cache slots hold garbage."""
    cache = KVCache(graph)
    for array in cache.arrays:
        array[:] = np.random.default_rng(0).normal(0, 9, array.shape)
    rows = []
    for start in range(0, len(tokens), graph.ar_len):
        block = tokens[start : start + graph.ar_len]
        padded = np.array([block + [1] * (graph.ar_len - len(block))], np.int32)
        positions = np.arange(start, start + graph.ar_len, dtype=np.int32)[None]
        logits, new = graph.call(padded, cache.masks, positions, cache.arrays)
        cache.append(new, len(block))
        rows.append(logits[: len(block)])
    return np.concatenate(rows)
