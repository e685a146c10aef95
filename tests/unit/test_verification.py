"""What verification tells from figures: mistakes in noise, where a program departs, cards of hostile texts."""

import math

import numpy as np
import pytest

from hexport.decoder.config import decoder_config
from hexport.verification.card import html_card, markdown_card
from hexport.verification.emulator import blocks_of
from hexport.verification.figures import sqnr_db
from hexport.verification.layers import departure
from hexport.verification.mistakes import mistakes_of
from hexport.verification.projection import Projection

ROWS, VOCABULARY = 64, 500
LLAMA = {
    "model_type": "llama",
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 20,
    "rms_norm_eps": 1e-5,
    "rope_theta": 5000.0,
}


def projected(share: float, level_db: float) -> Projection:
    """Of a program with `share` of a mistake that is so much below its noise, which differs from row to row."""
    random = np.random.default_rng(0)
    exact, direction, noise = (random.standard_normal((ROWS, VOCABULARY)) for _ in range(3))
    noise *= 10 ** np.linspace(-1, 0, ROWS)[:, None]
    direction *= 10 ** (level_db / 20) * math.sqrt(np.square(noise).mean())
    projection = Projection()
    for rows in (slice(0, 10), slice(10, ROWS)):
        program = exact[rows] + share * direction[rows] + noise[rows] + 7  # an offset of all logits is no error
        projection.add(program, exact[rows], exact[rows], exact[rows] + direction[rows])
    return projection


@pytest.mark.parametrize("share", [0, 1])
def test_a_mistake_that_is_far_below_the_noise_is_told_from_none(share):
    projection = projected(share, level_db=-20)
    assert projection.is_seen
    assert projection.share == pytest.approx(share, abs=0.15)
    assert projection.deviation < 0.1
    assert projection.level_db == pytest.approx(-20, abs=0.5)


def test_a_mistake_that_drowns_is_not_seen():
    assert not projected(1, level_db=-60).is_seen


def test_a_mistake_that_changes_nothing_is_not_seen():
    projection = Projection()
    rows = np.random.default_rng(0).standard_normal((4, 9))
    projection.add(rows, rows, rows, rows)
    assert (projection.share, projection.is_seen) == (0, False)


def test_a_decoder_cannot_make_mistakes_of_what_it_has_not():
    names = {mistake.name for mistake in mistakes_of(decoder_config(LLAMA))}
    assert {"rope base", "k for v", "heads in turn", "GELU for SiLU", "mask sees ahead"} <= names
    assert not names & {"window forgotten", "qk-norm missing", "exact GELU", "LongRoPE factors", "biases missing"}


def test_sqnr_leaves_the_mean_of_a_row_out():
    rows = np.random.default_rng(0).standard_normal((3, 50)).astype(np.float32)
    assert sqnr_db(rows, rows) == math.inf
    assert sqnr_db(rows, rows + 100) > 80
    assert sqnr_db(rows, rows * 1.1) == pytest.approx(20, abs=0.01)
    assert sqnr_db(rows, np.full_like(rows, np.nan)) == -math.inf


@pytest.mark.parametrize(
    ("found", "layer"),
    [
        ([60, 55, 50, 48], None),
        ([25, 21, 18, 15, 12, 10], None),  # noise of few bits
        ([82, 69, 10, 9], 2),
        ([82, 69, 60, 10], 3),  # of three layers: behind the last one
        ([82, 66, 30, 29], 2),
        ([3, 2, 1, 0], 0),
    ],
)
def test_a_program_departs_where_noise_does_not_grow_but_leap(found, layer):
    assert departure(found) == layer


class Sizes:
    def __init__(self, ar_len: int, context_len: int):
        self.ar_len, self.context_len = ar_len, context_len


@pytest.mark.parametrize(
    ("sizes", "n", "first", "lengths"),
    [
        (Sizes(8, 32), 20, 8, [8, 8, 4]),
        (Sizes(8, 32), 20, 5, [5, 8, 7]),
        (Sizes(8, 16), 16, 5, [5, 8]),  # the third call would begin at slot 13 of 8
        (Sizes(16, 16), 15, 16, [15]),
        (Sizes(1, 8), 3, 1, [1, 1, 1]),
    ],
)
def test_calls_begin_within_the_slots_of_the_cache(sizes, n, first, lengths):
    assert blocks_of(sizes, n, first) == lengths


def test_a_card_shows_what_a_file_name_says_as_text():
    name = "<script>|evil*.pte"
    document = {
        "verdict": "not checked",
        "faults": ["a | b"],
        "notes": [],
        "program": {
            "name": name,
            "sha256": "0" * 64,
            "bytes": 1,
            "soc": None,
            "htp_arch": None,
            "ar_lengths": {},
            "context_length": None,
        },
        "checkpoint": {"name": "here", "sha256": "1" * 64, "family": "llama", "layers": 2},
        "versions": {"hexport": "1"},
        "tokens": 0,
        "found": None,
    }
    assert "<script>" not in html_card(document)
    markdown = markdown_card(document)
    assert r"\<script\>\|evil\*.pte" in markdown
    assert all(line.replace(r"\|", "").count("|") == 3 for line in markdown.splitlines() if line.startswith("|"))
