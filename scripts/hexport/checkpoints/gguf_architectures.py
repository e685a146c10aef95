"""This module maps GGUF architectures to Hugging Face families: names of tensors, conventions and metadata keys.

It holds data only. The facts are from llama.cpp: conversion/{llama,gemma,phi,qwen}.py, src/models/*.cpp and
gguf-py/gguf/constants.py.
"""

from dataclasses import dataclass, field

TENSORS = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
LAYER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
QK_NORM = {"attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm"}


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """An architecture says how files with one value of general.architecture become a Hugging Face checkpoint.

    layer_tensors: maps GGUF's names without the prefix `blk.<i>.` to Hugging Face's without `model.layers.<i>.`.
    permuted: says whether the rows of q and k are in pair-by-pair order.
    norm_offset: is what llama.cpp's converter adds to the weights of norms.
    bias_keys: maps a config key that says whether some parts have biases to how the names of these parts begin.
    keys: lists the metadata keys, beside the common ones, that are understood.
    fixed: holds the config keys whose values follow from the architecture.
    """

    model_type: str
    class_name: str
    layer_tensors: dict[str, str] = field(default_factory=lambda: LAYER)
    permuted: bool = False
    norm_offset: float = 0.0
    bias_keys: dict[str, str] = field(default_factory=dict)
    keys: tuple[str, ...] = ()
    fixed: dict[str, object] = field(default_factory=lambda: {"hidden_act": "silu"})


BIASES = {"attention_bias": "attn_", "mlp_bias": "ffn_"}
ATTENTION_BIAS = {"attention_bias": "attn_"}

ARCHITECTURES = {
    "llama": Architecture(model_type="llama", class_name="LlamaForCausalLM", permuted=True, bias_keys=BIASES),
    "gemma": Architecture(
        model_type="gemma",
        class_name="GemmaForCausalLM",
        norm_offset=1.0,
        bias_keys=ATTENTION_BIAS,
        fixed={"hidden_act": "gelu_pytorch_tanh"},
    ),
    "gemma3": Architecture(
        model_type="gemma3_text",
        class_name="Gemma3ForCausalLM",
        layer_tensors=LAYER
        | QK_NORM
        | {
            "post_attention_norm": "post_attention_layernorm",
            "ffn_norm": "pre_feedforward_layernorm",
            "post_ffw_norm": "post_feedforward_layernorm",
        },
        norm_offset=1.0,
        bias_keys=ATTENTION_BIAS,
        keys=("attention.sliding_window", "rope.freq_base_swa"),
        fixed={"hidden_activation": "gelu_pytorch_tanh"},
    ),
    "phi3": Architecture(
        model_type="phi3",
        class_name="Phi3ForCausalLM",
        layer_tensors={
            "attn_norm": "input_layernorm",
            "attn_qkv": "self_attn.qkv_proj",
            "attn_output": "self_attn.o_proj",
            "ffn_norm": "post_attention_layernorm",
            "ffn_up": "mlp.gate_up_proj",
            "ffn_down": "mlp.down_proj",
        },
        keys=("attention.sliding_window", "rope.scaling.original_context_length", "rope.scaling.attn_factor"),
    ),
    "qwen2": Architecture(model_type="qwen2", class_name="Qwen2ForCausalLM"),
    "qwen3": Architecture(
        model_type="qwen3",
        class_name="Qwen3ForCausalLM",
        layer_tensors=LAYER | QK_NORM,
        bias_keys=ATTENTION_BIAS,
    ),
    "smollm3": Architecture(model_type="smollm3", class_name="SmolLM3ForCausalLM", permuted=True, bias_keys=BIASES),
}
