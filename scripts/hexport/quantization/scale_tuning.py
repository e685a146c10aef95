"""This module tunes scales end to end, by how far the decoder's answers are from those of the float model.

SeqMSE and GPTQ look at one projection at a time, and errors of one layer go on to the next ones. When all codes are
known, the scale of each output channel can still change at no cost on the device; the scales of its blocks keep their
proportions, which are QNN's integers. Gradient descent through the whole decoder fits them, as in the second phase of
EfficientQAT (arXiv 2407.11062). It fits them to the float model's distribution over the next token. This says more than
the token that came, so that a few thousand tokens are enough for so few parameters.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

from hexport.code_digest import code_digest
from hexport.decoder.costs import float_epilogue_s, float_layer_s, table_s
from hexport.decoder.device import device
from hexport.decoder.kept_names import kept_name
from hexport.decoder.matrix_products import layer_by_products
from hexport.decoder.model import Layer
from hexport.decoder.sizes import sizes_of
from hexport.decoder.stream import State, filled
from hexport.decoder.weights import Checkpoint, load_epilogue, load_layer
from hexport.errors import HexportError
from hexport.progress import Progress
from hexport.provenance import atomic_path, is_whole, manifest_path, write_manifest
from hexport.quantization.coded_weight import CodedWeight
from hexport.quantization.recipe import EPILOGUE, LAYER_PROJECTIONS, OUTPUT_PROJECTION
from hexport.quantization.vocabulary import row_blocks
from hexport.quantization.weight_inputs import states_of
from hexport.quantization.weights_file import full_name

READ, FLOAT, TUNE = "scales: embeddings", "scales: float model", "scales"  # names of parts in the progress
STEP_TOKENS = 512  # the gradient of so many tokens makes a step; a longer sample makes one by itself
RATE = 3e-3  # a factor moves by about as much in each of the first steps; the rate falls to 0
LEAST = 0.5  # no factor is less, since a scale must be positive
ROWS = 128  # the logits of so many tokens are in memory at a time
PASSES = 3  # a step passes a layer as often: forward, forward with what the gradient needs, backward

# The state before the first layer; and what the epilogue's norm of the float model puts out, (tokens, hidden_size).
Sample = tuple[State, torch.Tensor]


class TunedProjection(nn.Module):
    """This projection computes with its codes, in scales that are multiplied by `factors`, float32 (out,)."""

    def __init__(self, coded: CodedWeight, bias: torch.Tensor | None):
        super().__init__()
        self.coded, self.bias = coded, bias
        self.factors = nn.Parameter(torch.ones(len(coded.scales), device=device()))

    def of_rows(self, x: torch.Tensor) -> torch.Tensor:
        """Apply the projection to x, float32 (…, in), and return float32 (…, out)."""
        y = F.linear(x, self.coded.values()[:, :, 0, 0].to(x.device)) * self.factors
        return y if self.bias is None else y + self.bias


class TunedDecoder:
    """This decoder computes with codes where there are any. It holds all codes, as bytes, and the head in float32.

    `tuned` has its projections with codes by name, such as `layers.3.attention.q_proj`.
    """

    def __init__(self, checkpoint: Checkpoint, weights: Mapping[str, CodedWeight]):
        self.config = checkpoint.config
        self.tuned: dict[str, TunedProjection] = {}
        self.layers = [self._layer(checkpoint, i, weights) for i in range(self.config.n_layers)]
        epilogue = load_epilogue(checkpoint).to(device())
        self.norm, self.float_head = epilogue.norm, epilogue.output.weight[:, :, 0, 0]
        head = weights.get(full_name(EPILOGUE, OUTPUT_PROJECTION))
        has_codes = head is not None and head.codes is not None
        self.head = head.values()[:, :, 0, 0].to(device()) if has_codes else self.float_head

    def _layer(self, checkpoint: Checkpoint, i: int, weights: Mapping[str, CodedWeight]) -> Layer:
        layer = load_layer(checkpoint, i).to(device())
        for name in LAYER_PROJECTIONS:
            full = full_name(str(i), name)
            if full in weights and weights[full].codes is not None:
                self.tuned[full] = TunedProjection(weights[full], layer.get_submodule(name).bias)
                layer.set_submodule(name, self.tuned[full])
        return layer

    def pass_layer(self, i: int, hidden: torch.Tensor, state: State) -> torch.Tensor:
        """Return the hidden states, float32 (1, n, hidden_size), behind layer `i`."""
        return layer_by_products(self.layers[i], self.config, i, hidden, state)

    def add_gradient(self, state: State, wanted: torch.Tensor, weight: float) -> float:
        """Add the gradient of `weight` times a sample's divergence to that of the factors; return the divergence.

        The divergence is KL(float || this), summed over the sample's tokens, in nats. `wanted` is as in Sample.
        """
        inputs = [state.hidden]
        for i in range(self.config.n_layers):
            inputs.append(self.pass_layer(i, inputs[-1], state))
        divergence, slopes = self._of_head(inputs.pop(), wanted, weight)
        for i, hidden in reversed(list(enumerate(inputs))):
            slopes = _backward(lambda x, i=i: self.pass_layer(i, x, state), hidden, slopes)
        return divergence

    def _of_head(self, hidden: torch.Tensor, wanted: torch.Tensor, weight: float) -> tuple[float, torch.Tensor]:
        """Return the divergence, and the gradient of `weight` times it with respect to the last hidden states."""
        x, divergence, slopes = self.norm(hidden)[0], 0.0, []
        for rows, of_float in zip(x.split(ROWS), wanted.split(ROWS), strict=True):
            log_p, log_q = (F.linear(*pair).log_softmax(1) for pair in ((of_float, self.float_head), (rows, self.head)))
            p = log_p.exp()
            divergence += float((p * (log_p - log_q)).sum())
            slopes.append((log_q.exp_() - p).mul_(weight) @ self.head)
        return divergence, _backward(self.norm, hidden, torch.cat(slopes)[None])


def tuned_scales(
    checkpoint: Checkpoint,
    samples: list[list[int]],
    weights: Mapping[str, CodedWeight],
    passes: int,
    progress: Progress,
    folder: Path,
) -> dict[str, CodedWeight]:
    """Return the same codes in tuned scales. The output projection, and weights without codes, stay as they are.

    samples: lists of token ids, each of which is read from position 0.
    weights: by projection, such as `layers.3.attention.q_proj`.
    passes: how often the samples are gone through.
    folder: that of the search that found the codes. After every step, it has what a run that was killed goes on from.

    Raises HexportError where the decoder puts out values that are not finite.
    """
    progress.announce(_costs(checkpoint, samples, passes))
    with progress.stage("tune scales"), torch.no_grad():
        states = states_of(checkpoint, samples, progress, READ)
        wanted = _float_outputs(checkpoint, states, progress)
        decoder = TunedDecoder(checkpoint, weights)
        batches = list(filled(zip(states, wanted, strict=True), lambda sample: len(sample[1]), STEP_TOKENS))
        _descend(decoder, batches, passes, progress, _kept_in(folder, passes))
    factors = {name: projection.factors.detach().cpu() for name, projection in decoder.tuned.items()}
    return dict(weights) | {name: _scaled(weights[name], factor) for name, factor in factors.items()}


def _descend(decoder: TunedDecoder, batches: list[list[Sample]], passes: int, progress: Progress, kept: Path) -> None:
    """Descend with Adam, at a rate that falls to 0 as a cosine does."""
    factors = [projection.factors for projection in decoder.tuned.values()]
    adam, done = torch.optim.Adam(factors, betas=(0.9, 0.95)), 0
    if is_whole(kept):
        state = torch.load(kept, weights_only=True)
        done = state["done"]
        adam.load_state_dict(state["adam"])
        for factor, value in zip(factors, state["factors"], strict=True):
            factor.copy_(value)
        progress.say(f"scales: {done} of {passes * len(batches)} steps found in {kept}")
    n_steps = passes * len(batches)
    steps = (batches * passes)[done:]
    costs = [float(_tokens(batch)) for batch in steps]
    for number, batch in enumerate(progress.steps(steps, TUNE, len(steps), "step", costs), done):
        adam.param_groups[0]["lr"] = RATE * (1 + math.cos(math.pi * number / n_steps)) / 2
        adam.zero_grad()
        divergence = sum(decoder.add_gradient(*sample, 1 / _tokens(batch)) for sample in batch) / _tokens(batch)
        if not math.isfinite(divergence):
            raise HexportError("scales: outputs are not finite on the calibration data; check the weights for NaN")
        progress.log(f"scales: step {number + 1} of {n_steps}: KL {divergence:.4f} nats before it")
        adam.step()
        for factor in factors:
            factor.clamp_(min=LEAST)
        with atomic_path(kept) as temporary:
            torch.save({"done": number + 1, "adam": adam.state_dict(), "factors": factors}, temporary)
        write_manifest(kept, script=__file__, inputs={}, params={}, stages={})


def _kept_in(folder: Path, passes: int) -> Path:
    """Return where steps are kept, named by a digest of all that they depend on; remove the files of other descents.

    The names of the search's files are digests of the checkpoint, the samples, the codes' recipe and the code.
    """
    found = sorted(file.name for file in folder.glob("*.safetensors"))
    depends_on = [found, passes, code_digest("hexport/quantization/scale_tuning.py")]
    kept = folder / f"scales.{kept_name(depends_on)}.pt"
    for file in set(folder.glob("scales.*")) - {kept, manifest_path(kept)}:
        file.unlink(missing_ok=True)
    return kept


def _tokens(batch: list[Sample]) -> int:
    return sum(len(wanted) for _, wanted in batch)


def _float_outputs(checkpoint: Checkpoint, states: list[State], progress: Progress) -> list[torch.Tensor]:
    """Return what the epilogue's norm of the float model puts out for each sample, float32 (tokens, hidden_size)."""
    config, hidden = checkpoint.config, [state.hidden for state in states]
    for i in progress.steps(range(config.n_layers), FLOAT, config.n_layers):
        layer = load_layer(checkpoint, i).to(device())
        pairs = zip(hidden, states, strict=True)
        hidden = [layer_by_products(layer, config, i, of_sample, state) for of_sample, state in pairs]
    norm = load_epilogue(checkpoint, row_blocks(checkpoint)[0]).norm.to(device())
    return [norm(of_sample)[0] for of_sample in hidden]


def _backward(function: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor, slopes: torch.Tensor) -> torch.Tensor:
    """Return the gradient with respect to x, given that with respect to function(x); parameters get theirs."""
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        function(x).backward(slopes)
    return x.grad


def _scaled(coded: CodedWeight, factors: torch.Tensor) -> CodedWeight:
    return replace(coded, scales=coded.scales * factors.reshape(-1, *(1 for _ in coded.scales.shape[1:])))


def _costs(checkpoint: Checkpoint, samples: list[list[int]], passes: int) -> dict[str, float]:
    sizes = sizes_of(checkpoint.config)
    layers, head = sizes.n_layers * float_layer_s(sizes, samples), float_epilogue_s(sizes, samples)
    return {READ: table_s(sizes), FLOAT: layers, TUNE: passes * PASSES * (layers + head)}
