"""Template files: equal bytes for equal templates, the same for all SoCs of an HTP architecture, and no lie."""

import json
from dataclasses import replace

import pytest
from tiny_model import CONTEXT

from hexport.errors import HexportError
from hexport.lowering.template_file import read_templates, templates_by_ar_len, write_templates
from hexport.targets.target import Target


@pytest.fixture
def content(tiny) -> dict:
    return json.loads(tiny.templates.read_text())


def test_what_is_read_is_written_again_byte_for_byte(tiny, tmp_path):
    write_templates(tmp_path / "again.json", read_templates(tiny.templates))
    assert (tmp_path / "again.json").read_bytes() == tiny.templates.read_bytes()


def test_layers_that_are_alike_share_a_template(tiny, content):
    assert (len(content["layers"]), content["layer_of"]) == (1, [0, 0, 0])
    templates = read_templates(tiny.templates)
    assert len({id(layer) for layer in templates.layers}) == 1


def test_files_are_known_by_their_ar_length(tiny, tmp_path, lowerings, checkpoint, recipe):
    write_templates(tmp_path / "x.json", lowerings.graph_arguments(checkpoint, None, recipe, 5)[1])
    assert templates_by_ar_len([tmp_path / "x.json", tiny.templates]).keys() == {1, 5}


def test_socs_of_an_arch_and_their_emulators_have_the_same_templates(tmp_path, checkpoint, recipe):
    from hexport.lowering.templates import lower_templates
    from hexport.progress import Progress

    config = replace(checkpoint.config, n_heads=1, n_kv_heads=1)  # fewer heads make smaller graphs
    files = []
    for target in (Target("SM8850", emulator=False), Target("SA8797", emulator=True)):
        files.append(tmp_path / f"{target.name}.json")
        write_templates(files[-1], lower_templates(config, recipe, target, 1, CONTEXT, Progress()))
    assert files[0].read_bytes() == files[1].read_bytes()


def _without(key: str):
    return lambda content: content.pop(key)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda content: content.update(format=1), "templates of format 1, and this version reads 2; remove it"),
        (_without("format"), "no templates"),
        (_without("epilogue"), "no templates"),
        (lambda content: content["layer_of"].append(7), "no templates"),
        (lambda content: content["prologue"]["ops"][0]["inputs"].append(10**6), "no templates"),
        (lambda content: content["prologue"]["tensors"][0].update(kind={"qnn": ["os", "system"]}), "no templates"),
        (lambda content: content["prologue"]["tensors"][0].update(dtype={"array": ["O", [1], ""]}), "no templates"),
        (lambda content: content["epilogue"]["codings"].update(x={"observer": "print"}), "no templates"),
    ],
)  # fmt: skip
def test_another_file_is_refused_in_one_line(content, tmp_path, change, named):
    change(content)
    path = tmp_path / "ar1.json"
    path.write_text(json.dumps(content))
    with pytest.raises(HexportError, match=named) as refusal:
        read_templates(path)
    assert str(path) in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_file_that_is_no_json_is_refused_in_one_line(tmp_path):
    (tmp_path / "ar1.json").write_bytes(b"\x80\x00[")
    with pytest.raises(HexportError, match="no templates"):
        read_templates(tmp_path / "ar1.json")
