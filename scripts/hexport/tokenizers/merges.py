"""BPE merges of vocabularies that are published without them: SentencePiece's and tiktoken's."""

from collections.abc import Sequence


def all_merges(tokens: Sequence[str]) -> list[tuple[str, str]]:
    """Every pair of tokens that makes a third one, in the order of `tokens`: the one that merges first comes first.

    SentencePiece and tiktoken join any two neighbours whose text together is a token; a tokenizer.json lists the pairs.
    """
    known = set(tokens)
    return [
        (left, right)
        for token in tokens
        for cut in range(1, len(token))
        if (left := token[:cut]) in known and (right := token[cut:]) in known
    ]
