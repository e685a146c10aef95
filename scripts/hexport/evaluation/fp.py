"""The float32 decoder, layer by layer: what every other phase is compared with."""

import functools
from collections.abc import Callable, Iterator, Sequence

import torch
from torch.nn import functional as F

from hexport.decoder.device import device
from hexport.decoder.model import Attention, Conv, Layer, rope_of
from hexport.decoder.weights import Checkpoint, load_epilogue, load_layer, load_prologue
from hexport.evaluation.scores import Scoring, TokenScores
from hexport.evaluation.stream import State, stream
from hexport.progress import Progress


def fp_scores(
    checkpoint: Checkpoint, context_len: int, sequences: list[list[int]], progress: Progress
) -> list[TokenScores]:
    """Score sequences of 2 to context_len + 1 tokens, each read from position 0."""
    scoring = Scoring(sequences)
    stream([FloatDecoder(checkpoint, context_len)], checkpoint.config, scoring.inputs, progress, scoring.add)
    return scoring.scores()


def fp_logits(
    checkpoint: Checkpoint, context_len: int, sequences: Sequence[Sequence[int]], progress: Progress
) -> Iterator[torch.Tensor]:
    """Float32 logits (n, vocab) of each sequence of n tokens, one sequence after the other."""
    decoder, last_layer, hidden = FloatDecoder(checkpoint, context_len), checkpoint.config.n_layers - 1, []

    def keep(layer: int, of_pack: torch.Tensor) -> None:
        if layer == last_layer:
            hidden.append(of_pack)

    stream([decoder], checkpoint.config, sequences, progress, on_hidden=keep)
    epilogue = decoder.epilogue()
    for of_sequence in torch.cat(hidden, dim=1).split([len(tokens) for tokens in sequences], dim=1):
        yield epilogue(of_sequence)[0]


class FloatDecoder:
    """Its parts compute what those of `decoder.model` do, by matrix products and fused attention, which take the CPU
    half the time of 1x1 convolutions and of attention spelled out."""

    def __init__(self, checkpoint: Checkpoint, context_len: int):
        self.checkpoint, self.context_len = checkpoint, context_len

    def prologue(self) -> Callable[[torch.Tensor, torch.Tensor], Sequence[torch.Tensor]]:
        return load_prologue(self.checkpoint, self.context_len).to(device())

    def layer(self, i: int) -> Callable[[State], torch.Tensor]:
        layer, kind = load_layer(self.checkpoint, i).to(device()), self.checkpoint.config.layers[i]
        seen = functools.partial(self.seen, i)
        return lambda state: float_layer(layer, state.hidden, state.pack.lengths, seen, *rope_of(kind, state.ropes))

    def seen(self, i: int, n: int) -> torch.Tensor | None:
        """Which of n tokens each of them sees in layer `i`, bool (n, n); None where it is all up to itself."""
        config = self.checkpoint.config
        if not config.layers[i].sliding or config.sliding_window >= n:
            return None
        return torch.ones(n, n, dtype=torch.bool, device=device()).tril().triu(1 - config.sliding_window)

    def epilogue(self) -> Callable[[torch.Tensor], torch.Tensor]:
        epilogue = load_epilogue(self.checkpoint).to(device())
        return lambda hidden: _linear(epilogue.output, epilogue.norm(hidden))


def float_layer(
    layer: Layer,
    hidden: torch.Tensor,
    lengths: Sequence[int],
    seen: Callable[[int], torch.Tensor | None],
    *rope: torch.Tensor,
) -> torch.Tensor:
    """The next hidden states (1, n, hidden) of sequences side by side, whose lengths are given. `seen` is as of
    `FloatDecoder`, of one layer."""
    attended = _attention(layer.attention, layer.input_norm(hidden), lengths, seen, *rope)
    hidden = hidden + layer.post_attention_norm(attended)
    x, feed_forward = layer.pre_feed_forward_norm(hidden), layer.feed_forward
    gated = feed_forward.activation(_linear(feed_forward.gate_proj, x)) * _linear(feed_forward.up_proj, x)
    return hidden + layer.post_feed_forward_norm(_linear(feed_forward.down_proj, gated))


def _attention(attention: Attention, x: torch.Tensor, lengths: Sequence[int], seen: Callable, *rope):
    def heads(projection: Conv, n: int) -> torch.Tensor:
        return _linear(projection, x).view(1, -1, n, attention.head_dim).transpose(1, 2)

    q = attention.q_norm(heads(attention.q_proj, attention.n_heads))
    k = attention.k_norm(heads(attention.k_proj, attention.n_kv_heads))
    v = heads(attention.v_proj, attention.n_kv_heads)
    if rope:
        q, k = attention.q_rope(q, *rope), attention.k_rope(k, *rope)
    sequences = zip(*(tensor.split(list(lengths), dim=2) for tensor in (q, k, v)), strict=True)
    attended = [_attend(*each, seen(n)) for each, n in zip(sequences, lengths, strict=True)]
    y = torch.cat(attended, dim=2).transpose(1, 2)
    return _linear(attention.o_proj, y.flatten(2))


def _attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, seen: torch.Tensor | None) -> torch.Tensor:
    """(1, heads, n, head_dim); the scale is in the queries' weights."""
    return F.scaled_dot_product_attention(q, k, v, seen, is_causal=seen is None, scale=1.0, enable_gqa=True)


def _linear(projection: Conv, x: torch.Tensor) -> torch.Tensor:
    return F.linear(x, projection.weight[:, :, 0, 0], projection.bias)
