"""The scripts as the workflow calls them: what they write, and one line where the input is bad."""

import json
import re
import shutil
import subprocess

import pytest
from tiny_model import CONTEXT, EMULATOR, RECIPE, VOCABULARY, log_of, run_script

from hexport.file_hashes import sha256
from hexport.progress import Progress
from hexport.quantization.calibration import calibrate
from hexport.quantization.quant_attrs import load_quant_attrs
from hexport.tokenizers.tokenizer import load_tokenizer

PROMPTS = ["On", "ce"]
RUN_SETTINGS = {
    "model": "tiny",
    "recipe": "16a8w",
    "target": EMULATOR,
    "mode": "kv",
    "prompts": PROMPTS,
    "system_prompt": "",
    "temperature": 0.0,
    "seq_len": 12,
    "repeats": 1,
    "warmup": 0,
}
MANIFEST = {"artifact", "sha256", "code", "inputs", "params", "versions", "stages", "machine"}
TOOLCHAIN = {"hexport", "executorch", "torch", "qnn", "snakemake"}


def read(path):
    return json.loads(path.read_text())


def digests(*paths) -> dict[str, str]:
    return {path.name: sha256(path) for path in paths}


def manifest_of(path) -> dict:
    manifest = read(path.with_name(path.name + ".manifest.json"))
    assert manifest["artifact"] == path.name
    assert manifest["sha256"] == sha256(path)
    assert len(manifest["stages"]) > 0
    for stage in manifest["stages"].values():
        assert stage.keys() == {"seconds", "peak_rss_mb"}
        assert stage["seconds"] >= 0
        assert stage["peak_rss_mb"] > 50
    return manifest


def test_quantize_writes_what_calibration_gives_with_its_origin(tiny, checkpoint, recipe):
    content = read(tiny.quant_attrs)
    samples = read(tiny.tokens)["samples"]
    assert load_quant_attrs(tiny.quant_attrs) == calibrate(checkpoint, samples, recipe, Progress())
    assert (content["model"], content["recipe"]) == ("tiny", "16a8w")
    assert content["checkpoint_sha256"] == sha256(tiny.checkpoint)
    assert content["calibration"] == {"prompts": 3, "samples": 3, "tokens": sum(map(len, samples))}
    assert (content["scale"], content["zero_point"]) == (content["logits"]["scale"], content["logits"]["zero_point"])
    assert len(content["kv"]) == 3


def test_manifest_of_the_quant_attrs(tiny):
    manifest = manifest_of(tiny.quant_attrs)
    assert manifest.keys() == MANIFEST
    assert manifest["inputs"] == digests(tiny.checkpoint, tiny.checkpoint.with_name("config.json"), tiny.tokens)
    assert manifest["versions"].keys() >= {"hexport", "executorch", "torch", "snakemake"}


def test_the_log_of_a_shard_names_the_compilers_stages_and_keeps_what_it_printed(tiny):
    log = log_of(tiny.shard).read_text()
    assert re.search(r"^\d\d:\d\d:\d\d HTP compiler: Graph Optimizations$", log, re.MULTILINE)
    printed = set(re.findall(r"^Starting stage: (.+)$", log, re.MULTILINE))
    assert len(printed) > 3
    assert printed == set(re.findall(r"^\S+ HTP compiler: (.+)$", log, re.MULTILINE))
    for stage in printed:
        assert f"Completed stage: {stage} (" in log


def test_manifest_of_a_program(tiny, attrs):
    manifest = manifest_of(tiny.program)
    own = {"soc", "htp_arch", "context_length", "ar_lengths", "kv_bits", "logits", "content_sha256", "graphs"}
    assert manifest.keys() == MANIFEST | own
    config, tokenizer_config = (
        tiny.checkpoint.with_name("config.json"),
        tiny.tokenizer.with_name("tokenizer_config.json"),
    )
    parts = tiny.quant_attrs, tiny.tokenizer, tokenizer_config, tiny.templates, tiny.shard
    assert manifest["inputs"] == digests(config, *parts)
    assert manifest["params"]["recipe_spec"] == RECIPE
    assert manifest["versions"].keys() >= TOOLCHAIN
    assert (manifest["soc"], manifest["htp_arch"], manifest["context_length"]) == ("SM8650", "V75", CONTEXT)
    assert (manifest["ar_lengths"], manifest["kv_bits"]) == ({"kv_forward": 1}, 16)
    assert (manifest["logits"]["scale"], manifest["logits"]["zero_point"]) == (
        attrs.logits.scale,
        attrs.logits.zero_point,
    )
    assert re.fullmatch("[0-9a-f]{64}", manifest["content_sha256"])
    assert "assemble" in manifest["stages"]


def test_manifest_of_a_shard(tiny):
    manifest = manifest_of(tiny.shard)
    assert manifest.keys() == MANIFEST | {"soc", "htp_arch"}
    files = tiny.checkpoint, tiny.checkpoint.with_name("config.json"), tiny.quant_attrs, tiny.templates
    assert manifest["inputs"] == digests(*files)
    assert manifest["versions"].keys() >= TOOLCHAIN
    assert {"stamp", "compile"} == manifest["stages"].keys()


def test_manifest_of_templates_names_no_weights(tiny):
    manifest = manifest_of(tiny.templates)
    assert manifest.keys() == MANIFEST | {"htp_arch"}
    assert manifest["inputs"] == digests(tiny.checkpoint.with_name("config.json"))
    assert manifest["versions"].keys() >= TOOLCHAIN


def test_manifest_of_a_program_for_another_soc_and_context(variants):
    manifest = manifest_of(variants["SM8750"])
    assert (manifest["soc"], manifest["htp_arch"], manifest["context_length"]) == ("SM8750", "V79", 12)


def test_logs_say_stage_and_layer(tiny):
    quantize, shard = log_of(tiny.quant_attrs).read_text(), log_of(tiny.shard).read_text()
    for i in range(3):
        assert f"calibrate: layer {i + 1} of 3" in quantize
        assert f"stamp: layer {i + 1} of 3" in shard
    assert re.search(r"^\d\d:\d\d:\d\d compile: \d+\.\d s, peak \d+ MB$", shard, re.MULTILINE)


def run(tiny, folder, settings=None, **changes) -> subprocess.CompletedProcess:
    devices = folder.with_name("devices.yaml")
    devices.write_text(
        "devices:\n  emulator: {kind: emulator, soc: SM8650}\n  phone: {kind: adb, serial: S, soc: SM8650}\n"
    )
    options = {"devices": devices, "device": "emulator", "program": tiny.program, "tokenizer": tiny.tokenizer}
    options |= {"output": folder / "result.json", "log": log_of(folder / "result.json")}
    return run_script("run_program.py", {**RUN_SETTINGS, **(settings or {})}, {**options, **changes})


@pytest.fixture(scope="module")
def results(tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "kv"
    done = run(tiny, folder)
    assert done.returncode == 0, done.stderr
    return folder


def test_a_run_writes_result_outputs_and_log(tiny, results):
    result = read(results / "result.json")
    facts = {"model": "tiny", "recipe": "16a8w", "target": EMULATOR, "device": "emulator", "mode": "kv"}
    assert {key: result[key] for key in facts} == facts
    tokenizer = load_tokenizer(tiny.tokenizer.parent)
    assert [entry["prompt"] for entry in result["prompts"]] == PROMPTS
    assert [entry["prompt_tokens"] for entry in result["prompts"]] == [3, 2]  # turns of one conversation: BOS once
    for entry, room in zip(result["prompts"], (3, 4), strict=True):
        ended = entry["token_ids"][-1] == 257
        assert ended or entry["generated_tokens"] == room  # seq_len is 12
        assert entry["generated_tokens"] == len(entry["token_ids"])
        assert entry["text"] == tokenizer.decode(entry["token_ids"][: -1 if ended else None])
        for measure in ("load_ms", "ttft_ms", "prefill_tokens_per_s", "decode_tokens_per_s"):
            assert entry[measure] > 0
    outputs = (results / "outputs.txt").read_text()
    assert all(entry["prompt"] in outputs and entry["text"] in outputs for entry in result["prompts"])
    log = log_of(results / "result.json").read_text()
    assert "prompt 2 of 2" in log
    assert "prefill: token 3 of 3" in log
    assert "answer: token 1 of 3" in log


def test_conversations_of_a_run_stand_apart(tiny, results, tmp_path):
    """Their answers are in one list; the second one, which is the first again, answers the same."""
    done = run(tiny, tmp_path / "several", {"prompts": [PROMPTS, PROMPTS[:1], PROMPTS]})
    assert done.returncode == 0, done.stderr
    entries, (first, second) = (read(folder / "result.json")["prompts"] for folder in (tmp_path / "several", results))
    assert [(entry["conversation"], entry["prompt"]) for entry in entries] == [
        (0, "On"),
        (0, "ce"),
        (1, "On"),
        (2, "On"),
        (2, "ce"),
    ]
    texts = [entry["text"] for entry in entries]
    assert texts[:2] == texts[3:] == [first["text"], second["text"]]
    one, other = (f"{PROMPTS[0]}\n{texts[i]}\n\n" for i in (0, 2))
    last = f"{PROMPTS[1]}\n{texts[1]}\n\n"
    assert (tmp_path / "several" / "outputs.txt").read_text() == (
        f"== conversation 1 of 3\n\n{one}{last}== conversation 2 of 3\n\n{other}== conversation 3 of 3\n\n{one}{last}"
    )
    assert (results / "outputs.txt").read_text() == one + last
    stages = read(tmp_path / "several" / "result.json.manifest.json")["stages"]
    assert "conversation 3 of 3, prompt 2 of 2" in stages


def test_manifest_of_a_run(tiny, results):
    manifest = manifest_of(results / "result.json")
    config = tiny.tokenizer.with_name("tokenizer_config.json")
    assert manifest["inputs"] == digests(tiny.program, tiny.tokenizer, config)
    assert manifest["versions"].keys() >= TOOLCHAIN
    assert manifest["params"]["prompts"] == PROMPTS


def assert_one_line_and_no_file(done: subprocess.CompletedProcess, folder, named: str) -> None:
    """Progress may stand before it; the exit code is 1; not even a part of a file is left."""
    assert done.returncode == 1
    assert done.stdout == ""
    *progress, error = done.stderr.splitlines()
    assert error.startswith("error: ")
    assert named in error
    assert not any("rror" in line or "Traceback" in line for line in progress)
    assert not folder.exists() or list(folder.iterdir()) == []


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "folder"


def test_quantize_refuses_a_token_of_another_tokenizer(tiny, folder, tmp_path):
    tokens = tmp_path / "tokens.json"
    tokens.write_text(json.dumps({"source": {}, "samples": [[VOCABULARY]], "tokens": 1}))
    done = tiny.quantize(folder / "quant_attrs.json", tokens=tokens)
    assert_one_line_and_no_file(done, folder, f"token id {VOCABULARY}")


def test_a_shard_refuses_a_scale_that_is_no_number(tiny, folder, tmp_path):
    content = read(tiny.quant_attrs)
    point = next(point for point in content["activations"] if point.startswith("layers.1.feed_forward"))
    content["activations"][point]["scale"] = float("nan")
    (tmp_path / "quant_attrs.json").write_text(json.dumps(content))
    done = tiny.compile_shard(folder / "1-of-1.bin", **{"quant-attrs": tmp_path / "quant_attrs.json"})
    assert_one_line_and_no_file(done, folder, f"{tmp_path / 'quant_attrs.json'}: quant attrs: {point}: scale nan")


def test_a_shard_refuses_a_context_of_1(tiny, folder):
    done = tiny.compile_shard(folder / "1-of-1.bin", {"max_seq_len": 1})
    assert_one_line_and_no_file(done, folder, "max_seq_len 1 leaves no cache beside the AR length 1")


def test_a_shard_refuses_quant_attrs_of_another_model(tiny, folder, tmp_path):
    content = read(tiny.quant_attrs)
    (tmp_path / "quant_attrs.json").write_text(json.dumps({**content, "kv": content["kv"][:2]}))
    done = tiny.compile_shard(folder / "1-of-1.bin", **{"quant-attrs": tmp_path / "quant_attrs.json"})
    assert_one_line_and_no_file(done, folder, "quant attrs are of 2 layers, the checkpoint has 3")


def test_a_shard_refuses_a_checkpoint_without_one_of_its_tensors(tiny, folder, tmp_path):
    from safetensors.torch import load_file, save_file

    tensors = load_file(tiny.checkpoint)
    del tensors["model.layers.2.mlp.gate_proj.weight"]
    save_file(tensors, tmp_path / "model.safetensors")
    shutil.copy(tiny.checkpoint.with_name("config.json"), tmp_path)
    done = tiny.compile_shard(folder / "1-of-1.bin", checkpoint=tmp_path / "model.safetensors")
    assert_one_line_and_no_file(
        done, folder, "model.layers.2.mlp.gate_proj.weight: expected shape [80, 48], found none"
    )


@pytest.mark.parametrize(
    ("settings", "options", "named"),
    [
        (
            {"prompts": [["On"], ["Once", "Once upon a time"]]},
            {},
            "prompts[1][1]: the conversation up to this prompt has 22 tokens, at most 11 fit",
        ),
        (
            {"prompts": ["Once", "Once upon a time"]},
            {},
            "prompts[1]: the conversation up to this prompt has 22 tokens, at most 11 fit",
        ),
        ({}, {"device": "phone"}, "device phone runs programs for SM8650, not for SM8650-emulator"),
        ({}, {"device": "emulater"}, "there is no device 'emulater'; known: emulator, phone"),
    ],
)
def test_run_refuses_what_it_cannot_do(tiny, folder, settings, options, named):
    assert_one_line_and_no_file(run(tiny, folder, settings, **options), folder, named)
