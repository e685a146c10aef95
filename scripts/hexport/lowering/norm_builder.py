"""This module builds the QNN op of RMSNorm (arXiv 1910.07467) so that the HTP rounds what the op puts out.

The HTP cuts off the codes of an RmsNorm's output: its errors lie between -1 and 0 codes, -0.5 on average, and have four
times the noise of codes that are rounded. QNN's op has a bias, for which executorch gives zeros. Half a code in their
place turns cutting off into rounding. The program has no more ops for it.
"""

import torch
from executorch.backends.qualcomm.builders.node_visitor_manager import register_node_visitor
from executorch.backends.qualcomm.utils.constants import QCOM_QUANT_ATTRS, QCOM_SCALE

from hexport.executorch_internals import op_builder

BIAS_OF_SCALE = 0.5  # a bias has the code 1 in a scale that is so many times the output's
_BIAS = "_runtime_bias"  # the name of the node that executorch's builder makes for a bias ends with it


class RoundingRmsNorm(op_builder("aten.rms_norm.default")):
    """This builder replaces executorch's builder of the op, which makes the bias by a call of `define_tensor`."""

    def define_tensor(self, tensor_source_node, target_build_node, tensor, *args, **options):
        """Define a tensor as executorch does; a bias gets codes 1 in a scale of half the output's."""
        attrs = tensor_source_node.meta.get(QCOM_QUANT_ATTRS)
        if attrs is not None and tensor_source_node.name.endswith(_BIAS):
            tensor_source_node.meta[QCOM_QUANT_ATTRS] = {**attrs, QCOM_SCALE: BIAS_OF_SCALE * attrs[QCOM_SCALE]}
            tensor = torch.ones_like(tensor)  # codes
        return super().define_tensor(tensor_source_node, target_build_node, tensor, *args, **options)


register_node_visitor(RoundingRmsNorm)
