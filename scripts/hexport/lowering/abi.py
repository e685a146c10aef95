"""What the ExecuTorch QNN llama runner (1.4 and later) expects of a program: names, order and constant methods."""

from collections.abc import Sequence

from hexport.decoder.config import DecoderConfig
from hexport.decoder.masks import MASKS
from hexport.quantization.quant_attrs import QuantAttrs

KV_METHOD = "kv_forward"
PREFILL_METHOD = "prefill_forward"
SLIDING_WINDOW = "get_sliding_window"


def input_names(config: DecoderConfig, cached: bool = True) -> list[str]:
    """Inputs in the order of the runner: K of every layer, then V of every layer.

    The second mask is that of the sliding layers, in programs that have any. A graph that reads the whole context in
    one call has no caches, and knows the positions.
    """
    return _inputs(config.n_layers, MASKS[:1] if config.sliding_window is None else MASKS, cached)


def names_by_count(n_inputs: int, n_outputs: int) -> tuple[list[str], list[str]] | None:
    """Names of the inputs and outputs of a graph that has so many; None where the runner knows no such graph.

    Logits, and k and v of every layer come out. Tokens and one or two masks go in; and, unless one call reads the whole
    context, positions and the caches.
    """
    n_layers, odd = divmod(n_outputs - 1, 2)
    if odd or n_layers < 1:
        return None
    known = [_inputs(n_layers, masks, cached) for masks in (MASKS[:1], MASKS) for cached in (False, True)]
    outputs = ["logits", *_by_layer("k", "v", n_layers)]
    return next(((inputs, outputs) for inputs in known if len(inputs) == n_inputs), None)


def _inputs(n_layers: int, masks: Sequence[str], cached: bool) -> list[str]:
    return ["tokens", *masks, *(("input_pos", *_by_layer("k_cache", "v_cache", n_layers)) if cached else ())]


def _by_layer(k: str, v: str, n_layers: int) -> list[str]:
    return [f"{name}_{i}" for name in (k, v) for i in range(n_layers)]


def constant_methods(
    config: DecoderConfig, attrs: QuantAttrs, *, ar_len: int, context_len: int, kv_bits: int, bos_id: int, eos_id: int
) -> dict[str, object]:
    """Constant methods by name. `ar_len` is that of the decode graph."""
    window = {} if config.sliding_window is None else {SLIDING_WINDOW: config.sliding_window}
    return {
        "get_ar_len": ar_len,
        "get_bos_id": bos_id,
        "get_eos_id": eos_id,
        "get_dim": config.hidden_size,
        "get_head_dim": config.head_dim,
        "get_max_batch_size": 1,
        "get_max_seq_len": context_len,
        "get_max_context_len": context_len,
        "get_n_bos": 1,
        "get_n_eos": 1,
        "get_n_kv_heads": config.n_kv_heads,
        "get_n_layers": config.n_layers,
        "get_vocab_size": config.vocab_size,
        "get_use_kv_cache": True,
        "get_kv_io_bit_width": kv_bits,
        "get_logits_scale": attrs.logits.scale,
        "get_logits_zero_point": attrs.logits.zero_point,
        **window,
    }
