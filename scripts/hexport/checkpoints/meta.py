"""This module reads Meta's consolidated.*.pth with params.json, and llama2.c's .pt, as a canonical checkpoint.

Names and shards follow model.py of llama-models and convert_llama_weights_to_hf.py of transformers.
"""

import re
from dataclasses import replace
from pathlib import Path

from hexport.checkpoints.canonical import EMBEDDING, HEAD
from hexport.checkpoints.files import PublishedCheckpoint
from hexport.checkpoints.meta_params import llama_config, merged_params
from hexport.checkpoints.tensor import Tensor, equal, half_split, joined, torch_dtype
from hexport.checkpoints.torch_file import is_state_dict, open_torch_file
from hexport.errors import HexportError

NAMES = {
    "tok_embeddings": "model.embed_tokens",
    "norm": "model.norm",
    "output": "lm_head",
    "attention_norm": "input_layernorm",
    "attention.wq": "self_attn.q_proj",
    "attention.wk": "self_attn.k_proj",
    "attention.wv": "self_attn.v_proj",
    "attention.wo": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "feed_forward.w1": "mlp.gate_proj",
    "feed_forward.w2": "mlp.down_proj",
    "feed_forward.w3": "mlp.up_proj",
}
NAME = re.compile(r"(?:layers\.(?P<layer>\d+)\.)?(?P<part>[\w.]+)\.weight")
BUFFERS = {"rope.freqs", "freqs_cis", "freqs_cos", "freqs_sin"}  # they follow from params, so they are skipped
PAIRWISE = {"self_attn.q_proj", "self_attn.k_proj"}  # rows are in pair-by-pair order, in which Meta rotates them
JOINED_IN_COLUMNS = {"self_attn.o_proj", "mlp.down_proj"}  # RowParallelLinear: each shard has some of the input columns
PLAIN = int | float | str | None  # the types of values that model_args may hold
REPLICATED = {"model.norm", "input_layernorm", "post_attention_layernorm"}


def read_meta(checkpoint: PublishedCheckpoint) -> tuple[dict, list[Tensor]]:
    """Return a Hugging Face config, and the tensors joined from their shards; the tensors stay on disk.

    Raises HexportError for missing or unknown params, for an unknown tensor, and for shards that do not fit each other.
    """
    path = checkpoint.weights[0]
    states = [_state(shard) for shard in checkpoint.weights]
    params = states[0][0]
    if checkpoint.config is not None:
        params = merged_params(params, checkpoint.config, path)
    elif not params:
        raise HexportError(f"{path}: has no model_args; name its params.json with the model's key params")
    for key in ("n_heads", "n_kv_heads"):
        if isinstance(heads := params.get(key), int) and heads % len(states):
            raise HexportError(f"{checkpoint.config}: {key} {heads} do not divide among {len(states)} files")
    tensors = _joined([tensors for _, tensors in states], params, path)
    return llama_checkpoint(tensors, params, path, str(checkpoint.config or path))


def llama_checkpoint(tensors: dict[str, Tensor], params: dict, path: Path, where: str) -> tuple[dict, list[Tensor]]:
    """Return the config and the tensors of a llama model in Hugging Face's row order, without the head of a tied model.

    `tensors` are whole tensors under canonical names, whose q and k rows are in pair-by-pair order. `where` names the
    params in errors. Raises HexportError where the embedding or the first gate_proj is missing, and where params do not
    fit.
    """
    first = "model.layers.0.mlp.gate_proj.weight"
    for name in (EMBEDDING, first):
        if name not in tensors or len(tensors[name].shape) != 2 or not tensors[name].nbytes:
            raise HexportError(f"{path}: tensor {name} is missing or is no matrix")
    config = llama_config(params, tensors[first].shape[0], tensors[EMBEDDING].shape[0], where)
    config["dtype"] = torch_dtype(tensors.values())
    # Meta's files hold the head of a tied model too.
    if HEAD in tensors and equal(tensors[HEAD], tensors[EMBEDDING]):
        del tensors[HEAD]
    config["tie_word_embeddings"] = HEAD not in tensors
    for name, tensor in tensors.items():
        if any(f".{part}." in name for part in PAIRWISE):
            tensors[name] = half_split(tensor, config["head_dim"])
    return config, list(tensors.values())


def canonical_name(name: str, path: Path) -> tuple[str, str]:
    """Return Hugging Face's name of a tensor, and that of its part of the model: `self_attn.q_proj`, say.

    Raises HexportError for a name that is unknown.
    """
    match = NAME.fullmatch(name)
    if not match or (part := NAMES.get(match["part"])) is None:
        raise HexportError(f"{path}: tensor {name} is unknown in a llama model")
    return (f"model.layers.{match['layer']}.{part}.weight" if match["layer"] else f"{part}.weight"), part


def _state(path: Path) -> tuple[dict, dict[str, Tensor]]:
    """Return llama2.c's model_args, empty for Meta's files, and the tensors by Meta's names, without buffers."""
    file = open_torch_file(path)
    saved, args = file.content, {}
    if isinstance(saved, dict) and isinstance(saved.get("model"), dict):
        args, saved = saved.get("model_args") or {}, saved["model"]
    plain = isinstance(args, dict) and all(isinstance(value, PLAIN) for value in args.values())
    if not is_state_dict(saved) or not plain:
        raise HexportError(f"{path}: expected names with tensors, or llama2.c's model and model_args")
    names = {name: name.removeprefix("_orig_mod.") for name in saved}  # torch.compile adds it
    kept = {name: plain for name, plain in names.items() if plain not in BUFFERS}
    return args, {plain: file.tensor(plain, saved[name]) for name, plain in kept.items()}


def _joined(shards: list[dict[str, Tensor]], params: dict, path: Path) -> dict[str, Tensor]:
    tensors = {}
    for name, first in shards[0].items():
        canonical, part = canonical_name(name, path)
        parts = [shard.get(name) for shard in shards]
        if any(tensor is None or (tensor.dtype, tensor.shape) != (first.dtype, first.shape) for tensor in parts):
            raise HexportError(f"{path.parent}: tensor {name} is not in every shard in one shape and type")
        if part in REPLICATED or len(parts) == 1:
            tensors[canonical] = replace(first, name=canonical)
            continue
        if len(first.shape) != 2:
            raise HexportError(f"{path}: tensor {name}: expected a matrix, found shape {list(first.shape)}")
        # Llama 1 and 2 split the embedding's columns, Llama 3 its rows.
        columns = part in JOINED_IN_COLUMNS or (part == NAMES["tok_embeddings"] and first.shape[1] != params.get("dim"))
        tensors[canonical] = replace(joined(parts, 1 if columns else 0), name=canonical)
    for shard in shards[1:]:
        if surplus := shard.keys() - shards[0].keys():
            raise HexportError(f"{path.parent}: tensor {min(surplus)} is not in every shard in one shape and type")
    return tensors
