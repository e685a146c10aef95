"""This module reads SentencePiece's own files: tokenizer.model of Llama 2, Gemma, llama2.c.

The format is that of sentencepiece/src/sentencepiece_model.proto.
"""

from pathlib import Path

from gguf import TokenType
from google.protobuf.message import DecodeError
from sentencepiece import SentencePieceProcessor
from sentencepiece.sentencepiece_model_pb2 import ModelProto, NormalizerSpec, TrainerSpec
from tokenizers import Tokenizer

from hexport.errors import HexportError, one_line
from hexport.regular_file import read_bytes
from hexport.tokenizers.files import MAX_MODEL_BYTES
from hexport.tokenizers.pieces import Pieces, build_tokenizer
from hexport.tokenizers.probe import check_equal


def read_sentencepiece(path: Path) -> tuple[Tokenizer, dict]:
    """Return the tokenizer, and the special tokens under their names in tokenizer_config.json, with add_bos_token.

    Raises HexportError for a damaged file, for a kind of model that is not BPE with byte fallback, and where the
    tokenizer differs from the sentencepiece library.
    """
    data = read_bytes(path, MAX_MODEL_BYTES)
    model = ModelProto()
    try:
        model.ParseFromString(data)
        reference = SentencePieceProcessor(model_proto=data)
    except (DecodeError, RuntimeError, ValueError) as error:
        raise HexportError(f"{path}: not a whole SentencePiece model: {one_line(error)}") from error
    _check_kind(model.trainer_spec, model.normalizer_spec, path)
    pieces = Pieces(
        texts=[piece.piece for piece in model.pieces],
        scores=[piece.score for piece in model.pieces],
        types=[TokenType(piece.type) for piece in model.pieces],
        dummy_prefix=model.normalizer_spec.add_dummy_prefix,
        one_space=model.normalizer_spec.remove_extra_whitespaces,
    )
    if TokenType.UNUSED in pieces.types:
        raise HexportError(f"{path}: has unused pieces, which are not supported; use a tokenizer.json")
    backend = build_tokenizer(pieces, path)
    check_equal(backend, reference.encode, reference.decode, path, pieces.of(TokenType.USER_DEFINED))
    ids = {name: getattr(reference, f"{name}_id")() for name in ("bos", "eos", "unk", "pad")}
    special = {f"{name}_token": reference.id_to_piece(id) for name, id in ids.items() if id >= 0}
    # The format has no field for it, but Llama 2 and Gemma put BOS in front of every text.
    return backend, {**special, "add_bos_token": True}


def _check_kind(trainer: TrainerSpec, normalizer: NormalizerSpec, path: Path) -> None:
    faults = {
        "is not BPE": trainer.model_type != TrainerSpec.BPE,
        "has no byte fallback": not trainer.byte_fallback,
        "puts spaces behind words": trainer.treat_whitespace_as_suffix,
        f"normalises text by {normalizer.name!r}": bool(normalizer.precompiled_charsmap),
        "keeps spaces as they are": not normalizer.escape_whitespaces,
    }
    if found := ", ".join(fault for fault, is_so in faults.items() if is_so):
        raise HexportError(f"{path}: this SentencePiece model {found}, which is not supported; use a tokenizer.json")
