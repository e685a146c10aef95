"""config.full.yaml has every key of the schema, and is a config."""

from pathlib import Path

import yaml

from hexport.config.documents import read_yaml
from hexport.config.schema import schema
from hexport.config.settings import parse_config
from hexport.quantization.recipe_checks import recipe_from

FILE = Path(__file__).parents[2] / "config.full.yaml"
DEVICES = "devices: {emulator: {kind: emulator, soc: SM8650}}\n"


def keys_of(rule: dict, definitions: dict) -> set[str]:
    """Every name that the schema gives to a key, however deep."""
    if "$ref" in rule:
        rule = definitions[rule["$ref"].rpartition("/")[2]] | {key: rule[key] for key in rule if key != "$ref"}
    found = set(rule.get("properties", ()))
    inner = [*rule.get("properties", {}).values(), rule.get("additionalProperties"), rule.get("items")]
    return found.union(*(keys_of(each, definitions) for each in inner if isinstance(each, dict)))


def keys_in(value: object) -> set[str]:
    if isinstance(value, list):
        return set().union(*map(keys_in, value))
    return set(value).union(*map(keys_in, value.values())) if isinstance(value, dict) else set()


def test_every_key_is_there():
    wanted = keys_of(schema("config"), schema("config")["$defs"])
    assert {"gcap", "num_fewshot", "trusted", "block_size"} <= wanted
    assert wanted - keys_in(yaml.safe_load(FILE.read_text())) == set()


def test_it_is_a_config(tmp_path):
    (tmp_path / "devices.yaml").write_text(DEVICES)
    config = parse_config(read_yaml(FILE) | {"devices": str(tmp_path / "devices.yaml")}, FILE.name)
    assert recipe_from(config.recipes["small"], "small").is_searched
    assert config.models["mine"].context_lens == [1024, 4096]
