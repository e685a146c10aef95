"""This module computes gradients of a float decoder's log-probabilities, layer by layer.

The labels are drawn from the model's own predictions, so that a squared product of a gradient and a small change is, on
average, twice the change's KL divergence (the Fisher information). Memory holds one layer and, of each sample, the
hidden states before every layer.
"""

import torch
from torch.nn import functional as F

from hexport.decoder.device import device
from hexport.decoder.layer_kinds import LayerKind
from hexport.decoder.model import Epilogue, UncachedLayer, rope_of
from hexport.decoder.stream import CHUNK, LEAST_ROWS, State
from hexport.decoder.weights import Checkpoint, load_epilogue, load_layer
from hexport.progress import Progress
from hexport.quantization.recipe import LAYER_PROJECTIONS
from hexport.quantization.weight_inputs import pass_layer

FORWARD, BACKWARD = "forward", "backward"  # names of parts in the progress


def hidden_gradients(checkpoint: Checkpoint, states: list[State], progress: Progress) -> list[list[torch.Tensor]]:
    """Return gradients of hidden states, float32 (1, n, hidden_size), before each layer and before the epilogue.

    Each inner list has one gradient per sample. The states pass all layers, and are then behind the last one.
    """
    config, before = checkpoint.config, []
    with torch.no_grad():
        for i in progress.steps(range(config.n_layers), FORWARD, config.n_layers):
            before.append([state.hidden for state in states])
            layer = load_layer(checkpoint, i, UncachedLayer).to(device())
            for state, hidden in zip(states, pass_layer(layer, config.layers[i], states), strict=True):
                state.hidden = hidden
    head, labels = load_epilogue(checkpoint).to(device()), torch.Generator().manual_seed(0)
    gradients = [[_of_logits(head, state.hidden, labels) for state in states]]
    for i in progress.steps(reversed(range(config.n_layers)), BACKWARD, config.n_layers):
        layer, kind = load_layer(checkpoint, i, UncachedLayer).to(device()), config.layers[i]
        of_layer = []
        for state, hidden, behind in zip(states, before.pop(), gradients[-1], strict=True):
            leaf = hidden.detach().requires_grad_()
            out = layer(leaf, state.masks[kind.sliding], *rope_of(kind, state.ropes))[0]
            of_layer += torch.autograd.grad(out, leaf, behind)
        gradients.append(of_layer)
    return gradients[::-1]


def projection_gradients(
    layer: UncachedLayer, kind: LayerKind, states: list[State], behind: list[torch.Tensor]
) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Return the inputs (in, tokens) of each projection of a layer, and the gradients (out, tokens) of its outputs.

    The tokens are those of all samples. `behind` has the gradients of each sample's hidden states behind the layer.
    """
    seen: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
    hooks = [
        layer.get_submodule(name).register_forward_hook(
            lambda _, inputs, output, name=name: seen.update({name: (*inputs, output)})
        )
        for name in LAYER_PROJECTIONS
    ]
    found: dict[str, list] = {name: [] for name in LAYER_PROJECTIONS}
    for state, gradient in zip(states, behind, strict=True):
        leaf = state.hidden.detach().requires_grad_()
        out = layer(leaf, state.masks[kind.sliding], *rope_of(kind, state.ropes))[0]
        of_outputs = torch.autograd.grad(out, [seen[name][1] for name in LAYER_PROJECTIONS], gradient)
        for name, of_output in zip(LAYER_PROJECTIONS, of_outputs, strict=True):
            found[name].append((seen[name][0].detach()[0, :, 0], of_output[0, :, 0]))
    for hook in hooks:
        hook.remove()
    return {name: tuple(torch.cat(parts, dim=1) for parts in zip(*pairs, strict=True)) for name, pairs in found.items()}


def _of_logits(head: Epilogue, hidden: torch.Tensor, labels: torch.Generator) -> torch.Tensor:
    """Return the gradient, with respect to hidden states (1, n, hidden_size), of the sum over tokens of -log p.

    `labels` draws the token of which p is the probability.
    """
    leaf, weight = hidden.detach().requires_grad_(), head.output.weight[:, :, 0, 0]
    normed, rows = head.norm(leaf), []
    with torch.no_grad():
        for part in normed[0].split(max(LEAST_ROWS, CHUNK // len(weight))):
            probabilities = F.linear(part, weight).softmax(dim=1)
            drawn = torch.multinomial(probabilities.cpu(), 1, generator=labels).to(part.device)
            rows.append(probabilities.scatter_add_(1, drawn, -torch.ones_like(drawn, dtype=torch.float32)) @ weight)
    return torch.autograd.grad(normed, leaf, torch.cat(rows)[None])[0]
