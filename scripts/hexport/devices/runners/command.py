"""This module writes the command line of ExecuTorch's C++ runner, qnn_llama_runner (executorch 1.4 and later)."""

from hexport.devices.phones.libraries import RUNNER
from hexport.targets.modes import MODES

PROMPT, OUTPUTS = "prompt.raw", "outputs.txt"


def runner_command(program: str, model: str, mode: str, seq_len: int, options: dict[str, str]) -> list[str]:
    """Return the words of the command that reads the ids in PROMPT and writes OUTPUTS, in a folder with the program and
    the tokenizer's files.

    model: the name of the model that the runner is told to run. options: more flags by their names.
    """
    flags = {
        "decoder_model_version": model,
        "model_path": program,
        "tokenizer_path": ".",  # in a folder, the runner reads tokenizer_config.json too, which names the EOS
        "tokenized_prompt": PROMPT,
        "eval_mode": str(MODES[mode].eval_mode),
        "seq_len": str(seq_len),
        "temperature": "0",
        "output_path": OUTPUTS,
        **options,
    }
    words = [word for name, value in flags.items() for word in (f"--{name}", value)]
    return [f"./{RUNNER}", *words, "--shared_buffer"]
