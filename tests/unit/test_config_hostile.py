"""Configs that are made to hang, to blow up or to break what reads them: each fault is one line, at once."""

import os
from pathlib import Path

import pytest

from hexport.build.sources import download_name
from hexport.config.checks import check_config
from hexport.config.documents import MAX_BYTES, read_yaml
from hexport.config.reading import read_config
from hexport.config.settings import parse_config
from hexport.errors import HexportError

DEVICES = "devices: {e: {kind: emulator, soc: SM8650}}"
LAUGHS = "a0: &a0 [ha]\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 15))
IN_A_PATH = "in a path has a meaning of its own for Snakemake; rename it"
CONTROL = "expected a path without line breaks and other control characters, got"
NOT_A_NAME = "not a name: use up to 100 letters, digits, dots, dashes and underscores, a letter or digit first"
PIPE = "expected a file, got a pipe or device"


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("devices.yaml").write_text(DEVICES)
    Path("a.gguf").write_bytes(b"GGUF")
    Path("file").write_text("text")
    Path("folder").mkdir()
    for name in ("pipe", "pipe.gguf", "pipe.yaml"):
        os.mkfifo(name)


def faults(text: str) -> list[str]:
    Path("config.yaml").write_text(text)
    try:
        document, source = read_config({}, [])
        check_config(parse_config(document, source), source)
    except HexportError as error:
        return [line.removeprefix("config.yaml: ") for line in str(error).splitlines()]
    return []


def model(keys: str) -> str:
    checkpoint = "" if "checkpoint:" in keys else "checkpoint: a.gguf, "
    return f"models: {{m: {{prompts: [hi], {checkpoint}{keys}}}}}"


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (LAUGHS, "line 8: too large once its aliases are written out"),
        ("socs: &a [*a]", "line 1: alias a is a part of itself"),
        ("models: &a {m: *a}", "line 1: alias a is a part of itself"),
        ("socs: " + "[" * 5000, "line 1: more than 32 levels"),
        ("models: " + "{a: " * 5000, "line 1: more than 32 levels"),
        ("socs: [" + "a, " * 30_000, "line 1: more than 20,000 keys and values; keep data in files of their own"),
        ("a" * (MAX_BYTES + 1), "more than 1,000,000 bytes; keep long texts in files of their own"),
        (model("seq_len: " + "9" * 5000), "line 1: a number of 5,000 characters, and 100 are the most"),
        (model("seq_len: 0x" + "f" * 5000), "line 1: a number of 5,002 characters, and 100 are the most"),
        (model("temperature: 1" + "0" * 400), "line 1: a number of 401 characters, and 100 are the most"),
        (model("seq_len: 0x_"), "line 1: 0x_ is no number; put it in quotes if it is text"),
        (model("prompts: ['\\ud800']".replace("'", '"')), "line 1: half a character (a lone surrogate)"),
        ("a: !!python/object/apply:os.system [id]", "line 1: a tag, tag:yaml.org,2002:python/object/apply:os.system; "),
        ("a: !!int x", "line 1: a tag, tag:yaml.org,2002:int; write plain values"),
        ("a: !!timestamp x", "line 1: a tag, tag:yaml.org,2002:timestamp; write plain values"),
    ],
)
def test_what_blows_up_is_not_built(text, fault):
    (line,) = faults(text)
    assert line.startswith(fault)


def test_a_date_is_text():
    Path("config.yaml").write_text("a: [2001-12-14, 2001-99-99]")
    assert read_yaml(Path("config.yaml")) == {"a": ["2001-12-14", "2001-99-99"]}


@pytest.mark.parametrize(
    ("keys", "fault"),
    [
        ("ngram: 99999999", "ngram: must be 1024 or less, got 99999999"),
        ("gcap: " + "9" * 90, "gcap: must be 1024 or less, got " + "9" * 57 + "…"),
        ("max_seq_len: 1048577", "max_seq_len: must be 1048576 or less, got 1048577"),
        ("temperature: 1.0e+400", "temperature: expected a finite number, got inf"),
        (
            "evaluation: {tasks: [a], min_sqnr_db: 1.0e+400}",
            "evaluation.min_sqnr_db: expected a finite number, got inf",
        ),
        ('checkpoint: "a\\0b"', f"checkpoint: {CONTROL} 'a\\x00b'"),
        ('tokenizer: "a\\e[31m"', f"tokenizer: {CONTROL} 'a\\x1b[31m'"),
        ('calibration: {text: "a\\n"}', f"calibration.text: {CONTROL} 'a\\n'"),
        ("checkpoint: " + "x" * 5000, "checkpoint: must have at most 3000 characters, and has 5,000"),
        ("checkpoint: " + "x" * 300, "checkpoint: has a name of more than 255 bytes, which no file can have"),
        ("checkpoint: " + "é" * 200, "checkpoint: has a name of more than 255 bytes, which no file can have"),
        ("checkpoint: " + "é/" * 1400, "checkpoint: has more than 3000 bytes; choose a shorter path"),
        ('checkpoint: "{x}.gguf"', f"checkpoint: {{x}}.gguf: {{ {IN_A_PATH}"),
        ('pre_gen_pte: "{x}"', f"pre_gen_pte: {{x}}: {{ {IN_A_PATH}"),
        ("checkpoint: <artifacts>/a", f"checkpoint: <artifacts>/a: < {IN_A_PATH}"),
        ("params: pipe, checkpoint: a.pth", f"params: pipe: {PIPE}"),
        ("calibration: {text: pipe}", f"calibration.text: pipe: {PIPE}"),
        ("calibration: {samples: folder}", "calibration.samples: folder: expected a file, got a folder"),
        ("recipe: " + "x" * 5000, "recipe: unknown recipe 'xxx"),
    ],
)
def test_a_value_that_nothing_can_take(keys, fault):
    (line,) = faults(model(keys))
    assert line.startswith(f"models.m.{fault}")


@pytest.mark.parametrize("key", ["checkpoint", "tokenizer"])
def test_half_an_address(key):
    form = "https://host/path/to/file#sha256=<64 hex digits>"
    assert faults(model(f'{key}: "https://[::1"')) == [f"models.m.{key}: https://[::1: not of the form {form}"]


def test_a_checkpoint_that_is_a_pipe_is_not_waited_for():
    lines = faults(model("checkpoint: pipe.gguf"))
    assert any(line.startswith("models.m.checkpoint: pipe.gguf: ") for line in lines)


@pytest.mark.parametrize(
    ("devices", "line"),
    [
        ("folder", "folder: expected a file, got a folder"),
        ("pipe.yaml", f"pipe.yaml: {PIPE}"),
        ("/dev/zero", f"/dev/zero: {PIPE}"),
        ('"a\\0b"', f"devices: {CONTROL} 'a\\x00b'"),
        ("x" * 300, f"{'x' * 300}: File name too long"),
    ],
)
def test_devices_that_are_no_file(devices, line):
    assert faults(f"devices: {devices}\n{model('')}") == [line]


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        ("", "not JSON: Expecting value: line 1 column 1 (char 0)"),
        ('["a"', "not JSON: Expecting ',' delimiter: line 1 column 5 (char 4)"),
        ('["\\ud800"]', "not JSON: half of a surrogate pair"),
        ("[NaN]", "not JSON: NaN is no number of JSON"),
        ("[" * 5000, "JSON with more than 64 levels"),
        ('{"prompts": ["a"]}', "expected a list, got keys with values"),
        ('"a"', "expected a list, got 'a'"),
        ("[]", "must not be empty"),
        ('[["a"], []]', "[1]: must not be empty"),
        ('["a", ""]', "[1]: must not be empty"),
        ('["a", 7]', "[1]: expected text or a list, got 7; put it in quotes"),
        ('[["a"], ["b", null]]', "[1][1]: expected text, got nothing"),
        ('[["a"], ["b", {"role": "user"}]]', "[1][1]: expected text, got keys with values"),
        ('[["a"], "b\\u001b[31m"]', "[1]: expected a list, like what stands before it, got text"),
        ('["a", ["b"]]', "[1]: expected text, like what stands before it, got a list"),
        ('["' + "a" * (1 << 20) + '"]', "1.0 MB, more than the limit of 1 MB for such a file"),
        ("[" + ", ".join(["7"] * 300_000) + "]", "has 300,000 texts, and 20,000 are the most; leave some out"),
        ("[[" + ", ".join(['"a"'] * 20_001) + "]]", "has 20,001 texts, and 20,000 are the most; leave some out"),
    ],
)
def test_a_file_of_prompts_that_holds_none(content, fault):
    Path("talks.json").write_text(content)
    (line,) = faults(model("").replace("[hi]", "talks.json"))
    assert line.startswith(f"models.m.prompts: talks.json: {fault}")


@pytest.mark.parametrize(
    ("prompts", "fault"),
    [
        ("no.json", 'no.json: no such file; name a JSON file, or put a text into a list, ["…"]'),
        ("x" * 300, "x" * 57 + "…: no such file; "),
        ("folder", "folder: is a folder; name a file"),
        ("pipe", "pipe: is a pipe, a socket or a device; "),
        ("/dev/zero", "/dev/zero: is a pipe, a socket or a device; "),
        ('"a\\0b"', f"{CONTROL} 'a\\x00b'"),
        ('""', "must not be empty"),
    ],
)
def test_prompts_that_are_no_file(prompts, fault):
    (line,) = faults(model("").replace("[hi]", prompts))
    assert line.startswith(f"models.m.prompts: {fault}")


def test_each_file_of_prompts_has_its_faults_told():
    for name, content in (("a.json", '[1, ["b", 2]]'), ("b.json", "[")):
        Path(name).write_text(content)
    checkpoint = "tokenizer: a.gguf, checkpoint: a.gguf"
    lines = faults("models: {" + ", ".join(f"{name}: {{prompts: {name}.json, {checkpoint}}}" for name in "ab") + "}")
    assert lines == [
        "models.a.prompts: a.json: [0]: expected text or a list, got 1; put it in quotes",
        "models.a.prompts: a.json: [1][1]: expected text, got 2; put it in quotes",
        "models.b.prompts: b.json: not JSON: Expecting value: line 1 column 2 (char 1)",
    ]


@pytest.mark.parametrize(
    ("artifacts", "fault"),
    [
        ("'{x}'", f"{{x}}: {{ {IN_A_PATH}"),
        ("<artifacts>", f"<artifacts>: < {IN_A_PATH}"),
        ('"a\\0b"', f"{CONTROL} 'a\\x00b'"),
        ("file", "file: {cwd}/file is a file, and not a folder; name another"),
        ("file/x", "file/x: {cwd}/file is a file, and not a folder; name another"),
        ("pipe/x", "pipe/x: {cwd}/pipe is a file, and not a folder; name another"),
        ("/", "/: has more in it than outputs; name a folder for these alone"),
        (".", ".: has more in it than outputs; name a folder for these alone"),
        ("..", "..: has more in it than outputs; name a folder for these alone"),
        ("/proc/x", "/proc/x: belongs to the system; name a folder of yours"),
        ("s3://bucket/x", "s3://bucket/x: outputs are written to this machine; name a folder"),
        ("x" * 300, "has a name of more than 255 bytes, which no file can have"),
    ],
)
def test_artifacts_where_no_outputs_can_be(artifacts, fault):
    assert faults(f"artifacts: {artifacts}\n{model('')}") == [f"artifacts: {fault.replace('{cwd}', os.getcwd())}"]


@pytest.mark.parametrize("own", ["scripts", "rules/x", ".git", "docs", "demo"])
def test_artifacts_among_hexports_own_files(own):
    repository = Path(__file__).parents[2]
    expected = f"artifacts: {repository / own}: is part of hexport itself; name a folder for outputs alone"
    assert faults(f"artifacts: {repository / own}\n{model('')}") == [expected]
    assert faults(f"artifacts: {repository / 'artifacts'}\n{model('')}") == []


def test_artifacts_on_a_memory_disk():
    assert faults(f"artifacts: /dev/shm/x\n{model('')}") == []


def test_artifacts_that_the_user_may_not_write(monkeypatch):
    Path("locked").mkdir()
    monkeypatch.setattr("os.access", lambda path, _mode: Path(path).name != "locked")  # root may write anywhere
    (line,) = faults(f"artifacts: locked/x\n{model('')}")
    assert line.startswith(f"artifacts: locked/x: you may not write to {os.getcwd()}/locked; ")


@pytest.mark.parametrize("section", ["models", "recipes", "tasks"])
@pytest.mark.parametrize(("name", "shown"), [("a\\n", "a\\n"), ("x" * 300, "x" * 57 + "…"), ("a\\e[0m", "a\\x1b[0m")])
def test_names_that_no_path_can_have(section, name, shown):
    entry = {"models": "checkpoint: a.gguf, prompts: [a]", "recipes": "based_on: 16a8w", "tasks": "text: file"}[section]
    text = f'{section}: {{"{name}": {{{entry}}}}}\n' + ("" if section == "models" else model(""))
    assert faults(text) == [f"{section}.{shown}: {NOT_A_NAME}"]


def test_a_name_of_a_device_that_ends_in_a_line_break():
    Path("devices.yaml").write_text(DEVICES.replace("e:", '"e\\n":'))
    assert faults(model("")) == [f"devices.yaml: devices.e\\n: {NOT_A_NAME}"]


def test_a_sha256_that_ends_in_a_line_break():
    (line,) = faults(model(f'sha256: "{"a" * 64}\\n"'))
    assert line.startswith("models.m.sha256: expected 64 hex digits, got ")


def test_recipes_that_are_based_on_one_another_without_end():
    chain = ", ".join(f"r{i}: {{based_on: r{i - 1}}}" for i in range(1, 60))
    line, *_ = faults(f"recipes: {{r0: {{based_on: 16a8w}}, {chain}}}\n{model('recipe: r59')}")
    assert line == "recipes.r49.based_on: more than 50 recipes, each based on the next; write it out"


def test_a_hundred_faults_are_enough():
    lines = faults("models: {" + ", ".join(f"m{i}: {{x: 1}}" for i in range(900)) + "}")
    assert len(lines) == 101
    assert lines[-1] == "has more faults than these 100; mend them first"


def test_a_long_name_of_a_download_is_cut():
    name = download_name(f"https://example.org/{'x' * 300}.gguf#sha256={'a' * 64}")
    assert len(name) < 200
    assert name.endswith("x.gguf")


@pytest.mark.parametrize(
    "device",
    [
        "kind: adb, serial: a, soc: '${TOKEN}'",
        "kind: '${TOKEN}', serial: a, soc: SM8650",
        "kind: adb, serial: a, soc: SM8650, runner: '${TOKEN}'",
        "kind: adb, serial: a, soc: SM8650, cache_gb: '${TOKEN}'",
        "kind: adb, serial: a, soc: SM8650, timeout: '${NUMBER}'",
        "kind: adb, serial: a, soc: SM8650, adb_server: {port: '${NUMBER}'}",
        'kind: adb, soc: SM8650, serial: "${TOKEN}\\n"',
        "kind: adb, soc: SM8650, serial: '${TOKEN}'}, q: {kind: adb, soc: SM8650, serial: '${TOKEN}'",
        "kind: adb, serial: a, soc: SM8650, cache_gb: '${DIGITS}'",
    ],
)
def test_a_value_of_the_environment_is_in_no_error(monkeypatch, device):
    for name, value in (("TOKEN", "hf_secret"), ("NUMBER", "987654321"), ("DIGITS", "7" * 5000)):
        monkeypatch.setenv(name, value)
    Path("devices.yaml").write_text(f"devices: {{p: {{{device}}}}}")
    (line,) = faults(model(""))
    assert line.startswith("devices.yaml: devices.")
    assert not any(value in line for value in ("secret", "98765", "777"))


def test_a_port_of_the_environment_that_is_too_long(monkeypatch):
    monkeypatch.setenv("ANDROID_ADB_SERVER_PORT", "9" * 5000)
    Path("devices.yaml").write_text("devices: {p: {kind: adb, soc: SM8650, serial: a}}")
    (line,) = faults(model(""))
    assert line == f"ANDROID_ADB_SERVER_PORT={'9' * 57}…: no port; unset it, or set it to a number up to 65535"
