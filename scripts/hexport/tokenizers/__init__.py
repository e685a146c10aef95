"""`Tokenizer` and `load_tokenizer` load when first used: the Snakefile imports `hexport.tokenizers.files` alone."""

__all__ = ["Tokenizer", "load_tokenizer"]


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(name)
    from hexport.tokenizers import tokenizer

    return getattr(tokenizer, name)
