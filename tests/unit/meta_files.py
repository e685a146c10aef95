"""Llama models under Meta's names, in files as fairscale's layers split them."""

import json

import torch
from transformers import AutoModelForCausalLM

PARAMS = {"dim": 64, "n_layers": 2, "n_heads": 8, "n_kv_heads": 4, "vocab_size": -1, "multiple_of": 4}
PARAMS |= {"norm_eps": 1e-4, "rope_theta": 5000.0}
NAMES = {
    "model.embed_tokens": "tok_embeddings",
    "model.norm": "norm",
    "lm_head": "output",
    "input_layernorm": "attention_norm",
    "self_attn.q_proj": "attention.wq",
    "self_attn.k_proj": "attention.wk",
    "self_attn.v_proj": "attention.wv",
    "self_attn.o_proj": "attention.wo",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "feed_forward.w1",
    "mlp.down_proj": "feed_forward.w2",
    "mlp.up_proj": "feed_forward.w3",
}


def meta_sized(tiny_llama, **changes):
    sizes = {"hidden_size": 64, "intermediate_size": 172, "num_attention_heads": 8, "num_key_value_heads": 4}
    return tiny_llama(**{**sizes, "head_dim": 8, "tie_word_embeddings": False, **changes})


def meta_state(model) -> dict[str, torch.Tensor]:
    """The model's weights under Meta's names, rows of q and k pair by pair: the inverse of what
    convert_llama_weights_to_hf.py of transformers does."""
    state = {}
    for name, value in model.state_dict().items():
        name = name.removesuffix(".weight")
        prefix = ""
        if name.startswith("model.layers."):
            _, _, i, name = name.split(".", 3)
            prefix = f"layers.{i}."
        if name in ("self_attn.q_proj", "self_attn.k_proj"):
            value = (
                value.reshape(-1, 2, model.config.head_dim // 2, value.shape[1]).transpose(1, 2).reshape(value.shape)
            )
        state[f"{prefix}{NAMES[name]}.weight"] = value.contiguous()
    return state


def write_meta(folder, state, params=PARAMS, shards=1, embedding_dim=0):
    """Split as fairscale's layers do: wo and w2 by columns, norms copied, the embedding by rows or columns."""
    folder.mkdir()
    (folder / "params.json").write_text(json.dumps(params))
    for rank in range(shards):
        part = {"rope.freqs": torch.ones(4)}
        for name, value in state.items():
            dim = 1 if ".wo." in name or ".w2." in name else embedding_dim if "tok_embeddings" in name else 0
            part[name] = value if "norm" in name else value.chunk(shards, dim)[rank].clone()
        torch.save(part, folder / f"consolidated.{rank:02}.pth")
    return folder


def assert_loads_as(output, model):
    loaded = AutoModelForCausalLM.from_pretrained(output.parent)
    assert loaded.dtype == model.dtype
    for name, value in loaded.state_dict().items():
        assert torch.equal(value, model.state_dict()[name]), name
    ids = torch.arange(3, 40).reshape(1, -1)
    # model.to(dtype) has rounded the rotary frequencies too, which loading does not.
    with torch.no_grad():
        if model.dtype == torch.float32:
            torch.testing.assert_close(loaded(ids).logits, model(ids).logits, rtol=1e-5, atol=1e-5)
