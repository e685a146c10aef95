"""This module finds where a program departs from the float decoder, by the k and v of each layer, which its caches
hold.
"""

import itertools
from collections.abc import Callable, Sequence

import numpy as np
import torch

from hexport.decoder.device import device
from hexport.decoder.float_decoder import FloatDecoder
from hexport.decoder.matrix_products import layer_by_products
from hexport.decoder.model import rope_of
from hexport.decoder.stream import State
from hexport.decoder.weights import Checkpoint, load_layer
from hexport.programs.abi import KV_METHOD
from hexport.programs.facts import ProgramFacts
from hexport.verification.figures import sqnr_db

LOWEST_DB = 12.0  # the least SQNR of the first layer's v, which has hardly any noise yet
# Noise alone does not lose so much from one layer to the next: LEAP_DB where there is little of it, STEP_DB where much.
LEAP_DB, NOISY_DB, STEP_DB = 20.0, 20.0, 8.0


class RecordingDecoder(FloatDecoder):
    """This float decoder keeps the k, behind its norm and rotary embedding, and the v of each layer of one pack,
    float32 (tokens, n_kv_heads, head_dim).
    """

    def __init__(self, checkpoint: Checkpoint, context_len: int):
        super().__init__(checkpoint, context_len)
        self.k: list[np.ndarray] = []
        self.v: list[np.ndarray] = []

    def layer(self, i: int) -> Callable[[State], torch.Tensor]:
        """Return layer `i`, which records its k and v when it is called with a state, and returns the next hidden
        states.
        """
        layer, config = load_layer(self.checkpoint, i).to(device()), self.checkpoint.config
        attention = layer.attention

        def heads(rows: torch.Tensor) -> torch.Tensor:
            return rows.view(1, -1, config.n_kv_heads, config.head_dim).transpose(1, 2)

        def recorded(state: State) -> torch.Tensor:
            x = layer.input_norm(state.hidden)
            k, v = (heads(each.of_rows(x)) for each in (attention.k_proj, attention.v_proj))
            k, rope = attention.k_norm(k), rope_of(config.layers[i], state.ropes)
            k = attention.k_rope(k, *rope) if rope else k
            self.k.append(k[0].transpose(0, 1).cpu().numpy())
            self.v.append(v[0].transpose(0, 1).cpu().numpy())
            return layer_by_products(layer, config, i, state.hidden, state)

        return recorded


def layers_db(program: ProgramFacts, codes: Sequence[np.ndarray], v: Sequence[np.ndarray]) -> list[float] | None:
    """Return the SQNR of the v of each layer against the float decoder's, in dB; None where the program does not record
    how its codes are to be read.

    Where the program turns values (R2), the products of each head's values with each other tell it.
    codes: (n_kv_heads, tokens, head_dim) of each layer. v: (tokens, n_kv_heads, head_dim) of each layer.
    """
    plain = _compared(program, "v_cache", codes, v, lambda rows: rows.reshape(len(rows), -1))
    return plain and list(map(max, plain, _compared(program, "v_cache", codes, v, _products)))


def keys_db(program: ProgramFacts, codes: Sequence[np.ndarray], k: Sequence[np.ndarray]) -> list[float] | None:
    """Return what `layers_db` does, of the products of each head's keys with each other. These are the same in any
    layout of a head and behind any turn of it.
    """
    return _compared(program, "k_cache", codes, k, _products)


def _products(rows: np.ndarray) -> np.ndarray:
    return np.einsum("ahd,bhd->ahb", rows, rows, dtype=np.float64).reshape(len(rows), -1)


def _compared(
    program: ProgramFacts,
    name: str,
    codes: Sequence[np.ndarray],
    exact: Sequence[np.ndarray],
    what: Callable[[np.ndarray], np.ndarray],
) -> list[float] | None:
    inputs, found = {tensor.name: tensor for tensor in program.methods[KV_METHOD].inputs}, []
    for i, (of_program, of_float) in enumerate(zip(codes, exact, strict=True)):
        values, encoding = of_program.astype(np.float64).transpose(1, 0, 2), inputs[f"{name}_{i}"].encoding
        if of_program.dtype.kind != "f":
            if encoding is None:
                return None
            values = (values - encoding.zero_point) * encoding.scale
        found.append(sqnr_db(what(of_float[: len(values)]), what(values)))
    return found


def departure(found: list[float]) -> int | None:
    """Return the first layer whose v is not that of the float decoder, though that of the layer before was.

    found: SQNR in dB of all layers, then of the logits. The number of layers is returned where only the logits are not
    the float decoder's. None is returned where there is no such place: noise grows slowly.
    """
    if found[0] < LOWEST_DB:
        return 0
    steps = enumerate(itertools.pairwise(found), 1)
    return next((i for i, (before, db) in steps if _leaps(before, db)), None)


def located(keys: Sequence[float], values: Sequence[float], logits_db: float) -> str | None:
    """Return in words the first place where the program departs, as the SQNR in dB of each layer's k and v and that of
    the logits tell; None where it departs nowhere.
    """
    at = departure([*values, logits_db])
    wrong = next((i for i, (k, v) in enumerate(zip(keys, values, strict=True)) if _leaps(v, k)), None)
    if wrong is not None and (at is None or wrong < at):
        return f"layer {wrong}: its k departs, and its v does not: k_proj, the norm of k, or the rotary embedding"
    if at is None:
        return None
    if at == len(values):
        return f"behind the k and v of layer {at - 1}, the last one: its attention or feed-forward, or the epilogue"
    keeps_keys = keys[at] >= LOWEST_DB if at == 0 else not _leaps(keys[at - 1], keys[at])
    if keeps_keys:
        return f"layer {at}: its v departs, and its k does not: v_proj"
    if at == 0:
        return "layer 0: its k and v depart: the embedding, its norm, or its k_proj and v_proj"
    return (
        f"layer {at}: its k and v depart: layer {at - 1} behind its own (q, the mask, o_proj, the feed-forward), or "
        f"norm, k_proj and v_proj of layer {at}"
    )


def _leaps(before: float, db: float) -> bool:
    return before - db > (STEP_DB if db < NOISY_DB else LEAP_DB)
