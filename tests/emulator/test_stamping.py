"""The stamped program against the plain flow's: same ops, same encodings, connected alike, same outputs bit by bit."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from executorch.backends.qualcomm.qnn_preprocess import QnnBackend
from plain_flow import convert_decoder, lower_plain, record_plain
from same_ops import assert_same_program, canonical, stamped_ops
from tiny_model import CONTEXT, EMULATOR, RECIPE, SAMPLES, qdq_logits, save_llama, sqnr_db

from hexport.decoder.basis import Basis
from hexport.decoder.weights import Checkpoint
from hexport.lowering.recording import Op, OpTensor, recording
from hexport.progress import Progress
from hexport.quantization.calibration import calibrate
from hexport.quantization.coded_weight import CodedWeight
from hexport.quantization.prepared import weight_observer
from hexport.quantization.recipe_checks import recipe_from
from hexport.quantization.weights import codes, weight_encoding
from hexport.runtime.kv_cache import KVCache
from hexport.runtime.prefill import read_block
from hexport.runtime.program import Program
from hexport.targets.target import target_named


@pytest.fixture(scope="module")
def plain(model, special, tmp_path_factory) -> tuple[list[Op], Path]:
    """The plain flow from end to end, once: the ops that went to the compiler, and the program."""
    ops: list[Op] = []
    build = QnnBackend._build_op_wrappers

    def build_and_record(*args):
        with recording():
            ops.extend(build(*args))
        return build(*args)

    program = tmp_path_factory.mktemp("plain") / "kv_llama_qnn.pte"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(QnnBackend, "_build_op_wrappers", staticmethod(build_and_record))
        program.write_bytes(lower_plain(*model, target_named(EMULATOR), CONTEXT, special))
    return ops, program


def test_stamped_ops_are_the_plain_flows(lowerings, model, plain):
    stamped = stamped_ops(*lowerings.graph_arguments(*model))
    assert_same_program(stamped, plain[0], 3)
    # Layers differ in weights and encodings, so that a layer stamped with another's would show.
    assert len(canonical(stamped, 3)) > 0.9 * len(stamped)


@pytest.mark.parametrize("seed", range(3))
def test_stamped_and_plain_programs_put_out_the_same_codes(graph, plain, seed):
    random = np.random.default_rng(seed)
    tokens = random.integers(0, graph.vocab_size, (1, 1), np.int32)
    positions = random.integers(0, CONTEXT, (1, 1), np.int32)
    # Every column in sight in one case, some in the others.
    mask = (random.random((1, 1, 1, CONTEXT)) < (1, 0.5, 0.2)[seed]).astype(np.uint16) * np.uint16(65535)
    shapes = [(1, 2, 16, CONTEXT - 1)] * 3 + [(1, 2, CONTEXT - 1, 16)] * 3
    caches = [random.integers(20000, 45000, shape, np.uint16) for shape in shapes]
    logits, new = graph.call(tokens, [mask], positions, caches)
    expected_logits, expected_new = Program(plain[1]).graph().call(tokens, [mask], positions, caches)
    np.testing.assert_array_equal(logits, expected_logits)
    assert len(np.unique(logits)) > graph.vocab_size / 2
    for found, expected in zip(new, expected_new, strict=True):
        np.testing.assert_array_equal(found, expected)
    assert len({array.tobytes() for array in new}) == 6


# All that the tiny model has not: a tied head and a KV head per query head; and with channels of zeros only.
UNLIKE_TINY = {
    "num_hidden_layers": 2,
    "num_key_value_heads": 4,
    "tie_word_embeddings": True,
    "hidden_size": 96,
    "intermediate_size": 64,
}


def zero_channels(model):
    model.model.layers[1].self_attn.v_proj.weight[5:9] = 0


@pytest.fixture(scope="module")
def other(tmp_path_factory, qnn_sdk) -> tuple:
    """4-bit weights per channel in places, and embeddings in 8 bits, in the model of `mixed`."""
    folder = tmp_path_factory.mktemp("other")
    save_llama(folder, zero_channels, **UNLIKE_TINY)
    overrides = [{"points": points, "weight_bits": 4} for points in ("feed_forward.down_proj", "*.q_proj")]
    recipe = recipe_from({**RECIPE, "embedding_bits": 8, "overrides": overrides}, "r")
    checkpoint = Checkpoint(folder, Basis(row_scales=True))
    samples = [[256, *text.encode()] for text in SAMPLES]
    return checkpoint, calibrate(checkpoint, samples, recipe, Progress()), recipe


MIXED = {
    "weight_bits": 4,
    "granularity": "per_block",
    "block_size": 16,
    "kv_bits": 8,
    "r3": True,
    "embedding_bits": 8,
    "overrides": [
        {
            "points": "attention.v_proj",
            "activation_bits": 8,
            "activation_symmetric": True,
            "granularity": "per_channel",
        },
        {"points": "attention.k_proj", "granularity": "per_channel"},
        {"layers": "1", "points": "feed_forward.down_proj", "weight_bits": 8, "granularity": "per_tensor"},
        {"layers": "epilogue", "points": "output", "weight_bits": 8, "granularity": "per_channel"},
    ],
}


@pytest.fixture(scope="module")
def mixed(tmp_path_factory, qnn_sdk) -> tuple:
    """Blocks, 8-bit keys and values, 8-bit activations, and layers that differ, with weights coded in places."""
    folder = tmp_path_factory.mktemp("mixed")
    save_llama(folder, zero_channels, **UNLIKE_TINY)
    checkpoint, recipe = Checkpoint(folder, Basis(row_scales=True)), recipe_from(MIXED, "r")
    attrs = calibrate(checkpoint, [[256, *text.encode()] for text in SAMPLES], recipe, Progress())
    names = ("0.attention.q_proj", "1.feed_forward.down_proj", "0.feed_forward.up_proj", "1.feed_forward.gate_proj")
    return (
        checkpoint,
        replace(attrs, weights={f"layers.{name}": coded(checkpoint, recipe, name) for name in names}),
        recipe,
    )


def coded(checkpoint, recipe, name: str) -> CodedWeight:
    """A projection in narrowed ranges and, of the feed-forward, in codes that are often not the nearest ones."""
    random, (layer, projection) = torch.Generator().manual_seed(0), name.split(".", 1)
    weight = checkpoint.layer_parameters(int(layer))[f"{projection}.weight"]
    observer = weight_observer(recipe.at(layer, projection))
    scales, zero_points = weight_encoding(observer, weight, 0.5 + torch.rand(len(weight), generator=random) / 2)
    if projection.startswith("attention"):
        return CodedWeight(scales)
    near = codes(observer, weight, scales, zero_points) + torch.randint(-1, 2, weight.shape, generator=random)
    return CodedWeight(scales, near.clamp(observer.quant_min, observer.quant_max).to(torch.int8))


def test_stamped_ops_are_the_plain_flows_for_mixed_precision(lowerings, mixed):
    stamped = stamped_ops(*lowerings.graph_arguments(*mixed))
    assert_same_program(stamped, record_plain(*mixed, target_named(EMULATOR), CONTEXT), 2)


def test_a_program_of_mixed_precision_computes_what_the_fake_quantised_decoder_does(lowerings, mixed, tmp_path):
    checkpoint, attrs, recipe = mixed
    (tmp_path / "mixed.pte").write_bytes(lowerings.program(checkpoint, attrs, recipe))
    graph, tokens = Program(tmp_path / "mixed.pte").graph(), [256, *b"Once"]
    assert graph.cache_dtype == np.uint8
    cache = KVCache(graph)
    found = np.stack([read_block(graph, cache, [token]) for token in tokens])
    assert sqnr_db(qdq_logits(convert_decoder(*mixed, CONTEXT)[0], checkpoint.config, tokens), found) > 25


def test_an_override_gives_the_projections_that_it_names_4_bits_and_no_others(lowerings, other):
    checkpoint = other[0]
    expected = []  # (in, out): down_proj of each layer, and q_proj head by head
    for i in range(2):
        parameters = {name: weight[:, :, 0, 0].T for name, weight in projections(checkpoint, i).items()}
        expected += [parameters["feed_forward.down_proj.weight"]]
        expected += parameters["attention.q_proj.weight"].split(16, dim=1)
    tensors = {
        tensor
        for op in stamped_ops(*lowerings.graph_arguments(*other))
        for tensor in op.inputs
        if tensor.data is not None
    }
    four_bits = [tensor for tensor in tensors if tensor.quantization.get("bitwidth") == 4]
    assert len(four_bits) == len(expected)
    for weight in expected:
        assert sum(holds(tensor, weight.numpy()) for tensor in four_bits) == 1


def projections(checkpoint, layer: int) -> dict:
    return {name: weight for name, weight in checkpoint.layer_parameters(layer).items() if weight.ndim == 4}


def holds(tensor: OpTensor, weight: np.ndarray) -> bool:
    """Whether the 4-bit codes of a tensor (1, 1, in, out) are those of a weight, to half a step."""
    if tensor.dims[2:] != list(weight.shape):
        return False
    codes = tensor.data[0, 0].astype(np.int8)
    scales = tensor.quantization["scale_offset"]["scale"]
    real = np.where(codes > 7, codes - 16, codes) * scales
    return bool((np.abs(real - weight) <= scales * 0.501).all())


def test_the_table_of_embeddings_has_8_bits_and_a_scale_for_each_row(lowerings, other):
    table = Checkpoint(other[0].path.parent).prologue_parameters()["embedding.weight"].numpy()
    stamped = stamped_ops(*lowerings.graph_arguments(*other))
    held = {op.inputs[0] for op in stamped if op.type == "Gather" and op.inputs[0].dims[0] == len(table)}
    codes, scales = sorted(held, key=lambda tensor: -tensor.dims[1])
    assert (codes.data.dtype, codes.dims, scales.dims) == (np.uint8, list(table.shape), [len(table), 1])
    rows, row_scales = (real_values(tensor) for tensor in (codes, scales))
    largest = np.abs(table).max(axis=1, keepdims=True)
    assert (np.abs(rows * row_scales - table) <= largest / 127 * 0.51).all()


def real_values(tensor: OpTensor) -> np.ndarray:
    return (tensor.data.astype(np.float64) + tensor.quantization["offset"]) * tensor.quantization["scale"]


def test_a_program_with_4_bit_weights_runs(lowerings, other, tmp_path):
    checkpoint, attrs, recipe = other
    (tmp_path / "4.pte").write_bytes(lowerings.program(checkpoint, attrs, recipe))
    graph, tokens = Program(tmp_path / "4.pte").graph(), [256, *b"Once"]
    cache = KVCache(graph)
    found = np.stack([read_block(graph, cache, [token]) for token in tokens])
    assert sqnr_db(qdq_logits(convert_decoder(*other, CONTEXT)[0], checkpoint.config, tokens), found) > 35
