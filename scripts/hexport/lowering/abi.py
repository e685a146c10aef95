"""What the ExecuTorch QNN llama runner (1.4 and later) expects of a program: names, order and constant methods."""

from hexport.decoder.config import DecoderConfig
from hexport.quantization.quant_attrs import QuantAttrs

KV_METHOD = "kv_forward"
PROGRAM_NAME = "{mode}_llama_qnn.pte"


def input_names(n_layers: int) -> list[str]:
    """Inputs in the order of the runner: K of every layer, then V of every layer."""
    caches = [f"{name}_{i}" for name in ("k_cache", "v_cache") for i in range(n_layers)]
    return ["tokens", "atten_mask", "input_pos", *caches]


def output_names(n_layers: int) -> list[str]:
    return ["logits", *(f"{name}_{i}" for name in ("k", "v") for i in range(n_layers))]


def constant_methods(
    config: DecoderConfig, attrs: QuantAttrs, *, ar_len: int, context_len: int, kv_bits: int, bos_id: int, eos_id: int
) -> dict[str, object]:
    """Constant methods by name. `ar_len` is that of the decode graph."""
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
    }
