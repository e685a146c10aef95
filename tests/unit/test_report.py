"""The table and the page of what was measured: each figure where it belongs, and empty cells where there is none."""

import csv
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

import write_report
import write_summary
from hexport.build.artifacts import Place, ProgramKey
from hexport.report.programs import Cost, built_programs, model_costs

PLACE = Place("m", "16a8w", 512, "SM8650-emulator", "emulator", "hybrid")
FOLDER = "m/16a8w/ctx512/SM8650-emulator/emulator/hybrid"
OF_RESULT = {"model": "m", "recipe": "16a8w", "target": "SM8650-emulator", "device": "emulator", "mode": "hybrid"}
FP = {"tasks": {"wiki": {"word_perplexity": 20.0, "bits_per_byte": 1.5}, "quiz": {"acc": 0.75}}, "tokens": 900}
QDQ = {
    "tasks": {"wiki": {"word_perplexity": 22.0, "bits_per_byte": 1.625}, "quiz": {"acc": 0.5}},
    "tokens": 900,
    "limit": 3,
    "perplexity_ratio": {"wiki": 1.1},
    "sqnr_db": 25.5,
    "kl_divergence": 0.0625,
    "top1_agreement": 0.9375,
    "layers": [{"layer": i, "sqnr_db": db} for i, db in enumerate([40.5, 10.25, 33.5, None, 20.75])],
    "worst_layers": [1, 4, 2],
}
DEVICE = {
    "tasks": {"wiki": {"word_perplexity": 23.0, "bits_per_byte": None}, "quiz": {"acc": 0.5}},
    "tokens": 900,
    "limit": 3,
    "graph": "prefill",
    "perplexity_ratio": {"wiki": 1.15},
    "sqnr_db": 25.25,
    "kl_divergence": 0.125,
    "top1_agreement": 0.875,
    "top1_agreement_qdq": 0.96875,
}
PROGRAMS = [["m", "16a8w", 512, "SM8650-emulator", "hybrid"], ["m", "16a8w", 512, "SM8650", "kv"]]
STAGES = {"assemble": {"seconds": 12.5, "peak_rss_mb": 900}}
ANSWER = {"prompt": "Is 1 < 2 & 3?", "text": "<b>Yes</b>", "ttft_ms": 12.5, "decode_tokens_per_s": None}


@pytest.fixture
def artifacts(tmp_path) -> Path:
    """Of model m, built and run on the emulator; of n, ready; of o, which has no device."""
    folder = tmp_path / "artifacts"
    contents = {
        "m/evaluation/ctx512/fp.json": FP,
        "m/16a8w/evaluation/ctx512/qdq.json": QDQ,
        f"{FOLDER}/evaluation.json": DEVICE,
        f"{FOLDER}/result.json": {**OF_RESULT, "prompts": [ANSWER]},
        f"n{FOLDER[1:]}/evaluation.json": {
            "tasks": {"quiz": {"acc": 0.25}},
            "tokens": 7,
            "graph": "kv",
        },
        "o/evaluation/ctx64/fp.json": FP,
        "o/16a8w/evaluation/ctx64/qdq.json": QDQ,
    }
    for name, content in contents.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(json.dumps(content))
    program = folder / "m/16a8w/ctx512/SM8650-emulator/hybrid_llama_qnn.pte"
    program.write_bytes(bytes(2_000_000))
    program.with_name(program.name + ".manifest.json").write_text(json.dumps({"stages": STAGES}))
    return folder


@pytest.fixture
def settings(artifacts) -> dict:
    places = [[*PLACE, ["fp", "qdq"]], ["n", *PLACE[1:], []], ["o", "16a8w", 64, "", "", "", ["fp", "qdq"]]]
    return {"artifacts": str(artifacts), "evaluations": places}


def test_phases_stand_side_by_side(run_script, settings, tmp_path):
    output = tmp_path / "report" / "summary.csv"
    run_script(write_summary.main, settings, output=output)
    header, *_ = output.read_text().splitlines()
    assert header.startswith("model,recipe,context_length,target,device,mode,task,")
    assert "fp_word_perplexity,qdq_word_perplexity,device_word_perplexity" in header
    rows = {(row["model"], row["task"]): row for row in csv.DictReader(output.open())}
    assert list(rows) == [("m", "wiki"), ("m", "quiz"), ("n", "quiz"), ("o", "wiki"), ("o", "quiz")]
    wiki = {column: value for column, value in rows["m", "wiki"].items() if value}
    assert wiki == {
        **OF_RESULT,
        "context_length": "512",
        "task": "wiki",
        "fp_word_perplexity": "20.0",
        "qdq_word_perplexity": "22.0",
        "device_word_perplexity": "23.0",
        "fp_bits_per_byte": "1.5",
        "qdq_bits_per_byte": "1.625",
        "qdq_perplexity_ratio": "1.1",
        "device_perplexity_ratio": "1.15",
        "qdq_sqnr_db": "25.5",
        "device_sqnr_db": "25.25",
        "qdq_kl_divergence": "0.0625",
        "device_kl_divergence": "0.125",
        "qdq_top1_agreement": "0.9375",
        "device_top1_agreement": "0.875",
        "device_top1_agreement_qdq": "0.96875",
        "fp_tokens": "900",
        "qdq_tokens": "900",
        "device_tokens": "900",
        "qdq_limit": "3",
        "device_limit": "3",
        "device_graph": "prefill",
    }
    assert [rows["m", "quiz"][f"{phase}_acc"] for phase in ("fp", "qdq", "device")] == ["0.75", "0.5", "0.5"]
    assert [rows["n", "quiz"][f"{phase}_acc"] for phase in ("fp", "qdq", "device")] == ["", "", "0.25"]
    assert [rows["o", "quiz"][f"{phase}_acc"] for phase in ("fp", "qdq", "device")] == ["0.75", "0.5", ""]
    manifest = json.loads((tmp_path / "report" / "summary.csv.manifest.json").read_text())
    assert len(manifest["inputs"]) == 6


class Cells(HTMLParser):
    """The rows of all tables, as texts."""

    def __init__(self, text: str):
        super().__init__()
        self.rows: list[list[str]] = []
        self.links: list[str] = []
        self.in_cell = False
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.links += [value for name, value in attributes if name in ("src", "href")]
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")
            self.in_cell = True

    def handle_endtag(self, tag):
        self.in_cell = self.in_cell and tag not in ("td", "th")

    def handle_data(self, data):
        if self.in_cell:
            self.rows[-1][-1] += data.strip()


def page_of(run_script, settings: dict, output: Path) -> str:
    run_script(write_report.main, {"runs": [PLACE], "programs": PROGRAMS, **settings}, output=output)
    return output.read_text()


@pytest.fixture
def output(artifacts) -> Path:
    return artifacts / "report" / "index.html"


def test_the_page(run_script, settings, output):
    text = page_of(run_script, settings, output)
    page = Cells(text)
    assert ["wiki", "word_perplexity", "20", "22", "23", "1.1", "1.15"] in page.rows
    assert ["wiki", "bits_per_byte", "1.5", "1.625", "", "", ""] in page.rows
    assert ["top-1 agreement with qdq", "", "", "0.96875"] in page.rows
    first = page.rows.index(["layer", "SQNR behind it, dB"])
    assert page.rows[first + 1 : first + 4] == [["1", "10.25"], ["4", "20.75"], ["2", "33.5"]]
    assert [FOLDER.replace("/", " / "), ANSWER["prompt"], ANSWER["text"], "12.5", ""] in page.rows


def test_links_go_to_files_beside_the_page_and_nothing_is_loaded(run_script, settings, output):
    text = page_of(run_script, settings, output)
    links = [link for link in Cells(text).links if not link.startswith("#")]
    assert {(output.parent / link).resolve() for link in links if not link.endswith(".manifest.json")} == {
        output.parents[1] / name
        for name in (
            *("m/16a8w/ctx512/SM8650-emulator/hybrid_llama_qnn.pte", f"{FOLDER}/evaluation.json"),
            *("m/evaluation/ctx512/fp.json", "m/16a8w/evaluation/ctx512/qdq.json", f"{FOLDER}/result.json"),
            *(f"n{FOLDER[1:]}/evaluation.json", "o/evaluation/ctx64/fp.json", "o/16a8w/evaluation/ctx64/qdq.json"),
        )
    }
    assert "<script" not in text and "@import" not in text and "url(" not in text
    assert set(re.findall(r"https?://[^\"' <]*", text)) <= {
        "http://www.w3.org/2000/svg",
        "http://www.w3.org/1999/xlink",
    }


def test_programs_with_their_state_and_what_they_cost(run_script, settings, output):
    page = Cells(page_of(run_script, settings, output))
    of_programs = [row for row in page.rows if row[:2] == ["m", "16a8w"]]
    built, missing = of_programs
    assert built[2:5] == ["512", "SM8650-emulator", "hybrid"] and built[5].startswith("built")
    assert (built[6], built[8:]) == ("2.0", ["1.1", "1.15"])
    assert missing[3:] == ["SM8650", "kv", "not built", "", "", "1.1", ""]
    text = output.read_text()
    assert text.count("<svg") == 3
    assert "m, 900 MB" in text


def test_equal_figures_make_an_equal_page(run_script, settings, output):
    assert page_of(run_script, settings, output) == page_of(run_script, settings, output)


def test_what_changed_since_the_report_before(run_script, settings, artifacts, output):
    assert "What changed" not in page_of(run_script, settings, output)
    (artifacts / FOLDER / "evaluation.json").write_text(json.dumps(DEVICE | {"perplexity_ratio": {"wiki": 1.25}}))
    for _ in range(2):  # a report of the same figures has the same changes
        page = Cells(page_of(run_script, settings, output))
        assert [FOLDER.replace("/", " / ") + ": wiki, device / fp", "1.15", "1.25"] in page.rows
    (output.with_name("figures.json")).write_text("{")
    assert "What changed" not in page_of(run_script, settings, output)


def test_repeats_have_a_spread(run_script, settings, artifacts, output):
    repeats = {"prompts": [{"ttft_ms": {"median": 12.5, "spread": 3.0, "samples": [11.0, 14.0]}}]}
    result = {**OF_RESULT, "prompts": [ANSWER], "repeats": repeats}
    (artifacts / FOLDER / "result.json").write_text(json.dumps(result))
    page = Cells(page_of(run_script, settings, output))
    assert any("12.5 ± 1.5" in row for row in page.rows)


def test_conversations_are_told_apart(run_script, settings, artifacts, output):
    place = " / ".join(FOLDER.split("/"))
    answers = [ANSWER | {"conversation": number, "prompt": prompt} for number, prompt in enumerate(["Hi", "Ho"])]
    (artifacts / FOLDER / "result.json").write_text(json.dumps({**OF_RESULT, "prompts": answers}))
    rows = [row[:2] for row in Cells(page_of(run_script, settings, output)).rows if row[1:2] in (["Hi"], ["Ho"])]
    assert rows == [[f"{place}, conversation 1 of 2", "Hi"], [f"{place}, conversation 2 of 2", "Ho"]]


def test_250_programs_make_a_page_of_a_few_megabytes(run_script, settings, output):
    many = [[f"model{i}", "16a8w", 512, "SM8650", "kv"] for i in range(250)]
    assert len(page_of(run_script, {**settings, "programs": many}, output)) < 5e6


def test_layers_of_another_form_are_one_line(script_error, settings, artifacts, tmp_path):
    qdq = artifacts / "m/16a8w/evaluation/ctx512/qdq.json"
    qdq.write_text(json.dumps({**QDQ, "layers": [7] * 5}))
    line = script_error(
        write_report.main, {**settings, "runs": [], "programs": []}, output=tmp_path / "report/index.html"
    )
    assert line.startswith(f"error: {qdq}: layers: ") and "is not of type" in line


def test_templates_that_modes_share_cost_once(artifacts):
    """As the programs of all modes of a chip are stamped from them."""
    template = artifacts / "m/16a8w/ctx512/templates/V75/ar1.json"
    template.parent.mkdir(parents=True)
    template.write_text("{}")
    manifest = {"stages": {"layer": {"seconds": 8, "peak_rss_mb": 500}}}
    template.with_name("ar1.json.manifest.json").write_text(json.dumps(manifest))
    programs = [ProgramKey("m", "16a8w", 512, "SM8650", mode) for mode in ("kv", "hybrid", "lookahead")]
    assert model_costs(built_programs(str(artifacts), programs))["m"]["templates"] == Cost(8, 500)
