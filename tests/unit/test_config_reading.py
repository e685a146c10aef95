"""Which file the config is read from: --config file=… is as safe as config.yaml, and says as much of a fault."""

import json
from pathlib import Path

import pytest
from snakemake.cli import parse_config as parse_command_line
from snakemake.common import dict_to_key_value_args

from hexport.config.reading import read_config
from hexport.errors import HexportError

CONFIG = "socs: [SM8650]\nmodels: {a: &a {seq_len: 8, prompts: [Hi]}, b: *a}\n"
READ = {"socs": ["SM8650"], "models": {key: {"seq_len": 8, "prompts": ["Hi"]} for key in "ab"}}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("config.yaml").write_text("models: {m: }")
    Path("other.yaml").write_text(CONFIG)


def read(*words: str, configfiles: tuple[str, ...] = ()) -> tuple[dict, str]:
    """As Snakemake has it of `--config word …`, and as the processes of its jobs have it again."""
    overrides = parse_command_line(words)
    found = read_config(overrides, [Path(file).absolute() for file in configfiles])
    of_job = parse_command_line(dict_to_key_value_args(overrides, repr_obj=True))
    assert read_config(of_job, [Path(file).absolute() for file in configfiles]) == found
    return found


def refused(*words: str, configfiles: tuple[str, ...] = ()) -> str:
    with pytest.raises(HexportError) as error:
        read(*words, configfiles=configfiles)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_another_file_takes_the_place_of_config_yaml():
    assert read() == ({"models": {"m": None}}, "config.yaml")
    assert read("file=other.yaml") == (READ, "other.yaml")
    Path("a folder").mkdir()
    Path("a folder/it's.yaml").write_text(CONFIG)
    assert read("file=a folder/it's.yaml") == (READ, "a folder/it's.yaml")


def test_other_keys_of_the_command_line_win_over_the_file():
    assert read("file=other.yaml", "socs=[SM8750]")[0] == READ | {"socs": ["SM8750"]}
    found = read("file=other.yaml", "models={a: {system_prompt: S}}")[0]
    # What an alias shares in the file is not changed along.
    assert found["models"] == {"a": READ["models"]["a"] | {"system_prompt": "S"}, "b": READ["models"]["b"]}


def test_configfile_merges_files():
    Path("more.yaml").write_text("socs: [SM8750]")
    assert read(configfiles=("other.yaml", "more.yaml")) == (READ | {"socs": ["SM8750"]}, "other.yaml, more.yaml")
    assert refused("file=other.yaml", configfiles=("more.yaml",)).startswith("--configfile and --config file=… both")


def test_what_names_no_file():
    assert refused("file=no.yaml") == "no.yaml: no such file"
    assert refused("file=.") == ".: expected a file, got a folder"
    assert refused(f"file={'x' * 300}") == f"{'x' * 300}: File name too long"
    for value in ("7", "[a]", "{a: b}", ""):
        assert refused(f"file={value}") == "--config file=…: expected the path of a config; write a number as ./7"
    assert refused("socs=[\ud800]").startswith("--config: ")


@pytest.mark.parametrize(
    ("text", "marker"),
    [
        ("__use_yte__: true\n__definitions__: [import os]\nmodels: {a: }", "the key '__use_yte__'"),
        ("__definitions__: [import os]", "the key '__definitions__'"),
        ("models: {a: {__variables__: {x: 1}}}", "the key '__variables__'"),
        ("'?if True': {models: {a: }}", "the key '?if True'"),
        ("models: {a: {checkpoint: \"?open('ran', 'w')\"}}", "the value \"?open('ran', 'w')\""),
        ("socs: ['?1']", "the value '?1'"),
    ],
)
def test_a_template_is_refused_and_not_executed(text, marker):
    Path("other.yaml").write_text(text)
    assert refused("file=other.yaml") == (
        f"other.yaml: {marker} makes it a template, which executes code; hexport reads plain YAML: write the values"
    )
    assert not Path("ran").exists()


def test_what_a_model_reads_may_begin_with_a_question_mark():
    entry = {"prompts": ["?"], "system_prompt": "?", "calibration": {"prompts": ["?"]}}
    Path("other.yaml").write_text(json.dumps({"models": {"a": entry}}))
    assert read("file=other.yaml")[0]["models"]["a"] == entry
