"""This module names the hidden states that the evaluations of a model share: those behind the last layer of its float
decoder, and of its fake-quantised one with each recipe.
"""

from pathlib import Path

from hexport.code_digest import code_digest
from hexport.decoder.kept_names import identity, kept_name
from hexport.decoder.last_states import LastStates
from hexport.decoder.weights import Checkpoint
from hexport.file_hashes import sha256
from hexport.quantization.recipe import Recipe


def float_states(folder: Path, checkpoint: Checkpoint, context_len: int) -> LastStates:
    """Return where the float decoder's states are kept. checkpoint: in the basis that it came in."""
    code = code_digest("hexport/decoder/float_decoder.py")
    return LastStates(folder, kept_name([*identity(checkpoint), context_len, code]))


def quantised_states(
    folder: Path, checkpoint: Checkpoint, encodings: tuple[Path, Path | None], recipe: Recipe, context_len: int
) -> LastStates:
    """Return where the fake-quantised decoder's states are kept.

    checkpoint: in the recipe's basis. encodings: quant_attrs.json and, if the recipe has them, weights.safetensors.
    """
    files = [sha256(file) for file in encodings if file]
    code = code_digest("hexport/evaluation/qdq.py")
    return LastStates(folder, kept_name([*identity(checkpoint), *files, repr(recipe), context_len, code]))
