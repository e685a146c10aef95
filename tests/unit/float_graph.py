"""The float decoder in the place of a program's graph, to compare the runtime with transformers exactly."""

import dataclasses

import numpy as np
import torch

from hexport.decoder.config import DecoderConfig
from hexport.decoder.masks import ATTEND, MASKED
from hexport.decoder.model import Decoder
from hexport.decoder.weights import Checkpoint, load_decoder


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

    def call(self, tokens, mask, positions, caches):
        additive = torch.from_numpy(np.where(mask == 65535, np.float32(ATTEND), np.float32(MASKED)))
        ids, positions, *caches = (torch.from_numpy(array) for array in (tokens, positions, *caches))
        with torch.no_grad():
            logits, *new = self.decoder(ids, additive, positions, *caches)
        return logits[0].numpy(), [tensor.numpy() for tensor in new]
