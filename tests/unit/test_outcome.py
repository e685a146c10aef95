from hexport.build.outcome import Failure, reason, summary, that_failed

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
    lines = summary(0, 3, ["x.pte"], [that_failed(group)])
    assert lines == [
        "programs: 0 built, 3 as they were, 1 not built",
        "not built: x.pte",
        f"failed: convert_checkpoint, b: no; log: {logs[1]}",
    ]


def test_of_many_programs_that_are_not_built_the_first_are_named():
    lines = summary(0, 0, [f"{i}.pte" for i in range(132)], [])
    assert lines[0] == "programs: 0 built, 0 as they were, 132 not built"
    assert lines[1] == "not built: 0.pte"
    assert (len(lines), lines[-1]) == (22, "not built: 112 more")
