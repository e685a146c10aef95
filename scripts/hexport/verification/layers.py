"""Where a program departs from the float decoder: by the v of each layer, which its caches hold."""

import itertools
from collections.abc import Callable

import numpy as np
import torch
from torch.nn import functional as F

from hexport.decoder.device import device
from hexport.decoder.weights import Checkpoint
from hexport.evaluation.fp import FloatDecoder
from hexport.evaluation.stream import State
from hexport.programs.abi import KV_METHOD
from hexport.programs.facts import ProgramFacts
from hexport.verification.figures import sqnr_db

LOWEST_DB = 12.0  # of the first layer's v, which has hardly any noise yet
# What noise does not lose from one layer to the next: where there is hardly any yet, and where there is much.
LEAP_DB, NOISY_DB, STEP_DB = 20.0, 20.0, 8.0


class RecordingDecoder(FloatDecoder):
    """Keeps the v of each layer, float32 (tokens, n_kv_heads * head_dim), of one pack."""

    def __init__(self, checkpoint: Checkpoint, context_len: int):
        super().__init__(checkpoint, context_len)
        self.v: list[np.ndarray] = []

    def layer(self, i: int) -> Callable[[State], torch.Tensor]:
        layer, eps = super().layer(i), self.checkpoint.config.norm_eps
        parameters = self.checkpoint.layer_parameters(i)
        norm, weight, bias = (
            parameters[name].to(device()) if name in parameters else None
            for name in ("input_norm.weight", "attention.v_proj.weight", "attention.v_proj.bias")
        )

        def recorded(state: State) -> torch.Tensor:
            x = F.rms_norm(state.hidden, norm.shape, norm, eps)
            self.v.append(F.linear(x, weight[:, :, 0, 0], bias)[0].cpu().numpy())
            return layer(state)

        return recorded


def layers_db(program: ProgramFacts, codes: list[np.ndarray], v: list[np.ndarray]) -> list[float] | None:
    """SQNR of the v of each layer against the float decoder's, in dB; None where the program does not record how its
    codes are to be read. codes: (n_kv_heads, tokens, head_dim) of each layer."""
    inputs = {tensor.name: tensor for tensor in program.methods[KV_METHOD].inputs}
    found = []
    for i, (of_program, of_float) in enumerate(zip(codes, v, strict=True)):
        values, encoding = of_program.astype(np.float64), inputs[f"v_cache_{i}"].encoding
        if of_program.dtype.kind != "f":
            if encoding is None:
                return None
            values = (values - encoding.zero_point) * encoding.scale
        rows = values.transpose(1, 0, 2).reshape(values.shape[1], -1)
        found.append(sqnr_db(of_float[: len(rows)], rows))
    return found


def departure(found: list[float]) -> int | None:
    """The first layer whose v is not that of the float decoder, though the one before was; behind the last layer, where
    the logits are not. None where there is no such place: noise grows slowly. found: of all layers, then of logits."""
    if found[0] < LOWEST_DB:
        return 0
    steps = enumerate(itertools.pairwise(found), 1)
    return next((i for i, (before, db) in steps if before - db > (STEP_DB if db < NOISY_DB else LEAP_DB)), None)
