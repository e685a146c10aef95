"""quant_attrs.json: its contract, and that a damaged one is not taken for whole."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hexport.errors import HexportError
from hexport.quantization.quant_attrs import CODES, Encoding, QuantAttrs, load_quant_attrs, save_quant_attrs

ENCODINGS = st.sampled_from(sorted(CODES)).flatmap(
    lambda codes: st.builds(
        Encoding, st.floats(1e-30, 1e30), st.integers(*codes), qmin=st.just(codes[0]), qmax=st.just(codes[1])
    )
)
ATTRS = st.builds(
    QuantAttrs,
    activations=st.dictionaries(st.from_regex(r"layers\.[0-9]{1,2}\.[a-z_.]{1,9}", fullmatch=True), ENCODINGS),
    kv=st.lists(st.fixed_dictionaries({"k": ENCODINGS, "v": ENCODINGS}), max_size=3),
    mask=ENCODINGS,
    logits=ENCODINGS,
)
FACTS = {
    "model": "tiny",
    "recipe": "16a8w",
    "checkpoint": "f" * 64,
    "calibration": {"prompts": ["Größe"], "samples": 1, "tokens": 7},
}


def some_attrs(**changes) -> QuantAttrs:
    kv = [{"k": Encoding(0.5, 3, 0, 65535), "v": Encoding(0.25, 4, 0, 65535)}]
    activations = {f"layers.{i}.linear": Encoding(i + 1.0, i, 0, 65535) for i in (10, 2)}
    parts = {"activations": activations, "kv": kv}
    parts |= {"mask": Encoding(255 / 65535, 65535, 0, 65535), "logits": Encoding(0.125, 30000, 0, 65535)}
    return QuantAttrs(**{**parts, **changes})


@pytest.fixture
def saved(tmp_path):
    save_quant_attrs(tmp_path / "quant_attrs.json", some_attrs(), **FACTS)
    return tmp_path / "quant_attrs.json"


@given(attrs=ATTRS)
def test_what_is_loaded_is_what_was_saved(tmp_path_factory, attrs):
    path = tmp_path_factory.getbasetemp() / "quant_attrs.json"
    save_quant_attrs(path, attrs, **FACTS)
    assert load_quant_attrs(path) == attrs


def test_keys_and_values_of_the_contract(saved):
    content = json.loads(saved.read_text())
    assert (content["scale"], content["zero_point"]) == (0.125, 30000)  # of the logits, for existing tools
    assert content["model"] == "tiny"
    assert content["recipe"] == "16a8w"
    assert content["checkpoint_sha256"] == "f" * 64
    assert content["calibration"] == FACTS["calibration"]
    assert content["mask"] == {"scale": 255 / 65535, "zero_point": 65535, "qmin": 0, "qmax": 65535, "bits": 16}
    assert content["kv"][0]["k"].items() >= {"scale": 0.5, "zero_point": 3, "bits": 16}.items()
    assert content["kv"][0]["v"].items() >= {"scale": 0.25, "zero_point": 4, "bits": 16}.items()
    expected = {"scale": 3.0, "zero_point": 2, "qmin": 0, "qmax": 65535, "bits": 16}
    assert content["activations"]["layers.2.linear"] == expected
    assert isinstance(content["schema"], int)


def test_keys_are_sorted(saved):
    def ordered(value):
        if isinstance(value, dict):
            assert list(value) == sorted(value)
            value = list(value.values())
        for part in value if isinstance(value, list) else []:
            ordered(part)

    ordered(json.loads(saved.read_text()))


def test_the_order_of_calibration_does_not_show(tmp_path, saved):
    backwards = dict(reversed(some_attrs().activations.items()))
    save_quant_attrs(tmp_path / "other.json", some_attrs(activations=backwards), **FACTS)
    assert (tmp_path / "other.json").read_bytes() == saved.read_bytes()


@pytest.mark.parametrize("scale", [math.nan, math.inf, 0.0, -1.0])
@pytest.mark.parametrize("part", ["activations", "kv", "mask", "logits"])
def test_a_scale_that_is_no_positive_number_is_refused_by_its_point(part, scale):
    bad = Encoding(scale, 0, 0, 65535)
    good = Encoding(1.0, 0, 0, 65535)
    value = {"activations": {"layers.3.mul": bad}, "kv": [{"k": good, "v": good}, {"k": good, "v": bad}]}.get(part, bad)
    with pytest.raises(HexportError) as refusal:
        some_attrs(**{part: value})
    assert {"activations": "layers.3.mul", "kv": "kv[1].v"}.get(part, part) in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (lambda text: text[: len(text) // 2], "not JSON"),
        (lambda text: text.replace('"schema": 3', '"schema": 0'), "schema 0"),
        (lambda text: text.replace('"schema": 3', '"other": 1'), "schema None"),
        (lambda text: text.replace('"mask"', '"mosk"'), "mask is missing"),
        (lambda text: text.replace('"v"', '"w"'), "v is missing"),
        (lambda text: text.replace('"qmin"', '"min"'), "qmin is missing"),
        (lambda text: text.replace('"scale": 0.25', '"scale": NaN'), "kv[0].v"),
    ],
)
def test_a_damaged_file_is_refused_in_one_line_that_names_it(saved, damage, named):
    text = saved.read_text()
    saved.write_text(damage(text))
    assert saved.read_text() != text
    assert named in refusal_of(saved)


@pytest.mark.parametrize(
    ("places", "value", "named"),
    [
        (["activations", "layers.2.linear", "scale"], "1", "layers.2.linear: scale is str, expected a number"),
        (["activations", "layers.2.linear", "scale"], True, "layers.2.linear: scale is True, expected a number"),
        (["activations", "layers.2.linear", "scale"], 10**400, "layers.2.linear: scale "),
        (["activations", "layers.2.linear", "zero_point"], 2.0, "zero_point is 2.0, expected a whole number"),
        (["activations", "layers.2.linear", "zero_point"], -1, "zero_point -1 lies outside 0 to 65535"),
        (["activations", "layers.2.linear", "zero_point"], 70000, "zero_point 70000 lies outside 0 to 65535"),
        (["activations", "layers.2.linear", "qmin"], 65535, "codes from 65535 to 65535"),
        (["activations", "layers.2.linear", "qmax"], 100, "codes from 0 to 100"),
        (["activations", "layers.2.linear", "bits"], 8, "bits 8, and the codes have 16"),
        (["activations", "layers.2.linear", "sacle"], 1.0, "layers.2.linear: sacle is unknown"),
        (["activations", "layers.2.linear"], None, "layers.2.linear is None, expected an object"),
        (["activations"], [], "activations is list, expected an object"),
        (["kv"], {}, "kv is dict, expected a list"),
        (["kv", 0], [], "kv[0] is list, expected an object"),
        (["kv", 0, "w"], {}, "kv[0]: w is unknown"),
        (["mask"], 1, "mask is 1, expected an object"),
        (["calibration"], "wikitext", "calibration is str, expected an object"),
        (["model"], 7, "model is 7, expected a text"),
        (["checkpoint_sha256"], None, "checkpoint_sha256 is None, expected a text"),
        (["scale"], 123, "scale and zero_point are not those of logits"),
        (["unknown"], 1, "unknown is unknown"),
        (["weights"], {}, "weights is unknown"),
    ],
)
def test_an_edited_file_is_refused_in_one_line_that_says_where(saved, places, value, named):
    content = json.loads(saved.read_text())
    *outer, last = places
    inner = content
    for place in outer:
        inner = inner[place]
    inner[last] = value
    saved.write_text(json.dumps(content))
    assert named in refusal_of(saved)


@pytest.mark.parametrize("text", ["[1]", "1", "null", '{"schema": 3}', "[" * 100_000, "{}", "\udc00", "9" * 5000, ""])
def test_what_is_no_file_of_quant_attrs_is_refused(saved, text):
    saved.write_bytes(text.encode(errors="surrogatepass"))
    refusal_of(saved)


def refusal_of(path) -> str:
    with pytest.raises(HexportError) as refusal:
        load_quant_attrs(path)
    assert str(refusal.value).startswith(f"{path}: ")
    assert "\n" not in str(refusal.value)
    return str(refusal.value)


def test_a_point_that_was_not_calibrated_is_named():
    with pytest.raises(HexportError, match=r"layers\.7\.mul is missing"):
        some_attrs().encoding("layers.7.mul")
