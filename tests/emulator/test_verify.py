"""Verification: a good program is not refused, and programs that are broken by one mutation are, with its name."""

import json
import re
import shutil
from pathlib import Path

import pytest
from forks import FORKS
from mutations import MUTATIONS
from small_program import CONTEXT, TEXT, good, lower, with_manifest
from tiny_model import EMULATOR, SCRIPTS, environment, save_tokenizer
from verifying import verified

from hexport.decoder.weights import Checkpoint
from hexport.targets.target import target_named
from hexport.tokenizers.tokenizer import Tokenizer, load_tokenizer
from hexport.verification.verify import Verification

# With a manifest beside them, which says what the program should be.
OF_HEXPORT = ("recipe of another bit width", "weights of a later checkpoint")
WITH_BROKEN_TWIN = "hybrid whose twin is broken"
LOOKS = {
    "KV bits exchanged": "get_kv_io_bit_width is 8, but kv_forward has 16 bits",
    "mask inverted": "read again, give other logits .* the mask is inverted",
    "mask off by one": "read again, give other logits .* off by one",
    "logits scale of another build": "logits have scale .* but the constant methods say",
    "rope factor 8 for 32": "rotary scaling has another factor",
    "rope base of the other layers": "sliding and full layers have each other's rotary base",
    "layers swapped": "layers 1 and 2 have each other's weights",
    "one layer twice": "layer 1 has the weights of layer 0, which is there twice",
    "head zeroed": "head 1 of layer 1 is all zeros",
    "window mask forgotten": "their window is forgotten",
    "caches of two layers exchanged": "k_0 has another encoding than kv_forward: k_cache_0",
    "k and v exchanged": "the weights of k and v are exchanged",
    "bias dropped": "the bias of k_proj is missing",
    "qk-norm dropped": "queries and keys are not normalised",
    "exact GELU for tanh": "GELU is the exact one",
    "embedding multiplier dropped": r"embeddings are not multiplied by sqrt\(hidden_size\)",
    "LongRoPE factors of the wrong length": "short for long",
    "prefill and decode of different quant attrs": "prefill_forward: k_0 has another encoding than kv_forward",
    "a shard of another build": "not the checkpoint's: .* from layer 1 on not",
    "weights of another checkpoint": "not the checkpoint's: .* from layer 0 on not",
    "weights of a later checkpoint": "does not compute what its recipe says",
    "recipe of another bit width": "does not compute what its recipe says",
    "wrong EOS": "get_eos_id is 10 .* which ends no text",
}
# Where a program departs first, as the caches tell: layer 1 slides, and has LongRoPE; the others have Llama's.
BEHIND_0, BEHIND_1 = (
    f"layer {i + 1}: its k and v depart: layer {i} behind its own (q, the mask, o_proj, the feed-forward)"
    for i in (0, 1)
)
OF_K = "layer {}: its k departs, and its v does not: k_proj, the norm of k, or the rotary embedding"
DEPARTS = {
    "mask inverted": BEHIND_0,
    "mask off by one": BEHIND_0,
    "rope factor 8 for 32": OF_K.format(0),
    "layers swapped": BEHIND_0,  # or the weights of layer 1 itself
    "head zeroed": BEHIND_1,
    "window mask forgotten": BEHIND_1,
    "k and v exchanged": "layer 0: its k and v depart",
    "bias dropped": OF_K.format(0),
    "qk-norm dropped": OF_K.format(0),
    "LongRoPE factors of the wrong length": OF_K.format(1),
    "a shard of another build": BEHIND_0,
}


@pytest.fixture(scope="module")
def battery(lowerings, keep) -> Path:
    """The small model, its tokenizer, and all programs; those of hexport, as in its artifacts."""

    def templates_of(config, recipe, ar_len):
        return lowerings.templates(config, recipe, target_named(EMULATOR), ar_len, CONTEXT)

    def build(folder: Path) -> None:
        of = good(folder, templates_of)
        save_tokenizer(folder / "tokenizer")
        made = {name: make(of) for name, make in MUTATIONS.items()}
        for name, program in made.items():
            if name in OF_HEXPORT:
                with_manifest(program, of, folder, name)
            else:
                (folder / f"{name}.pte").write_bytes(program)
        hybrid = lower(of, prefill=True)
        with_manifest(hybrid, of, folder, "hybrid")
        with_manifest(hybrid, of, folder, "few rows", mode="lookahead", ngram=3, window=2, gcap=2)
        for_phones = lower(of, prefill=True, target="SM8650")
        for name in ("hybrid", WITH_BROKEN_TWIN):
            with_manifest(for_phones, of, folder, name, target="SM8650")
        with_manifest(made["recipe of another bit width"], of, folder, WITH_BROKEN_TWIN)

    return keep("verify", build)


@pytest.fixture(scope="module")
def tokenizer(battery) -> Tokenizer:
    return load_tokenizer(battery / "tokenizer")


def program(battery: Path, name: str, target: str = EMULATOR) -> Path:
    ours = battery / "16a8w" / f"ctx{CONTEXT}" / target / f"{name}.pte"
    return ours if ours.is_file() else battery / f"{name}.pte"


def verify(battery: Path, name: str, tokenizer: Tokenizer, used: Tokenizer | None = None, **at) -> Verification:
    return verified(program(battery, name, **at), Checkpoint(battery), TEXT, tokenizer, used)


def test_a_good_program_has_no_faults_and_no_mistakes(battery, tokenizer):
    verification = verify(battery, "hybrid", tokenizer)
    assert (verification.verdict, verification.faults) == ("good", [])
    found = verification.found
    assert found.text["sqnr_db"] > 50 and found.text["top1_agreement"] == 1
    assert found.again_db == found.decoded_db == float("inf")  # graphs round alike
    seen = [projection for _, projection in found.mistakes if projection.is_seen]
    assert len(seen) > 15 and max(abs(projection.share) for projection in seen) < 0.2


@pytest.mark.parametrize("name", MUTATIONS)
def test_a_mutation_is_caught_and_named(battery, tokenizer, name):
    verification = verify(battery, name, tokenizer)
    assert verification.verdict == "broken"
    assert any(re.search(LOOKS[name], fault) for fault in verification.faults), verification.faults
    assert all("\n" not in fault for fault in verification.faults)
    if name in DEPARTS:
        assert verification.found.located.startswith(DEPARTS[name])


def test_a_decode_graph_with_too_few_rows_for_its_lookahead_is_caught(battery, tokenizer):
    (fault,) = verify(battery, "few rows", tokenizer).faults
    assert "kv_forward reads 1 tokens a call" in fault and "take 8" in fault


def test_a_stale_tokenizer_is_caught(battery, tokenizer, tmp_path):
    shutil.copytree(battery / "tokenizer", tmp_path / "stale")
    file = tmp_path / "stale" / "tokenizer.json"
    content = json.loads(file.read_text())
    vocabulary = content["model"]["vocab"]
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
    file.write_text(json.dumps(content))
    verification = verify(battery, "few rows", tokenizer, load_tokenizer(file.parent))
    assert any("the tokenizer is not the checkpoint's: token" in fault for fault in verification.faults)


def test_a_program_for_phones_is_as_good_as_its_twin(battery, tokenizer):
    verification = verify(battery, "hybrid", tokenizer, target="SM8650")
    assert (verification.verdict, verification.faults) == ("good as its twin", [])
    assert verification.found is None and verification.twin.found.text["sqnr_db"] > 50
    refusal, of_twin, *_ = verification.notes
    assert "share weights" in refusal
    assert of_twin.startswith("all figures are of its twin") and f"{EMULATOR}/hybrid.pte" in of_twin


def test_faults_of_a_twin_are_the_programs(battery, tokenizer):
    verification = verify(battery, WITH_BROKEN_TWIN, tokenizer, target="SM8650")
    assert verification.verdict == "broken"
    assert any(re.search("its twin, .* does not compute what its recipe says", fault) for fault in verification.faults)


def test_a_program_for_phones_without_a_twin_is_not_checked(battery, tokenizer, tmp_path):
    for name in ("hybrid.pte", "hybrid.pte.manifest.json"):
        shutil.copy(program(battery, "hybrid", target="SM8650").with_name(name), tmp_path)
    verification = verified(tmp_path / "hybrid.pte", Checkpoint(battery), TEXT, tokenizer)
    assert (verification.verdict, verification.faults, verification.twin) == ("not checked", [], None)


def test_the_script_writes_figures_and_a_card(battery, tmp_path):
    words = [str(program(battery, "hybrid")), "--checkpoint", str(battery), "--quick", "--locate"]
    words += ["--json", str(tmp_path / "found.json"), "--card", str(tmp_path), "--log", str(tmp_path / "log")]
    done = FORKS.run(str(SCRIPTS / "verify_pte.py"), *words, env=environment())
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "found.json").read_text())
    assert (found["verdict"], found["faults"], found["found"]["departs"]) == ("good", [], None)
    assert min(layer["v_db"] for layer in found["found"]["layers"]) > 15  # of texts that calibration has not seen
    names = [part["part"] for part in found["ops"]["parts"]]
    assert names == ["prologue", "layers.0", "layers.1", "layers.2", "epilogue"]
    assert "The emulator departs " in done.stdout  # nowhere, or first at an op that rounds more coarsely
    for text in (done.stdout, (tmp_path / "card.md").read_text(), (tmp_path / "card.html").read_text()):
        assert "good" in text and found["program"]["sha256"] in text.replace("\n", "")


def test_what_cannot_be_checked_is_one_line_and_exit_code_2(battery, tmp_path):
    log = tmp_path / "log"
    done = FORKS.run(
        str(SCRIPTS / "verify_pte.py"), str(tmp_path / "nothing.pte"), "--checkpoint", str(battery), "--log", str(log),
        env=environment(),
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
