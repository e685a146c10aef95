"""This module holds what hexport takes from inside of executorch and torch: names that are not their interface, each in
one place.

Where another version lacks one, a line says which version hexport was tried with.
"""

import contextlib
import functools
import importlib
import weakref
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from importlib import metadata
from pathlib import Path
from typing import Any

from hexport.errors import HexportError

TRIED_WITH = "1.5.1"
QUALCOMM = "executorch.backends.qualcomm"
SERIALIZE = "executorch.exir._serialize"


def internal(module: str, name: str) -> Any:
    """Return what a name inside of executorch stands for. Raises HexportError where this version has no such name."""
    try:
        value: Any = importlib.import_module(module)
        for part in name.split("."):
            value = getattr(value, part)
    except (ImportError, AttributeError):
        raise HexportError(
            f"executorch {metadata.version('executorch')} has no {module}.{name}; {tried_with()}"
        ) from None
    return value


def tried_with() -> str:
    """Return the end of a message, which says what version of executorch to install."""
    return f"hexport was tried with executorch {TRIED_WITH}: install that (`make setup`)"


def program_of_flatbuffer(content: bytes) -> Any:
    """Return the tables of a .pte (executorch.exir.schema.Program) without the segments behind them.

    The public `deserialize_pte_binary` reads the whole file, and puts gigabytes of segments into the program.
    """
    return internal(f"{SERIALIZE}._program", "_flatbuffer_to_program")(content)


def program_pieces(program: Any, config: Any, files: dict[bytes, Path]) -> list[bytes | Path]:
    """Return the content of a .pte in its order: bytes, and files in the places of the delegates' data.

    `program` is emitted (executorch.exir.schema.Program) with the keys of `files` as the delegates' data, which are
    changed here, and without data that methods change. `config` is the ExecutorchBackendConfig that it was emitted
    with. What is public takes all data as bytes, and copies them.
    """
    file_backed = internal(f"{SERIALIZE}._cord", "FileBackedData")
    for data in program.backend_delegate_data:
        path = files[data.data]
        data.data = file_backed(str(path))
        data.data.path = path
    cord = internal(f"{SERIALIZE}._program", "serialize_pte_binary")(
        internal(f"{SERIALIZE}._program", "PTEFile")(program),
        extract_delegate_segments=config.extract_delegate_segments,
        segment_alignment=config.segment_alignment,
        constant_tensor_alignment=config.constant_tensor_alignment,
        delegate_alignment=config.delegate_alignment,
    )
    if not isinstance(getattr(cord, "_buffers", None), list):
        internal(f"{SERIALIZE}._cord", "Cord._buffers")
    return [piece.path if isinstance(piece, file_backed) else piece for piece in cord._buffers]


def quantised_io_pass() -> Any:
    """Return the pass that gives a program's inputs and outputs their dtypes of codes."""
    return internal(f"{QUALCOMM}._passes.build_quant_io", "BuildQuantIo")()


def capture_passes() -> tuple[dict, Any]:
    """Return the default passes of a QNN lowering, and the key among them of the pass that asks which I/O
    is quantised."""
    manager = internal(f"{QUALCOMM}._passes.qnn_pass_manager", "get_qnn_pass_manager_cls")()
    return manager.get_capture_program_passes(), internal(f"{QUALCOMM}._passes.tag_quant_io", "TagQuantIO")


def add_strategy(recipe: Any, strategy: Any) -> None:
    """Let a QuantRecipe of executorch's quantiser ask one more strategy, as its public methods do for their own."""
    if not isinstance(getattr(recipe, "_strategies", None), list):
        internal(f"{QUALCOMM}.quantizer.quant_recipe", "QuantRecipe._strategies")
    recipe._strategies.append(strategy)


def op_builder(target: str) -> type:
    """Return the class that builds the QNN op of an op (`aten.rms_norm.default`); executorch keeps it by that name
    alone."""
    module = f"{QUALCOMM}.builders.node_visitor_manager"
    builders = internal(module, "_node_visitor_dict")
    if target not in builders:
        internal(module, f"_node_visitor_dict[{target!r}]")
    return builders[target]


@contextlib.contextmanager
def _replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Put a value in the place of what a module or a class has of this name."""
    before = vars(owner)[name]
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


@contextlib.contextmanager
def node_histories_shared() -> Iterator[None]:
    """Copy graphs without copies of what torch writes down of each node's origin, which nobody changes.

    These histories grow with every pass, and copies of them took a sixth of the time of a template.
    """
    history = internal("torch.fx.traceback", "NodeSource")
    history.__deepcopy__ = lambda source, memo: source
    try:
        yield
    finally:
        del history.__deepcopy__


@contextlib.contextmanager
def graphs_compiled_when_run() -> Iterator[None]:
    """Let a graph module write and compile its Python code when it is first called.

    torch does so whenever a graph is set or changed, a hundred times in a lowering, of graphs that nobody calls: a
    quarter of the time of a template.
    """
    graph_module = internal("torch.fx", "GraphModule")
    compile_now = internal("torch.fx.graph_module", "GraphModule.recompile")

    class Compiled:
        """A Compiled stands for what the code of one graph module gives it, until it is asked for."""

        def __init__(self, module: Any, name: str):
            self.module, self.name = weakref.ref(module), name

        def __get__(self, instance: Any, owner: type) -> Any:
            compile_now(self.module())
            return getattr(owner if instance is None else instance, self.name)

    def compile_when_run(module: Any) -> None:
        if info := getattr(module.graph._codegen, "pytree_info", None):
            module._in_spec, module._out_spec = info.in_spec, info.out_spec
        vars(module).pop("_code", None)
        for name in ("forward", "_code"):
            setattr(type(module), name, Compiled(module, name))

    with _replaced(graph_module, "recompile", compile_when_run):
        yield


def composite_ops_loaded_once() -> AbstractContextManager[None]:
    """Let torch load the composite ops of its C++ side once, and not 40 times for each of three exports.

    What modules register when they are imported is there by then. This took a tenth of the time of a template.
    """
    module, name = "torch._export.utils", "_materialize_cpp_cia_ops"
    once = functools.cache(internal(module, name))
    return _replaced(importlib.import_module(module), name, once)


def exported_as_it_runs() -> AbstractContextManager[None]:
    """Have executorch's flow export a graph by running it, and not by reading its bytecode.

    Both give the same; a graph that was exported before has nothing in its bytecode that a run does not show.
    """
    export = internal("torch.export", "export")

    def as_it_runs(*args: Any, **options: Any) -> Any:
        return export(*args, **options | {"strict": False})  # which the flow sets

    return _replaced(importlib.import_module("torch.export"), "export", as_it_runs)


@contextlib.contextmanager
def op_builder_replaced(replacement: Callable) -> Iterator[Callable]:
    """Have the QNN backend call `replacement` where it would build op wrappers; yields what builds them."""
    build = internal(f"{QUALCOMM}.qnn_preprocess", "QnnBackend._build_op_wrappers")
    backend = internal(f"{QUALCOMM}.qnn_preprocess", "QnnBackend")
    with _replaced(backend, "_build_op_wrappers", staticmethod(replacement)):
        yield build


@contextlib.contextmanager
def wrappers_replaced(tensor: type, op: type, reader: type) -> Iterator[None]:
    """Have the op builders make these classes in the place of the compiler's own."""
    adaptor = f"{QUALCOMM}.python.PyQnnManagerAdaptor"
    module, replacements = importlib.import_module(adaptor), dict(zip(WRAPPERS, (tensor, op, reader), strict=True))
    with contextlib.ExitStack() as all_replaced:
        for name, replacement in replacements.items():
            internal(adaptor, name)
            all_replaced.enter_context(_replaced(module, name, replacement))
        yield


WRAPPERS = ("TensorWrapper", "PyQnnOpWrapper", "PyQnnTensorWrapper")


@contextlib.contextmanager
def preprocess_globals_kept() -> Iterator[None]:
    """Undo what the loader of context binaries does to its module: it puts all of torch's globals into it."""
    internal(f"{QUALCOMM}.qnn_preprocess", "QnnBackend")
    namespace = vars(importlib.import_module(f"{QUALCOMM}.qnn_preprocess"))
    before = dict(namespace)
    try:
        yield
    finally:
        namespace.clear()
        namespace.update(before)
