"""This module checks whether a program obeys the ABI of the QNN llama runner (ExecuTorch 1.4 and later), and tells its
faults, one line each.
"""

from collections.abc import Iterator
from dataclasses import fields
from math import isclose, isfinite

from hexport.programs.abi import KV_METHOD, PREFILL_METHOD, SLIDING_WINDOW
from hexport.programs.context_binary import TensorEncoding
from hexport.programs.facts import MethodFacts, ProgramFacts, TensorFacts
from hexport.programs.layout import EXPORT_AGAIN, TOKEN_DTYPES, Layout, layouts_of, other_layout

ATTEND_CODES = {"uint16": 65535, "uint8": 255}
BITS = {"uint16": 16, "uint8": 8, "float32": 32}  # bits of the codes or floats that masks, caches and logits may have
N_LAYERS, VOCAB_SIZE, SEQ_LEN = "get_n_layers", "get_vocab_size", "get_max_seq_len"
N_CACHES = "get_n_self_layers"  # models whose upper layers have no cache of their own tell it
CONTEXT_LEN, KV_BITS = "get_max_context_len", "get_kv_io_bit_width"
AR_LEN, N_KV_HEADS, HEAD_DIM = "get_ar_len", "get_n_kv_heads", "get_head_dim"
LOGITS_SCALE, LOGITS_ZERO_POINT = "get_logits_scale", "get_logits_zero_point"
SAME_SCALE = 1e-6  # relative; context binaries hold float32, constant methods float64


def faults(program: ProgramFacts) -> list[str]:
    """Return the faults of a program, none for one that obeys the ABI. Each line tells what, where, and what to do
    about it.
    """
    layout = other_layout(program)
    return [layout] if layout else list(_faults(program))


def _faults(program: ProgramFacts) -> Iterator[str]:
    layouts = layouts_of(program)
    decode = layouts[KV_METHOD]
    for name, layout in layouts.items():
        yield from _graph_faults(name, program.methods[name], layout)
    yield from _constant_faults(program.constants, decode)
    if PREFILL_METHOD in layouts:
        yield from _pair_faults(program, decode, layouts[PREFILL_METHOD])
    elif decode.ar_len != 1:
        yield (
            f"{KV_METHOD} reads {decode.ar_len} tokens a call, which no mode uses without {PREFILL_METHOD}; "
            f"{EXPORT_AGAIN}"
        )
    for name in layouts:
        yield from _binary_faults(program, name)
    methods = {name: program.methods[name] for name in layouts}
    yield from _encoding_faults(methods)
    for name, method in methods.items():
        yield from _logits_faults(name, method.outputs[0], program.constants)


def _graph_faults(name: str, method: MethodFacts, layout: Layout) -> Iterator[str]:
    tensors = [*method.inputs, *method.outputs]
    if wrong := [tensor for tensor in tensors if tensor.shape != layout.shape(tensor.name)]:
        yield (
            f"{name}: {_and_more(wrong)} has shape {wrong[0].shape}, expected {layout.shape(wrong[0].name)} for AR "
            f"length {layout.ar_len} and context length {layout.context_len}; {EXPORT_AGAIN}"
        )
    yield from _length_faults(name, layout, any(tensor.name == "input_pos" for tensor in method.inputs))
    yield from _dtype_faults(name, tensors, layout)
    if planned := [tensor for tensor in tensors if tensor.planned]:
        yield (
            f"{name}: {_and_more(planned)} lies in the program's own memory plan, but the runner brings all buffers; "
            f"export it again with alloc_graph_input=False and alloc_graph_output=False"
        )


def _length_faults(name: str, layout: Layout, cached: bool) -> Iterator[str]:
    if layout.cache_len < 0:
        yield f"{name}: AR length {layout.ar_len} exceeds the context length {layout.context_len}; {EXPORT_AGAIN}"
    elif layout.cache_len == 0 and name == KV_METHOD:
        yield (
            f"{name}: the AR length is the context length {layout.context_len}, which leaves no cache to decode with; "
            f"{EXPORT_AGAIN}"
        )
    elif layout.cache_len == 0 and cached:
        yield (
            f"{name}: the AR length is the context length {layout.context_len}, so positions and caches must not be "
            f"inputs; {EXPORT_AGAIN}"
        )
    elif layout.cache_len > 0 and not cached:
        yield f"{name}: positions and caches are missing among the inputs; {EXPORT_AGAIN}"


def _dtype_faults(name: str, tensors: list[TensorFacts], layout: Layout) -> Iterator[str]:
    expected = {"tokens": TOKEN_DTYPES, "input_pos": ("int32",), "logits": tuple(BITS)}
    for tensor in tensors:
        if tensor.name in expected and tensor.dtype not in expected[tensor.name]:
            yield _wrong_dtype(name, tensor, expected[tensor.name])
    masks = [tensor for tensor in tensors if tensor.is_mask]
    caches = [tensor for tensor in tensors if tensor.is_cache]
    for group, dtype in ((masks, layout.mask_dtype), (caches, layout.cache_dtype)):
        allowed = (dtype,) if dtype in BITS else tuple(BITS)
        if wrong := [tensor for tensor in group if tensor.dtype not in allowed]:
            yield _wrong_dtype(name, wrong[0], allowed)


def _wrong_dtype(name: str, tensor: TensorFacts, allowed: tuple[str, ...]) -> str:
    return f"{name}: {tensor.name} is {tensor.dtype}, expected {' or '.join(allowed)}; {EXPORT_AGAIN}"


def _and_more(tensors: list[TensorFacts]) -> str:
    return tensors[0].name + (f" (and {len(tensors) - 1} more)" if tensors[1:] else "")


def _constant_faults(constants: dict[str, object], decode: Layout) -> Iterator[str]:
    for name in (N_LAYERS, VOCAB_SIZE, SEQ_LEN):
        if name not in constants:
            yield f"constant method {name} is missing, which runners and host tools read; {EXPORT_AGAIN}"
    if decode.logits_dtype != "float32" and not {LOGITS_SCALE, LOGITS_ZERO_POINT} <= constants.keys():
        yield (
            f"constant methods {LOGITS_SCALE} and {LOGITS_ZERO_POINT} are missing: a deprecated program, whose logits "
            f"nobody can dequantise; {EXPORT_AGAIN}"
        )
    for name in (LOGITS_SCALE, LOGITS_ZERO_POINT, SLIDING_WINDOW):
        if name in constants and not _is_number(constants[name]):
            yield f"{name} is {constants[name]!r}, expected a number; {EXPORT_AGAIN}"
    found = {
        N_CACHES if N_CACHES in constants else N_LAYERS: (decode.n_layers, "layers with caches"),
        VOCAB_SIZE: (decode.vocab_size, "logits a token"),
        CONTEXT_LEN if CONTEXT_LEN in constants else SEQ_LEN: (decode.context_len, "columns of the mask"),
        AR_LEN: (decode.ar_len, "as its AR length"),
        N_KV_HEADS: (decode.n_kv_heads, "heads in its caches"),
        HEAD_DIM: (decode.head_dim, "as head_dim of its caches"),
        KV_BITS: (BITS.get(decode.cache_dtype), "bits of the caches"),
    }
    for name, (value, what) in found.items():
        if value is not None and constants.get(name, value) != value:
            yield f"{name} is {constants[name]!r}, but {KV_METHOD} has {value} {what}; {EXPORT_AGAIN}"
    if (SLIDING_WINDOW in constants) != (decode.n_masks == 2):
        has, lacks = f"constant method {SLIDING_WINDOW}", "a second mask (window_atten_mask)"
        if decode.n_masks == 2:
            has, lacks = lacks, has
        yield f"{KV_METHOD}: there is {has}, but not {lacks}; a sliding window needs both; {EXPORT_AGAIN}"


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)


def _pair_faults(program: ProgramFacts, decode: Layout, prefill: Layout) -> Iterator[str]:
    shared = [field.name for field in fields(Layout) if field.name not in ("ar_len", "head_dims")]
    sizes = [(name.replace("_", " "), getattr(decode, name), getattr(prefill, name)) for name in shared]
    dims = enumerate(zip(decode.head_dims, prefill.head_dims, strict=False))  # n_layers is compared above
    sizes += [(f"head_dim of layer {i}", one, other) for i, (one, other) in dims if one != other][:1]
    for what, one, other in sizes:
        if one != other:
            yield f"{what} is {one} in {KV_METHOD}, {other} in {PREFILL_METHOD}; they share caches; {EXPORT_AGAIN}"
    parts = [[part.data for part in program.methods[name].parts] for name in (KV_METHOD, PREFILL_METHOD)]
    if len(parts[0]) != len(parts[1]):
        yield f"{KV_METHOD} has {len(parts[0])} parts, {PREFILL_METHOD} {len(parts[1])}; {EXPORT_AGAIN}"
    elif parts[0] != parts[1]:
        yield (
            f"{KV_METHOD} and {PREFILL_METHOD} lie in different context binaries (part "
            f"{next(i for i, (a, b) in enumerate(zip(*parts, strict=True)) if a != b) + 1}); "
            "compile both in one call, as hexport does"
        )


def _binary_faults(program: ProgramFacts, name: str) -> Iterator[str]:
    for i, part in enumerate(program.methods[name].parts):
        graphs = program.delegate_data[part.data].graphs
        if graphs is not None and name not in graphs:
            yield (
                f"{name}: part {i + 1} is a context binary of {', '.join(graphs) or 'no graph'}; a graph must have the "
                f"name of its method; {EXPORT_AGAIN}"
            )


def _encoding_faults(methods: dict[str, MethodFacts]) -> Iterator[str]:
    """Yield the faults in the encodings of masks and caches, as far as they are recorded."""
    caches: dict[str, tuple[str, TensorEncoding]] = {}
    for name, method in methods.items():
        for tensor in (*method.inputs, *method.outputs):
            if tensor.encoding is None:
                continue
            where = f"{name}: {tensor.name}"
            attend = ATTEND_CODES.get(tensor.dtype)
            if tensor.is_mask and tensor.encoding.zero_point != attend:
                yield (
                    f"{where} has zero point {tensor.encoding.zero_point}; it must be {attend}, the code that runners "
                    f"take for 0, attend; {EXPORT_AGAIN}"
                )
            if tensor.is_cache:
                cache = tensor.name.replace("_cache", "")
                first, encoding = caches.setdefault(cache, (where, tensor.encoding))
                if not _same(encoding, tensor.encoding):
                    yield (
                        f"{where} has another encoding than {first} ({_text(tensor.encoding)}, {_text(encoding)}), but "
                        f"runners copy codes from one to the other; {EXPORT_AGAIN}"
                    )


def _logits_faults(name: str, logits: TensorFacts, constants: dict[str, object]) -> Iterator[str]:
    recorded = [constants.get(constant) for constant in (LOGITS_SCALE, LOGITS_ZERO_POINT)]
    if logits.encoding is None or logits.dtype == "float32" or not all(map(_is_number, recorded)):
        return
    told = TensorEncoding(*recorded)
    if not _same(logits.encoding, told):
        found = _text(logits.encoding)
        yield f"{name}: logits have {found}, but the constant methods say {_text(told)}; {EXPORT_AGAIN}"


def _same(one: TensorEncoding, other: TensorEncoding) -> bool:
    return one.zero_point == other.zero_point and isclose(one.scale, other.scale, rel_tol=SAME_SCALE)


def _text(encoding: TensorEncoding) -> str:
    return f"scale {encoding.scale:.6g} and zero point {encoding.zero_point}"
