"""The HTP compiler's stages in the progress: in the log while they run, and as a user of a terminal sees them."""

import ctypes
import time
from pathlib import Path

from test_progress import on_screen, output_on_terminal

TEXT = b"""[INFO] [Qnn ExecuTorch]: Running level=3 optimization.
Starting stage: Graph Preparation Initializing
Completed stage: Graph Preparation Initializing (290 us)
Starting stage: Graph Sequencing for Target
 [                                                  ]   0%\r [###################                               ]  38%\r
"""

JOB = """
from pathlib import Path
from hexport.child import Child
from hexport.lowering.compiler_stages import CompilerStages
from hexport.progress import Progress
from test_compiler_stages import compile_like_qnn

progress = Progress(Path(log))
with progress.library_output_in_log():
    stages = CompilerStages(progress, n_graphs)
    with Child(compile_like_qnn, log, n_graphs, what="compiler", advice="none") as child:
        answer = child.receive(meanwhile=stages.look).decode()
    stages.look()
    progress.say(answer)
"""


def compile_like_qnn(connection, log: str, n_graphs: int) -> None:
    """Runs in a child: prints what the compiler does, in C, and goes on with each graph once its stage is known."""
    libc = ctypes.CDLL(None)
    for number in range(1, n_graphs + 1):
        libc.printf(b"%s", TEXT)
        graph = f"graph {number} of {n_graphs}, " if n_graphs > 1 else ""
        end = time.monotonic() + 60
        while f"HTP compiler: {graph}Graph Sequencing for Target\n" not in Path(log).read_text():
            if time.monotonic() > end:
                return connection.send_bytes(b"not shown")
            time.sleep(0.01)
    return connection.send_bytes(b"shown in time")


def run(log: Path, n_graphs: int) -> str:
    return output_on_terminal(f"log, n_graphs = {str(log)!r}, {n_graphs}\n{JOB}")


def test_stages_are_shown_while_they_run_with_how_far_they_are(tmp_path):
    received = run(tmp_path / "log", 1)
    assert on_screen(received) == ["shown in time"]
    assert "HTP compiler: Graph Sequencing for Target, 38%" in received
    assert received.index("HTP compiler: Graph Preparation Initializing") < received.index("Graph Sequencing")


def test_the_log_has_a_line_of_each_stage_and_graph_and_all_that_the_compiler_printed(tmp_path):
    run(tmp_path / "log", 2)
    with open(tmp_path / "log", newline="") as file:
        log = file.read()
    said = [line.split(" ", 1)[1] for line in log.splitlines() if line[:2].isdigit()]
    assert said == [
        *(
            f"HTP compiler: graph {number} of 2, {stage}"
            for number in (1, 2)
            for stage in ("Graph Preparation Initializing", "Graph Sequencing for Target")
        ),
        "shown in time",
    ]
    assert log.count(TEXT.decode().splitlines()[0]) == 2
    assert log.count("]  38%\r") == 2
