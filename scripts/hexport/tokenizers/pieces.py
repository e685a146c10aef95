"""This module turns SentencePiece's pieces into a pipeline of the tokenizers library.

The pieces come from *.model files and from GGUF metadata. What a piece's type means, and how a text is normalised,
follows sentencepiece/src/{bpe_model,normalizer}.cc.
"""

import math
import re
from dataclasses import dataclass
from pathlib import Path

from gguf import TokenType
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from hexport.errors import HexportError
from hexport.tokenizers.merges import all_merges

SPACE = "▁"  # stands for a space in the texts of pieces


@dataclass(frozen=True)
class Pieces:
    """An instance is a BPE vocabulary with byte fallback: it has the text, score and type of each id.

    The pair of pieces whose joined piece has the highest score merges first.
    """

    texts: list[str]
    scores: list[float]
    types: list[TokenType]
    dummy_prefix: bool  # whether a text gets a space in front
    one_space: bool = False  # whether runs of spaces count as one, and those around a text as none
    rstrip: frozenset[str] = frozenset()  # control pieces that take the white space after them

    def of(self, *types: TokenType) -> list[str]:
        """Return the texts of all pieces of these types, in the order of their ids."""
        return [text for text, kind in zip(self.texts, self.types, strict=True) if kind in types]


def build_tokenizer(pieces: Pieces, path: Path) -> Tokenizer:
    """Return a tokenizer that gives SentencePiece's ids. Unused pieces are left out; control pieces are special tokens.

    Raises HexportError, which names the file `path`, for a score that is not finite, and for pieces that this pipeline
    cannot reach.
    """
    if wrong := [text for text, score in zip(pieces.texts, pieces.scores, strict=True) if not math.isfinite(score)]:
        raise HexportError(f"{path}: the score of piece {wrong[0]!r} is no finite number; fetch it again")
    normal = {i: score for i, score in enumerate(pieces.scores) if pieces.types[i] == TokenType.NORMAL}
    by_score = [pieces.texts[i] for i in sorted(normal, key=normal.get, reverse=True)]
    symbols = pieces.of(TokenType.USER_DEFINED)
    cut_out = bool(symbols) and (pieces.dummy_prefix or pieces.one_space)
    bytes_as = _bytes_as_characters({*"".join(by_score)} - {*by_score, *symbols}, path)
    vocabulary = {
        bytes_as.get(text, text): i for i, text in enumerate(pieces.texts) if pieces.types[i] != TokenType.UNUSED
    }
    backend = Tokenizer(
        models.BPE(
            vocabulary,
            all_merges([*by_score, *bytes_as.values()], path),
            unk_token=next(iter(pieces.of(TokenType.UNKNOWN)), None),
            fuse_unk=True,
            byte_fallback=True,
            ignore_merges=cut_out,
        )
    )
    backend.normalizer = _normalizer(pieces)
    backend.decoder = _decoder(pieces)
    if cut_out:
        # A text that starts with an added token would get no prefix, so symbols are no added tokens here. They are cut
        # out of the normalised text instead: each is then a word of its own, which ignore_merges takes whole.
        backend.pre_tokenizer = pre_tokenizers.Split(Regex(_symbol_regex(symbols)), "isolated")
    else:
        backend.add_tokens([AddedToken(text, normalized=True, special=False) for text in symbols])
    control = pieces.of(TokenType.CONTROL, TokenType.UNKNOWN)
    backend.add_special_tokens([AddedToken(text, normalized=False, rstrip=text in pieces.rstrip) for text in control])
    return backend


def _bytes_as_characters(characters: set[str], path: Path) -> dict[str, str]:
    """Return the character of each byte piece, for characters that occur in longer pieces but are no pieces themselves.

    SentencePiece joins them all the same, as in Gemma's tabs, whereas the library joins only what is in the vocabulary.
    Raises HexportError for a character that is not ASCII.
    """
    if beyond := sorted(character for character in characters if not character.isascii()):
        raise HexportError(f"{path}: {beyond[0]!r} is in longer pieces, but not a piece itself; use a tokenizer.json")
    return {f"<0x{ord(character):02X}>": character for character in characters}


def _symbol_regex(symbols: list[str]) -> str:
    r"""Return an expression that finds any of the symbols, the longest first.

    It also finds the < of a spelled-out byte piece (`<0x41>`) that is all the text between two symbols: without its <,
    that text is not taken whole for the byte. \G is where the match before ends.
    """
    symbol = "|".join(map(re.escape, sorted(symbols, key=len, reverse=True)))
    return rf"{symbol}|\G<(?=0x[0-9A-F]{{2}}>(?:{symbol}|\z))"


def _normalizer(pieces: Pieces) -> normalizers.Normalizer:
    steps: list[normalizers.Normalizer] = []
    if pieces.one_space:
        steps += [normalizers.Replace(Regex(rf"\A +|[ {SPACE}]+\z"), ""), normalizers.Replace(Regex(" {2,}"), " ")]
    if pieces.dummy_prefix:
        steps.append(normalizers.Prepend(SPACE))
    return normalizers.Sequence([*steps, normalizers.Replace(" ", SPACE)])


def _decoder(pieces: Pieces) -> decoders.Decoder:
    steps = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    if pieces.dummy_prefix or pieces.one_space:
        every = 1_000_000  # with one_space, SentencePiece strips all spaces in front, else only the prefix
        steps.append(decoders.Strip(" ", every if pieces.one_space else 1, 0))
    return decoders.Sequence(steps)
