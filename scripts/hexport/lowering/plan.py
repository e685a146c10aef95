"""A plan says which graphs a program has, and how they are dealt out to shards."""

from dataclasses import dataclass
from functools import cached_property

from hexport.decoder.config import DecoderConfig
from hexport.decoder.sizes import sizes_of
from hexport.errors import HexportError
from hexport.lowering.decoder_graph import DecoderGraph
from hexport.lowering.shards import Shard, check_addressable, shards_of
from hexport.lowering.template import Templates
from hexport.programs.abi import KV_METHOD
from hexport.quantization.part_sizes import part_bytes
from hexport.quantization.quant_attrs import QuantAttrs
from hexport.quantization.recipe import Recipe
from hexport.targets.target import Target, target_named


@dataclass(frozen=True)
class Plan:
    """A plan holds the graphs of a program and the number of its shards.

    `ar_lengths` has a graph's AR length by method name. The graphs share one context binary per shard.
    """

    config: DecoderConfig
    recipe: Recipe
    target: Target
    ar_lengths: dict[str, int]
    context_len: int
    n_shards: int

    @property
    def facts(self) -> dict[str, object]:
        """Return what the manifest of a program tells of its plan."""
        return {
            "soc": self.target.soc,
            "htp_arch": self.target.htp_arch,
            "context_length": self.context_len,
            "ar_lengths": self.ar_lengths,
            "kv_bits": self.recipe.kv_bits,
        }

    @cached_property
    def shards(self) -> list[Shard]:
        """Return the shards, in order.

        Raises HexportError where there are fewer parts than shards, and where a shard is more than the HTP addresses.
        """
        n_bytes = part_bytes(self.recipe, sizes_of(self.config), self.context_len)
        shards = shards_of(n_bytes, self.n_shards)
        copies = self.target.copies(len(self.ar_lengths))
        check_addressable([copies * size for size in n_bytes], shards)
        return shards

    def graphs(self, templates: dict[int, Templates], attrs: QuantAttrs) -> dict[str, DecoderGraph]:
        """Return the graphs by method name, from templates by AR length.

        Raises HexportError where the context is too short for them, and where the quant attrs lack a point.
        """
        check_context(self.context_len, self.ar_lengths)
        for ar_len in set(self.ar_lengths.values()):
            check_template_points(templates[ar_len], attrs)
        return {
            method: DecoderGraph(self.config, templates[ar_len], attrs) for method, ar_len in self.ar_lengths.items()
        }


def plan_of(settings: dict, config: DecoderConfig, recipe: Recipe) -> Plan:
    """Return the plan of the settings of a shard or program.

    Of these it reads `target`, `max_seq_len`, `num_sharding` and `ar_lengths`: for example, `{"target": "SM8650",
    "max_seq_len": 1024, "num_sharding": 1, "ar_lengths": {"kv_forward": 1, "prefill_forward": 128}}`.
    """
    target, sizes = target_named(settings["target"]), (settings["max_seq_len"], settings["num_sharding"])
    return Plan(config, recipe, target, settings["ar_lengths"], *sizes)


def check_context(context_len: int, ar_lengths: dict[str, int]) -> None:
    """Raise HexportError where graphs do not fit the context.

    A prefill graph may be as long as the context; a decode graph needs a cache.
    """
    decode, longest = ar_lengths[KV_METHOD], max(ar_lengths.values())
    if context_len <= decode:
        raise HexportError(f"max_seq_len {context_len} leaves no cache beside the AR length {decode}; use a larger one")
    if context_len < longest:
        raise HexportError(f"prefill_ar_len {longest} is more than max_seq_len {context_len}; use a smaller one")


def check_template_points(templates: Templates, attrs: QuantAttrs) -> None:
    """Raise HexportError where the quant attrs lack a point that a template needs."""
    for place, template in templates.by_place.items():
        points = {filling.point for filling in template.fillings.values() if filling.point}
        for point in sorted(points - template.inputs.keys()):
            attrs.encoding(f"{place}.{point}")
