"""How the parts of a decoder are dealt out to shards."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hexport.decoder.sizes import PUBLISHED
from hexport.errors import HexportError
from hexport.lowering.shards import Shard, shards_of
from hexport.quantization.part_sizes import part_bytes
from hexport.quantization.recipe_checks import recipe_from


def parts(shard: Shard, n_layers: int) -> list[int]:
    """Numbers of a shard's parts: 0 is the prologue, n + 1 the epilogue."""
    return [
        *([0] if shard.prologue else []),
        *(i + 1 for i in shard.layers),
        *([n_layers + 1] if shard.epilogue else []),
    ]


def largest_by_trial(sizes: list[int], n_shards: int) -> int:
    """The least that the largest of so many shards can have, of all ways to cut."""
    ways = itertools.combinations(range(1, len(sizes)), n_shards - 1)
    bounds = ([0, *cuts, len(sizes)] for cuts in ways)
    return min(max(sum(sizes[a:b]) for a, b in itertools.pairwise(way)) for way in bounds)


@given(st.lists(st.integers(1, 50), min_size=3, max_size=9), st.data())
def test_all_parts_in_order_in_exactly_as_many_shards_of_which_the_largest_is_as_small_as_can_be(sizes, data):
    n_shards = data.draw(st.integers(1, len(sizes)))
    shards = shards_of(sizes, n_shards)
    dealt = [parts(shard, len(sizes) - 2) for shard in shards]
    assert list(itertools.chain.from_iterable(dealt)) == list(range(len(sizes)))
    assert len(shards) == n_shards and all(dealt)
    assert max(sum(sizes[i] for i in shard) for shard in dealt) == largest_by_trial(sizes, n_shards)


def test_one_shard_has_all():
    assert shards_of([9, 1, 1, 9], 1) == [Shard(True, range(2), True)]


def test_a_large_vocabulary_has_shards_of_its_own():
    assert shards_of([9, 1, 1, 9], 3) == [
        Shard(True, range(0), False),
        Shard(False, range(2), False),
        Shard(False, range(2, 2), True),
    ]


def test_of_equal_largest_shards_the_others_are_alike():
    assert [len(shard.layers) for shard in shards_of([9, 1, 1, 1, 1, 1, 1, 1], 3)] == [0, 3, 3]


def test_the_embedding_of_a_published_model_is_apart_from_most_layers():
    """Its 525 MB in 16 bits are as much as 9 of the 16 layers. By layers alone, the first of 4 shards held it, too."""
    sizes = PUBLISHED["llama3_2-1b_instruct"]
    recipe = recipe_from({"weight_bits": 8, "granularity": "per_channel", "kv_bits": 16, "overrides": []}, "8 bits")
    n_bytes = part_bytes(recipe, sizes, 1024)
    shards = shards_of(n_bytes, 4)
    dealt = [sum(n_bytes[i] for i in parts(shard, sizes.n_layers)) for shard in shards]
    assert max(dealt) < 1.35 * sum(n_bytes) / 4


def test_more_shards_than_parts_are_one_line():
    with pytest.raises(HexportError, match=r"num_sharding 5 is more than the 4 parts of the model.* 2 layers"):
        shards_of([1, 1, 1, 1], 5)
