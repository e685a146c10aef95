"""This module has what the ExecuTorch QNN llama runner (1.4 and later) expects of a program: names, order and constant
methods.
"""

from collections.abc import Mapping

from hexport.targets.modes import LOOKAHEAD_KEYS, MODES, lookahead_ar_len

KV_METHOD = "kv_forward"
PREFILL_METHOD = "prefill_forward"
SLIDING_WINDOW = "get_sliding_window"
# Names of inputs: the mask of the full layers, and that of the sliding ones.
MASKS = ("atten_mask", "window_atten_mask")


def ar_lengths_of(mode: str, sizes: Mapping[str, int]) -> dict[str, int]:
    """Return the AR length of each graph of a mode, by method name. `sizes` are keys of config.yaml."""
    decode = lookahead_ar_len(*(sizes[key] for key in LOOKAHEAD_KEYS)) if MODES[mode].looks_ahead else 1
    return {KV_METHOD: decode} | ({PREFILL_METHOD: sizes["prefill_ar_len"]} if MODES[mode].prefills else {})


def input_names(n_layers: int, slides: bool, cached: bool = True) -> list[str]:
    """Name a graph's inputs in the order of the runner: K of every layer, then V of every layer.

    The second mask is that of the sliding layers, in programs that have any (`slides`). A graph that reads the whole
    context in one call (`cached` is False) has no caches, and no positions as an input, since it knows them.
    """
    state = ["input_pos", *_by_layer("k_cache", "v_cache", n_layers)] if cached else []
    return ["tokens", *(MASKS if slides else MASKS[:1]), *state]


def names_by_count(n_inputs: int, n_outputs: int) -> tuple[list[str], list[str]] | None:
    """Return the names of the inputs and outputs of a graph that has so many; None where the runner knows no such
    graph.

    Logits, and k and v of every layer come out. Tokens and one or two masks go in; and, unless one call reads the whole
    context, positions and the caches.
    """
    n_layers, odd = divmod(n_outputs - 1, 2)
    if odd or n_layers < 1:
        return None
    known = [input_names(n_layers, slides, cached) for slides in (False, True) for cached in (False, True)]
    return next(((inputs, output_names(n_layers)) for inputs in known if len(inputs) == n_inputs), None)


def output_names(n_layers: int) -> list[str]:
    """Name a graph's outputs in the order of the runner: logits, new K of every layer, then new V of every layer."""
    return ["logits", *_by_layer("k", "v", n_layers)]


def _by_layer(k: str, v: str, n_layers: int) -> list[str]:
    return [f"{name}_{i}" for name in (k, v) for i in range(n_layers)]
