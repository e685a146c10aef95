"""The QNN op of RMSNorm (arXiv 1910.07467), so that the HTP rounds what it puts out.

The HTP cuts codes of an RmsNorm's output off: its errors lie between -1 and 0 codes, -0.5 on average, four times the
noise of codes that are rounded. QNN's op has a bias, for which executorch gives it zeros; half a code in their place
makes cutting off rounding. The program has no op more.
"""

import torch
from executorch.backends.qualcomm.builders.node_visitor_manager import register_node_visitor
from executorch.backends.qualcomm.utils.constants import QCOM_QUANT_ATTRS, QCOM_SCALE

from hexport.executorch_internals import op_builder

BIAS_OF_SCALE = 0.5  # the scale in which a bias is coded, in units of the output's; its code is 1
_BIAS = "_runtime_bias"  # ends the name of the node that executorch's builder makes for it


class RoundingRmsNorm(op_builder("aten.rms_norm.default")):
    """Takes the place of executorch's builder of this op, which makes the bias by a call of `define_tensor`."""

    def define_tensor(self, tensor_source_node, target_build_node, tensor, *args, **options):
        attrs = tensor_source_node.meta.get(QCOM_QUANT_ATTRS)
        if attrs is not None and tensor_source_node.name.endswith(_BIAS):
            tensor_source_node.meta[QCOM_QUANT_ATTRS] = {**attrs, QCOM_SCALE: BIAS_OF_SCALE * attrs[QCOM_SCALE]}
            tensor = torch.ones_like(tensor)  # codes
        return super().define_tensor(tensor_source_node, target_build_node, tensor, *args, **options)


register_node_visitor(RoundingRmsNorm)
