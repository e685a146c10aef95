import json
from pathlib import Path

from hexport.build.outcome import Failure, Result, program_line, reason, result_lines, summary, that_failed, where_next

TRACE = 'Traceback (most recent call last):\n  File "a.py", line 1, in main\n    work()\n'


def test_the_reason_is_the_last_line_of_the_last_trace(tmp_path):
    log = tmp_path / "a.log"
    log.write_text(f"stage …\n{TRACE}KeyError: 'x'\n{TRACE}hexport.errors.HexportError: a.gguf: damaged; get another\n")
    assert reason(str(log)) == "a.gguf: damaged; get another"


def test_a_job_that_could_not_say_why(tmp_path):
    log = tmp_path / "a.log"
    log.write_text("stage …\n")
    assert reason(str(log)).startswith("it was ended before it could say why")
    assert reason(None) == reason(str(tmp_path / "none.log")) == reason(str(log))


def test_of_a_group_the_job_with_an_error_failed(tmp_path):
    logs = [tmp_path / f"{name}.log" for name in "ab"]
    logs[0].write_text("fine\n")
    logs[1].write_text(f"{TRACE}ValueError: no\n")
    group = [Failure("fetch", "a", str(logs[0])), Failure("convert_checkpoint", "b", str(logs[1]))]
    assert that_failed(group) == group[1]
    lines = summary(0, 3, ["x.pte"], [that_failed(group)], seconds=130)
    assert lines == [
        "programs: 0 built, 3 as they were, 1 not built; this took 2 min",
        "not built: x.pte",
        f"failed: convert_checkpoint, b: no; log: {logs[1]}",
    ]


def test_a_program_whose_inputs_have_damaged_manifests_has_its_line_all_the_same(tmp_path):
    costs = json.dumps({"stages": {"compile": {"seconds": 12.4, "peak_rss_mb": 1200}}})
    for name, manifest in {
        "a.pte": costs,
        "ar1.json": "{",
        "1-of-1.bin": "[]",
        "ar8.json": '{"stages": {"x": 1}}',
    }.items():
        (tmp_path / f"{name}.manifest.json").write_text(manifest)
    files = [str(tmp_path / name) for name in ("a.pte", "ar1.json", "1-of-1.bin", "ar8.json", "none.json")]
    line = program_line("a.pte", 2_500_000, files)
    assert line == "built a.pte: 2.5 MB; its jobs took 12 s and up to 1,200 MB of memory"


def test_of_many_programs_that_are_not_built_the_first_are_named():
    lines = summary(0, 0, [f"{i}.pte" for i in range(132)], [], seconds=5)
    assert lines[0] == "programs: 0 built, 0 as they were, 132 not built; this took 5 s"
    assert lines[1] == "not built: 0.pte"
    assert (len(lines), lines[-1]) == (22, "not built: 112 more")


def test_how_good_a_program_is_stands_beside_how_large(tmp_path):
    def evaluation(**facts) -> Path:
        file = tmp_path / f"{len(list(tmp_path.iterdir()))}.json"
        file.write_text(json.dumps({"tasks": {"tale": {"word_perplexity": 20.0}}, **facts}))
        return file

    good, endless = evaluation(perplexity_ratio={"tale": 1.0034}), evaluation(perplexity_ratio={"tale": None})
    results = [
        Result("a.pte", 393_000_000, {"emulator": good, "phones": endless}, gates_passed=True),
        Result("b.pte", 1_250_000_000, {"quantised": evaluation(perplexity_ratio={}, sqnr_db=29.21)}),
        Result("c.pte", 200_000, {"quantised": tmp_path / "in_a_storage.json"}),
    ]
    assert result_lines(results) == [
        "program: a.pte: 393.0 MB, perplexity ratio 1.003 (tale, on emulator), "
        "perplexity ratio not finite (tale, on phones), gates passed",
        "program: b.pte: 1,250.0 MB, SQNR 29.2 dB (quantised)",
        "program: c.pte: 0.2 MB",
    ]


def test_where_to_look_and_what_could_come_next():
    made = {"report": [], "answers": ["a/outputs.txt", "b/outputs.txt", "c/outputs.txt"], "bundle": ["a.tar"]}
    assert where_next(made, ["bundle", "report", "evaluate"]) == [
        "answers: a/outputs.txt and 2 more",
        "bundle: a.tar",
        "next: `snakemake evaluate` measures them; `snakemake report` shows it all on a page",
    ]
    assert where_next({"report": ["index.html"]}, []) == ["report: index.html"]
