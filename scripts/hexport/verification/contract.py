"""This module checks what can be told of a program without running it: its ABI, its sizes, its special tokens and its
tokenizer.
"""

from collections.abc import Iterator

from hexport.decoder.config import DecoderConfig
from hexport.decoder.widening import is_widened
from hexport.programs.abi import KV_METHOD, SLIDING_WINDOW
from hexport.programs.conformance import faults
from hexport.programs.facts import ProgramFacts
from hexport.programs.layout import layouts_of
from hexport.tokenizers.probe import SAMPLES
from hexport.tokenizers.tokenizer import Tokenizer
from hexport.verification.sources import Reference

EOS, BOS, HIDDEN_SIZE = "get_eos_id", "get_bos_id", "get_dim"


def contract_faults(program: ProgramFacts, model: Reference) -> tuple[list[str], list[str]]:
    """Return two lists of faults, in a line each: what keeps the program from being run beside the checkpoint; and what
    else is wrong with it.
    """
    structure = faults(program) or list(_sizes(program, model.checkpoint.config))
    if model.used is None:
        return structure, []
    return structure, [*_special_tokens(program, model.used), *_tokenizers(model, model.checkpoint.config.vocab_size)]


def _sizes(program: ProgramFacts, config: DecoderConfig) -> Iterator[str]:
    layout = layouts_of(program)[KV_METHOD]
    window = program.constants.get(SLIDING_WINDOW)
    sizes = {
        "layers": (layout.n_layers, config.n_layers),
        "tokens in the vocabulary": (layout.vocab_size, config.vocab_size),
        "KV heads": (layout.n_kv_heads, config.n_kv_heads),
        "dimensions of a head": (layout.head_dim, config.head_dim),
    }
    hidden = program.constants.get(HIDDEN_SIZE, config.hidden_size)
    if not is_widened(config, hidden):
        sizes["hidden dimensions"] = hidden, config.hidden_size
    # A window as wide as the context hides nothing, and some programs leave it out.
    if any(width is not None and width < layout.context_len for width in (window, config.sliding_window)):
        sizes["tokens in the sliding window"] = window, config.sliding_window
    for what, (found, expected) in sizes.items():
        if found != expected:
            yield (
                f"{what}: {found} in the program, {expected} in the checkpoint; it is of another model: name that "
                "one's checkpoint, or export it again"
            )


def _special_tokens(program: ProgramFacts, tokenizer: Tokenizer) -> Iterator[str]:
    eos, bos = program.constants.get(EOS), program.constants.get(BOS)
    wrong = [token for token in (eos if isinstance(eos, list) else [eos]) if token not in tokenizer.stop_ids]
    if eos is not None and wrong:
        yield (
            f"{EOS} is {_named(wrong[0], tokenizer)}, which ends no text; those that do: "
            f"{', '.join(_named(token, tokenizer) for token in sorted(tokenizer.stop_ids)) or 'none'}; answers would "
            "not stop: export it again with the model's tokenizer"
        )
    if bos is not None and tokenizer.bos_id is not None and bos != tokenizer.bos_id:
        yield (
            f"{BOS} is {_named(bos, tokenizer)}, and the tokenizer begins texts with "
            f"{_named(tokenizer.bos_id, tokenizer)}; export it again with the model's tokenizer"
        )


def _named(token: object, tokenizer: Tokenizer) -> str:
    text = tokenizer.backend.id_to_token(token) if isinstance(token, int) and token >= 0 else None
    return str(token) if text is None else f"{token} ({text!r})"


def _tokenizers(model: Reference, vocab_size: int) -> Iterator[str]:
    if model.used.vocab_size > vocab_size:
        yield (
            f"the tokenizer has {model.used.vocab_size} tokens, and the model {vocab_size}; they belong to different "
            "models: use the tokenizer that is published with the checkpoint"
        )
    if model.own is None or model.own is model.used:
        return
    if difference := _difference(model.own, model.used):
        yield f"the tokenizer is not the checkpoint's: {difference}; use the one that is published with the checkpoint"


def _difference(own: Tokenizer, used: Tokenizer) -> str | None:
    ours, theirs = (each.backend.get_vocab(with_added_tokens=True) for each in (own, used))
    if ours != theirs:
        id = min(id for _, id in ours.items() ^ theirs.items())
        return f"token {id} is {own.backend.id_to_token(id)!r} there, {used.backend.id_to_token(id)!r} here"
    for text in SAMPLES:
        if (there := own.encode(text)) != (here := used.encode(text)):
            return f"{text[:40]!r} is {len(there)} tokens there, and {len(here)} other ones here"
    for name in ("bos_id", "eos_id", "adds_bos"):
        if getattr(own, name) != getattr(used, name):
            return f"its {name} is {getattr(own, name)} there, {getattr(used, name)} here"
    return None if own.chat_template == used.chat_template else "its chat template is another one"
