"""This module reads what a QNN context binary says of its graphs, by the SDK's system library and without loading it
anywhere.

executorch's QnnManager would tell the same, but it sets up the HTP for that and takes the binary as a copy. The
structures are those of the SDK's QnnSystemInterface.h, QnnSystemContext.h, QnnTypes.h and QnnHtpSystemContext.h.
"""

import ctypes
import functools
import hashlib
from ctypes import POINTER, Structure, c_char_p, c_float, c_int32, c_uint32, c_uint64, c_void_p
from dataclasses import dataclass

import numpy as np

from hexport.errors import HexportError
from hexport.qnn_sdk import HOST_LIBRARIES, use_qnn_sdk

# Where the bytes of a delegate start with this number, a header of executorch stands before the context binary.
MAGIC = 0x5678ABCD.to_bytes(4, "little")
HEADER_BYTES = 256
OURS = 0x80  # in the last byte of a signature: the sign of a number
HEADER_SIGNATURE_AT, HEADER_SIZE_AT = slice(4, 12), slice(12, 20)  # behind the magic number
KNOWN_VERSIONS = (1, 2, 3)
HTP_GRAPH_INFO = 1  # QNN_SYSTEM_CONTEXT_HTP_GRAPH_INFO_BLOB_VERSION_V1
PER_TENSOR = (1, 0)  # QNN_DEFINITION_DEFINED, QNN_QUANTIZATION_ENCODING_SCALE_OFFSET


@dataclass(frozen=True)
class TensorEncoding:
    """An encoding tells what the codes of a whole tensor mean: value = (code - zero_point) * scale."""

    scale: float
    zero_point: int


@dataclass(frozen=True)
class QnnTensor:
    """A tensor is an input or output of a graph. Without an encoding it holds plain numbers."""

    name: str
    shape: tuple[int, ...]
    encoding: TensorEncoding | None


@dataclass(frozen=True)
class QnnGraph:
    """A graph has its inputs and outputs in the order of the binary.

    spill_fill_bytes: memory that the HTP needs for what its own does not hold; None where the binary does not say.
    """

    inputs: list[QnnTensor]
    outputs: list[QnnTensor]
    spill_fill_bytes: int | None


@dataclass(frozen=True)
class QnnContext:
    """A context holds graphs by their names. build_id: that of the QNN libraries which compiled it."""

    build_id: str
    graphs: dict[str, QnnGraph]


class DamagedBinary(ValueError):
    """The bytes of a context binary are damaged; the text of the error says what is wrong with them."""


def context_binary(delegate_data: np.ndarray) -> np.ndarray:
    """Return the context binary in the uint8 data of a delegate: without executorch's header, if it has one.

    Raises DamagedBinary where the header promises more bytes than there are (QNN trusts what a binary says of itself),
    and where the bytes are not those that hexport signed.
    """
    if bytes(delegate_data[:4]) != MAGIC:
        return delegate_data
    size = int.from_bytes(bytes(delegate_data[HEADER_SIZE_AT]), "little")
    signed, binary = delegate_data[: HEADER_BYTES + size], delegate_data[HEADER_BYTES : HEADER_BYTES + size]
    if len(binary) != size:
        raise DamagedBinary(f"a context binary has {len(binary)} bytes, and its header says {size}")
    signature = bytes(signed[HEADER_SIGNATURE_AT])
    if signature[-1] & OURS and signature != signature_of(signed):
        raise DamagedBinary("the bytes of a context binary are not those that its signature was made of")
    return binary


def signature_of(signed: np.ndarray) -> bytes:
    """Return the 8-byte signature that hexport gives a context binary (uint8, with executorch's header): a digest of
    all the rest.

    executorch's runtime takes loads of equal signatures for loads of the same context, and checks nothing else
    (QnnExecuTorchBackend::init). So other content needs another signature, and equal content the same one. executorch
    makes one of its clock, a positive number of 64 bits; hexport's are negative, and tell whether the content is whole.
    """
    digest = hashlib.sha256(signed[: HEADER_SIGNATURE_AT.start])
    digest.update(signed[HEADER_SIGNATURE_AT.stop :])
    *first, last = digest.digest()[: HEADER_SIGNATURE_AT.stop - HEADER_SIGNATURE_AT.start]
    return bytes([*first, last | OURS])


def read_context(binary: np.ndarray) -> QnnContext | None:
    """Return what a context binary (uint8, may be memory-mapped) says of its graphs; None where QNN does not know it
    for one.

    Raises HexportError where this host's QNN libraries cannot read any.
    """
    if not len(binary):
        return None
    create, get_metadata, free = _system_functions()
    handle, info = c_void_p(), POINTER(_BinaryInfo)()
    if create(ctypes.byref(handle)):
        raise HexportError("libQnnSystem.so gives no system context; check QNN_SDK_ROOT, or unset it")
    try:
        data = binary.ctypes.data_as(c_void_p)
        if get_metadata(handle, data, binary.nbytes, ctypes.byref(info)) or not info:
            return None
        return _context(info.contents)
    finally:
        free(handle)


class _Version(Structure):
    _fields_ = (("major", c_uint32), ("minor", c_uint32), ("patch", c_uint32))


class _Provider(Structure):
    _fields_ = (
        ("backend", c_uint32),
        ("name", c_char_p),
        ("api", _Version),
        ("create", ctypes.CFUNCTYPE(c_uint64, POINTER(c_void_p))),
        ("get_binary_info", c_void_p),
        ("get_metadata", ctypes.CFUNCTYPE(c_uint64, c_void_p, c_void_p, c_uint64, c_void_p)),
        ("free", ctypes.CFUNCTYPE(c_uint64, c_void_p)),
    )


class _Quantization(Structure):
    """The encoding of a tensor: scale and offset where it is one of the tensor as a whole; other kinds fill the 32
    bytes otherwise.
    """

    _fields_ = (
        ("definition", c_uint32),
        ("kind", c_uint32),
        ("scale", c_float),
        ("offset", c_int32),
        ("rest", c_uint64 * 3),
    )


class _Tensor(Structure):
    """A tensor. Versions 1 and 2 differ in the rest only. The version stands before a union, which 8-byte pointers
    align.
    """

    _fields_ = (
        ("version", c_uint32),
        ("padding", c_uint32),
        ("id", c_uint32),
        ("name", c_char_p),
        ("type", c_uint32),
        ("format", c_uint32),
        ("data_type", c_uint32),
        ("_align", c_uint32),
        ("quantization", _Quantization),
        ("rank", c_uint32),
        ("dimensions", POINTER(c_uint32)),
        ("rest", c_uint64 * 6),
    )


class _HtpGraph(Structure):
    """This tells what the HTP needs for a graph. More fields follow."""

    _fields_ = (("version", c_uint32), ("padding", c_uint32), ("spill_fill_bytes", c_uint64))


class _GraphInfo(Structure):
    """A graph. Version 1 ends with the outputs, version 2 with what can be updated."""

    _fields_ = (
        ("version", c_uint32),
        ("padding", c_uint32),
        ("name", c_char_p),
        ("n_inputs", c_uint32),
        ("inputs", POINTER(_Tensor)),
        ("n_outputs", c_uint32),
        ("outputs", POINTER(_Tensor)),
        ("n_updateable", c_uint32),
        ("updateable", POINTER(_Tensor)),
        ("htp_size", c_uint32),
        ("htp", POINTER(_HtpGraph)),
        ("rest", c_uint64),
    )


_COMMON = (
    ("version", c_uint32),
    ("padding", c_uint32),
    ("backend", c_uint32),
    ("build_id", c_char_p),
    ("core_api", _Version),
    ("backend_api", _Version),
    ("soc_version", c_char_p),
)
_GRAPHS = (
    ("blob_size", c_uint64),
    ("n_tensors", c_uint32),
    ("tensors", c_void_p),
    ("n_graphs", c_uint32),
    ("graphs", POINTER(_GraphInfo)),
)


class _BinaryInfo(Structure):
    """A binary in version 3."""

    _fields_ = (*_COMMON, ("blob_version", _Version), *_GRAPHS)


class _BinaryInfoWithHardware(Structure):
    """A binary in versions 1 and 2."""

    _fields_ = (
        *_COMMON,
        ("hardware_version", _Version),
        ("blob_version", _Version),
        ("hardware_size", c_uint32),
        ("hardware", c_void_p),
        *_GRAPHS,
    )


def _context(info: _BinaryInfo) -> QnnContext | None:
    if info.version not in KNOWN_VERSIONS:
        return None
    if info.version < 3:
        info = _BinaryInfoWithHardware.from_address(ctypes.addressof(info))
    graphs = info.graphs[: info.n_graphs]
    if any(graph.version not in KNOWN_VERSIONS for graph in graphs):
        return None
    found = {
        graph.name.decode(errors="replace"): QnnGraph(
            [_tensor(tensor) for tensor in graph.inputs[: graph.n_inputs]],
            [_tensor(tensor) for tensor in graph.outputs[: graph.n_outputs]],
            _spill_fill_bytes(graph),
        )
        for graph in graphs
    }
    return QnnContext((info.build_id or b"").decode(errors="replace"), found)


def _spill_fill_bytes(graph: _GraphInfo) -> int | None:
    if graph.version < 3 or graph.htp_size < ctypes.sizeof(_HtpGraph) or not graph.htp:
        return None
    htp = graph.htp.contents
    return htp.spill_fill_bytes if htp.version == HTP_GRAPH_INFO else None


def _tensor(tensor: _Tensor) -> QnnTensor:
    quantization, encoding = tensor.quantization, None
    if (quantization.definition, quantization.kind) == PER_TENSOR:
        encoding = TensorEncoding(quantization.scale, -quantization.offset)
    return QnnTensor(tensor.name.decode(errors="replace"), tuple(tensor.dimensions[: tensor.rank]), encoding)


@functools.cache
def _system_functions() -> tuple:
    library = ctypes.CDLL(str(use_qnn_sdk() / HOST_LIBRARIES / "libQnnSystem.so"))
    providers, count = POINTER(POINTER(_Provider))(), c_uint32()
    if library.QnnSystemInterface_getProviders(ctypes.byref(providers), ctypes.byref(count)) or not count.value:
        raise HexportError("libQnnSystem.so provides no system interface; check QNN_SDK_ROOT, or unset it")
    provider = providers[0].contents
    return provider.create, provider.get_metadata, provider.free
