"""inspect_pte.py on programs of lower.py: its table, its JSON, its exit code; and programs that only phones load."""

import json
import subprocess
from pathlib import Path

import pytest
from forks import FORKS
from tiny_model import CONTEXT, SCRIPTS, environment

from hexport.errors import HexportError
from hexport.programs.capabilities import emulator_refusal
from hexport.programs.conformance import faults
from hexport.programs.context_binary import MAGIC
from hexport.programs.inspection import inspect_program
from hexport.runtime.program import Program

N_LAYERS, AR = 3, 5


@pytest.fixture(scope="session")
def phone_program(model, lowerings, keep) -> Path:
    """Hybrid for SM8650, in two shards, each with both graphs and one copy of the weights."""

    def build(folder: Path) -> None:
        lowerings.write(folder / "hybrid_llama_qnn.pte", *model, target="SM8650", prefill=AR, n_shards=2)

    return keep("phone", build) / "hybrid_llama_qnn.pte"


def inspect(path: Path, *options: str) -> subprocess.CompletedProcess:
    return FORKS.run(str(SCRIPTS / "inspect_pte.py"), str(path), *options, env=environment())


def document(path: Path) -> dict:
    done = inspect(path, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    return json.loads(done.stdout)


def manifest(path: Path) -> dict:
    return json.loads(path.with_name(path.name + ".manifest.json").read_text())


@pytest.mark.parametrize("program", ["kv", "phone"])
def test_names_shapes_and_encodings_are_those_that_were_lowered(tiny, phone_program, program):
    path = {"kv": tiny.program, "phone": phone_program}[program]
    methods, graphs = document(path)["methods"], manifest(path)["graphs"]
    assert list(methods) == list(graphs)
    for name, table in graphs.items():
        for kind in ("inputs", "outputs"):
            for found, expected in zip(methods[name][kind], table[kind], strict=True):
                assert [found[key] for key in ("name", "shape", "dtype")] == [
                    expected[key] for key in ("name", "shape", "dtype")
                ]
                assert found["scale"] == (pytest.approx(expected["scale"]) if "scale" in expected else None)
                assert found["zero_point"] == expected.get("zero_point")
                assert not found["planned"]


def test_the_document_of_an_emulators_program_says_where_it_runs(tiny):
    found = document(tiny.program)
    assert found["constants"]["get_n_layers"] == N_LAYERS
    assert (found["ar_lengths"], found["context_length"]) == ({"kv_forward": 1}, CONTEXT)
    fits = {"kv": {"since": "1.4.1", "limit": None}}
    assert (found["modes"], found["runners"]) == (["kv"], {"qnn_llama_runner": fits, "hexport": True})
    assert found["emulator"] == {"runs": True, "reason": None}
    assert found["abi"] == {"obeyed": True, "faults": []}
    assert (found["options"]["soc"], found["options"]["htp_arch"]) == ("SM8650", "V75")
    assert not found["options"]["shared_buffer"]
    (binary,) = found["delegate_data"]
    assert (binary["methods"], binary["graphs"]) == (["kv_forward"], ["kv_forward"])
    assert 0 < found["n_bytes"] - binary["n_bytes"] < 50_000
    assert manifest(tiny.program)["versions"]["qnn"].startswith(binary["qnn_build"])


def test_the_document_of_a_phones_program_tells_shards_and_shared_weights(phone_program):
    found = document(phone_program)
    both = ["kv_forward", "prefill_forward"]
    assert [(each["methods"], each["graphs"], each["weights_shared"]) for each in found["delegate_data"]] == [
        (both, both, True)
    ] * 2
    assert found["options"]["shared_buffer"] and found["options"]["weight_sharing"]
    assert found["options"]["multi_contexts"]
    assert found["ar_lengths"] == {"kv_forward": 1, "prefill_forward": AR}
    assert (found["modes"], found["phones"]) == (["kv", "hybrid"], ["SM8650"])
    assert not found["emulator"]["runs"]
    assert "export it for SM8650-emulator" in found["emulator"]["reason"]


def test_weights_that_graphs_share_are_refused_before_loading(phone_program):
    assert faults(inspect_program(phone_program)) == []
    with pytest.raises(HexportError, match=r"share weights.*export it for SM8650-emulator"):
        Program(phone_program)


def test_one_graph_of_a_phone_runs_on_the_emulator(variants):
    assert emulator_refusal(inspect_program(variants["SM8650"])) is None


def test_the_table_shows_every_fact(tiny):
    done = inspect(tiny.program)
    assert (done.returncode, done.stderr) == (0, "")
    rows = [" ".join(line.split()) for line in done.stdout.splitlines()]
    expected = manifest(tiny.program)["graphs"]["kv_forward"]["inputs"][1]
    mask = next(row for row in rows if row.startswith("kv_forward in atten_mask "))
    assert mask == f"kv_forward in atten_mask (1, 1, 1, {CONTEXT}) uint16 {expected['scale']:.6g} 65535"
    assert any(row.startswith("kv_forward out v_2 (1, 2, 1, 16) uint16 ") for row in rows)
    for row in ("get_vocab_size 258", "modes kv", "emulator yes", "ABI obeyed"):
        assert row in rows
    assert any(row.startswith("compiled for SM8650 (V75)") for row in rows)
    assert any(row.startswith("1 of 1 ") for row in rows)


def test_many_layers_fold_into_one_row(tiny, tmp_path):
    """The rows of layers only; the mask keeps its own."""
    from dataclasses import replace

    from rich.console import Console

    from hexport.programs.report import as_tables

    program = inspect_program(tiny.program)
    method = program.methods["kv_forward"]
    k = method.inputs[3]
    scales = [0.5, 0.25, 0.125, 1.0, 0.75]
    many = [
        replace(k, name=f"k_cache_{i}", encoding=replace(k.encoding, scale=scale)) for i, scale in enumerate(scales)
    ]
    folded = replace(program, methods={"kv_forward": replace(method, inputs=[*method.inputs[:3], *many])})
    with open(tmp_path / "table", "w+") as file:
        Console(file=file, width=160).print(as_tables(folded, ["folded"])[0])
        file.seek(0)
        rows = [" ".join(line.split()) for line in file if "k_cache" in line]
    assert rows == [f"kv_forward in k_cache_0 … k_cache_4 (1, 2, 16, 15) uint16 0.125 … 1 {k.encoding.zero_point}"]


def test_faults_are_lines_of_stderr_beside_the_table(tiny, tmp_path):
    content = tiny.program.read_bytes()
    (tmp_path / "renamed.pte").write_bytes(content.replace(b"get_n_layers", b"get_m_layers"))
    done = inspect(tmp_path / "renamed.pte")
    assert done.returncode == 1
    assert done.stderr == (
        f"error: {tmp_path / 'renamed.pte'}: constant method get_n_layers is missing, which runners and host tools "
        "read; export it again with hexport\n"
    )
    assert "get_m_layers" in done.stdout and "broken: 1 fault" in done.stdout
    as_json = inspect(tmp_path / "renamed.pte", "--json")
    assert as_json.returncode == 1
    assert len(json.loads(as_json.stdout)["abi"]["faults"]) == 1


def test_a_context_binary_without_its_header_is_refused_before_qnn_gets_it(tiny, tmp_path):
    content = bytearray(tiny.program.read_bytes())
    header = content.index(MAGIC)
    content[header : header + 400] = bytes(400)
    path = tmp_path / "damaged.pte"
    path.write_bytes(content)
    with pytest.raises(HexportError, match=r"damaged\.pte: .*no context binary that this host's QNN can read"):
        Program(path)
    assert "k_cache_0 (1, 2, 16, 15) uint16 not recorded in the program" in " ".join(inspect(path).stdout.split())


@pytest.mark.parametrize("damage", ["text", "cut short", "missing", "folder"])
def test_what_is_no_program_is_one_line(tiny, tmp_path, damage):
    path = tmp_path / "broken.pte"
    if damage == "folder":
        path.mkdir()
    elif damage != "missing":
        path.write_bytes(b"no program" * 99 if damage == "text" else tiny.program.read_bytes()[:-5000])
    done = inspect(path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: ") and "broken.pte" in done.stderr
    assert done.stderr.count("\n") == 1
