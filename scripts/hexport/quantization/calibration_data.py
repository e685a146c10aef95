"""What a model is calibrated on: prompts or a text, as token ids."""

from pathlib import Path

from hexport.errors import HexportError
from hexport.tokenizers.tokenizer import Tokenizer

SAMPLE_TOKENS = 512  # longest sample cut from a text


def prompt_samples(tokenizer: Tokenizer, prompts: list[str], system_prompt: str) -> list[list[int]]:
    """One sample a prompt, the ids that a run would feed. Raises HexportError where there is nothing to feed."""
    if not prompts:
        raise HexportError("calibration: no prompts; give calibration: {prompts: […]} or {text: file.txt}")
    samples = [tokenizer.prompt_ids(prompt, system_prompt) for prompt in prompts]
    if [] in samples:
        raise HexportError(f"calibration: prompt {samples.index([]) + 1} of {len(prompts)} has no tokens")
    return samples


def text_samples(tokenizer: Tokenizer, path: Path) -> list[list[int]]:
    """A UTF-8 text cut into samples of at most SAMPLE_TOKENS ids, BOS in front of each where the tokenizer adds one.

    Raises HexportError for an empty text and for bytes that are not UTF-8.
    """
    try:
        ids = tokenizer.encode(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise HexportError(f"{path}: not UTF-8 text: byte {error.start}: {error.reason}") from error
    if not ids:
        raise HexportError(f"{path}: the calibration text is empty")
    bos = [tokenizer.bos_id] if tokenizer.adds_bos else []
    step = SAMPLE_TOKENS - len(bos)
    return [bos + ids[i : i + step] for i in range(0, len(ids), step)]
