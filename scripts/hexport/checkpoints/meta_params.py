"""This module turns params.json of Meta's releases, and model_args of llama2.c, into a Hugging Face llama config.

Fields and defaults are those of ModelArgs in llama/model.py (github.com/meta-llama/llama-models) and in model.py of
llama2.c.
"""

from pathlib import Path

from hexport.decoder.config_values import boolean, integer, positive_number
from hexport.errors import HexportError
from hexport.json_file import read_json

# These say how the model was trained and how Meta's own runtime is laid out, not what the model computes.
IGNORED = {"max_seq_len", "max_batch_size", "dropout", "model_parallel_size"}
KNOWN = {
    "dim", "n_layers", "n_heads", "n_kv_heads", "vocab_size", "hidden_dim", "multiple_of", "ffn_dim_multiplier",
    "norm_eps", "rope_theta", "use_scaled_rope", "rope_scaling_factor", "rope_scaling",
}  # fmt: skip
NUMBERS = {"ffn_dim_multiplier", "norm_eps", "rope_theta", "rope_scaling_factor"}
INTEGERS = {"multiple_of", "max_seq_len"}
# (n_layers, dim) -> factor of the scaled rotary embeddings, as params.json says only that they are scaled.
SCALED_ROPE_FACTORS = {(16, 2048): 32.0, (28, 3072): 32.0, (32, 4096): 8.0, (80, 8192): 8.0, (126, 16384): 8.0}


def merged_params(own: dict, file: Path, weights: Path) -> dict:
    """Return what the weights' own file says, completed by params.json. Raises HexportError where the two differ."""
    params = dict(own)
    for key, value in read_json(file).items():
        if value not in (None, -1) and params.setdefault(key, value) != value:
            raise HexportError(f"{file}: {key} is {value!r}, but {weights.name} says {params[key]!r}; mend it")
    return params


def llama_config(params: dict, ffn_size: int, vocab_size: int, where: str) -> dict:
    """Return the Hugging Face config of a llama model.

    `ffn_size` and `vocab_size` are those of the tensors, which params may leave out but must not contradict. Raises
    HexportError for an unknown, missing or contradicting value.
    """
    for key, value in params.items():
        if key not in KNOWN | IGNORED and value:
            raise HexportError(f"{where}: {key}: {value!r} is not supported; remove it if it does not change the model")
    for key in NUMBERS | INTEGERS:
        if params.get(key) is not None:
            (positive_number if key in NUMBERS else integer)(params, key, where)
    dim, layers, heads = (integer(params, key, where) for key in ("dim", "n_layers", "n_heads"))
    if dim % heads:
        raise HexportError(f"{where}: dim {dim} is not a multiple of n_heads {heads}")
    for key, found in {"vocab_size": vocab_size, "hidden_dim": ffn_size}.items():
        if params.get(key) not in (None, -1, found):
            raise HexportError(f"{where}: {key} is {params[key]!r}, but the tensors have {found}")
    if (said := _ffn_size(params, dim)) not in (None, ffn_size):
        raise HexportError(f"{where}: multiple_of and ffn_dim_multiplier make {said} rows of w1, found {ffn_size}")
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "hidden_size": dim,
        "intermediate_size": ffn_size,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": heads if params.get("n_kv_heads") is None else integer(params, "n_kv_heads", where),
        "head_dim": dim // heads,
        "vocab_size": vocab_size,
        "rms_norm_eps": params.get("norm_eps", 1e-5),
        "rope_theta": params.get("rope_theta", 10000.0),
        "rope_scaling": _rope_scaling(params, layers, dim, where),
        "max_position_embeddings": params.get("max_seq_len"),
    }
    return {key: value for key, value in config.items() if value is not None}


def _ffn_size(params: dict, dim: int) -> int | None:
    """Return the size that the arithmetic of Meta's FeedForward gives, or None where params do not say."""
    if not params.get("multiple_of") or params.get("hidden_dim"):
        return None
    size, multiple = int(2 * 4 * dim / 3), params["multiple_of"]
    if params.get("ffn_dim_multiplier"):  # at most a float32, and sizes have 31 bits: the product is finite
        size = int(params["ffn_dim_multiplier"] * size)
    return multiple * ((size + multiple - 1) // multiple)


def _rope_scaling(params: dict, layers: int, dim: int, where: str) -> dict | None:
    # Meta's format has no such object. It is Hugging Face's, which a user adds to say more than use_scaled_rope does.
    if given := params.get("rope_scaling"):
        if not isinstance(given, dict):
            raise HexportError(f"{where}: expected rope_scaling to be an object of rotary parameters, found {given!r}")
        return {"rope_type": "llama3", **given} if "type" not in given else given
    factor = params.get("rope_scaling_factor")
    if not boolean(params, "use_scaled_rope", where):
        if factor:
            raise HexportError(f"{where}: rope_scaling_factor is {factor!r}, but use_scaled_rope is not true")
        return None
    if factor is None and (factor := SCALED_ROPE_FACTORS.get((layers, dim))) is None:
        raise HexportError(
            f"{where}: use_scaled_rope, but by how much is known for no model of {layers} layers and dim {dim}; "
            'add "rope_scaling_factor" (8 in Llama 3.1, 32 in Llama 3.2)'
        )
    return llama3_scaling(float(factor))


def llama3_scaling(factor: float) -> dict:
    """Return the rope_scaling of Llama 3.1 and later, whose models differ in the factor alone."""
    return {
        "rope_type": "llama3",
        "factor": factor,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
