"""The whole decoder as one graph, with its masks and caches, against which its parts are held."""

import torch
from torch import nn

from hexport.decoder.config import DecoderConfig
from hexport.decoder.masks import ATTEND, MASKED
from hexport.decoder.model import Epilogue, Layer, Prologue, empty_cache, rope_of
from hexport.decoder.weights import Checkpoint, load_epilogue, load_prologue, with_parameters


class Decoder(nn.Module):
    """A decoder is the whole model as one graph."""

    def __init__(self, config: DecoderConfig, context_len: int):
        super().__init__()
        self.prologue = Prologue(config, context_len)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.n_layers))
        self.epilogue = Epilogue(config)
        self.kinds = config.layers

    def forward(self, tokens, masks, input_pos, *caches):
        """Return logits, the new k of every layer, and the new v of every layer.

        `masks` are those of `causal_masks`. `caches` are k of every layer, then v of every layer. The ExecuTorch QNN
        llama runner expects this order of inputs and outputs.
        """
        n = len(self.layers)
        hidden, *ropes = self.prologue(tokens, input_pos)
        new_k, new_v = [], []
        for kind, layer, k_cache, v_cache in zip(self.kinds, self.layers, caches[:n], caches[n:], strict=True):
            hidden, k, v = layer(hidden, masks[kind.sliding], k_cache, v_cache, *rope_of(kind, ropes))
            new_k.append(k)
            new_v.append(v)
        return self.epilogue(hidden), *new_k, *new_v


def load_decoder(checkpoint: Checkpoint, context_len: int, config: DecoderConfig | None = None) -> Decoder:
    """Return the whole model with its float32 weights. `config` is the checkpoint's, unless another form of its
    attention is asked for.
    """
    with torch.device("meta"):
        decoder = Decoder(config or checkpoint.config, context_len)
    decoder.prologue = load_prologue(checkpoint, context_len)
    decoder.epilogue = load_epilogue(checkpoint)
    for i, layer in enumerate(decoder.layers):
        with_parameters(layer, checkpoint.layer_parameters(i))
    return decoder.eval().requires_grad_(False)


def causal_mask(ar_len: int, context_len: int, n_past: int, window: int | None = None) -> torch.Tensor:
    """Return a mask, float32 (1, 1, AR, CL): row i sees cache slots [0, n_past) and the current tokens up to itself.

    With a window, it sees only the last `window` of these tokens, itself included.
    """
    cache_len = context_len - ar_len
    query = n_past + torch.arange(ar_len)[:, None]
    key = torch.cat([torch.arange(cache_len), n_past + torch.arange(ar_len)])[None]
    filled = torch.ones(context_len, dtype=torch.bool)
    filled[n_past:cache_len] = False
    seen = filled & (key <= query)
    if window is not None:
        seen &= query - key < window
    return torch.where(seen, ATTEND, MASKED)[None, None]


def causal_masks(ar_len: int, context_len: int, n_past: int, window: int | None) -> tuple[torch.Tensor, ...]:
    """Return the masks that a decoder reads: that of full layers and, where there are any, that of sliding ones."""
    full = causal_mask(ar_len, context_len, n_past)
    return (full,) if window is None else (full, causal_mask(ar_len, context_len, n_past, window))


def empty_caches(config: DecoderConfig, cache_len: int) -> list[torch.Tensor]:
    """Return float32 zeros: k of every layer, then v of every layer.

    They are distinct tensors, as torch.export merges equal inputs.
    """
    layers = [empty_cache(config, cache_len) for _ in range(config.n_layers)]
    return [k for k, _ in layers] + [v for _, v in layers]
