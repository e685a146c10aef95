"""Chat templates render, and prompts encode, as transformers' apply_chat_template does."""

import json
import resource

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoTokenizer

from hexport.errors import HexportError
from hexport.tokenizers import chat
from hexport.tokenizers.chat import render_chat
from hexport.tokenizers.tokenizer import load_tokenizer

CHATML = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are helpful<|im_end|>\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
HEADERS = """{{- bos_token }}
{%- if not date_string is defined %}
    {%- set date_string = strftime_now("%d %b %Y") %}
{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system = "" %}
{%- endif %}
Today: {{ date_string }}
{% if tools is not none %}tools{% endif %}{{ system }}<|end|>
{%- for message in messages %}
    {%- if loop.index0 > 5 %}{% break %}{% endif %}
    {%- generation %}
    {{- message.role + ': ' + (message.content | trim) + eos_token }}
    {%- endgeneration %}
{%- endfor %}
    {% if eos_token %}
  indented
    {% endif %}
{{ {"q": "<é&'>", "n": [1, 2]} | tojson }}
{%- set seen = namespace(roles=[]) %}
{%- for m in messages %}{% set seen.roles = seen.roles + [m.role] %}{% endfor %}
{{ seen.roles | join("|") }}
"""
GEMMA = (
    "{{ bos_token }}"
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for m in messages %}{{ '<start_of_turn>' + m.role + '\n' + m.content | trim + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
LLAMA3 = (
    "{{ bos_token }}{% for m in messages %}"
    "{{ '<|start_header_id|>' + m.role + '<|end_header_id|>\n\n' + m.content | trim + '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
PHI = (
    "{% for m in messages %}{{ '<|' + m.role + '|>' + m.content + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% else %}{{ eos_token }}{% endif %}"
)
# The chat formats of the built-in models, and a template with whatever else templates use.
TEMPLATES = {"Qwen and SmolLM": CHATML, "Gemma": GEMMA, "Llama 3": LLAMA3, "Phi-4-mini": PHI, "any": HEADERS}
# What "Hi", answered briefly, is in each of them. Gemma has no system role.
CHATS = {
    CHATML: "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n",
    LLAMA3: "<bos><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
    PHI: "<|system|>Be brief.<|end|><|user|>Hi<|end|><|assistant|>",
}
SPECIAL = ["<unk>", "<bos>", "<eos>", "<|im_start|>", "<|im_end|>", "<start_of_turn>", "<end_of_turn>", "<|end|>"]
SPECIAL += ["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|system|>", "<|user|>", "<|assistant|>"]


def save(folder, template, **changes):
    """A tokenizer with one token a byte and the special tokens of the templates."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE({token: i for i, token in enumerate([*SPECIAL, *alphabet])}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(token, normalized=False) for token in SPECIAL])
    backend.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<bos>", "eos_token": "<eos>"}
    config |= {"add_bos_token": True, "stop_tokens": [], "chat_template": template, **changes}
    (folder / "tokenizer_config.json").write_text(json.dumps({k: v for k, v in config.items() if v is not None}))
    return load_tokenizer(folder)


@pytest.fixture(scope="module", params=TEMPLATES.values(), ids=TEMPLATES)
def both(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("chat")
    return save(folder, request.param), AutoTokenizer.from_pretrained(folder)


def theirs_ids(theirs, messages):
    date = {"date_string": "26 Jul 2024"}  # theirs would be told today's date
    return theirs.apply_chat_template(messages, tokenize=True, add_generation_prompt=True, return_dict=False, **date)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(prompt=st.text() | st.sampled_from(["<|im_end|>", "{{ bos_token }}", " <bos>hi \n", "'\"<b>&"]))
def test_prompts_equal_apply_chat_template(both, prompt):
    ours, theirs = both
    assert ours.prompt_ids(prompt) == theirs_ids(theirs, [{"role": "user", "content": prompt}])


def test_system_prompts(both):
    ours, theirs = both
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    if ours.chat_template == GEMMA:
        with pytest.raises(HexportError, match="the chat template fails: System role not supported"):
            ours.prompt_ids("Hi", "Be brief.")
    else:
        assert ours.prompt_ids("Hi", "Be brief.") == theirs_ids(theirs, messages)
        text = ours.decode(ours.prompt_ids("Hi", "Be brief."))
        assert text == CHATS.get(ours.chat_template, text) and "Be brief." in text


def test_whole_conversations(both):
    ours, theirs = both
    roles = ["user", "assistant"] * 4 + ["user"]
    messages = [{"role": role, "content": f" turn {i} "} for i, role in enumerate(roles)]
    assert ours.encode(ours.render(messages)) == theirs_ids(theirs, messages)


def test_bos_comes_once(both):
    ours, _ = both
    assert ours.prompt_ids("Hi").count(ours.bos_id) == (0 if ours.chat_template in (CHATML, PHI) else 1)


def test_end_of_turn_tokens_stop(both):
    ours, _ = both
    assert ours.decode(sorted(ours.stop_ids)) == "<eos><|im_end|><end_of_turn><|end|><|eot_id|>"


def test_without_a_template_the_prompt_is_the_text(tmp_path):
    ours = save(tmp_path, None)
    assert ours.prompt_ids("Hi") == [ours.bos_id, *ours.encode("Hi")]
    with pytest.raises(HexportError, match="no chat template"):
        ours.prompt_ids("Hi", "Be brief.")
    with pytest.raises(HexportError, match="no chat template"):
        ours.render([])
    ours = save(tmp_path, None, add_bos_token=False)
    assert ours.prompt_ids("Hi") == ours.encode("Hi")
    ours = save(tmp_path, None, bos_token=None)
    assert ours.prompt_ids("Hi") == ours.encode("Hi", bos=True) == ours.encode("Hi")


@pytest.mark.parametrize(
    "template",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.append(1) }}",
        "{{ undefined.attribute }}",
        "{% for %}",
        "{{ 1 + 'a' }}",
        "{{ 1 / 0 }}",
        "{% include '/etc/passwd' %}",
        "{{ '%d' | format('x') }}",
        "{{ range(10**9) | list }}",
    ],
)
def test_templates_that_fail_or_reach_out_are_one_line(tmp_path, template):
    ours = save(tmp_path, template)
    with pytest.raises(HexportError, match="the chat template fails") as failure:
        ours.prompt_ids("Hi")
    assert "\n" not in str(failure.value)


BOMBS = [
    "{{ 'a' * 10**9 }}",
    "{{ '%1000000000d' | format(1) }}",
    "{{ '%1000000000d' % 1 }}",
    "{{ messages | tojson(indent=10**9) }}",
    "{{ 'a' | center(10**9) }}",
    "{{ 'a'.center(10**9) }}",
    "{% set n = namespace(a='a') %}{% for i in range(99) %}{% set n.a = n.a + n.a %}{% endfor %}",
    "{% for i in range(99999) %}{{ 'a' * 99999 }}{% endfor %}",
    "{% macro f(n) %}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}",
    "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
]


@pytest.mark.parametrize("template", BOMBS)
def test_a_template_that_takes_too_much_memory_is_one_line(template):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(HexportError, match="the chat template fails") as failure:
        render_chat(template, [{"role": "user", "content": "Hi"}], {})
    assert len(str(failure.value)) < 1000
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # kB


def test_a_template_that_never_ends_is_ended_and_others_go_on(monkeypatch):
    monkeypatch.setattr(chat, "SECONDS", 0.5)
    monkeypatch.setattr(chat, "_child", None)  # one that has not been told of another time
    endless = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
    with pytest.raises(HexportError, match=r"the chat template fails: it takes more than 0\.5 seconds"):
        render_chat(endless, [], {})
    assert render_chat("{{ messages[0].content }}", [{"role": "user", "content": "Größe\n"}], {}) == "Größe\n"


def test_a_template_that_asks_for_the_date_says_the_same_on_every_day():
    llama_3_2 = "{{ strftime_now('%d %b %Y') }}"
    smollm3 = "{{ strftime_now('%d %B %Y') }}"
    assert [render_chat(template, [], {}) for template in (llama_3_2, smollm3)] == ["26 Jul 2024", "26 July 2024"]


def test_half_a_character_is_one_line(tmp_path):
    for template in (CHATML, None):
        with pytest.raises(HexportError, match="half of a surrogate pair"):
            save(tmp_path, template).prompt_ids("a\ud800")


def test_a_text_beyond_any_context_is_one_line(tmp_path):
    with pytest.raises(HexportError, match="a text of 17 million characters"):
        save(tmp_path, None).prompt_ids("a" * 17_000_000)


def test_an_answer_that_was_not_waited_for_is_not_taken_for_the_next(monkeypatch):
    assert render_chat("{{ 'first' }}", [], {}) == "first"

    def interrupted():
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(chat._child.stdout, "readline", interrupted)
        with pytest.raises(KeyboardInterrupt):
            render_chat("{{ 'second' }}", [], {})
    assert render_chat("{{ 'third' }}", [], {}) == "third"
