"""This module holds the facts of a .pte: methods, their inputs and outputs, constants, and the context binaries behind
them.
"""

from dataclasses import asdict, dataclass
from pathlib import Path

from hexport.programs.context_binary import TensorEncoding


@dataclass(frozen=True)
class TensorFacts:
    """An instance holds the facts of an input or output of a method.

    name: by its place in the runner's order, None where the method has another order. planned: the program brings its
    buffer. encoding: None for plain numbers, and where the program does not record it.
    """

    name: str | None
    shape: tuple[int, ...]
    dtype: str
    planned: bool
    encoding: TensorEncoding | None

    @property
    def is_mask(self) -> bool:
        return self.name is not None and self.name.endswith("mask")

    @property
    def is_cache(self) -> bool:
        """Tell whether the tensor is a cache that goes in, or new k and v that come out."""
        return self.name is not None and self.name.startswith(("k_", "v_"))


@dataclass(frozen=True)
class QnnOptions:
    """An instance holds the options that a QNN delegate was compiled with.

    htp_arch: such as V75. online_prepare: the device compiles when it loads. from_context_binary: executorch did not
    compile it.
    """

    backend: str
    soc: str
    htp_arch: str
    shared_buffer: bool
    weight_sharing: bool
    multi_contexts: bool
    online_prepare: bool
    from_context_binary: bool


@dataclass(frozen=True)
class Part:
    """A part is a delegate of a method. data: its place in `ProgramFacts.delegate_data`; options: of QNN delegates
    only.
    """

    backend: str
    data: int
    options: QnnOptions | None


@dataclass(frozen=True)
class MethodFacts:
    """An instance holds the facts of a method that computes.

    parts: the delegates in the order of their calls. operators: what the CPU computes between them, each once.
    """

    inputs: list[TensorFacts]
    outputs: list[TensorFacts]
    parts: list[Part]
    operators: list[str]


@dataclass(frozen=True)
class DelegateData:
    """An instance tells of bytes that methods hand to a backend; in QNN's case they are a context binary. executorch
    stores equal ones once.

    methods: those that use the bytes. graphs and qnn_build: None where QNN does not know the bytes for a context
    binary.
    """

    n_bytes: int
    methods: list[str]
    graphs: list[str] | None
    qnn_build: str | None


@dataclass(frozen=True)
class ProgramFacts:
    """An instance holds the facts of a program. methods: those that compute. constants: values of the constant methods,
    sorted by name.
    """

    path: Path
    n_bytes: int
    methods: dict[str, MethodFacts]
    constants: dict[str, object]
    delegate_data: list[DelegateData]

    @property
    def parts(self) -> list[Part]:
        """Return the parts of all methods."""
        return [part for method in self.methods.values() for part in method.parts]

    @property
    def options(self) -> QnnOptions | None:
        """Return the options of the first QNN delegate, or None; the whole program is compiled with one set."""
        return next((part.options for part in self.parts if part.options), None)

    def as_json(self) -> dict:
        """Return the facts as JSON has them."""
        return {**asdict(self), "path": str(self.path)}

    @classmethod
    def of_json(cls, content: dict) -> "ProgramFacts":
        """Return the facts that `as_json` wrote."""
        return cls(
            Path(content["path"]),
            content["n_bytes"],
            {name: _method(method) for name, method in content["methods"].items()},
            content["constants"],
            [DelegateData(**data) for data in content["delegate_data"]],
        )


def _method(content: dict) -> MethodFacts:
    inputs, outputs = ([_tensor(tensor) for tensor in content[key]] for key in ("inputs", "outputs"))
    parts = [Part(**part | {"options": part["options"] and QnnOptions(**part["options"])}) for part in content["parts"]]
    return MethodFacts(inputs, outputs, parts, content["operators"])


def _tensor(content: dict) -> TensorFacts:
    encoding = content["encoding"] and TensorEncoding(**content["encoding"])
    return TensorFacts(**content | {"shape": tuple(content["shape"]), "encoding": encoding})
