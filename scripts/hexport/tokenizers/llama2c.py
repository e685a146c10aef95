"""tokenizer.bin, the tokenizer format of llama2.c, as pytorch_tokenizers.tools.llama2c.convert writes it."""

from pathlib import Path

from hexport.errors import HexportError
from hexport.tokenizers.files import is_sentencepiece, model_file


def write_tokenizer_bin(model: Path, output: Path) -> None:
    """Raises HexportError where the model is damaged."""
    from pytorch_tokenizers.llama2c import Llama2cTokenizer

    try:
        tokenizer = Llama2cTokenizer(str(model))
    except RuntimeError as error:
        raise HexportError(f"{model}: not a whole SentencePiece model: {' '.join(str(error).split())}") from error
    tokenizer.export(str(output))


def sentencepiece_file(source: Path) -> Path:
    """The SentencePiece model of a source. Raises HexportError where there is none."""
    if not source.exists():
        raise HexportError(f"{source}: no such file or folder")
    model = model_file(source)
    if model is None or not is_sentencepiece(model):
        what = "has no tokenizer.model" if model is None else f"{model.name} is not SentencePiece's"
        raise HexportError(f"{source}: {what}; only SentencePiece models have a tokenizer.bin")
    return model
