"""The prologue alone: what the emulator looks up is the checkpoint's table, whatever the size of the program."""

import numpy as np
import pytest
import torch
from tiny_model import EMULATOR, RECIPE, save_llama

from hexport.decoder.basis import Basis
from hexport.decoder.weights import Checkpoint
from hexport.evaluation.layer_comparison import decoded
from hexport.lowering.decoder_graph import DecoderGraph
from hexport.lowering.shards import Shard
from hexport.lowering.tapped import tapped_part
from hexport.progress import Progress
from hexport.quantization.calibration import calibrate
from hexport.quantization.recipe_checks import recipe_from
from hexport.targets.target import target_named

SIZES = {"num_hidden_layers": 1, "intermediate_size": 64, "num_attention_heads": 2, "num_key_value_heads": 1}
LARGE = {"hidden_size": 576, "vocab_size": 16384}  # a table of 9 MB, which the HTP does not keep in its fast memory


def uneven_rows(model) -> None:
    """Rows whose scales differ by up to 64 times."""
    table = model.model.embed_tokens.weight
    table *= 2.0 ** torch.linspace(-3, 3, len(table))[torch.randperm(len(table))][:, None]


@pytest.mark.parametrize(
    ("sizes", "ar_len"), [({**LARGE, "hidden_size": 64}, 64), (LARGE, 128), (LARGE, 512)], ids=["small", "128", "512"]
)
def test_each_embedding_in_8_bits_has_the_scale_of_its_own_row(lowerings, tmp_path, sizes, ar_len):
    save_llama(tmp_path / "checkpoint", uneven_rows, **SIZES, **sizes)
    checkpoint = Checkpoint(tmp_path / "checkpoint", Basis(row_scales=True))
    recipe, target = recipe_from({**RECIPE, "embedding_bits": 8}, "r"), target_named(EMULATOR)
    tokens = np.random.default_rng(0).integers(0, sizes["vocab_size"], ar_len)
    attrs = calibrate(checkpoint, [tokens[:16].tolist()], recipe, Progress())
    templates = lowerings.templates(checkpoint.config, recipe, target, ar_len, ar_len)
    graph = DecoderGraph(checkpoint.config, templates, attrs)
    prologue = tapped_part(graph, Shard(True, range(0), False), checkpoint, target, tmp_path, Progress())
    values, _ = prologue({"tokens": tokens[None].astype(np.int32)})
    encoding = attrs.encoding("prologue.mul")
    found = decoded(values["hidden"], encoding)[0]
    expected = Checkpoint(tmp_path / "checkpoint").prologue_parameters()["embedding.weight"][tokens].double()
    half_a_step = expected.abs().amax(dim=1, keepdim=True) / 127 / 2
    assert ((found - expected).abs() < 1.1 * half_a_step + encoding.scale).all()
