"""Modes, and the AR lengths of their graphs."""


def lookahead_tokens(ngram: int, window: int, gcap: int) -> int:
    """Tokens of a lookahead step: a window of ngram - 1 levels, and as many tokens of each of gcap candidates."""
    return (window + gcap) * (ngram - 1)


def lookahead_ar_len(ngram: int, window: int, gcap: int) -> int:
    """AR length of the decode graph: the tokens of a step up to the next power of 2, with which the HTP works best."""
    return 1 << (lookahead_tokens(ngram, window, gcap) - 1).bit_length()
