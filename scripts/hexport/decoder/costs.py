"""This module estimates what the parts of calibration, SeqMSE and GPTQ cost, in seconds as measured on two cores.

A job's time left depends only on their proportions: the parts that are done tell how fast this machine is.
"""

from collections.abc import Iterable, Sequence

from hexport.decoder.sizes import Sizes

OBSERVED_PRODUCTS = 11e9  # per second: multiplications of a calibrated projection
OBSERVED_VALUES = 65e6  # per second: outputs of the ops between projections, with observers
FLOAT_PRODUCTS = 40e9
SEARCHED_PRODUCTS = 66e9
FEEDBACK_PRODUCTS = 10e9
READ_VALUES = 150e6
EXPORT_S = 4.0  # that it takes to export a layer and insert its observers


def table_s(sizes: Sizes) -> float:
    """Return the seconds that reading the table of embeddings takes."""
    return sizes.vocab_size * sizes.hidden_size / READ_VALUES


def searched_table_s(sizes: Sizes) -> float:
    """Return the seconds that an observer which tries ranges needs to see the table once."""
    return 40 * table_s(sizes)


def calibrated_prologue_s(sizes: Sizes, samples: Iterable[Sequence[int]]) -> float:
    """Return the seconds that the prologue takes in calibration. Samples are token ids."""
    return sum(map(len, samples)) * sizes.hidden_size / OBSERVED_VALUES


def calibrated_layer_s(sizes: Sizes, samples: Iterable[Sequence[int]]) -> float:
    """Return the seconds that one layer takes in calibration. Samples are token ids.

    Its values are those of a dozen ops on hidden states, of six ops each in feed-forward and in the scores of
    attention, and of ten on queries, keys and values.
    """
    seconds = 0.0
    for n in map(len, samples):
        of_heads = sizes.n_heads * (6 * n + 10 * sizes.head_dim)
        values = 12 * sizes.hidden_size + 6 * sizes.intermediate_size + of_heads
        seconds += n * (sizes.layer_products / OBSERVED_PRODUCTS + values / OBSERVED_VALUES)
    return seconds


def calibrated_epilogue_s(sizes: Sizes, samples: Iterable[Sequence[int]]) -> float:
    """Return the seconds that the epilogue takes in calibration. Samples are token ids."""
    return sum(map(len, samples)) * sizes.hidden_size * sizes.vocab_size / OBSERVED_PRODUCTS


def float_layer_s(sizes: Sizes, samples: Iterable[Sequence[int]]) -> float:
    """Return the seconds that one layer takes in float32. Samples are token ids."""
    return sum(map(len, samples)) * sizes.layer_products / FLOAT_PRODUCTS


def float_epilogue_s(sizes: Sizes, samples: Iterable[Sequence[int]]) -> float:
    """Return the seconds that the epilogue takes in float32. Samples are token ids."""
    return sum(map(len, samples)) * sizes.hidden_size * sizes.vocab_size / FLOAT_PRODUCTS


def search_s(sizes: Sizes, ranges: dict[str, int]) -> float:
    """Return the seconds that SeqMSE takes for these projections of a layer, or of the epilogue.

    `ranges` says how many ranges it tries for each: `{"attention.q_proj": 20}`.
    """
    products = 0
    for name, n_ranges in ranges.items():
        n_in, n_out = sizes.projections[name]
        products += n_ranges * n_in**2 * n_out
    return products / SEARCHED_PRODUCTS / 2  # roughly: half of a symmetric matrix, and not all ranges


def feedback_s(sizes: Sizes, projections: Iterable[str]) -> float:
    """Return the seconds that GPTQ takes to code these projections of a layer, or of the epilogue."""
    shapes = [sizes.projections[name] for name in projections]
    return sum(n_in**2 * (n_in + n_out) for n_in, n_out in shapes) / FEEDBACK_PRODUCTS
