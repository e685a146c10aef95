"""What the modes need of a model's other keys, and ready programs (`pre_gen_pte`) in place of built ones."""

import json
from pathlib import Path

import pytest

from hexport.build import lowering, matrix, sources
from hexport.build.artifacts import Place, ProgramKey
from hexport.config.checks import check_config
from hexport.config.settings import Config, parse_config
from hexport.errors import HexportError

READY = {"pre_gen_pte": "ready", "tokenizer": "tokenizer.json", "prompts": ["hi"]}
SHA256 = "a" * 64
RUN = Place("m", "16a8w", 1024, "SM8650-emulator", "emulator", "kv")


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("devices.yaml").write_text("devices: {emulator: {kind: emulator, soc: SM8650}}")
    for file in ("a.gguf", "tokenizer.json", "ready/kv_llama_qnn.pte", "ready/hybrid_llama_qnn.pte", "empty/notes.md"):
        Path(file).parent.mkdir(exist_ok=True)
        Path(file).touch()


def parse(entry: dict, **keys) -> Config:
    """A config of one model, m."""
    config = parse_config({"models": {"m": entry}, **keys}, "config.yaml")
    check_config(config, "config.yaml")
    return config


def faults(entry: dict, **keys) -> list[str]:
    try:
        parse(entry, **keys)
    except HexportError as error:
        return [line.removeprefix("config.yaml: models.m.") for line in str(error).splitlines()]
    return []


def built(**keys) -> dict:
    return {"checkpoint": "a.gguf", "prompts": ["hi"], **keys}


@pytest.mark.parametrize("mode", ["hybrid", "lookahead"])
def test_the_prefill_graph_reads_up_to_the_whole_context(mode):
    lengths = {"modes": [mode], "max_seq_len": 64, "ngram": 2}
    for prefill_ar_len in (1, 63, 64):
        assert faults(built(prefill_ar_len=prefill_ar_len, **lengths)) == []
    assert faults(built(prefill_ar_len=65, **lengths)) == ["prefill_ar_len: 65 is more than max_seq_len, 64"]


@pytest.mark.parametrize(
    ("sizes", "step"),
    [((5, 4, 4), 32), ((5, 4, 5), 64), ((4, 10, 11), 64), ((4, 11, 11), 128), ((2, 1, 1), 2), ((2, 32, 33), 128)],
)
def test_a_lookahead_step_must_fit_the_context(sizes, step):
    sizes = dict(zip(("ngram", "window", "gcap"), sizes, strict=True))
    assert faults(built(modes=["lookahead"], max_seq_len=step + 1, **sizes)) == []
    assert faults(built(modes=["kv", "lookahead"], max_seq_len=step, **sizes)) == [
        f"ngram: a lookahead step of {step} tokens, (window + gcap) * (ngram - 1) up to a power of 2, "
        f"must be less than max_seq_len, {step}; lower ngram, window or gcap, or raise it"
    ]
    assert faults(built(modes=["kv", "hybrid"], max_seq_len=step, **sizes)) == []


def test_lookahead_is_greedy():
    assert faults(built(modes=["kv", "lookahead"], temperature=0.5)) == [
        "temperature: mode lookahead answers greedily, since only such answers can be compared with those of mode kv; "
        "set temperature, 0.5, to 0, or leave lookahead out of modes"
    ]
    assert faults(built(modes=["kv", "hybrid"], temperature=0.5)) == []
    assert faults(READY | {"modes": ["kv"], "temperature": 0.5}) == []
    assert len(faults(READY | {"modes": ["lookahead"], "temperature": 0.5})) == 2  # its program is missing too


def test_a_mode_that_only_a_target_names_is_checked_too():
    config = parse(built(max_seq_len=64, temperature=0.5))
    with pytest.raises(HexportError, match=r"^a lookahead step of 64 tokens"):
        lowering.program_settings(config, ProgramKey("m", "16a8w", 64, "SM8650", "lookahead"))
    with pytest.raises(HexportError, match=r"^mode lookahead answers greedily"):
        matrix.run_settings(config, RUN._replace(context_length=64, mode="lookahead"))


def test_ready_programs_are_run_and_nothing_is_built():
    config = parse(READY | {"modes": ["hybrid", "kv"]})
    run = ("m", "16a8w", 1024, "SM8650-emulator")
    assert matrix.programs(config) == matrix.quant_attrs(config) == []
    assert matrix.tokenizers(config) == ["artifacts/m/tokenizer/tokenizer.json"]
    assert matrix.runs(config) == [
        f"artifacts/m/16a8w/ctx1024/SM8650-emulator/emulator/{mode}/result.json" for mode in ("hybrid", "kv")
    ]
    assert [matrix.program(config, ProgramKey(*run, mode)) for mode in ("hybrid", "kv")] == [
        "ready/hybrid_llama_qnn.pte",
        "ready/kv_llama_qnn.pte",
    ]
    assert list(matrix.left_out(config)) == [
        "model m is left out of quantize and export: it runs the programs in ready"
    ]
    with pytest.raises(HexportError, match=r"^ready/lookahead_llama_qnn\.pte: no such file, and mode lookahead needs"):
        matrix.program(config, ProgramKey(*run, "lookahead"))
    with pytest.raises(HexportError, match=r"^models\.m runs the programs in ready, and nothing is built from its"):
        sources.checkpoint_inputs(config, "m")


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        (READY | {"pre_gen_pte": "nowhere"}, ["pre_gen_pte: nowhere: no such folder"]),
        (READY | {"pre_gen_pte": "nowhere", "modes": ["kv", "hybrid"]}, ["pre_gen_pte: nowhere: no such folder"]),
        (READY | {"pre_gen_pte": "a.gguf"}, ["pre_gen_pte: a.gguf: expected a folder, got a file"]),
        (READY | {"pre_gen_pte": ""}, ["pre_gen_pte: must not be empty"]),
        (
            READY | {"max_seq_len": [64, 128], "recipe": ["16a8w", "16a4w"]},
            [
                f"{key}: has 2 values, and a program of pre_gen_pte is made already; give one"
                for key in ("recipe", "max_seq_len")
            ],
        ),
        (
            READY | {"modes": ["kv", "lookahead"]},
            [
                "pre_gen_pte: ready/lookahead_llama_qnn.pte: no such file, and mode lookahead needs it; "
                "in ready: hybrid_llama_qnn.pte, kv_llama_qnn.pte"
            ],
        ),
        (
            READY | {"pre_gen_pte": "empty", "modes": ["kv", "hybrid"]},
            [
                f"pre_gen_pte: empty/{mode}_llama_qnn.pte: no such file, and mode {mode} needs it; in empty: no .pte"
                for mode in ("kv", "hybrid")
            ],
        ),
        (
            {key: value for key, value in READY.items() if key != "tokenizer"},
            ["tokenizer: missing; pre_gen_pte needs a tokenizer, or a checkpoint that has one"],
        ),
        (READY | {"tokenizer": "t.json"}, ["tokenizer: t.json: no such file or folder"]),
        (
            {"pre_gen_pte": "ready", "prompts": ["hi"], "checkpoint": "weights"},
            ["tokenizer: weights: no such file or folder"],
        ),
        (
            {"pre_gen_pte": "ready", "prompts": ["hi"], "checkpoint": "hf://org/repo/a.pt"},
            ["tokenizer: missing, and hf://org/repo/a.pt is one file, without a tokenizer"],
        ),
        (READY | {"prompts": []}, ["prompts: missing; the programs of pre_gen_pte are only run"]),
        (
            {key: value for key, value in READY.items() if key != "prompts"} | {"calibration": {"text": "no.txt"}},
            ["prompts: missing; the programs of pre_gen_pte are only run"],
        ),
    ],
)  # fmt: skip
def test_what_ready_programs_need(entry, expected):
    assert faults(entry) == expected


def test_programs_that_are_built_are_not_ready_ones():
    folder = Path("artifacts/m/16a8w/ctx1024/SM8650")
    folder.mkdir(parents=True)
    (folder / "kv_llama_qnn.pte").touch()
    assert faults(READY | {"pre_gen_pte": f"./{folder}"}) == [
        f"pre_gen_pte: ./{folder} is in artifacts, where programs are built anew; copy those to be kept elsewhere"
    ]
    assert faults(READY | {"pre_gen_pte": str(folder)}, artifacts="other") == []


def test_a_ready_program_knows_its_own_sizes():
    """Neither a SoC's limits nor the default context length are in its way: the program says what it can do."""
    sizes = {"max_seq_len": 64, "seq_len": 4000, "prefill_ar_len": 512}
    config = parse(READY | sizes | {"modes": ["kv", "hybrid"]}, socs=["SM8650", "SM8450"])
    run = json.loads(matrix.run_settings(config, RUN._replace(context_length=64)))
    assert run["seq_len"] == 4000
    assert parse(READY | {"max_seq_len": 64}).models["m"].sizes(64)["seq_len"] == 128
    Path("ready/lookahead_llama_qnn.pte").touch()
    config = parse(READY | {"modes": ["lookahead"], "max_seq_len": 8, "gcap": 3})
    run = json.loads(matrix.run_settings(config, RUN._replace(context_length=8, mode="lookahead")))
    assert (run["ngram"], run["window"], run["gcap"]) == (5, 8, 3)


@pytest.mark.parametrize(
    "source",
    [
        {"checkpoint": "a.gguf"},
        {"checkpoint": "hf://org/repo"},
        {"checkpoint": "https://a.org/a.gguf", "sha256": SHA256},
        {"checkpoint": "empty", "tokenizer": "tokenizer.json"},
        {"checkpoint": "hf://org/repo/a.pt", "tokenizer": "tokenizer.json"},
        {"tokenizer": "hf://org/repo"},
    ],
)
def test_the_tokenizer_may_come_from_the_checkpoint(source):
    assert faults({"pre_gen_pte": "ready", "prompts": ["hi"], **source}) == []


def test_no_weights_are_downloaded_for_ready_programs():
    ready = {"pre_gen_pte": "ready", "checkpoint": "hf://org/repo", "prompts": ["hi"]}
    (listing,) = sources.downloads(parse(ready))
    assert json.loads(matrix.fetch_settings(parse(ready), listing))["weights"] is False
    both = parse_config({"models": {"m": ready, "n": {**ready, "pre_gen_pte": None}}}, "config.yaml")
    assert json.loads(matrix.fetch_settings(both, listing))["weights"] is True
    assert sources.downloads(parse(ready | {"tokenizer": "tokenizer.json"})) == {}


def test_a_built_in_model_keeps_its_tokenizer():
    config = parse_config({"models": {"stories110m": {"pre_gen_pte": "ready"}}}, "config.yaml")
    check_config(config, "config.yaml")
    (name,) = sources.downloads(config)
    assert name.endswith("-tokenizer.model")


def test_a_run_of_a_model_without_prompts_is_refused():
    config = parse({"checkpoint": "a.gguf", "calibration": {"text": "tokenizer.json"}})
    with pytest.raises(HexportError, match=r"models\.m\.prompts: missing, so there is nothing to run"):
        matrix.run_settings(config, RUN)
