"""This module makes BPE merges for vocabularies that are published without them: SentencePiece's and tiktoken's."""

from collections.abc import Sequence
from pathlib import Path

from hexport.errors import HexportError

MAX_CHARACTERS = 512  # of a token: the longest published ones are runs of 128 spaces, and time grows with the square


def all_merges(tokens: Sequence[str], path: Path) -> list[tuple[str, str]]:
    """Return every pair of tokens that makes a third one, in the order of `tokens`.

    The pair that merges first thus comes first. For the tokens "a", "b", "ab" this is `[("a", "b")]`. SentencePiece and
    tiktoken join any two neighbours whose text together is a token, whereas a tokenizer.json lists the pairs. Raises
    HexportError, which names the file `path`, for a token of more than MAX_CHARACTERS.
    """
    if (longest := max(map(len, tokens), default=0)) > MAX_CHARACTERS:
        raise HexportError(f"{path}: has a token of {longest} characters, more than {MAX_CHARACTERS}")
    known = set(tokens)
    return [
        (left, right)
        for token in tokens
        for cut in range(1, len(token))
        if (left := token[:cut]) in known and (right := token[cut:]) in known
    ]
