"""This module estimates how many bytes each part of a decoder takes in a program, from its sizes and its recipe."""

from hexport.decoder.sizes import Sizes
from hexport.quantization.recipe import EPILOGUE, PROLOGUE, Precision, Recipe, projections_of

SCALE_BYTES = 4  # for each output channel
BLOCK_BYTES = 1  # for the integer that a block multiplies its channel's scale with
ROW_SCALE_BYTES = 2
ROPE_TABLES = 3  # cos, sin and -sin


def part_bytes(recipe: Recipe, sizes: Sizes, context_len: int) -> list[int]:
    """Return the bytes of the prologue, of each layer and of the epilogue, in this order, each stored once.

    They count weights with their scales, the table of embeddings and those of the rotary embeddings. For a llama of 2
    layers, the list has 4 numbers.
    """
    table = table_bytes(sizes, recipe.at(PROLOGUE, "embedding.embedding").activation_bits, recipe.row_scales)
    ropes = sum(ROPE_TABLES * context_len * dims // 2 for dims in sizes.rope_dims)
    prologue = table + ropes * recipe.at(PROLOGUE, "index").activation_bits // 8
    places = *map(str, range(sizes.n_layers)), EPILOGUE
    return [
        prologue,
        *(sum(weight_bytes(sizes, name, recipe.at(place, name)) for name in projections_of(place)) for place in places),
    ]


def table_bytes(sizes: Sizes, bits: int, row_scales: bool) -> int:
    """Return the bytes of the table of embeddings, with `bits` per value, and with a scale per row if `row_scales`."""
    return sizes.vocab_size * (sizes.hidden_size * bits // 8 + ROW_SCALE_BYTES * row_scales)


def weight_bytes(sizes: Sizes, projection: str, precision: Precision) -> int:
    """Return the bytes of a projection's weight with its scales."""
    n_in, n_out = sizes.projections[projection]
    blocks = n_in // precision.block_size if precision.block_size else 0
    return n_in * n_out * precision.weight_bits // 8 + n_out * (SCALE_BYTES + BLOCK_BYTES * blocks)


def part_codes(recipe: Recipe, sizes: Sizes) -> list[int]:
    """Return the bytes of the codes of each of these parts in memory, where 4-bit weights take a byte each."""
    wide = recipe.at(PROLOGUE, "embedding.embedding").activation_bits // 8
    values = part_values(sizes)
    return [values[0] * wide, *values[1:]]


def part_values(sizes: Sizes) -> list[int]:
    """Return the number of weights in each of these parts, without those of norms and biases."""
    vocabulary = sizes.vocab_size * sizes.hidden_size
    return [vocabulary, *[sizes.layer_products] * sizes.n_layers, vocabulary]
