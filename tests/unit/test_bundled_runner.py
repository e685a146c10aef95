"""What a bundle tells ExecuTorch's C++ runner: a tokenizer that its library decodes rightly, and where to stop."""

from dataclasses import replace

import pytest
from pytorch_tokenizers import CppHFTokenizer
from small_tokenizers import convert, sentencepiece_model

from hexport.build.bundles import licence
from hexport.bundles.bundle import command_for
from hexport.bundles.runner_model import runner_model
from hexport.bundles.runner_tokenizer import runner_tokenizer
from hexport.config.settings import parse_config

TEXT = "Once upon a time there was 1 fox, 22 hens"


@pytest.fixture
def tokenizer(tmp_path):
    (tmp_path / "llama.model").write_bytes(sentencepiece_model("llama"))
    return convert(tmp_path / "llama.model", tmp_path)


def test_the_runner_keeps_spaces(tokenizer, tmp_path):
    ids = tokenizer.encode(TEXT)
    file, shown = tmp_path / "tokenizer.json", {}
    for name, text in {"as it is": file.read_text(), "bundled": runner_tokenizer(file.read_text())}.items():
        file.write_text(text)
        library = CppHFTokenizer()
        library.load(str(file))
        shown[name] = "".join(library.decode(id) for id in ids)
        assert library.encode(TEXT, 0, 0) == ids
    assert shown["as it is"] == TEXT.replace(" ", "")  # else the step could stay
    assert shown["bundled"].lstrip() == TEXT


@pytest.mark.parametrize(
    ("stops", "n_masks", "model"),
    [
        ([], 1, "llama2"),
        (["<end_of_turn>"], 1, "gemma"),
        (["<|im_end|>"], 1, "qwen3"),
        (["<end_of_turn>"], 2, "gemma3"),
    ],
)
def test_the_runner_is_told_a_model_that_ends_where_the_tokenizer_does(tokenizer, stops, n_masks, model):
    tokenizer.backend.add_special_tokens(["<end_of_turn>", "<|im_end|>", "<|eot_id|>"])
    ids = {tokenizer.backend.token_to_id(text) for text in stops}
    stopping = replace(tokenizer, stop_ids=frozenset({tokenizer.eos_id, *ids}))
    assert runner_model(stopping, n_masks) == model


def test_the_eos_needs_no_model_of_its_own(tokenizer):
    tokenizer.backend.add_special_tokens(["<|im_end|>"])
    id = tokenizer.backend.token_to_id("<|im_end|>")
    assert runner_model(replace(tokenizer, eos_id=id, stop_ids=frozenset({id})), 1) == "llama2"


def test_lookahead_gets_its_sizes(tokenizer):
    words = command_for("p.pte", tokenizer, 1, 64, {"mode": "lookahead", "ngram": 3, "window": 2, "gcap": 1})
    flags = dict(zip(words[1::2], words[2::2], strict=False))
    assert [flags[f"--{name}"] for name in ("eval_mode", "ngram", "window", "gcap")] == ["2", "3", "2", "1"]
    assert "--ngram" not in command_for("p.pte", tokenizer, 1, 64, {"mode": "kv"})


def test_the_licence_of_ones_own_checkpoint_is_not_that_of_the_built_in_one():
    document = {"models": {"gemma-2b": None, "phi_4_mini": {"checkpoint": "/mine"}}}
    models = parse_config(document, "config.yaml").models
    assert "Gemma Terms" in licence(models["gemma-2b"])
    assert licence(models["phi_4_mini"]) is None
