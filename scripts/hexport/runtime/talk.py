"""This module holds a conversation whose prompts come one by one, and whose answers are said as they are made."""

from collections.abc import Callable
from dataclasses import dataclass, field

from hexport.runtime.conversation import AnyGenerator, Script, roll_back
from hexport.runtime.decode import Generation
from hexport.runtime.prefill import check_prompt
from hexport.runtime.reading import common_prefix
from hexport.tokenizers.tokenizer import Tokenizer

UNFINISHED = "\ufffd"  # what a decoder puts where bytes of a character are still to come: then it is not yet said


class _Stopped(Exception):
    """The answer is not wanted any more."""


@dataclass
class Talk:
    """A talk is a conversation that goes on.

    said: its tokens, those that ended answers included. stopped: tells whether the answer that is being made is to end.
    can_stop: whether the generator may be left in mid-answer; one on a phone goes on to its end, in silence. seq_len:
    how many tokens prompts and answers have together, at most.
    """

    generator: AnyGenerator
    tokenizer: Tokenizer
    system_prompt: str
    seq_len: int
    can_stop: bool = True
    stopped: Callable[[], bool] = lambda: False
    prompts: list[str] = field(default_factory=list)
    answers: list[list[int]] = field(default_factory=list)
    said: list[int] = field(default_factory=list)

    def answer(self, prompt: str, say: Callable[[str], None]) -> Generation | None:
        """Answer a prompt; `say` gets the text in pieces. Return None for an answer that was stopped, which stays a
        part of the conversation.

        Raises HexportError for a prompt that has no tokens or no room; it does not become a part of the conversation.
        """
        script = Script(self.tokenizer, self.system_prompt, [*self.prompts, prompt])
        ids, graph = script.ids(self.answers), self.generator.prefill_graph
        check_prompt(graph, ids, self.seq_len, "the prompt", "the conversation up to this prompt", 0)
        roll_back(self.generator, ids, common_prefix(ids, self.said))
        tokens, heard, n_said, stop_ids = [], [], 0, self.tokenizer.stop_ids

        def on_token(token: int) -> None:
            nonlocal n_said
            tokens.append(token)
            if self.stopped():
                if self.can_stop:
                    raise _Stopped
            elif token not in stop_ids:
                heard.append(token)
                text = self.tokenizer.decode(heard)
                if not text.endswith(UNFINISHED):
                    say(text[n_said:])
                    n_said = len(text)

        try:
            generation = self.generator.generate(ids, self.seq_len, stop_ids, lambda: None, on_token)
        except _Stopped:
            generation = None
        self.said = ids + tokens
        self.prompts.append(prompt)
        self.answers.append([token for token in tokens if token not in stop_ids])
        return generation
