"""Every family against transformers, in float32: whole sequences, and blocks of tokens through the KV cache.

The windows of these models have 1 to 20 tokens, and the original context of LongRoPE has 16: the short lengths are
below it (and below the widest windows), the long ones above. LongRoPE's divisors go by the context of the decoder, and
in transformers by the tokens of a call, which are therefore all read in one.
"""

import numpy as np
import pytest
from float_graph import FloatGraph, block_by_block, whole_sequence
from small_models import MODELS, ORIGINAL_CONTEXT, random_tokens, transformers_logits
from whole_decoder import load_decoder

from hexport.decoder.weights import Checkpoint

# (context length, tokens)
SHORT, LONG = (ORIGINAL_CONTEXT, 13), (40, 37)
lengths = pytest.mark.parametrize(("context_len", "n"), [SHORT, LONG], ids=["short", "long"])


@pytest.fixture(params=MODELS)
def model_and_checkpoint(request, small_model):
    model, folder = small_model(request.param)
    return model, Checkpoint(folder)


@lengths
def test_logits_of_a_whole_sequence_equal_transformers(model_and_checkpoint, context_len, n):
    model, checkpoint = model_and_checkpoint
    tokens = random_tokens(model.config.vocab_size, n)
    expected = transformers_logits(model, tokens)
    assert expected.std() > 1
    logits = whole_sequence(load_decoder(checkpoint, context_len), checkpoint.config, tokens)
    np.testing.assert_allclose(logits, expected, atol=1e-4, rtol=0)


@lengths
@pytest.mark.parametrize("ar_len", [1, 4])
def test_logits_through_the_cache_equal_transformers(model_and_checkpoint, ar_len, context_len, n):
    model, checkpoint = model_and_checkpoint
    tokens = random_tokens(model.config.vocab_size, n)
    logits = block_by_block(FloatGraph.of(checkpoint, ar_len, context_len), tokens)
    np.testing.assert_allclose(logits, transformers_logits(model, tokens), atol=1e-4, rtol=0)
