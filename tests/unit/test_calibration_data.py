"""Calibration data: prompts and texts as token ids."""

import json
from types import SimpleNamespace

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

import calibration

TEMPLATE = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}[assistant]"


@pytest.fixture
def place(tmp_path):
    """Paths of a byte-level tokenizer, of a text to write and of tokens.json."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE({token: i for i, token in enumerate(["<bos>", *alphabet])}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken("<bos>", normalized=False)])
    (tmp_path / "tokenizer").mkdir()
    backend.save(str(tmp_path / "tokenizer" / "tokenizer.json"))

    def configure(template=None, add_bos_token=True):
        config = {"bos_token": "<bos>", "add_bos_token": add_bos_token, "stop_tokens": [], "chat_template": template}
        (tmp_path / "tokenizer" / "tokenizer_config.json").write_text(json.dumps(config))

    configure()
    return SimpleNamespace(
        tokenizer=tmp_path / "tokenizer" / "tokenizer.json",
        text=tmp_path / "text.txt",
        output=tmp_path / "calibration" / "tokens.json",
        configure=configure,
        decode=lambda ids: backend.decode(ids, skip_special_tokens=False),
    )


def run(run_script, place, settings, **paths):
    run_script(calibration.main, settings, tokenizer=place.tokenizer, output=place.output, **paths)
    data = json.loads(place.output.read_text())
    assert data["tokens"] == sum(map(len, data["samples"]))
    return data


def test_prompts_are_what_a_run_would_feed(run_script, place):
    settings = {"prompts": ["Hi", "Größe"], "system_prompt": ""}
    data = run(run_script, place, settings)
    assert data["source"] == {"prompts": 2}
    assert [place.decode(ids) for ids in data["samples"]] == ["<bos>Hi", "<bos>Größe"]
    place.configure(TEMPLATE)
    data = run(run_script, place, settings | {"system_prompt": "S"})
    assert [place.decode(ids) for ids in data["samples"]] == [
        "[system]S[user]Hi[assistant]",
        "[system]S[user]Größe[assistant]",
    ]
    manifest = json.loads((place.output.parent / "tokens.json.manifest.json").read_text())
    assert set(manifest["inputs"]) == {"tokenizer.json", "tokenizer_config.json"}


@pytest.mark.parametrize(("bos", "sizes"), [(True, [512, 512, 179]), (False, [512, 512, 176])])
def test_text_is_cut_without_loss(run_script, place, bos, sizes):
    text = "".join(chr(33 + i % 90) for i in range(1200))
    place.text.write_text(text)
    place.configure(TEMPLATE, add_bos_token=bos)
    data = run(run_script, place, {"text": "text.txt"}, text=place.text)
    assert data["source"] == {"text": "text.txt"}
    assert list(map(len, data["samples"])) == sizes
    samples = [place.decode(ids) for ids in data["samples"]]
    assert all(sample.startswith("<bos>") for sample in samples) is bos
    assert "".join(sample.removeprefix("<bos>") for sample in samples) == text
    manifest = json.loads((place.output.parent / "tokens.json.manifest.json").read_text())
    assert "text.txt" in manifest["inputs"]


def test_faults_are_one_line(script_error, place):
    def error(settings, **paths):
        return script_error(calibration.main, settings, tokenizer=place.tokenizer, output=place.output, **paths)

    assert "no prompts" in error({"prompts": [], "system_prompt": ""})
    assert "no chat template" in error({"prompts": ["Hi"], "system_prompt": "S"})
    place.text.write_bytes(b"")
    assert "text.txt: the calibration text is empty" in error({"text": "text.txt"}, text=place.text)
    place.text.write_bytes(b"abc\xff")
    assert "text.txt: not UTF-8 text: byte 3" in error({"text": "text.txt"}, text=place.text)
    place.text.unlink()
    assert "text.txt" in error({"text": "text.txt"}, text=place.text)
    place.configure(add_bos_token=False)
    assert "prompt 2 of 2 has no tokens" in error({"prompts": ["Hi", ""], "system_prompt": ""})
    place.tokenizer.unlink()
    assert "tokenizer.json is missing" in error({"prompts": ["Hi"], "system_prompt": ""})
