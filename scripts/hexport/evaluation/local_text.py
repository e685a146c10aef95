"""This module makes a task of a local text: its documents, and the config that makes an lm-eval task of them."""

from collections.abc import Iterable
from pathlib import Path

from hexport.errors import HexportError
from hexport.regular_file import read_bytes

# A document is about a page: `limit` counts documents, and the emulator takes about a minute for one of these.
DOCUMENT_WORDS = 512
MAX_BYTES, MAX_LINE = 1 << 30, 1_000_000
# lm-eval's metrics of a rolling log-likelihood, with the aggregations that its wikitext task takes by default.
METRICS = {
    "word_perplexity": "weighted_perplexity",
    "byte_perplexity": "weighted_perplexity",
    "bits_per_byte": "bits_per_byte",
}


def read_text(path: Path) -> str:
    """Return the text of a file, in which every line end is a newline, as Python reads text files.

    Raises HexportError where the file is missing or no regular file, is not UTF-8, is larger than MAX_BYTES, has a line
    of more than MAX_LINE characters, or has nothing but white space.
    """
    try:
        text = read_bytes(path, MAX_BYTES).decode()
    except UnicodeDecodeError as error:
        raise HexportError(f"{path}: not UTF-8 text: byte {error.start}: {error.reason}") from error
    if not text.strip():
        raise HexportError(f"{path}: the text is empty")
    text = text.replace("\r\n", "\n").replace("\r", "\n")  # as Python reads text files
    for number, line in enumerate(text.split("\n"), 1):
        if len(line) > MAX_LINE:
            raise HexportError(
                f"{path}: line {number} has {len(line)} characters, more than {MAX_LINE}; break it into several: "
                "each is read at once, with 100 bytes of memory a character"
            )
    return text


def local_files(options: Iterable[str]) -> dict[str, Path]:
    """Return the file of each name, from options NAME=PATH."""
    return {name: Path(file) for name, _, file in (option.partition("=") for option in options)}


def documents(text: str) -> list[str]:
    """Split a text into documents: whole lines of about DOCUMENT_WORDS words each, more only where one line has more.

    White space around a document is left out, because lm-eval would count it as words.
    """
    found, lines, words = [], [], 0
    for line in text.splitlines(keepends=True):
        if words and words + len(line.split()) > DOCUMENT_WORDS:
            found.append("".join(lines).strip())
            lines, words = [], 0
        lines.append(line)
        words += len(line.split())
    rest = "".join(lines).strip()
    return [*found, rest] if rest else found


def task_config(name: str, path: Path) -> dict:
    """Return a `TaskConfig` of lm-eval: rolling log-likelihood of the text's documents, word for word.

    Raises HexportError as `read_text` does.
    """
    import datasets

    pages = documents(read_text(path))
    return {
        "task": name,
        "custom_dataset": lambda **_metadata: {"test": datasets.Dataset.from_dict({"page": pages})},
        "output_type": "loglikelihood_rolling",
        "test_split": "test",
        "doc_to_text": "",
        "doc_to_target": "page",
        "num_fewshot": 0,
        "metric_list": [
            {"metric": metric, "aggregation": aggregation, "higher_is_better": False}
            for metric, aggregation in METRICS.items()
        ],
        "metadata": {"version": 1.0},
    }
