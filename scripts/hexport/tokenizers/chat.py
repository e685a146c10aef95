"""This module renders chat templates as transformers does (transformers/utils/chat_template_utils.py)."""

import json
import os
import signal
import subprocess
import sys
import threading

from hexport.errors import HexportError
from hexport.tokenizers import chat_child

LOADER = ("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")  # what the interpreter itself may need; secrets are not passed on
SECONDS = 5  # of processor time, for one rendering: real templates take milliseconds

_lock = threading.Lock()
_child: subprocess.Popen | None = None


def render_chat(
    template: str, messages: list[dict[str, str]], special: dict[str, str], generation_prompt: bool = True
) -> str:
    """Return the text of a chat, which by default ends where the assistant goes on.

    `messages` are like `{"role": "user", "content": "Hello"}`, and `special` maps bos_token, … to texts. A template
    that asks for the date always gets the same one.

    Raises HexportError for a bad template, for messages that it refuses, and for a template that takes more time or
    memory, or gives more text, than it may (see `chat_child`).
    """
    asked = {"template": template, "messages": messages, "special": special, "generation_prompt": generation_prompt}
    with _lock:
        answer = _ask(json.dumps(asked))
    if "error" in answer:
        raise HexportError(f"the chat template fails: {answer['error']}")
    return answer["text"]


def _ask(line: str) -> dict[str, str]:
    """Return the answer of the child process, which renders one chat after the other as long as it lives."""
    global _child
    if _child is None or _child.poll() is not None:
        environment = {name: os.environ[name] for name in LOADER if name in os.environ}
        command = [sys.executable, "-I", chat_child.__file__, str(SECONDS)]
        _child = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
            text=True,
        )
    try:
        print(line, file=_child.stdin, flush=True)
        answer = _child.stdout.readline()
    except BrokenPipeError:
        answer = ""
    except BaseException:  # interrupted: the next question must not get this answer
        _child.kill()
        _child.wait()
        raise
    if answer:
        return json.loads(answer)
    _child.stdin.close()
    _child.stdout.close()
    ended, _child = _child.wait(), None
    if ended == -signal.SIGPROF:
        return {"error": f"it takes more than {SECONDS} seconds"}
    return {"error": f"the process that renders it has ended ({ended})"}
