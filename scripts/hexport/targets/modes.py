"""This module defines the modes of running a program: what each needs of its graphs, and which keys of config.yaml they
depend on."""

from dataclasses import dataclass

LOOKAHEAD_KEYS = ("ngram", "window", "gcap")


@dataclass(frozen=True)
class Mode:
    """A mode is a way to run a program.

    `keys` are those of config.yaml that its programs depend on, beside their target, recipe and toolchain. `prefills`
    says whether a graph of its own reads the prompt in blocks. `looks_ahead` says whether the decode graph takes the
    tokens of a lookahead step, and not one. `eval_mode` is the number by which ExecuTorch's runner knows the mode.
    """

    name: str
    keys: tuple[str, ...]
    prefills: bool
    looks_ahead: bool
    eval_mode: int

    @property
    def program_name(self) -> str:
        """Return the file name of a program, built or ready."""
        return f"{self.name}_llama_qnn.pte"


SIZES = ("max_seq_len", "num_sharding")
MODES = {
    mode.name: mode
    for mode in (
        Mode("kv", SIZES, prefills=False, looks_ahead=False, eval_mode=0),
        Mode("hybrid", (*SIZES, "prefill_ar_len"), prefills=True, looks_ahead=False, eval_mode=1),
        Mode("lookahead", (*SIZES, "prefill_ar_len", *LOOKAHEAD_KEYS), prefills=True, looks_ahead=True, eval_mode=2),
    )
}


def lookahead_tokens(ngram: int, window: int, gcap: int) -> int:
    """Return the tokens of a lookahead step: a window of ngram - 1 levels, and as many tokens of each of gcap
    candidates."""
    return (window + gcap) * (ngram - 1)


def lookahead_ar_len(ngram: int, window: int, gcap: int) -> int:
    """Return the AR length of the decode graph: the tokens of a step up to the next power of 2, with which the HTP
    works best."""
    return 1 << (lookahead_tokens(ngram, window, gcap) - 1).bit_length()
