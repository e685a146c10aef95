"""Annotation gives every op of an exported graph a recipe's precision, in the terms of executorch's QnnQuantizer."""

from dataclasses import replace
from functools import cache, partial
from types import MappingProxyType

import torch
from executorch.backends.qualcomm.quantizer.quant_recipe import QuantGranularity, QuantizationStrategy, QuantRecipe
from executorch.backends.qualcomm.quantizer.quantizer import QnnQuantizer, QuantDtype
from executorch.backends.qualcomm.serialization.qc_schema import QcomChipset
from torch.fx import Node
from torchao.quantization.pt2e import MinMaxObserver, MovingAverageMinMaxObserver

from hexport.executorch_internals import add_strategy
from hexport.quantization.key_value_path import annotate_8_bit_keys_and_values
from hexport.quantization.observers import MseObserver, PercentileObserver
from hexport.quantization.points import placed, point_names
from hexport.quantization.recipe import Precision, Recipe
from hexport.quantization.weights import PerTensorParamObserver

OBSERVERS = MappingProxyType(
    {
        "min_max": MinMaxObserver,
        "moving_average": MovingAverageMinMaxObserver,
        "percentile": PercentileObserver,
        "mse": MseObserver,
    }
)
DTYPES = MappingProxyType(
    {
        (16, 8): QuantDtype.use_16a8w,
        (16, 4): QuantDtype.use_16a4w,
        (8, 8): QuantDtype.use_8a8w,
        (8, 4): QuantDtype.use_8a4w,
    }
)
CONVOLUTION = torch.ops.aten.conv2d.default


class ByPoint(QuantizationStrategy):
    """This strategy annotates each node as a recipe says of the node's point.

    `place` is that of the graph: a layer's number, `prologue` or `epilogue`. It is None for a graph of the whole
    decoder, where the name of a point also holds its place.
    """

    def __init__(self, recipe: Recipe, place: str | None, supported_ops: set):
        self.recipe, self.place, self.targets, self.priority = recipe, place, supported_ops, 1
        self.names: dict[Node, str] = {}

    def _matches(self, node: Node) -> bool:
        return node.target in self.targets

    def get_quant_config(self, node: Node):
        """Return what executorch is to annotate this node with, or None for an op that is not supported."""
        if not self._matches(node):
            return None
        if node not in self.names:
            self.names = point_names(node.graph)
        place, point = placed(self.names[node]) if self.place is None else (self.place, self.names[node])
        return _strategy(self.recipe.at(place, point), node.target == CONVOLUTION).get_quant_config(node)


def quantizer(recipe: Recipe, place: str | None, soc: str = "SM8650") -> QnnQuantizer:
    """Return the annotator of a graph that lies at `place` (see `ByPoint`).

    The SoC only limits which ops may be annotated; no scale depends on it.
    """
    annotator = QnnQuantizer(soc_model=QcomChipset[soc])
    rules = QuantRecipe(DTYPES[16, 8], False, act_observer=MinMaxObserver, granularity=QuantGranularity.PER_TENSOR)
    add_strategy(rules, ByPoint(recipe, place, annotator.supported_ops))
    if recipe.kv_bits == 8:
        observer = OBSERVERS[recipe.precision.observer]
        rules.custom_quant_annotations = [partial(annotate_8_bit_keys_and_values, observer=observer)]
    annotator.set_recipe(rules)
    return annotator


class _Fixed(QuantizationStrategy):
    """This strategy annotates every node that asks with one precision."""

    def _matches(self, node: Node) -> bool:
        return True


@cache
def _strategy(precision: Precision, is_projection: bool) -> QuantizationStrategy:
    granularity, dtype = QuantGranularity.PER_TENSOR, DTYPES[precision.activation_bits, precision.weight_bits]
    options = {}
    if is_projection and precision.granularity == "per_block":
        granularity, dtype = QuantGranularity.PER_BLOCK, QuantDtype.use_16a4w_block
        options = {"block_size": (1, precision.block_size, 1, 1)}
    elif is_projection:
        granularity = QuantGranularity.PER_CHANNEL
    observer, symmetric = OBSERVERS[precision.observer], precision.activation_symmetric
    strategy = _Fixed(dtype, False, granularity, observer, symmetric, options, "", 1)
    if is_projection and precision.granularity == "per_tensor":
        for config in strategy.quant_config.per_channel_quant_config_list:
            constructor = PerTensorParamObserver.with_args(**config.weight.observer_or_fake_quant_ctr.p.keywords)
            config.weight = replace(config.weight, observer_or_fake_quant_ctr=constructor)
    return strategy
