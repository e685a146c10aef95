"""Quant attrs that belong to another checkpoint or recipe, or that were edited by hand, are refused before any work."""

import copy
import json
import random
import time

import pytest

from hexport.decoder.weights import Checkpoint
from hexport.errors import HexportError
from hexport.file_hashes import sha256
from hexport.quantization.quant_attrs import Encoding, QuantAttrs, save_quant_attrs
from hexport.quantization.quant_attrs_checks import LAYER_POINTS, LOGITS_POINT, OTHER_POINTS, quant_attrs_of
from hexport.quantization.recipe import Recipe

N_LAYERS = 3
RECIPE = Recipe()
LOGITS = Encoding(0.125, 30000, 0, 65535)
MASK = Encoding(255 / 65535, 65535, 0, 65535)
OWN = ("add", "attention.add", "attention.softmax")  # points that a layer has beside those that every layer has


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Checkpoint:
    from small_models import random_model

    folder = tmp_path_factory.mktemp("llama")
    random_model("llama", num_hidden_layers=N_LAYERS).save_pretrained(folder)
    return Checkpoint(folder)


@pytest.fixture(scope="module")
def whole(checkpoint, tmp_path_factory) -> dict:
    """The content of a file that belongs to the checkpoint and the recipe."""
    caches = {
        f"layers.{i}.{name}": Encoding(i + 0.5, 32768, 0, 65535) for i in range(N_LAYERS) for name in LAYER_POINTS
    }
    activations = {f"layers.{i}.{name}": Encoding(i + 1.0, i, 0, 65535) for i in range(N_LAYERS) for name in OWN}
    activations |= dict.fromkeys(OTHER_POINTS, LOGITS) | caches | {"atten_mask": MASK, LOGITS_POINT: LOGITS}
    kv = [{name: caches[f"layers.{i}.{name}_cache"] for name in "kv"} for i in range(N_LAYERS)]
    path = tmp_path_factory.mktemp("attrs") / "quant_attrs.json"
    facts = {"model": "llama", "recipe": "16a8w", "checkpoint": sha256(checkpoint.path), "calibration": {}}
    save_quant_attrs(path, QuantAttrs(activations, kv, MASK, LOGITS), **facts)
    return json.loads(path.read_text())


def check(content: dict, checkpoint, path, recipe: Recipe = RECIPE, name: str | None = "16a8w") -> QuantAttrs:
    path.write_text(json.dumps(content))
    return quant_attrs_of(path, None, checkpoint, recipe, name)


def test_a_whole_file_is_read(whole, checkpoint, tmp_path):
    attrs = check(whole, checkpoint, tmp_path / "quant_attrs.json")
    assert attrs.logits == LOGITS
    assert len(attrs.kv) == N_LAYERS


def rename(content: dict, old: str, new: str) -> None:
    content["activations"][new] = content["activations"].pop(old)


def eight_bits(content: dict) -> None:
    for name in "kv":
        encoding = {"scale": 1.5, "zero_point": 128, "qmin": 0, "qmax": 255, "bits": 8}
        content["kv"][1][name] = content["activations"][f"layers.1.{name}_cache"] = encoding


FAULTS = {
    "another model": (
        lambda content: content.update(checkpoint_sha256="f" * 64, model="other"),
        "are of model 'other' with another checkpoint",
    ),
    "another recipe": (lambda content: content.update(recipe="8a8w"), "are of recipe '8a8w', not '16a8w'"),
    "fewer layers": (lambda content: content["kv"].pop(), "are of 2 layers, the checkpoint has 3"),
    "8-bit caches": (eight_bits, "kv[1].k has 8 bits, and kv_bits of the recipe is 16"),
    "logits of another scale": (
        lambda content: (content["logits"].update(scale=123.0), content.update(scale=123.0)),
        f"logits has another encoding than point {LOGITS_POINT}",
    ),
    "a cache that is coded unlike its values": (
        lambda content: content["kv"][2]["v"].update(scale=77.0),
        "kv[2].v has another encoding than point layers.2.v_cache",
    ),
    "a mask of another range": (
        lambda content: [entry.update(scale=1.0) for entry in (content["mask"], content["activations"]["atten_mask"])],
        "mask: it must reach from -255 to 0",
    ),
    "no point": (
        lambda content: content["activations"].pop("layers.1.attention.add"),
        "layers.1.attention.add is missing",
    ),
    "no point of every layer": (
        lambda content: [content["activations"].pop(f"layers.{i}.attention.q_proj.conv2d") for i in range(N_LAYERS)],
        "point layers.0.attention.q_proj.conv2d is missing",
    ),
    "no embedding": (
        lambda content: content["activations"].pop("prologue.embedding.embedding"),
        "point prologue.embedding.embedding is missing",
    ),
    "a point of one layer only": (
        lambda content: content["activations"].update({"layers.2.attention.nod": LOGITS.as_json()}),
        "point layers.2.attention.nod is unknown",
    ),
    "a point of no layer": (
        lambda content: content["activations"].update({"layers.3.add": LOGITS.as_json()}),
        "point layers.3.add is unknown",
    ),
    "a layer's number with a zero": (
        lambda content: rename(content, "layers.0.add", "layers.00.add"),
        "point layers.00.add is unknown",
    ),
    "a point of nothing": (
        lambda content: content["activations"].update({"window": LOGITS.as_json()}),
        "point window is unknown",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_edited_quant_attrs_are_refused(whole, checkpoint, tmp_path, fault):
    edit, named = FAULTS[fault]
    content = copy.deepcopy(whole)
    edit(content)
    with pytest.raises(HexportError) as refusal:
        check(content, checkpoint, tmp_path / "quant_attrs.json")
    assert str(refusal.value).startswith(f"{tmp_path / 'quant_attrs.json'}: quant attrs")
    assert named in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_recipe_with_caches_of_8_bits_refuses_those_of_16(whole, checkpoint, tmp_path):
    with pytest.raises(HexportError, match="has 16 bits, and kv_bits of the recipe is 8"):
        check(whole, checkpoint, tmp_path / "quant_attrs.json", Recipe(kv_bits=8))


VALUES = [
    None,
    True,
    0,
    -1,
    7,
    2**70,
    10**400,
    1e308,
    float("nan"),
    float("inf"),
    "",
    "x",
    [],
    {},
    [1],
    {"a": 1},
    "\ud800",
]


def edited(whole: dict, dice: random.Random) -> dict:
    """A value somewhere is replaced, removed or added."""
    content = copy.deepcopy(whole)
    inner = content
    while True:
        key = dice.choice(list(inner) if isinstance(inner, dict) else range(len(inner)))
        if not isinstance(inner[key], dict | list) or not inner[key] or dice.random() < 0.2:
            break
        inner = inner[key]
    value = copy.deepcopy(dice.choice(VALUES))
    match dice.randrange(3):
        case 0:
            inner[key] = value
        case 1:
            inner.pop(key)
        case 2 if isinstance(inner, dict):
            inner[dice.choice(["", "x", "layers.1.", "layers.-1.add", "epilogue"])] = value
        case 2:
            inner.append(value)
    return content


def test_any_edit_is_read_or_refused_in_a_line_within_a_second(whole, checkpoint, tmp_path):
    dice, refused = random.Random(0), 0
    for _ in range(400):
        content, start = edited(whole, dice), time.process_time()
        try:
            check(content, checkpoint, tmp_path / "quant_attrs.json")
        except HexportError as error:
            refused += 1
            assert str(error).startswith(f"{tmp_path / 'quant_attrs.json'}: ")
            assert "\n" not in str(error)
        assert time.process_time() - start < 1
    # The rest are other scales, ratios and facts of the calibration: only the manifest can tell.
    assert refused > 350
