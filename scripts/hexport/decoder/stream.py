"""This module passes token sequences through decoders: all of them through one layer, then through the next.

Calibration and the search of weights have loops of their own over the states of their samples, as they meet each layer
more than once. Evaluation passes whole decoders, side by side. Memory holds one layer of each decoder, and the hidden
states of WAVE_TOKENS tokens at a time. Short sequences go side by side into one call, so that they cost no more than
their tokens.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import torch

from hexport.decoder.config import DecoderConfig
from hexport.decoder.costs import float_epilogue_s, float_layer_s
from hexport.decoder.device import device
from hexport.decoder.masks import packed_masks
from hexport.decoder.sizes import sizes_of
from hexport.errors import HexportError
from hexport.progress import Progress

T = TypeVar("T")
PACK_TOKENS = 1024  # go into one call at most, unless a single sequence is longer
WAVE_TOKENS = 1 << 15
CHUNK = 1 << 22  # logits are made at a time
LEAST_ROWS = 64  # are made at a time at least, as each time all weights of the output projection are read


@dataclass(frozen=True)
class Pack:
    """A pack holds sequences side by side for one call. Each is read from position 0 and sees only itself.

    tokens, positions: int32 (1, n)
    lengths: those of the sequences, n in all
    """

    tokens: torch.Tensor
    positions: torch.Tensor
    lengths: tuple[int, ...]


@dataclass
class State:
    """A state holds sequences side by side between two layers.

    hidden: float32 (1, n, hidden_size)
    ropes: cos, sin and -sin of each rope, each (1, 1, n, dims / 2)
    lengths: those of the sequences, n in all
    window: that of the decoder's sliding layers, None where it has none
    """

    hidden: torch.Tensor
    ropes: Sequence[torch.Tensor]
    lengths: tuple[int, ...]
    window: int | None

    @property
    def masks(self) -> tuple[torch.Tensor, ...]:
        """Return what `packed_masks` does: the mask of full layers, and that of sliding ones where there are any."""
        return packed_masks(self.lengths, self.window)


class StreamedDecoder(Protocol):
    """A streamed decoder loads its parts one at a time, each when the one before it has been dropped.

    The prologue returns (hidden, *ropes) for (tokens, positions), a layer the next hidden states (1, n, hidden_size)
    for a state, the epilogue logits (1, n, vocab_size) for hidden states.
    """

    def prologue(self) -> Callable[[torch.Tensor, torch.Tensor], Sequence[torch.Tensor]]: ...

    def layer(self, i: int) -> Callable[[State], torch.Tensor]: ...

    def epilogue(self) -> Callable[[torch.Tensor], torch.Tensor]: ...


class KeptStates(Protocol):
    """An object of this type keeps the states behind a decoder's last layer, as `last_states.LastStates` does."""

    def found(self, wave: Sequence[Pack]) -> list[torch.Tensor] | None: ...

    def keep(self, wave: Sequence[Pack], hidden: Sequence[torch.Tensor]) -> None: ...


def stream(
    decoders: Sequence[StreamedDecoder],
    config: DecoderConfig,
    inputs: Sequence[Sequence[int]],
    progress: Progress,
    on_logits: Callable[..., None] | None = None,
    on_hidden: Callable[..., None] | None = None,
    kept: Sequence[KeptStates | None] = (),
) -> None:
    """Pass sequences of token ids through the decoders, side by side.

    `on_hidden(layer, *hidden)` gets what layer number `layer` of each decoder puts out for a pack. `on_logits(row,
    *logits)` gets the logits (rows, vocab_size) of each decoder for consecutive tokens; `row` is the number of the
    first of them among all tokens. Without `on_logits`, no logits are made. `kept` has for each decoder where the
    states behind its last layer are kept, or None. A decoder whose states are there passes no layers, unless there is
    `on_hidden`. Raises HexportError for token ids beyond the vocabulary.
    """
    check_ids(inputs, config, "evaluation")
    stores = list(kept) or [None] * len(decoders)
    waves = list(filled(packs(inputs), lambda pack: sum(pack.lengths), WAVE_TOKENS))
    names = [f", part {i + 1} of {len(waves)}" if len(waves) > 1 else "" for i in range(len(waves))]
    for part, wave in zip(names, waves, strict=True):
        progress.announce(_costs(part, wave, config, with_logits=on_logits is not None))
    row = 0
    with torch.no_grad():
        for part, wave in zip(names, waves, strict=True):
            found = [store.found(wave) if store and not on_hidden else None for store in stores]
            if lacking := [i for i, hidden in enumerate(found) if hidden is None]:
                passing = [decoders[i] for i in lacking]
                made = _pass_layers(passing, config, wave, progress, f"evaluate{part}", on_hidden)
                for i, hidden in zip(lacking, made, strict=True):
                    found[i] = hidden
                    if stores[i]:
                        stores[i].keep(wave, hidden)
            else:
                progress.announce({f"evaluate{part}": 0.0})  # nothing is left to do of it
            if on_logits is not None:
                row = _pass_epilogue(decoders, found, config.vocab_size, row, on_logits, progress, f"logits{part}")


def whole_logits(
    decoder: StreamedDecoder, config: DecoderConfig, inputs: Sequence[Sequence[int]], progress: Progress
) -> torch.Tensor:
    """Return the logits (tokens, vocab) of a decoder for the tokens of all sequences, one after the other."""
    rows: list[torch.Tensor] = []
    stream([decoder], config, inputs, progress, lambda _, logits: rows.append(logits))
    return torch.cat(rows)


def token_inputs(tokens: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return token ids and their positions from 0, both int32 (1, n)."""
    return torch.tensor([tokens], dtype=torch.int32), torch.arange(len(tokens), dtype=torch.int32)[None]


def state_of(prologue: Callable[..., Sequence[torch.Tensor]], tokens: Sequence[int], window: int | None) -> State:
    """Return the state of one sequence before the first layer.

    The prologue computes on the CPU, and the state is then moved to `device()`.
    """
    hidden, *ropes = (each.to(device()) for each in prologue(*token_inputs(tokens)))
    return State(hidden, ropes, (len(tokens),), window)


def after_prologue(decoder: StreamedDecoder, pack: Pack, window: int | None) -> State:
    """Return the state of a pack's sequences before the first layer."""
    return _states(decoder.prologue(), [pack], window)[0]


def packs(inputs: Sequence[Sequence[int]]) -> Iterator[Pack]:
    """Yield packs of consecutive sequences, of as many as PACK_TOKENS tokens hold."""
    return map(_pack, groups(inputs, PACK_TOKENS))


def groups(inputs: Sequence[Sequence[int]], most: int) -> Iterator[list[Sequence[int]]]:
    """Yield consecutive sequences together, of at most so many tokens, or a single longer one."""
    together: list[Sequence[int]] = []
    for tokens in inputs:
        if together and sum(map(len, together)) + len(tokens) > most:
            yield together
            together = []
        together.append(tokens)
    if together:
        yield together


def check_ids(inputs: Sequence[Sequence[int]], config: DecoderConfig, what: str) -> None:
    """Raise HexportError for a token id beyond the vocabulary. `what` is done with the ids, for the message."""
    largest = max(map(max, inputs), default=0)
    if largest >= config.vocab_size:
        raise HexportError(
            f"{what}: token id {largest}, but the checkpoint's vocabulary has {config.vocab_size} entries; "
            "the tokenizer belongs to another model"
        )


def _pack(inputs: list[Sequence[int]]) -> Pack:
    tokens = list(itertools.chain.from_iterable(inputs))
    positions = list(itertools.chain.from_iterable(range(len(sequence)) for sequence in inputs))
    ids = torch.tensor([tokens, positions], dtype=torch.int32, device=device())
    return Pack(ids[:1], ids[1:], tuple(map(len, inputs)))


def filled(items: Iterable[T], size: Callable[[T], int], enough: int) -> Iterator[list[T]]:
    """Yield consecutive items together, of `enough` in size or a little more. The last ones may be of less."""
    together: list[T] = []
    for item in items:
        together.append(item)
        if sum(map(size, together)) >= enough:
            yield together
            together = []
    if together:
        yield together


def _costs(part: str, wave: list[Pack], config: DecoderConfig, with_logits: bool) -> dict[str, float]:
    """Return the costs of the parts of a wave in seconds, for `Progress.announce`."""
    sizes, inputs = sizes_of(config), [range(n) for pack in wave for n in pack.lengths]
    layers = {f"evaluate{part}": config.n_layers * float_layer_s(sizes, inputs)}
    return layers | ({f"logits{part}": float_epilogue_s(sizes, inputs)} if with_logits else {})


def _states(prologue: Callable, wave: list[Pack], window: int | None) -> list[State]:
    """Return the state of each pack before the first layer."""
    made = []
    for pack in wave:
        hidden, *ropes = prologue(pack.tokens, pack.positions)
        made.append(State(hidden, ropes, pack.lengths, window))
    return made


def _pass_layers(
    decoders, config: DecoderConfig, wave: list[Pack], progress: Progress, name: str, on_hidden
) -> list[list[torch.Tensor]]:
    """Return what the last layer of each decoder puts out for each pack."""
    states = [_states(decoder.prologue(), wave, config.sliding_window) for decoder in decoders]
    for i in progress.steps(range(config.n_layers), name, config.n_layers):
        layers = [decoder.layer(i) for decoder in decoders]
        for of_pack in zip(*states, strict=True):
            for layer, state in zip(layers, of_pack, strict=True):
                state.hidden = layer(state)
            if on_hidden:
                on_hidden(i, *(state.hidden for state in of_pack))
    return [[state.hidden for state in of_decoder] for of_decoder in states]


def _pass_epilogue(
    decoders, hidden: list[list[torch.Tensor]], vocab_size: int, row: int, on_logits, progress: Progress, name: str
) -> int:
    """Pass the hidden states of each decoder and pack to `on_logits` as logits; return the number of the next row."""
    # The last decoder's is loaded first: fake quantisation takes the weights' memory twice, which is then still free.
    epilogues = [decoder.epilogue() for decoder in reversed(decoders)][::-1]
    step = max(LEAST_ROWS, CHUNK // vocab_size)
    blocks = [
        parts
        for of_pack in zip(*hidden, strict=True)
        for parts in zip(*(of_decoder.split(step, dim=1) for of_decoder in of_pack), strict=True)
    ]
    costs = [float(parts[0].shape[1]) for parts in blocks]
    for parts in progress.steps(blocks, name, len(blocks), "block", costs):
        on_logits(row, *(epilogue(part)[0] for epilogue, part in zip(epilogues, parts, strict=True)))
        row += parts[0].shape[1]
    return row
