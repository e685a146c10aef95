"""Constant methods are what a program says of itself to its runner."""

from dataclasses import dataclass
from pathlib import Path

from hexport.decoder.config import DecoderConfig
from hexport.errors import HexportError
from hexport.programs.abi import SLIDING_WINDOW
from hexport.quantization.quant_attrs import QuantAttrs
from hexport.quantization.recipe import Recipe


@dataclass(frozen=True)
class SpecialTokens:
    """Special tokens are the ids that a program carries for its runner."""

    bos_id: int
    eos_id: int

    @classmethod
    def of(cls, ids: dict[str, int | None], where: Path) -> "SpecialTokens":
        """Return the ids of `bos_token` and `eos_token` in `ids`; without BOS, EOS takes its place.

        Raises HexportError if there is no EOS. `where` is the tokenizer's path, for the message.
        """
        bos_id, eos_id = ids.get("bos_token"), ids.get("eos_token")
        if eos_id is None:
            raise HexportError(f"{where}: the tokenizer names no EOS token; set eos_token in tokenizer_config.json")
        return cls(eos_id if bos_id is None else bos_id, eos_id)


def constant_methods(
    config: DecoderConfig, attrs: QuantAttrs, recipe: Recipe, ar_len: int, context_len: int, special: SpecialTokens
) -> dict[str, object]:
    """Return the values of the constant methods by name, for a program whose decode graph has this AR length."""
    window = {} if config.sliding_window is None else {SLIDING_WINDOW: config.sliding_window}
    return {
        "get_ar_len": ar_len,
        "get_bos_id": special.bos_id,
        "get_eos_id": special.eos_id,
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
        "get_kv_io_bit_width": recipe.kv_bits,
        "get_logits_scale": attrs.logits.scale,
        "get_logits_zero_point": attrs.logits.zero_point,
        **window,
    }
