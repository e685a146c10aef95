"""This module writes tokenizer.bin, llama2.c's format, as pytorch_tokenizers.tools.llama2c.convert does."""

from pathlib import Path

from hexport.errors import HexportError, one_line
from hexport.tokenizers.files import is_sentencepiece, published_model


def write_tokenizer_bin(model: Path, output: Path) -> None:
    """Write a SentencePiece model as a tokenizer.bin. Raises HexportError where the model is damaged."""
    from pytorch_tokenizers.llama2c import Llama2cTokenizer

    try:
        tokenizer = Llama2cTokenizer(str(model))
    except RuntimeError as error:
        raise HexportError(f"{model}: not a whole SentencePiece model: {one_line(error)}") from error
    tokenizer.export(str(output))


def sentencepiece_file(source: Path) -> Path:
    """Return the SentencePiece model of a source. Raises HexportError where there is none."""
    model = published_model(source)
    if not is_sentencepiece(model):
        raise HexportError(f"{model}: not a SentencePiece model; only these have a tokenizer.bin")
    return model
