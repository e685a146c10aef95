"""docs/artifacts.md names the keys that the artifacts of a tiny model have, no more and no fewer."""

import json

import documented
import pytest

from hexport.programs.abi import input_names, output_names
from hexport.programs.inspection_process import facts_of

MODEL = "artifacts/a"
LENGTH = f"{MODEL}/16a8w/ctx32"
PROGRAM = f"{LENGTH}/SM8650/kv_llama_qnn.pte"
RESULT = f"{LENGTH}/SM8650-emulator/emulator/kv/result.json"
LOOKAHEAD = ("accepted_tokens", "decode_steps", "prompts[].accepted_tokens", "prompts[].decode_steps")
PHONES = ("runner", "temperature_c")


@pytest.fixture
def read(built):
    return lambda file: json.loads((built.path / file).read_text())


def test_manifests(built, read):
    documented.check(read(f"{PROGRAM}.manifest.json"), "Manifests", "The manifest of a program has more:")
    manifests = sorted((built.path / MODEL).rglob("*.manifest.json"))
    assert len(manifests) > 10
    optional = {*documented.keys("The manifest of a program has more:"), "machine", "inputs", "params"}
    for manifest in manifests:
        content = json.loads(manifest.read_text())
        documented.check(content, "Manifests", "The manifest of a program has more:", absent=optional)


@pytest.mark.parametrize(
    ("file", "section", "absent"),
    [
        ("tokenizer/tokenizer_config.json", "Tokenizer", ("chat_template", "pad_token", "unk_token")),
        ("calibration/tokens.json", "tokens.json", ()),
        ("16a8w/quant_attrs.json", "quant_attrs.json", ()),
        ("16a8w/ctx32/templates/V75/ar1.json", "Templates", ()),
        (RESULT.removeprefix(f"{MODEL}/"), "result.json", (*LOOKAHEAD, "repeats", *PHONES)),
    ],
)
def test_keys(read, file, section, absent):
    documented.check(read(f"{MODEL}/{file}"), section, absent=absent)


def test_a_shard_begins_as_the_page_says(built):
    content = (built.path / LENGTH / "SM8650/shards/kv/1-of-1.bin").read_bytes()
    assert content[:4] == (0x5678ABCD).to_bytes(4, "little")
    assert content[11] & 0x80  # signed by hexport
    assert int.from_bytes(content[12:20], "little") == len(content) - 256


def test_constant_methods_and_the_order_of_inputs(built):
    facts = facts_of(built.path / PROGRAM)
    documented.check(
        facts.constants, "Constant methods tell a runner what the program is:", absent=["get_sliding_window"]
    )
    text = documented.PAGE.read_text().split("## The program\n")[1]
    names = [name.replace("_0", "_<i>") for name in (*input_names(1, slides=True), *output_names(1))]
    places = [text.index(f"`{name}`") for name in names]
    assert places == sorted(places)
