"""This module holds a decoder's sizes: enough to say what a recipe gives it, and how large its program will be."""

from dataclasses import dataclass, fields
from functools import cached_property
from types import MappingProxyType

from hexport.decoder.config import DecoderConfig


@dataclass(frozen=True)
class Sizes:
    """An instance holds the sizes of a decoder.

    rope_dims: the number of rotated dimensions of a head, for each of the decoder's rotary embeddings.
    sandwich_norms: whether norms stand behind attention and feed-forward too.
    """

    hidden_size: int
    n_layers: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    intermediate_size: int
    vocab_size: int
    rope_dims: tuple[int, ...]
    sandwich_norms: bool = False

    @cached_property
    def projections(self) -> dict[str, tuple[int, int]]:
        """Return the input and output channels of each projection of a layer, and of the epilogue's ("output")."""
        hidden, ffn = self.hidden_size, self.intermediate_size
        q, kv = self.n_heads * self.head_dim, self.n_kv_heads * self.head_dim
        return {
            "attention.q_proj": (hidden, q),
            "attention.k_proj": (hidden, kv),
            "attention.v_proj": (hidden, kv),
            "attention.o_proj": (q, hidden),
            "feed_forward.gate_proj": (hidden, ffn),
            "feed_forward.up_proj": (hidden, ffn),
            "feed_forward.down_proj": (ffn, hidden),
            "output": (hidden, self.vocab_size),
        }

    @property
    def layer_products(self) -> int:
        """Return the number of weights in a layer's projections, which is that of its multiplications per token."""
        return sum(n_in * n_out for name, (n_in, n_out) in self.projections.items() if name != "output")


def sizes_of(config: DecoderConfig) -> Sizes:
    """Return the sizes of a config."""
    shared = {field.name: getattr(config, field.name) for field in fields(Sizes) if field.name != "rope_dims"}
    return Sizes(**shared, rope_dims=tuple(rope.dims for rope in config.ropes))


# Sizes of the built-in models as published, which are needed before a model is downloaded.
PUBLISHED = MappingProxyType(
    {
        "stories110m": Sizes(768, 12, 12, 12, 64, 2048, 32000, (64,)),
        "llama3_2-1b_instruct": Sizes(2048, 16, 32, 8, 64, 8192, 128256, (64,)),
        "llama3_2-3b_instruct": Sizes(3072, 28, 24, 8, 128, 8192, 128256, (128,)),
        "gemma-2b": Sizes(2048, 18, 8, 1, 256, 16384, 256000, (256,)),
        "gemma3-1b": Sizes(1152, 26, 4, 1, 256, 6912, 262144, (256, 256), sandwich_norms=True),
        "phi_4_mini": Sizes(3072, 32, 24, 8, 128, 8192, 200064, (96,)),
        "qwen2_5-0_5b": Sizes(896, 24, 14, 2, 64, 4864, 151936, (64,)),
        "qwen2_5-1_5b": Sizes(1536, 28, 12, 2, 128, 8960, 151936, (128,)),
        "qwen3-0_6b": Sizes(1024, 28, 16, 8, 128, 3072, 151936, (128,)),
        "qwen3-1_7b": Sizes(2048, 28, 16, 8, 128, 6144, 151936, (128,)),
        "smollm2_135m": Sizes(576, 30, 9, 3, 64, 1536, 49152, (64,)),
        "smollm3-3b": Sizes(2048, 36, 16, 4, 128, 11008, 128256, (128,)),
    }
)
