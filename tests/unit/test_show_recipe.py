"""What a user sees of a recipe before anything is built."""

import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from test_decoder_published import CONFIGS

from hexport.build.program_size import estimated_bytes
from hexport.config.recipes import resolve_recipes
from hexport.config.settings import built_in_models
from hexport.decoder.config import decoder_config
from hexport.decoder.sizes import PUBLISHED, sizes_of
from hexport.decoder.tensors import tensor_shapes
from hexport.quantization.recipe_checks import recipe_from
from show_recipe import main

SCRIPT = Path(__file__).parents[2] / "scripts" / "show_recipe.py"
CONFIG = """
socs: [SM8650, SM8450]
recipes:
  careful:
    based_on: 16a4w_block32
    kv_bits: 8
    seq_mse: 20
    gptq: true
    tune_scales: 2
    overrides:
      - {layers: "[03]", points: feed_forward.down_proj, weight_bits: 8, granularity: per_channel}
      - {points: attention.q_rope, observer: percentile}
      - {layers: epilogue, points: output, weight_bits: 8, granularity: per_tensor, seq_mse: 0, gptq: false}
  rotated: {based_on: 16a8w, kv_bits: 8, r3: true}
  small_table: {based_on: 16a8w, embedding_bits: 8}
models:
  mine: {checkpoint: here, recipe: careful, modes: [kv, hybrid], max_seq_len: 64}
  rotated: {checkpoint: here, recipe: rotated, modes: [kv, hybrid]}
  small_table: {checkpoint: here, recipe: small_table, modes: [kv]}
  large_table: {checkpoint: here, recipe: 16a8w, modes: [kv]}
  narrow: {checkpoint: narrow, recipe: careful}
  several: {checkpoint: here, recipe: [careful, rotated], max_seq_len: [64, 8192]}
  absent: {checkpoint: absent.gguf}
  wrong: {checkpoint: here, recipe: carefull}
"""
SHORT, LONG = ["SM8650", "64", "kv"], ["SM8650", "8192", "kv"]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    from transformers import LlamaConfig

    monkeypatch.chdir(tmp_path)
    Path("devices.yaml").write_text("devices: {emulator: {kind: emulator, soc: SM8650}}")
    Path("config.yaml").write_text(CONFIG)
    sizes = {"intermediate_size": 128, "num_hidden_layers": 5, "vocab_size": 20000, "num_attention_heads": 2}
    LlamaConfig(hidden_size=64, head_dim=32, **sizes).save_pretrained("here")
    LlamaConfig(hidden_size=48, head_dim=32, **sizes).save_pretrained("narrow")


def shown(*arguments: str) -> list[list[str]]:
    """Cells of each line."""
    result = CliRunner().invoke(main, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert result.output.isascii()
    assert max(map(len, result.output.splitlines())) <= 160
    return [[cell.strip() for cell in line.split("  ") if cell.strip()] for line in result.output.splitlines()]


def refusal(*arguments: str) -> str:
    result = CliRunner().invoke(main, arguments, catch_exceptions=False)
    assert result.exit_code == 1
    (line,) = result.stderr.splitlines()
    return line


def test_each_group_of_alike_layers_has_a_row():
    rows = shown("mine")
    blocks = ["4-bit, a scale per block of 32", "20 ranges", "yes", "16-bit", "min_max"]
    channels = ["8-bit, a scale per channel", "20 ranges", "yes", "16-bit", "min_max"]
    assert ["1-2, 4", "feed_forward.down_proj", *blocks] in rows
    assert ["0, 3", "feed_forward.down_proj", *channels] in rows
    assert ["epilogue", "output", "8-bit, one scale", "no", "no", "16-bit", "min_max"] in rows
    assert ["0-4", "attention.q_proj", *blocks] in rows
    start = rows.index(["0-4", "attention.q_proj", *blocks])
    names = ["k_proj", "v_proj", "o_proj"]
    assert rows[start + 1 : start + 4] == [[f"attention.{name}"] for name in names]
    assert rows[start + 4 : start + 6] == [["feed_forward.gate_proj"], ["feed_forward.up_proj"]]


def test_what_is_no_projection_has_a_row_too():
    rows = shown("mine")
    for row in (
        ["embedding", "16-bit, per tensor"],
        ["scales tuned", "in 2 passes"],
        ["layers *, points attention.q_rope", "observer percentile"],
        ["KV cache", "8-bit, around its middle code"],
        ["logits", "16-bit"],
        ["masked softmax", "no"],
        ["R2", "no"],
        ["R3", "no"],
        ["channels added to hidden states", "0"],
    ):
        assert row in rows
    assert not any("down_proj" in row[0] for row in rows if row)  # that override changes no activations


def test_embeddings_in_8_bits_have_a_scale_for_each_row():
    small, large = shown("small_table"), shown("large_table")
    assert ["embedding", "8-bit, a scale per row"] in small
    sizes = [float(row[3].removesuffix(" MB")) for rows in (small, large) for row in rows if row[:1] == ["SM8650"]]
    assert sizes[1] - sizes[0] == pytest.approx(20000 * (64 - 2) / 1e6, abs=0.11)


def test_programs_hold_weights_once_where_the_soc_shares_them():
    sizes = {(row[0], row[2]): row[3] for row in shown("mine") if row and row[0].startswith("SM")}
    shared, own = sizes["SM8650", "kv"], sizes["SM8450", "kv"]
    assert sizes["SM8650", "hybrid"] == shared == own
    assert float(sizes["SM8450", "hybrid"].removesuffix(" MB")) == pytest.approx(
        2 * float(own.removesuffix(" MB")), abs=0.1
    )


def test_a_soc_that_the_recipe_does_not_go_with_is_shown_with_the_reason():
    sizes = {(row[0], row[2]): row[3] for row in shown("large_table") if row and row[0].startswith("SM")}
    assert sizes["SM8650", "kv"].endswith(" MB")
    assert sizes["SM8450", "kv"].startswith("none: 16a8w has kv_bits 16")


def test_every_recipe_and_context_length_is_shown():
    rows = [row for row in shown("several") if row]
    names = [row[0] for row in rows if row[0].startswith("several: ")]
    assert names == [f"several: recipe {name}, 5 layers (sizes of here/config.json)" for name in ("careful", "rotated")]
    sizes = [float(row[3].removesuffix(" MB")) for row in rows if row[:3] in (SHORT, LONG)]
    careful, longer_careful, rotated, longer_rotated = sizes
    assert careful < longer_careful
    assert longer_careful - careful == pytest.approx(longer_rotated - rotated, abs=0.11)  # the rotary tables


@pytest.mark.parametrize("model", built_in_models())
def test_every_built_in_model_is_shown_without_its_checkpoint(model):
    assert any("as published" in " ".join(row) for row in shown(model))


@pytest.mark.parametrize("model", built_in_models())
def test_published_sizes_are_those_of_the_published_configs(model):
    assert PUBLISHED[model] == sizes_of(decoder_config(CONFIGS[model]))


@pytest.mark.parametrize("model", built_in_models())
def test_projections_have_the_sizes_of_the_checkpoints_tensors(model):
    config = decoder_config(CONFIGS[model])
    shapes, sizes = tensor_shapes(config), PUBLISHED[model]
    of_layer = sum(n_in * n_out for name, (n_in, n_out) in sizes.projections.items() if name != "output")
    matrices = [shape for name, shape in shapes.items() if "proj.weight" in name]
    assert sum(n_out * n_in for n_out, n_in in matrices) == of_layer * sizes.n_layers
    assert sizes.projections["output"][::-1] == shapes["model.embed_tokens.weight"]


@pytest.mark.parametrize(("max_seq_len", "megabytes"), [(1024, 196.7), (512, 196.6)])
def test_the_estimate_is_a_little_below_a_real_program(max_seq_len, megabytes):
    """SmolLM2-135M in 16a8w for SM8650, mode kv, as the compiler made it."""
    estimated = estimated_bytes(recipe_from({}, "16a8w"), PUBLISHED["smollm2_135m"], max_seq_len) / 1e6
    assert 0.96 * megabytes < estimated < megabytes


def test_estimates_of_4_bit_weights_are_as_far_below_as_those_of_8_bits():
    """A random llama of two layers for SM8650 at max_seq_len 64: bytes of the real programs."""
    real = {
        "16a8w": 9560392,
        "16a4w_block16": 6009152,
        "16a4w_block32": 5755200,
        "16a4w_block64": 5628224,
    }
    sizes = sizes_of(
        decoder_config(
            {
                "model_type": "llama",
                "hidden_size": 512,
                "intermediate_size": 2048,
                "num_hidden_layers": 2,
                "num_attention_heads": 8,
                "num_key_value_heads": 2,
                "head_dim": 64,
                "vocab_size": 1024,
                "rms_norm_eps": 1e-5,
            }
        )
    )
    recipes = resolve_recipes({})
    ops = {name: size - estimated_bytes(recipe_from(recipes[name], name), sizes, 64) for name, size in real.items()}
    assert all(0 < size < 400_000 for size in ops.values())
    assert max(ops.values()) - min(ops.values()) < 20_000


def test_faults_are_one_line():
    assert refusal("smollm2_135") == (
        "error: config.yaml: there is no model 'smollm2_135', and none is built in; did you mean smollm2_135m?"
    )
    assert refusal("absent").endswith("run `snakemake artifacts/absent/checkpoint/config.json` first")
    assert refusal("wrong").endswith("models.wrong.recipe: unknown recipe 'carefull'; did you mean careful?")
    assert refusal("narrow") == (
        "error: granularity per_block with block_size 32: attention.q_proj of layer 0 has 48 input channels; "
        "they must be a multiple of 32; use per_channel there, or another block_size"
    )
    assert refusal("mine", "--config", "other.yaml").startswith("error: other.yaml: ")


def test_it_prints_plain_text_without_loading_torch():
    run = f"import sys; sys.argv[1:] = ['mine']; import runpy; sys.path.insert(0, {str(SCRIPT.parent)!r})\n"
    run += f"try: runpy.run_path({str(SCRIPT)!r}, run_name='__main__')\nfinally: assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", run], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert "\x1b" not in done.stdout
    assert done.stdout.startswith("mine: recipe careful, 5 layers (sizes of here/config.json)")
