"""This module chooses the model that ExecuTorch's C++ runner is told to run, so that it ends where the
tokenizer does."""

from hexport.tokenizers.tokenizer import Tokenizer

# What the runner adds to the EOS of tokenizer_config.json, by the model that it is told to run (runner.cpp).
MORE_STOPS = {"gemma": "<end_of_turn>", "llama3": "<|eot_id|>", "phi_4_mini": "<|end|>", "qwen3": "<|im_end|>"}
PLAIN, TWO_MASKS = "llama2", "gemma3"  # one adds nothing; the other has a second mask, and adds <end_of_turn>


def runner_model(tokenizer: Tokenizer, n_masks: int) -> str:
    """Return the name of the runner's model that has so many masks and ends at the tokenizer's stop tokens. What a chat
    looks like is in the ids of the prompt."""
    if n_masks == 2:
        return TWO_MASKS
    stops = {text: tokenizer.backend.token_to_id(text) for text in MORE_STOPS.values()}
    found = (
        model
        for model, text in MORE_STOPS.items()
        if stops[text] in tokenizer.stop_ids and stops[text] != tokenizer.eos_id
    )
    return next(found, PLAIN)
