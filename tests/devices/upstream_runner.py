"""A stand-in for the C++ qnn_llama_runner: its flags, files, checks and what it prints, around hexport's own runtime.

It runs the program that it is given on the emulator, and its tokenizer is the library that the C++ runner is linked to.
Written from executorch 1.4's examples/qualcomm/oss_scripts/llama: qnn_llama_runner.cpp, runner/*.cpp.
"""

import argparse
import json
import os
import sys
import time
from pathlib import Path


def main() -> None:
    flags = parse(sys.argv[1:])
    check(flags.decoder_model_version in ("llama2", "llama3", "gemma", "gemma3", "qwen3"), "Unsupported Decoder Model")
    check(not flags.dump_logits_path or flags.eval_mode == 0, "Only TokenGenerator(kv) mode is supported")
    stats = {"model_load_start_ms": now()}
    os.environ["XDG_CACHE_HOME"] = str(Path("cache").absolute())  # for the links to the QNN libraries
    from hexport.qnn_sdk import use_qnn_sdk

    use_qnn_sdk()
    from pytorch_tokenizers import CppHFTokenizer

    tokenizer = CppHFTokenizer()
    tokenizer.load(flags.tokenizer_path)
    stops = {tokenizer.eos_tok()}
    if flags.decoder_model_version in ("gemma", "gemma3"):
        stops.add(tokenizer.encode("<end_of_turn>", 0, 0)[0])
    prefill_graph, decode_graph = load(flags)
    stats["model_load_end_ms"] = stats["inference_start_ms"] = now()

    prompt = Path(flags.tokenized_prompt).read_bytes()
    tokens = [int.from_bytes(prompt[i : i + 8], "little") for i in range(0, len(prompt), 8)]
    seq_len = min(flags.seq_len, decode_graph.context_len)
    check(len(tokens) < seq_len, "sequence length exceeded - please increase the seq_len value")
    n_prompt, rows = len(tokens), []
    calls = generate(flags, prefill_graph, decode_graph, tokens, seq_len, stops, rows, stats)
    printed = [flags.tokenized_prompt.encode(), *(piece(tokenizer, token) for token in tokens[n_prompt:])]
    stats |= {"inference_end_ms": now(), "prompt_tokens": n_prompt, "generated_tokens": len(tokens) - n_prompt - 1}
    stats |= {"prompt_eval_end_ms": stats["first_token_ms"], "SCALING_FACTOR_UNITS_PER_SECOND": 1000}
    if flags.eval_mode == 2:
        accepted = stats["generated_tokens"] - calls
        log(f"Lookahead Decoding: n_generated = {stats['generated_tokens']} / n_accept = {accepted}")
    print(f"\n\nPyTorchObserver {json.dumps(stats, separators=(',', ':'))}")
    Path(flags.performance_output_path).write_text("1.0")
    if flags.dump_logits_path:
        Path(flags.dump_logits_path).write_bytes(b"".join(row.tobytes() for row in rows))
    Path(flags.output_path).write_bytes(b"".join(printed))


def piece(tokenizer, token: int) -> bytes:
    """What a token is decoded to, which may be a part of a character."""
    try:
        return tokenizer.decode(token).encode()
    except UnicodeDecodeError as error:  # only the library's binding for Python minds
        return error.object


def parse(words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(exit_on_error=False, allow_abbrev=False)
    for name, default in {"decoder_model_version": "llama2", "model_path": "kv_llama_qnn.pte"}.items():
        parser.add_argument(f"--{name}", default=default)
    for name in ("tokenizer_path", "tokenized_prompt", "output_path"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--performance_output_path", default="inference_speed.txt")
    parser.add_argument("--dump_logits_path", default="")
    parser.add_argument("--temperature", type=float, default=0.0)
    parser.add_argument("--shared_buffer", action="store_true")
    for name, default in {"seq_len": 128, "eval_mode": 1, "ngram": 0, "window": 0, "gcap": 0}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    try:
        return parser.parse_args(words)
    except argparse.ArgumentError as error:
        print(f"ERROR: {error}", file=sys.stderr)
        sys.exit(1)


def load(flags: argparse.Namespace) -> tuple:
    """Prefill and decode graph, with what the runner reads from the methods' inputs and outputs: of 16-bit programs."""
    from executorch.runtime import Runtime, Verification

    from hexport.runtime.graph import Graph

    program = Runtime.get().load_program(flags.model_path, verification=Verification.InternalConsistency)
    scale, zero_point = (program.load_method(f"get_logits_{name}").execute([])[0] for name in ("scale", "zero_point"))

    def graph(name: str) -> Graph:
        method = program.load_method(name)
        mask, logits, k = (
            meta.sizes()
            for meta in (
                method.metadata.input_tensor_meta(1),
                method.metadata.output_tensor_meta(0),
                method.metadata.output_tensor_meta(1),
            )
        )
        sizes = {"ar_len": mask[2], "context_len": mask[3], "vocab_size": logits[2], "n_kv_heads": k[1]}
        dtypes = {"cache_dtype": "uint16", "mask_dtype": "uint16", "token_dtype": "int32"}
        return Graph(
            method=method, n_layers=(method.metadata.num_outputs() - 1) // 2, head_dim=k[2], sliding_window=None,
            logits_scale=scale, logits_zero_point=zero_point, **sizes, **dtypes,
        )  # fmt: skip

    decode_graph = graph("kv_forward")
    return graph("prefill_forward") if flags.eval_mode else decode_graph, decode_graph


def generate(flags, prefill_graph, decode_graph, tokens: list[int], end: int, stops: set[int], rows, stats) -> int:
    """Append to tokens, and to rows the prompt's logits if they are wanted; return the number of decode calls."""
    import numpy as np

    from hexport.runtime import lookahead
    from hexport.runtime.kv_cache import KVCache
    from hexport.runtime.prefill import prefill, read_block, read_rows

    cache = KVCache(prefill_graph, decode_graph)
    check(len(tokens) <= decode_graph.context_len - prefill_graph.ar_len, "the prompt exceeds the cache")
    if flags.dump_logits_path:
        rows += [read_rows(decode_graph, cache, [token], slice(0, 1), as_put_out=True) for token in tokens]
        tokens.append(int(np.argmax(rows[-1])))
    else:
        tokens.append(int(np.argmax(prefill(prefill_graph, cache, tokens))))
    stats["first_token_ms"] = now()
    log("RSS after prompt prefill: 0.000000 MiB (0 if unsupported)")
    if flags.eval_mode == 2:
        size = lookahead.Size(flags.ngram, flags.window, flags.gcap)
        end = min(end, decode_graph.cache_len + 2)
        return lookahead.decode_ahead(decode_graph, cache, tokens, end, frozenset(stops), size, lambda token: None)
    calls = 0
    while len(tokens) < end and (calls == 0 or tokens[-1] not in stops):  # it does not look at the first one
        tokens.append(int(np.argmax(read_block(decode_graph, cache, tokens[-1:]))))
        calls += 1
    return calls


def check(condition: bool, complaint: str) -> None:
    """ET_CHECK_MSG: the process aborts."""
    if not condition:
        print(f"F 00:00:00.000000 executorch:runner.cpp] Check failed: {complaint}", file=sys.stderr, flush=True)
        os.abort()


def log(line: str) -> None:
    print(f"I 00:00:00.000000 executorch:runner.cpp] {line}", file=sys.stderr, flush=True)


def now() -> int:
    return time.time_ns() // 1_000_000


if __name__ == "__main__":
    main()
