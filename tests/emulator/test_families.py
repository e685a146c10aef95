"""Every family at small size: checkpoint -> quant attrs -> programs of all modes -> emulator."""

import pickle
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from blocks import read_blocks
from executorch.exir._serialize._program import deserialize_pte_binary
from plain_flow import calibrate_plain, convert_decoder, lower_plain
from same_ops import assert_same_program, stamped_ops
from small_models import MODELS, random_model, random_tokens, transformers_logits
from tiny_model import CONTEXT, EMULATOR, RECIPE, qdq_logits, sqnr_db
from verifying import verified

from hexport.decoder.weights import Checkpoint
from hexport.devices.emulator import Run, load_generator
from hexport.evaluation.comparison import SignalToNoise
from hexport.evaluation.layer_comparison import compare_layers
from hexport.lowering.decoder_graph import DecoderGraph
from hexport.lowering.template_lowering import record_ops
from hexport.progress import Progress
from hexport.quantization.calibration import calibrate
from hexport.quantization.quant_attrs import QuantAttrs
from hexport.quantization.recipe_checks import recipe_from
from hexport.runtime.lookahead import Size
from hexport.runtime.program import Program
from hexport.targets.target import target_named

# With windows and contexts that the 16 tokens of these tests go beyond. Two layers, which differ in weights and
# encodings; three where they differ in kind, so that one kind is there twice. Few heads, as graphs grow with them.
FOUR_HEADS = {"num_hidden_layers": 2, "num_attention_heads": 4}
SIZES = {
    "llama, llama3 scaling": FOUR_HEADS,
    "gemma, one KV head": FOUR_HEADS,
    "gemma3, listed layers slide, full layers scaled": FOUR_HEADS | {"num_hidden_layers": 3},
    "phi3, longrope on three quarters of a head": FOUR_HEADS | {"hidden_size": 64},
    "phi3, longrope with an attention factor, window, tied": FOUR_HEADS | {"hidden_size": 32},
    "qwen2, seven queries per KV head, window switched off": {"num_hidden_layers": 2, "num_attention_heads": 6},
    "qwen3, biases": FOUR_HEADS,
    "smollm3, layers without rope slide": FOUR_HEADS | {"num_hidden_layers": 3, "num_key_value_heads": 4},
}
# All layers slide here, and executorch's own flow cannot take a graph that leaves its first mask unread.
ALL_SLIDING = "phi3, longrope with an attention factor, window, tied"
# With one KV head, executorch's pass that splits heads looks up cosines and sines in each layer anew in the plain flow.
# So its codes are compared, of a family whose ops no other one has.
ONE_KV_HEAD = "phi3, longrope on three quarters of a head"
# Theirs are among the ops of the model of test_stamping.py, of qwen3 with biases, and of gemma3.
NO_OP_OF_THEIR_OWN = (
    *("llama, llama3 scaling", "gemma, one KV head"),
    "qwen2, seven queries per KV head, window switched off",
)
COMPARED = [name for name in SIZES if name not in (ALL_SLIDING, ONE_KV_HEAD, *NO_OP_OF_THEIR_OWN)]
# Compared in the plain flow's graph that reads blocks: these have every feature that depends on the AR length.
BLOCKS = ["gemma3, listed layers slide, full layers scaled", "smollm3, layers without rope slide"]
SHARDED = "gemma3, listed layers slide, full layers scaled"
BLOCK, WHOLE = 8, CONTEXT
LOOKAHEAD = Size(ngram=3, window=2, gcap=2)  # 8 tokens a call
# Mode -> AR lengths of its prefill and decode graphs.
MODES = {"kv": (None, 1), "hybrid": (BLOCK, 1), "lookahead": (BLOCK, BLOCK)}


def families(*names: str) -> list:
    """Values of `small`, each in a group of its own, so that a worker builds it and the other one has the next."""
    return [pytest.param(name, marks=pytest.mark.xdist_group(name)) for name in names]


@dataclass
class Small:
    name: str
    checkpoint: Checkpoint
    samples: list[list[int]]
    attrs: QuantAttrs
    expected: np.ndarray  # transformers' float32 logits of the first sample
    programs: dict[str, Path]  # by mode

    @property
    def program(self) -> Path:
        return self.programs["kv"]

    @property
    def model(self) -> tuple:
        return self.checkpoint, self.attrs, recipe_from(RECIPE, "16a8w")

    @property
    def plain_ar_len(self) -> int:
        return BLOCK if self.name in BLOCKS else 1


@pytest.fixture(scope="module", params=families(*SIZES))
def small(request, lowerings, keep) -> Small:
    model_type, changes = MODELS[request.param]
    changes = changes | SIZES[request.param]
    if "layer_types" in changes:
        changes["layer_types"] = changes["layer_types"][: changes["num_hidden_layers"]]

    def build(folder: Path) -> None:
        model = random_model(model_type, **changes)
        round_to_8_bits(model)
        model.save_pretrained(folder)
        checkpoint = Checkpoint(folder)
        tokens = random_tokens(checkpoint.config.vocab_size, CONTEXT)
        samples, recipe = [tokens, tokens[::-1]], recipe_from(RECIPE, "16a8w")
        attrs = calibrate(checkpoint, samples, recipe, Progress())
        for mode, (prefill, decode) in MODES.items():
            program = lowerings.program(checkpoint, attrs, recipe, prefill=prefill, decode=decode)
            (folder / f"{mode}_llama_qnn.pte").write_bytes(program)
        (folder / "facts").write_bytes(pickle.dumps((samples, attrs, transformers_logits(model, tokens))))

    folder = keep(request.param, build)
    programs = {mode: folder / f"{mode}_llama_qnn.pte" for mode in MODES}
    return Small(request.param, Checkpoint(folder), *pickle.loads((folder / "facts").read_bytes()), programs)


def round_to_8_bits(model) -> None:
    """Round weights per output channel so that 8 bits hold them exactly. What is left to lose is in the activations."""
    for name, weight in model.named_parameters():
        if weight.ndim == 2 and (name != "model.embed_tokens.weight" or model.config.tie_word_embeddings):
            step = weight.abs().amax(dim=1, keepdim=True) / 127
            weight.copy_((weight / step).round() * step)


def test_the_emulators_logits_are_transformers_as_far_as_16_bit_activations_allow(small):
    found = read_blocks(Program(small.program).graph(), small.samples[0])
    assert sqnr_db(small.expected, found) > 40
    np.testing.assert_array_equal(found.argmax(axis=-1), small.expected.argmax(axis=-1))


@pytest.fixture(scope="module")
def converted(small) -> tuple:
    """The plain flow's fake-quantised graph, and inputs of its shapes."""
    return convert_decoder(*small.model, CONTEXT, small.plain_ar_len)


def test_the_emulators_logits_are_those_of_the_fake_quantised_graph(small, converted):
    tokens = small.samples[0]
    expected = qdq_logits(converted[0], small.checkpoint.config, tokens)
    assert sqnr_db(expected, read_blocks(Program(small.program).graph(), tokens)) > 40


@pytest.mark.parametrize("small", families(*COMPARED), indirect=True)
def test_stamped_ops_are_the_plain_flows(small, lowerings, converted):
    plain = record_ops(*converted, target_named(EMULATOR))
    stamped = stamped_ops(*lowerings.graph_arguments(*small.model, small.plain_ar_len))
    assert_same_program(stamped, plain, small.checkpoint.config.n_layers)


@pytest.mark.parametrize("small", families(ONE_KV_HEAD), indirect=True)
def test_stamped_and_plain_programs_put_out_the_same_codes(small, special, tmp_path):
    plain = tmp_path / "plain.pte"
    plain.write_bytes(lower_plain(*small.model, target_named(EMULATOR), CONTEXT, special))
    found, expected = (read_blocks(Program(path).graph(), small.samples[0]) for path in (small.program, plain))
    np.testing.assert_array_equal(found, expected)


def test_layer_by_layer_calibration_observes_what_the_whole_model_does(small):
    plain = calibrate_plain(small.checkpoint, small.samples, small.model[2])
    assert {point: plain.encoding(point) for point in small.attrs.activations} == small.attrs.activations
    assert (plain.kv, plain.mask, plain.logits) == (small.attrs.kv, small.attrs.mask, small.attrs.logits)


def test_all_graphs_put_out_the_same_codes(small):
    """Bit by bit, whatever the AR length: only so are hybrid and lookahead sure to give the answers of mode kv."""
    tokens = small.samples[0]
    expected = read_blocks(Program(small.program).graph(), tokens)
    for mode in ("hybrid", "lookahead"):
        np.testing.assert_array_equal(
            read_blocks(Program(small.programs[mode]).graph("prefill_forward"), tokens), expected
        )
    np.testing.assert_array_equal(read_blocks(Program(small.programs["lookahead"]).graph(), tokens), expected)


def test_verification_refuses_no_mode(small):
    for mode, path in small.programs.items():
        verification = verified(path, small.checkpoint, small.samples[0])
        assert (verification.verdict, verification.faults) == ("good", []), mode


def test_all_modes_give_the_same_answers(small):
    answers = {}
    for mode, path in small.programs.items():
        size = LOOKAHEAD if mode == "lookahead" else None
        run = Run(mode, size, system_prompt="", temperature=0, seq_len=CONTEXT)
        generator = load_generator(path, run, Progress())
        for n in (1, BLOCK - 1, BLOCK):
            generator.cache.keep(0)
            answers[mode, n] = generator.generate(small.samples[0][:n], CONTEXT + 1, frozenset()).token_ids
        del generator  # a program is loaded once at a time
    for mode, n in answers:
        assert len(answers[mode, n]) == CONTEXT + 1 - n
        assert answers[mode, n] == answers["kv", n]


@pytest.mark.parametrize("small", families(SHARDED), indirect=True)
@pytest.mark.parametrize(("n_shards", "prefill"), [(2, BLOCK), (5, WHOLE)])
def test_a_program_in_shards_puts_out_the_same_codes(small, lowerings, tmp_path, n_shards, prefill):
    path = tmp_path / "sharded.pte"
    path.write_bytes(lowerings.program(*small.model, n_shards=n_shards, prefill=prefill))
    program = deserialize_pte_binary(path.read_bytes()).program
    plans = [plan for plan in program.execution_plan if plan.name in ("kv_forward", "prefill_forward")]
    assert [[delegate.id for delegate in plan.delegates] for plan in plans] == [["QnnBackend"] * n_shards] * 2
    binaries = {data.data for data in program.backend_delegate_data}
    assert len(binaries) == n_shards
    assert path.stat().st_size < 1.1 * sum(map(len, binaries))  # both methods refer to one copy of each
    tokens = small.samples[0]
    expected = read_blocks(Program(small.program).graph(), tokens)
    sharded = Program(path)
    for method in ("kv_forward", "prefill_forward"):
        np.testing.assert_array_equal(read_blocks(sharded.graph(method), tokens), expected)


@pytest.mark.parametrize("small", families(SHARDED), indirect=True)
def test_the_emulator_rounds_what_norms_put_out_and_layers_compared_alone_are_those_of_the_program(small, lowerings):
    """The HTP cuts off what an RmsNorm puts out, half a code on average, unless its bias is half a code."""
    target, tokens = target_named(EMULATOR), small.samples[0]
    templates = lowerings.templates(small.checkpoint.config, small.model[2], target, WHOLE, WHOLE)
    graph = DecoderGraph(small.checkpoint.config, templates, small.attrs)
    found = compare_layers(graph, small.checkpoint, small.model[2], target, tokens, Progress())
    assert [part.part for part in found.parts] == ["prologue", "layers.0", "layers.1", "layers.2", "epilogue"]
    points = [{point.point: point for point in part.points} for part in found.parts]
    for norm in [*(each["input_norm.rms_norm"] for each in points[1:-1]), points[-1]["norm.rms_norm"]]:
        assert norm.op == "RmsNorm"
        assert norm.max_difference <= 1
        assert abs(norm.emulator_bias) < 0.05
        assert norm.emulator_noise == pytest.approx(norm.qdq_noise, rel=0.1)
    whole = SignalToNoise()
    logits = read_blocks(Program(small.program).graph(), tokens)
    whole.add(torch.from_numpy(small.expected), torch.from_numpy(logits))
    assert found.parts[-1].emulator_db == pytest.approx(whole.db, abs=0.05)


@pytest.mark.parametrize("small", families(ONE_KV_HEAD), indirect=True)
def test_a_prefill_graph_as_long_as_the_context_puts_out_the_same_codes(small, lowerings, tmp_path):
    (tmp_path / "whole.pte").write_bytes(lowerings.program(*small.model, prefill=WHOLE))
    found = read_blocks(Program(tmp_path / "whole.pte").graph("prefill_forward"), small.samples[0])
    np.testing.assert_array_equal(found, read_blocks(Program(small.program).graph(), small.samples[0]))
