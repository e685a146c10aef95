import numpy as np
import pytest

from hexport.runtime.sampling import Sampler

LOGITS = np.array([2.0, -1.0, 0.5, 1.9, -30.0], np.float32)


def test_temperature_0_takes_the_largest_logit():
    assert Sampler(0)(LOGITS) == 0
    assert Sampler(0)(np.flip(LOGITS)) == 4


@pytest.mark.parametrize("temperature", [0.3, 1.0, 4.0])
def test_frequencies_follow_the_softmax_of_logits_over_temperature(temperature):
    draw, n = Sampler(temperature, seed=3), 20_000
    counts = np.bincount([draw(LOGITS) for _ in range(n)], minlength=len(LOGITS))
    weights = np.array([np.e ** (float(logit) / temperature) for logit in LOGITS])
    p = weights / weights.sum()
    deviation = np.abs(counts / n - p)
    assert (deviation <= 4 * np.sqrt(p * (1 - p) / n) + 1e-12).all()


def test_a_low_temperature_is_nearly_greedy_and_large_logits_do_not_overflow():
    draw = Sampler(1e-3)
    assert {draw(LOGITS * 1e4) for _ in range(50)} == {0}


def test_a_seed_fixes_what_is_drawn():
    def draws(seed):
        draw = Sampler(2.0, seed)
        return [draw(LOGITS) for _ in range(30)]

    assert draws(1) == draws(1)
    assert draws(1) != draws(2)
    assert len(set(draws(1))) > 1


def test_a_conversation_draws_the_same_whatever_is_drawn_in_others():
    def draws(draw, conversation):
        draw.conversation = conversation
        return [draw(LOGITS) for _ in range(30)]

    alone, among = Sampler(2.0), Sampler(2.0)
    once, again = draws(alone, 0), draws(alone, 0)
    assert [draws(among, number) for number in (0, 7, 7, 0)] == [once, once, again, again]
    assert once != again
