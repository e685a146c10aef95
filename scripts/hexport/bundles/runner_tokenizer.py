"""This module makes a tokenizer.json for ExecuTorch's C++ runner, whose tokenizer library decodes each
token by itself."""

import json


def runner_tokenizer(text: str) -> str:
    """Return the content of a tokenizer.json without the decoder's step that strips a text's first space.

    transformers strips the space in front of a whole text (Llama 2's SentencePiece pieces put one there); the runner
    would strip that of each token, and write ",therewasalittlegirl". Ids are the same. Other tokenizers stay as they
    are.
    """
    document = json.loads(text)
    decoder = document.get("decoder") or {}
    if decoder.get("type") != "Sequence" or not any(step["type"] == "Strip" for step in decoder["decoders"]):
        return text
    decoder["decoders"] = [step for step in decoder["decoders"] if step["type"] != "Strip"]
    return json.dumps(document, ensure_ascii=False)
