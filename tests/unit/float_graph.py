"""The float decoder in the place of a program's graph, to compare the runtime with transformers exactly."""

import dataclasses

import numpy as np
import torch
from blocks import read_blocks
from whole_decoder import Decoder, causal_masks, empty_caches, load_decoder

from hexport.decoder.config import DecoderConfig
from hexport.decoder.masks import ATTEND, MASKED
from hexport.decoder.weights import Checkpoint
from hexport.runtime.kv_cache import KVCache
from hexport.runtime.masks import CODES


@dataclasses.dataclass
class FloatGraph:
    """A fixed AR length, mask codes, caches of a fixed size: what `runtime.program.Graph` has, without codes.

    In float64, near ties do not depend on how many tokens a call reads.
    """

    decoder: Decoder
    config: DecoderConfig
    ar_len: int
    context_len: int
    cache_dtype: type = np.float32
    mask_dtype: type = np.uint16
    n_calls: int = 0

    @classmethod
    def of(cls, checkpoint: Checkpoint, ar_len: int, context_len: int, dtype: type = np.float32) -> "FloatGraph":
        decoder = load_decoder(checkpoint, context_len)
        decoder = decoder.double() if dtype == np.float64 else decoder
        return cls(decoder, checkpoint.config, ar_len, context_len, dtype)

    def resized(self, ar_len: int, context_len: int | None = None) -> "FloatGraph":
        """Another graph of the same program; or one of a program with a shorter context."""
        return dataclasses.replace(self, ar_len=ar_len, context_len=context_len or self.context_len, n_calls=0)

    @property
    def cache_len(self) -> int:
        return self.context_len - self.ar_len

    def __getattr__(self, name: str) -> int:
        return getattr(self.config, name)

    def call(self, tokens, masks, positions, caches, rows=slice(None), as_put_out=False):
        assert [mask.shape for mask in masks] == [(1, 1, self.ar_len, self.context_len)] * len(masks)
        assert tokens.shape == positions.shape == (1, self.ar_len)
        assert (tokens.dtype, positions.dtype) == (np.int32, np.int32)
        assert positions.max() < self.context_len
        assert all(array.flags.c_contiguous and self.cache_len in array.shape for array in caches)
        attend, masked = CODES[np.dtype(self.mask_dtype)]
        assert all(np.isin(mask, [attend, masked]).all() for mask in masks)
        additive = [np.where(mask == attend, ATTEND, MASKED).astype(self.cache_dtype) for mask in masks]
        ids, positions, *caches = (torch.from_numpy(array) for array in (tokens, positions, *caches))
        with torch.no_grad():
            logits, *new = self.decoder(ids, [torch.from_numpy(mask) for mask in additive], positions, *caches)
        self.n_calls += 1
        return logits[0].numpy()[rows], [tensor.numpy() for tensor in new]


def whole_sequence(decoder: Decoder, config: DecoderConfig, tokens: list[int]) -> np.ndarray:
    """Logits (n, vocab) of one call that reads all tokens, with empty caches."""
    n = len(tokens)
    ids, positions = (torch.tensor([row], dtype=torch.int32) for row in (tokens, range(n)))
    masks = causal_masks(n, n, 0, config.sliding_window)
    with torch.no_grad():
        return decoder(ids, masks, positions, *empty_caches(config, 0))[0][0].numpy()


def garbage_cache(*graphs: FloatGraph) -> KVCache:
    """An empty cache whose free slots hold garbage."""
    cache = KVCache(*graphs)
    for array in cache.arrays:
        array[:] = np.random.default_rng(0).normal(0, 9, array.shape)
    return cache


def block_by_block(graph: FloatGraph, tokens: list[int]) -> np.ndarray:
    """Logits (n, vocab) of all rows as the runtime gets them: the last block is padded, free slots hold garbage."""
    return read_blocks(graph, tokens, garbage_cache(graph))
