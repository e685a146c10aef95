"""Canaries: what hexport takes from inside of executorch is there, in the version that it was tried with."""

from importlib import metadata

import pytest
import torch

from hexport import executorch_internals
from hexport.errors import HexportError
from hexport.executorch_internals import QUALCOMM, SERIALIZE, TRIED_WITH, internal

pytestmark = pytest.mark.usefixtures("qnn_sdk")
INTERNALS = [
    *((f"{SERIALIZE}._program", name) for name in ("_flatbuffer_to_program", "serialize_pte_binary", "PTEFile")),
    (f"{SERIALIZE}._cord", "FileBackedData"),
    (f"{QUALCOMM}._passes.build_quant_io", "BuildQuantIo"),
    (f"{QUALCOMM}._passes.qnn_pass_manager", "get_qnn_pass_manager_cls"),
    (f"{QUALCOMM}._passes.tag_quant_io", "TagQuantIO"),
    (f"{QUALCOMM}.builders.node_visitor_manager", "_node_visitor_dict"),
    (f"{QUALCOMM}.qnn_preprocess", "QnnBackend._build_op_wrappers"),
    ("torch.fx.traceback", "NodeSource"),
    ("torch.fx.graph_module", "GraphModule.recompile"),
    ("torch._export.utils", "_materialize_cpp_cia_ops"),
    *((f"{QUALCOMM}.python.PyQnnManagerAdaptor", name) for name in executorch_internals.WRAPPERS),
]


def test_executorch_is_the_version_that_its_internals_were_tried_with():
    """With another one, try every test of tests/emulator, and then name it in executorch_internals.py."""
    assert metadata.version("executorch").split("+")[0] == TRIED_WITH


@pytest.mark.parametrize(("module", "name"), INTERNALS, ids=[name for _, name in INTERNALS])
def test_an_internal_name_is_there(module, name):
    assert internal(module, name) is not None


@pytest.mark.parametrize("module", ["executorch.no_such", f"{QUALCOMM}.qnn_preprocess"])
def test_an_internal_name_that_is_gone_is_a_line_with_the_version(module):
    with pytest.raises(HexportError) as error:
        internal(module, "QnnBackend.no_such")
    assert str(error.value) == (
        f"executorch {metadata.version('executorch')} has no {module}.QnnBackend.no_such; hexport was tried with "
        f"executorch {TRIED_WITH}: install that (`make setup`)"
    )


def test_a_recipe_without_its_list_of_strategies_is_a_line():
    with pytest.raises(HexportError, match=r"has no .*QuantRecipe\._strategies; hexport was tried with"):
        executorch_internals.add_strategy(object(), object())


def test_a_graph_module_is_compiled_when_its_code_is_asked_for():
    """As its graph is by then; what it gives of its code is the same before and after it was called."""
    with executorch_internals.graphs_compiled_when_run():
        module = torch.fx.symbolic_trace(torch.nn.Linear(2, 2))
        assert "_code" not in vars(module)
        assert "linear" in module.code
        output = module.graph.output_node()
        with module.graph.inserting_before(output):
            output.args = (module.graph.call_function(torch.neg, output.args),)
        module.recompile()
    x = torch.ones(1, 2)
    assert torch.equal(module(x), -torch.nn.functional.linear(x, module.weight, module.bias))
    assert "neg" in str(module)


def test_what_was_replaced_is_put_back_after_an_error():
    from executorch.backends.qualcomm import qnn_preprocess
    from executorch.backends.qualcomm.python import PyQnnManagerAdaptor as adaptor

    def found():
        return (
            vars(qnn_preprocess).copy(),
            qnn_preprocess.QnnBackend._build_op_wrappers,
            adaptor.TensorWrapper,
            torch.fx.GraphModule.recompile,
            torch._export.utils._materialize_cpp_cia_ops,
        )

    before = found()
    for replaced in (
        executorch_internals.op_builder_replaced(print),
        executorch_internals.wrappers_replaced(int, int, int),
        executorch_internals.preprocess_globals_kept(),
        executorch_internals.graphs_compiled_when_run(),
        executorch_internals.composite_ops_loaded_once(),
    ):
        with pytest.raises(KeyError), replaced:
            vars(qnn_preprocess)["range"] = None
            raise KeyError
    vars(qnn_preprocess).pop("range", None)
    assert found() == before
