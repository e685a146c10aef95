"""Calibration data: prompts, texts, chats, tasks and hexport's own set as token ids."""

import hashlib
import json
import os
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

import encode_calibration
from hexport.build import matrix
from hexport.config.settings import parse_config
from hexport.errors import HexportError
from hexport.quantization import calibration_set
from hexport.quantization.tokens_file import CalibrationTokens, read_tokens

TEMPLATE = (
    "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)
TASKS = {"limit": None, "num_fewshot": None}
SET = {"calibration_set": calibration_set.set_digest()}


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
    run_script(encode_calibration.main, settings, tokenizer=place.tokenizer, output=place.output, **paths)
    data = json.loads(place.output.read_text())
    assert data["tokens"] == sum(map(len, data["samples"]))
    assert all(0 < len(sample) <= 512 for sample in data["samples"])
    return data


def sha256(content: str) -> str:
    return hashlib.sha256(content.encode()).hexdigest()


def manifest_of(place) -> dict:
    return json.loads((place.output.parent / "tokens.json.manifest.json").read_text())


def test_prompts_are_what_a_run_would_feed(run_script, place):
    settings = {"prompts": ["Hi", "Größe"], "system_prompt": ""}
    data = run(run_script, place, settings)
    assert data["source"] == {"kind": "prompts", "prompts": 2, "sha256": sha256('["", "Hi", "Größe"]')}
    assert [place.decode(ids) for ids in data["samples"]] == ["<bos>Hi", "<bos>Größe"]
    place.configure(TEMPLATE)
    data = run(run_script, place, settings | {"system_prompt": "S"})
    assert [place.decode(ids) for ids in data["samples"]] == [
        "[system]S[user]Hi[assistant]",
        "[system]S[user]Größe[assistant]",
    ]
    assert set(manifest_of(place)["inputs"]) == {"tokenizer.json", "tokenizer_config.json"}


@pytest.mark.parametrize("template", [None, TEMPLATE])
def test_without_calibration_data_the_prompts_and_texts_of_all_kinds_are_used(run_script, place, template):
    place.configure(template)
    data = run(run_script, place, SET | {"prompts": ["Hi"], "system_prompt": ""})
    prompt, *samples = [place.decode(ids) for ids in data["samples"]]
    assert prompt == ("[user]Hi[assistant]" if template else "<bos>Hi")
    assert sum(map(len, data["samples"][1:])) == 12288  # with a token per byte, there is more
    sources = [*calibration_set.set_texts(), chats_as_texts(template)]
    for kind, texts in enumerate(sources):  # one of each in turn
        for text, sample in zip(texts, samples[kind :: len(sources)], strict=False):
            start = sample.removeprefix("<bos>").rstrip("\ufffd")  # a character may be cut
            assert start and text.startswith(start)
    expected = {"kind": "set", "prompts": 1, "sha256": sha256('["", "Hi"]'), "set_sha256": SET["calibration_set"]}
    assert data["source"] == expected


def chats_as_texts(template: str | None) -> list[str]:
    chats = [chat["messages"] for chat in json.loads(calibration_set.CHATS.read_text())]
    if template is None:
        return ["\n\n".join(message["content"] for message in chat) for chat in chats]
    return ["".join(f"[{message['role']}]{message['content']}" for message in chat) for chat in chats]


def test_the_set_has_6000_tokens_with_any_tokenizer():
    """Words and signs: tokenizers make one token of each at least, but for some pairs of signs."""
    texts = [*(text for texts in calibration_set.set_texts() for text in texts), *chats_as_texts(None)]
    assert sum(len(re.findall(r"\w+|[^\w\s]+", text)) for text in texts) >= 6000
    assert len(texts) >= 40
    assert all(300 < len(text) < 4000 for text in texts if text.isascii())


def test_calibration_data_that_nobody_named_are_said_in_one_line(place):
    options = ["--settings", "-", "--tokenizer", str(place.tokenizer), "--output", str(place.output)]
    done = CliRunner().invoke(
        encode_calibration.main, options, input=json.dumps(SET | {"prompts": [], "system_prompt": ""})
    )
    assert done.exit_code == 0
    assert "12288 tokens" in next(
        line for line in done.stderr.splitlines() if line.startswith("note: no calibration data")
    )


def test_an_edit_of_the_set_is_another_setting(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(calibration_set.FOLDER, tmp_path / "texts")
    monkeypatch.setattr(calibration_set, "FOLDER", tmp_path / "texts")
    monkeypatch.setattr(calibration_set, "CHATS", tmp_path / "texts" / "chats.json")
    Path("devices.yaml").write_text("devices: {e: {kind: emulator, soc: SM8650}}")
    config = parse_config({"models": {"m": {"checkpoint": "a.gguf"}}}, "config.yaml")
    found = set()
    for file in (None, "english.txt", "chats.json"):
        if file:
            (tmp_path / "texts" / file).write_text((tmp_path / "texts" / file).read_text().replace("the", "a", 1))
        calibration_set.set_digest.cache_clear()
        found.add(matrix.calibration_settings(config, "m"))
    calibration_set.set_digest.cache_clear()
    assert len(found) == 3


def test_a_template_that_refuses_a_chat_of_the_set_is_one_line(script_error, place):
    place.configure(TEMPLATE + "{{ raise_exception('no') if messages | length > 1 }}")
    paths = {"tokenizer": place.tokenizer, "output": place.output}
    line = script_error(encode_calibration.main, SET | {"prompts": ["Hi"], "system_prompt": ""}, **paths)
    assert "the chat template fails: no; name calibration data of your own" in line


@pytest.mark.parametrize(("bos", "sizes"), [(True, [512, 512, 179]), (False, [512, 512, 176])])
def test_text_is_cut_without_loss(run_script, place, bos, sizes):
    text = "".join(chr(33 + i % 90) for i in range(1200))
    place.text.write_text(text)
    place.configure(TEMPLATE, add_bos_token=bos)
    data = run(run_script, place, {"text": "text.txt"}, text=place.text)
    assert data["source"] == {"kind": "text", "files": {"text.txt": sha256(text)}}
    assert list(map(len, data["samples"])) == sizes
    samples = [place.decode(ids) for ids in data["samples"]]
    assert all(sample.startswith("<bos>") for sample in samples) is bos
    assert "".join(sample.removeprefix("<bos>") for sample in samples) == text
    assert manifest_of(place)["inputs"]["text.txt"] == sha256(text)


def test_chats_keep_what_the_assistant_said(run_script, place):
    place.configure(TEMPLATE)
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Grüße"}]
    chats = [{"messages": turns}, {"messages": [*turns, {"role": "user", "content": "a" * 600}], "id": 7}]
    place.text.write_text(json.dumps(chats))
    data = run(run_script, place, {"samples": "chat.json"}, samples=place.text)
    first, *second = [place.decode(ids) for ids in data["samples"]]
    assert first == "[user]Hi[assistant]Grüße"
    assert "".join(second) == first + "[user]" + "a" * 600 + "[assistant]"
    assert data["source"] == {"kind": "samples", "files": {"chat.json": sha256(place.text.read_text())}}


@pytest.mark.parametrize("bos", [True, False])
def test_a_text_as_a_task_is_read_as_evaluation_reads_it(run_script, place, bos):
    pages = [" ".join(["one two three"] * 150), " ".join(["four five six"] * 160)]
    place.text.write_text("\n".join(pages))
    place.configure(TEMPLATE, add_bos_token=bos)
    settings = {"tasks": ["mine"], "texts": {"mine": "texts/mine.txt"}, "limit": 2, "num_fewshot": None}
    data = run(run_script, place, settings, local=f"mine={place.text}")
    windows = []
    for page in pages:
        # lm-eval puts BOS in front of a text, also where the tokenizer has put one there. The last token is only
        # predicted, and the last window is as long as the others.
        tokens = ["<bos>"] * (1 + bos) + list(page[:-1])
        windows += [tokens[i : i + 512] for i in range(0, len(tokens) - 512, 512)] + [tokens[-512:]]
    assert [place.decode(ids) for ids in data["samples"]] == ["".join(window) for window in windows]
    source = {"mine": {"documents": 2, "sha256": sha256(json.dumps([[page] for page in pages]))}}
    files = {"texts/mine.txt": sha256(place.text.read_text())}
    assert data["source"] == {"kind": "tasks", "tasks": source, "files": files, "limit": 2, "num_fewshot": None}
    manifest = manifest_of(place)
    assert manifest["inputs"]["tasks.mine"] == files["texts/mine.txt"]
    assert {"lm_eval", "datasets"} <= set(manifest["versions"])


@pytest.fixture
def question_task(tmp_path, monkeypatch):
    """`question_task(**keys)`: the YAML file of a task, with three questions as its data set."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    rows = [{"q": f"Is {i} even?", "choices": ["yes", "no"], "right": i % 2} for i in range(3)]
    (tmp_path / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def write(**keys) -> str:
        data = {"dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(tmp_path / "questions.jsonl")}}}
        task = {"task": "questions", "test_split": "test", "doc_to_text": "q", "doc_to_target": "right", **data, **keys}
        (tmp_path / "questions.yaml").write_text(json.dumps(task))
        return str(tmp_path / "questions.yaml")

    return write


@pytest.mark.parametrize(
    "keys",
    [
        {"output_type": "multiple_choice", "doc_to_choice": "choices", "metric_list": [{"metric": "acc"}]},
        {"output_type": "generate_until", "doc_to_choice": "choices", "metric_list": [{"metric": "exact_match"}]},
        {"output_type": "loglikelihood", "doc_to_target": "{{' ' ~ choices[right]}}"},
        {
            "output_type": "multiple_choice",
            "doc_to_text": "right",
            "doc_to_choice": "{{[q ~ ' yes', q ~ ' no']}}",
            "doc_to_target": "{{'!'}}",
            "target_delimiter": "",
            "metric_list": [{"metric": "acc"}],
        },
    ],
    ids=["multiple choice", "generation", "log-likelihood", "choices in the context"],
)
def test_questions_are_read_with_their_right_answers(run_script, place, question_task, keys):
    data = run(run_script, place, {**TASKS, "tasks": ["quiz"], "trusted": {"quiz": question_task(**keys)}, "texts": {}})
    end = "" if "target_delimiter" in keys else -1  # the last token is only predicted
    answers = [f"<bos>Is {i} even? {['yes', 'no'][i % 2]}"[: end or None] for i in range(3)]
    assert [place.decode(ids) for ids in data["samples"]] == answers
    assert data["source"]["tasks"]["questions"]["documents"] == 3


def test_examples_and_limit(run_script, place, question_task):
    keys = {"output_type": "multiple_choice", "doc_to_choice": "choices", "metric_list": [{"metric": "acc"}]}
    trusted = {"quiz": question_task(**keys)}
    settings = {"tasks": ["quiz"], "trusted": trusted, "texts": {}, "limit": 2, "num_fewshot": 2}
    first, second = run(run_script, place, settings)["samples"]
    for i, ids in enumerate((first, second)):
        *examples, question = place.decode(ids).removeprefix("<bos>").split("\n\n")
        assert question == f"Is {i} even? {['yes', 'no'][i]}"[:-1]
        assert set(examples) < {"Is 0 even? yes", "Is 1 even? no", "Is 2 even? yes"}
        assert len(examples) == 2
    assert run(run_script, place, settings)["samples"] == [first, second]


def test_without_a_limit_tasks_share_8192_tokens(place):
    place.text.write_text("\n".join(["one two three four " * 100] * 30))
    files = dict.fromkeys(("a", "b"), place.text)
    options = [option for name, path in files.items() for option in ("--local", f"{name}={path}")]
    settings = {**TASKS, "tasks": ["a", "b"], "texts": dict.fromkeys(files, "text.txt")}
    arguments = ["--settings", "-", "--tokenizer", str(place.tokenizer), "--output", str(place.output)]
    done = CliRunner().invoke(encode_calibration.main, [*arguments, *options], input=json.dumps(settings))
    assert done.exit_code == 0
    data = json.loads(place.output.read_text())
    # A document of 1,900 letters is read in four windows of 512 tokens.
    assert {name: task["documents"] for name, task in data["source"]["tasks"].items()} == {"a": 2, "b": 2}
    assert data["tokens"] == 8192


def test_few_tokens_bring_a_warning(place):
    def said(n_tokens: int) -> str:
        place.text.write_text("a" * n_tokens)
        paths = {"tokenizer": place.tokenizer, "text": place.text, "output": place.output}
        options = [word for name, path in paths.items() for word in (f"--{name}", str(path))]
        done = CliRunner().invoke(encode_calibration.main, ["--settings", "-", *options], input='{"text": "t"}')
        assert done.exit_code == 0
        return done.stderr

    (warning,) = [line for line in said(510).splitlines() if line.startswith("warning: ")]
    assert "511 tokens" in warning
    assert "warning" not in said(511)


def test_settings_and_files_of_each_source(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("devices.yaml").write_text("devices: {e: {kind: emulator, soc: SM8650}}")
    Path("task.yaml").touch()

    def of(calibration: dict | None) -> tuple[dict, list[str], list[str]]:
        model = {"checkpoint": "a.gguf", "prompts": ["Hi"], "system_prompt": "S", "calibration": calibration}
        tasks = {"mine": {"text": "mine.txt"}, "quiz": {"yaml": "task.yaml", "trusted": True}, "other": {"text": "o"}}
        config = parse_config({"models": {"m": model}, "tasks": tasks}, "config.yaml")
        settings = json.loads(matrix.calibration_settings(config, "m"))
        return settings, matrix.calibration_files(config, "m"), matrix.calibration_options(config, "m")

    assert of(None) == (SET | {"prompts": ["Hi"], "system_prompt": "S"}, [], [])
    assert of({"prompts": ["Ho"]}) == ({"prompts": ["Ho"], "system_prompt": "S"}, [], [])
    assert of({"text": "t.txt"}) == ({"text": "t.txt"}, ["t.txt"], ["--text", "t.txt"])
    assert of({"samples": "c.json"}) == ({"samples": "c.json"}, ["c.json"], ["--samples", "c.json"])
    settings, files, options = of({"tasks": ["wikitext", "mine", "quiz"], "limit": 3})
    assert settings == {
        "tasks": ["wikitext", "mine", "quiz"],
        "texts": {"mine": "mine.txt"},
        "trusted": {"quiz": "task.yaml"},
        "limit": 3,
        "num_fewshot": None,
    }
    assert files == ["mine.txt", "task.yaml"]
    assert options == ["--local", "mine=mine.txt"]
    assert of({"tasks": ["wikitext"]})[0] == of({"tasks": ["wikitext"], "limit": None, "num_fewshot": None})[0]


def test_faulty_chats_are_one_line(script_error, place):
    def error(chats: object) -> str:
        place.text.write_text(chats if isinstance(chats, str) else json.dumps(chats))
        paths = {"tokenizer": place.tokenizer, "samples": place.text, "output": place.output}
        return script_error(encode_calibration.main, {"samples": "chat.json"}, **paths)

    message = {"role": "user", "content": "Hi"}
    assert "this model has no chat template" in error([{"messages": [message]}])
    place.configure(TEMPLATE + "{{ raise_exception('no') if messages[0].role == 'tool' }}")
    assert "not JSON" in error("[")
    for empty in ([], {}, "7"):
        assert 'expected a list of chats, [{"messages": […]}, …]' in error(empty)
    good = {"messages": [message]}
    for bad in ({"messages": []}, {}, [message], {"messages": ["Hi"]}, {"messages": [{"role": "user"}]}):
        assert "text.txt: chat 2: expected" in error([good, bad])
    assert "chat 2: the chat template fails: no" in error([good, {"messages": [{"role": "tool", "content": ""}]}])


CHAT = b'[{"messages": [{"role": "user", "content": "%s"}]}]'


@pytest.mark.parametrize(
    ("chats", "part"),
    [
        (b"[" * 100_000, "JSON with more than 64 levels"),
        (b'[{"messages": [{"role": "user", "content": "a"}], "id": NaN}]', "NaN is no number of JSON"),
        (CHAT % b"\\ud800", "half of a surrogate pair"),
        (b"\xff", "byte 0 is not UTF-8"),
        (CHAT % (b"a" * 17_000_000), "its text has more than 4000000 characters"),
    ],
)
def test_hostile_chats_are_one_line(script_error, place, chats, part):
    place.text.write_bytes(chats)
    place.configure(TEMPLATE)
    paths = {"tokenizer": place.tokenizer, "samples": place.text, "output": place.output}
    assert part in script_error(encode_calibration.main, {"samples": "chat.json"}, **paths)


def test_hostile_texts_are_one_line(script_error, place):
    def error(option: str) -> str:
        paths = {"tokenizer": place.tokenizer, option: place.text, "output": place.output}
        place.configure(TEMPLATE)
        return script_error(encode_calibration.main, {option: "t"}, **paths)

    place.text.write_text("a\n" + "a" * 1_000_001)
    assert "text.txt: line 2 has 1000001 characters, more than 1000000" in error("text")
    place.text.write_text(("a" * 999 + "\n") * 17_000)
    assert "a text of 17 million characters" in error("text")
    place.text.unlink()
    os.mkfifo(place.text)
    assert "is a pipe" in error("text")
    assert "is a pipe" in error("samples")


@pytest.mark.parametrize("prompts", [["\ud800"], ["a" * 17_000_000]])
def test_hostile_prompts_are_one_line(script_error, place, prompts):
    settings = {"prompts": prompts, "system_prompt": ""}
    line = script_error(encode_calibration.main, settings, tokenizer=place.tokenizer, output=place.output)
    assert "half of a surrogate pair" in line or "a text of 17 million characters" in line


TOKENS = {"samples": [[1, 2], [3]], "tokens": 3, "source": {"kind": "text"}}


def test_what_calibration_writes_is_read(run_script, place):
    data = run(run_script, place, {"prompts": ["Hi"], "system_prompt": ""})
    assert read_tokens(place.output) == CalibrationTokens(data["samples"], data["tokens"], data["source"])


@pytest.mark.parametrize(
    ("content", "part"),
    [
        ("{", "not JSON"),
        ([1], "expected the keys samples, source and tokens"),
        ({"samples": [[1]]}, "expected the keys samples, source and tokens"),
        ({**TOKENS, "samples": []}, "expected a list of samples"),
        ({**TOKENS, "source": None}, "expected a list of samples and their source"),
        ({**TOKENS, "samples": [[1, 2], []]}, "sample 2 is no list of token ids"),
        ({**TOKENS, "samples": [[1, 2], [True]]}, "sample 2 is no list of token ids"),
        ({**TOKENS, "samples": [["1"]]}, "sample 1 is no list of token ids"),
        ({**TOKENS, "samples": [[1, 2], [-1]]}, "sample 2 has the token -1"),
        ({**TOKENS, "tokens": 4}, "tokens is 4, but"),
    ],
)
def test_tokens_that_calibration_did_not_write_are_one_line(tmp_path, content, part):
    path = tmp_path / "tokens.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(HexportError, match=re.escape(part)):
        read_tokens(path)


def test_faults_are_one_line(script_error, place):
    def error(settings, **paths):
        return script_error(encode_calibration.main, settings, tokenizer=place.tokenizer, output=place.output, **paths)

    assert "no prompts" in error({"prompts": [], "system_prompt": ""})
    assert "no chat template" in error({"prompts": ["Hi"], "system_prompt": "S"})
    place.text.write_bytes(b"")
    assert "text.txt: the text is empty" in error({"text": "text.txt"}, text=place.text)
    place.text.write_bytes(b"abc\xff")
    assert "text.txt: not UTF-8 text: byte 3" in error({"text": "text.txt"}, text=place.text)
    place.text.unlink()
    assert "text.txt" in error({"text": "text.txt"}, text=place.text)
    place.configure(add_bos_token=False)
    assert "prompt 2 of 2 has no tokens" in error({"prompts": ["Hi", ""], "system_prompt": ""})
    place.tokenizer.unlink()
    assert "tokenizer.json: no such file" in error({"prompts": ["Hi"], "system_prompt": ""})
