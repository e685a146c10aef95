"""This module runs the fake-quantised decoder, layer by layer, beside the float32 decoder on the same tokens."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from hexport.decoder.device import device
from hexport.decoder.float_decoder import FloatDecoder
from hexport.decoder.masks import MASK
from hexport.decoder.model import Epilogue, Prologue, empty_cache, rope_of
from hexport.decoder.stream import KeptStates, State, stream
from hexport.decoder.weights import Checkpoint
from hexport.evaluation.comparison import Comparison, SignalToNoise
from hexport.evaluation.scores import Scoring, TokenScores
from hexport.progress import Progress
from hexport.quantization.calibration import EXPORT_LENGTH, prepare_epilogue, prepare_layer, prepare_prologue
from hexport.quantization.fake_quantize import FakeQuantisedGraph
from hexport.quantization.prepared import PreparedGraph, weight_observer
from hexport.quantization.quant_attrs import QuantAttrs
from hexport.quantization.recipe import LAYER_PROJECTIONS, Recipe

WORST_LAYERS = 5  # so many of them are named
# The vocabulary of templates, since to export and prepare a module takes several times its memory. No width is prime.
STAND_IN = 997


class FakeQuantisedLayer:
    """An instance is layer `i` with all its encodings, or another layer of the same graph, once that has been loaded.

    Called with hidden (1, n, hidden), masks as of `packed_masks`, and the tables of all ropes (1, 1,
    n, dims / 2), it returns the next hidden states (1, n, hidden). `graph.points` are open to changes.
    """

    def __init__(self, checkpoint: Checkpoint, i: int, recipe: Recipe):
        self.config, self.recipe = checkpoint.config, recipe
        prepared = prepare_layer(checkpoint.config, i, EXPORT_LENGTH, EXPORT_LENGTH, recipe)
        self.graph = FakeQuantisedGraph(prepared, device())
        self.empty = [cache.to(device()) for cache in empty_cache(self.config, 0)]

    def load(
        self, i: int, attrs: QuantAttrs, parameters: dict[str, torch.Tensor], hidden: str, ropes: Sequence[str]
    ) -> None:
        """Become layer `i`; `parameters` are float. `hidden` and `ropes` are the names of the points that it is called
        with, such as `layers.2.add_1` for layer 3.
        """
        self.kind = self.config.layers[i]
        angles = {f"rope_{j}": point for j, point in enumerate(rope_of(self.kind, ropes))}
        observers = {f"{name}.weight": weight_observer(self.recipe.at(str(i), name)) for name in LAYER_PROJECTIONS}
        self.graph.load(f"layers.{i}", attrs, parameters, {"hidden": hidden, MASK: MASK, **angles}, observers)

    def __call__(
        self, hidden: torch.Tensor, masks: Sequence[torch.Tensor], ropes: Sequence[torch.Tensor]
    ) -> torch.Tensor:
        return self.graph(hidden, masks[self.kind.sliding], *self.empty, *rope_of(self.kind, ropes))[0]


class FakeQuantisedDecoder:
    """The decoder computes with fake-quantised parts. It keeps one graph for all layers alike, and the weights of one
    part at a time.
    """

    def __init__(self, checkpoint: Checkpoint, attrs: QuantAttrs, recipe: Recipe, context_len: int):
        self.checkpoint, self.attrs, self.recipe, self.context_len = checkpoint, attrs, recipe, context_len
        self._small = replace(checkpoint.config, vocab_size=STAND_IN)
        self._ends: dict[str, FakeQuantisedGraph] = {}  # prologue and epilogue
        self.layers: dict[tuple, FakeQuantisedLayer] = {}  # by signature
        self.hidden_point = ""  # the point of what the last part put out
        self.rope_points: list[str] = []

    def prologue(self) -> Callable[[torch.Tensor, torch.Tensor], Sequence[torch.Tensor]]:
        """Return the prologue, called with tokens and positions; it returns hidden states and the tables of ropes."""
        if "prologue" not in self._ends:
            module = Prologue(self._small, self.context_len)
            self._ends["prologue"] = self._end(prepare_prologue(module, EXPORT_LENGTH, self.recipe))
        graph = self._ends["prologue"]
        graph.load("prologue", self.attrs, self.checkpoint.prologue_parameters(), {})
        self.hidden_point, *self.rope_points = (f"prologue.{point}" for point in graph.outputs)
        return graph

    def _end(self, prepared: PreparedGraph) -> FakeQuantisedGraph:
        graph = FakeQuantisedGraph(prepared, device())
        graph.resize(STAND_IN, self.checkpoint.config.vocab_size)
        return graph

    def layer(self, i: int) -> Callable[[State], torch.Tensor]:
        """Return layer `i`, called with a state; it returns the next hidden states. The parts before
        have been loaded.
        """
        layer = self.loaded_layer(i)
        return lambda state: layer(state.hidden, state.masks, state.ropes)

    def signature(self, i: int) -> tuple:
        """Return what layers have in common that share a graph."""
        return self.checkpoint.config.layer_signature(i), self.recipe.graph_of(i)

    def loaded_layer(self, i: int) -> FakeQuantisedLayer:
        """Return layer `i`. The parts before it must have been loaded, since their points are what it
        is called with.
        """
        for graph in self._ends.values():
            graph.drop_parameters()
        layer = self._prepared_layer(i)
        for other in self.layers.values():
            if other is not layer:
                other.graph.drop_parameters()
        layer.load(i, self.attrs, self.checkpoint.layer_parameters(i), self.hidden_point, self.rope_points)
        self.hidden_point = f"layers.{i}.{layer.graph.outputs[0]}"
        return layer

    def _prepared_layer(self, i: int) -> FakeQuantisedLayer:
        """Return the layer of layer `i`'s graph, with any weights or none."""
        if self.signature(i) not in self.layers:
            self.layers[self.signature(i)] = FakeQuantisedLayer(self.checkpoint, i, self.recipe)
        return self.layers[self.signature(i)]

    def epilogue(self) -> Callable[[torch.Tensor], torch.Tensor]:
        """Return the epilogue, called with hidden states behind the last layer; it returns logits."""
        if "epilogue" not in self._ends:
            self._ends["epilogue"] = self._end(prepare_epilogue(Epilogue(self._small), EXPORT_LENGTH, self.recipe))
        graph, last = self._ends["epilogue"], self.checkpoint.config.n_layers - 1
        hidden = f"layers.{last}.{self._prepared_layer(last).graph.outputs[0]}"
        graph.load("epilogue", self.attrs, self.checkpoint.epilogue_parameters(), {"hidden": hidden})
        return graph


class QuantisedScores:
    """An instance is a score function: it gives token scores of the fake-quantised decoder, which runs beside the float
    decoder.

    kept: where the states behind the last layer are kept. comparison: of the logits of all tokens that were read.
    layers: of the hidden states behind each layer.
    float_scores: those of the float decoder, by sequence.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        attrs: QuantAttrs,
        recipe: Recipe,
        context_len: int,
        progress: Progress,
        kept: KeptStates | None = None,
    ):
        self.config, self.progress, self.kept = checkpoint.config, progress, (None, kept)
        self.decoders = (
            FloatDecoder(checkpoint, context_len),
            FakeQuantisedDecoder(checkpoint, attrs, recipe, context_len),
        )
        self.comparison = Comparison()
        self.layers = [SignalToNoise() for _ in range(self.config.n_layers)]
        self.float_scores: dict[tuple[int, ...], TokenScores] = {}

    def __call__(self, sequences: list[list[int]]) -> list[TokenScores]:
        """Return the scores of sequences of 2 to context_len + 1 tokens, each read from position 0."""
        float_scoring, scoring = Scoring(sequences), Scoring(sequences)

        def on_logits(row: int, reference: torch.Tensor, logits: torch.Tensor) -> None:
            float_scoring.add(row, reference)
            scoring.add(row, logits)
            self.comparison.add(reference, logits)

        def on_hidden(layer: int, reference: torch.Tensor, hidden: torch.Tensor) -> None:
            self.layers[layer].add(reference, hidden)

        stream(self.decoders, self.config, scoring.inputs, self.progress, on_logits, on_hidden, self.kept)
        self.float_scores |= zip(map(tuple, sequences), float_scoring.scores(), strict=True)
        return scoring.scores()

    def of_float(self, sequences: list[list[int]]) -> list[TokenScores]:
        """Return the float decoder's scores of sequences that were scored before. Raises KeyError for others."""
        return [self.float_scores[tuple(sequence)] for sequence in sequences]

    def layers_as_json(self) -> dict[str, list]:
        """Return the SQNR in dB of the hidden states behind each layer, and the numbers of the layers with the lowest
        ones.
        """
        layers = [{"layer": i, "sqnr_db": layer.db} for i, layer in enumerate(self.layers)]
        worst = sorted((layer for layer in layers if layer["sqnr_db"] is not None), key=lambda layer: layer["sqnr_db"])
        return {"layers": layers, "worst_layers": [layer["layer"] for layer in worst[:WORST_LAYERS]]}
