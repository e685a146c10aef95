"""How ExecuTorch's C++ runner is called for a program."""

import shlex

from hexport.devices.phone_libraries import RUNNER
from hexport.targets.modes import LOOKAHEAD_KEYS, MODES
from hexport.tokenizers.tokenizer import Tokenizer

PROMPT = "prompt.raw"  # token ids, uint64: the runner's own chat templates know a few models only
# What the runner adds to the EOS of tokenizer_config.json, by the model that it is told to run (runner.cpp).
MORE_STOPS = {"gemma": "<end_of_turn>", "llama3": "<|eot_id|>", "phi_4_mini": "<|end|>", "qwen3": "<|im_end|>"}
PLAIN, TWO_MASKS = "llama2", "gemma3"  # adds nothing; asks for a second mask, and adds <end_of_turn>


def runner_command(
    program: str, tokenizer: Tokenizer, mode: str, n_masks: int, seq_len: int, lookahead: dict[str, int]
) -> list[str]:
    """The words of the command that answers PROMPT, in a folder with the program and the tokenizer's files.

    lookahead: values of ngram, window and gcap, read in mode lookahead.
    """
    flags = {
        "decoder_model_version": runner_model(tokenizer, n_masks),
        "model_path": program,
        "tokenizer_path": ".",  # of a folder, the runner reads tokenizer_config.json too, which names the EOS
        "tokenized_prompt": PROMPT,
        "eval_mode": MODES[mode].eval_mode,
        "seq_len": seq_len,
        "temperature": 0,
        "output_path": "outputs.txt",
        **({key: lookahead[key] for key in LOOKAHEAD_KEYS} if MODES[mode].looks_ahead else {}),
    }
    words = [word for name, value in flags.items() for word in (f"--{name}", str(value))]
    return [f"./{RUNNER}", *words, "--shared_buffer"]


def runner_model(tokenizer: Tokenizer, n_masks: int) -> str:
    """The model that the runner is told to run: the one with this number of masks that ends at the tokenizer's stop
    tokens. What a chat looks like is in the ids of the prompt."""
    if n_masks == 2:
        return TWO_MASKS
    stops = {text: tokenizer.backend.token_to_id(text) for text in MORE_STOPS.values()}
    found = (
        model
        for model, text in MORE_STOPS.items()
        if stops[text] in tokenizer.stop_ids and stops[text] != tokenizer.eos_id
    )
    return next(found, PLAIN)


def shell_line(words: list[str]) -> str:
    """The command as a line for a shell."""
    return shlex.join(words)
