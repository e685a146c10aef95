"""This module writes the README of a bundle."""

UNKNOWN_LICENCE = (
    "that of the checkpoint, which hexport does not know: ask whoever published it before you pass this on"
)
TEXT = """\
# {model} for {target}, mode {mode}

A language model as an ExecuTorch program for the Hexagon NPU (HTP {htp_arch}) of {target}. Recipe {recipe}, a context
of {context_len} tokens. Made by hexport {hexport} with ExecuTorch {executorch} and QNN {qnn}.

## Run it

You need `qnn_llama_runner`, {runner}, built for Android with its
`libqnn_executorch_backend.so`, and the libraries of QNN {qnn_needed} or newer: `libQnnHtp.so`, `libQnnHtpPrepare.so`,
`libQnnSystem.so`, `libQnnHtp{htp_arch}Stub.so`, and `libQnnHtp{htp_arch}Skel.so` of `hexagon-{arch}`. An older QNN does
not load the program. Push all of them and the files of this folder to one folder of the phone, and run in it:

    LD_LIBRARY_PATH=. ADSP_LIBRARY_PATH=. {command}

`outputs.txt` then has the answer to `{prompt}`, behind the name of the prompt's file.

- `prompt.raw` holds the prompt as token ids (64 bits each, little-endian){chat}. Make one of your own text with
  `tokenizer.json`; `--prompt "text"` works too, but then the runner's own chat template counts.
- The runner stops at the EOS that `tokenizer_config.json` names, and at that of the model it is told to run. Generation
  should end at the ids {stop_ids}.
- `--temperature` above 0 draws from codes in place of logits in this runner: keep 0.
{limit}
## Files

| file | what |
|---|---|
| `{program}` | the program; content hash `{content_sha256}` |
| `{program}.manifest.json` | what made it: versions, settings, inputs and outputs with their encodings |
| `tokenizer.json`, `tokenizer_config.json` | the tokenizer, so that this runner decodes it rightly |
| `chat_template.jinja` | the chat template, where the model has one |
| `prompt.raw` | the prompt of the command above |
| `bundle.json` | all of this for programs, with the SHA-256 of each file |

## Licence

The weights: {licence}.
"""


def readme(facts: dict, has_template: bool) -> str:
    """Return the text of the README from the content of bundle.json. `has_template` says whether the model has a chat
    template."""
    runner = facts["runner"]
    fits = f"ExecuTorch {runner['since']} or newer" if runner["since"] else "though no version runs it rightly"
    return TEXT.format(
        **facts
        | facts["versions"]
        | {
            "licence": facts["licence"] or UNKNOWN_LICENCE,
            "stop_ids": ", ".join(map(str, facts["stop_ids"])),
            "qnn_needed": ".".join(facts["versions"]["qnn"].removeprefix("v").split(".")[:2]),
            "arch": facts["htp_arch"].lower(),
            "runner": fits,
            "command": runner["command"],
            "chat": ", in the model's chat template" if has_template else "",
            "limit": f"- Limit of the runner: {runner['limit']}.\n" if runner["limit"] else "",
        }
    )
