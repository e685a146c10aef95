"""This module compares a converted tokenizer with a reference library, by ids and texts of varied samples."""

from collections.abc import Callable, Sequence
from pathlib import Path

from tokenizers import Tokenizer

from hexport.errors import HexportError

SAMPLES = (
    "",
    " ",
    "a",
    "Once upon a time there was 1 fox, 22 hens and 1234567 ants; don't we'll I'VE they're x² ½ ٣.",
    " leading, trailing ",
    "    indented\tcode = [0, 1];\r\n\r\n\n  return   x  \n",
    " " * 67 + "x" + "\n" * 41 + "\t" * 19 + " " * 33,
    "Größe, naïve café, e\u0301, Ελληνικά, русский язык, עברית, العربية, हिन्दी, ไทย, 中文字符、日本語。한국어",
    "😀👨\u200d👩\u200d👧🇩🇪 \u200b\ufeff\u00a0\u3000\u2581\u2581 ﬁ Å \U0010ffff",
    "\x00\x01\x07\x1b\x7f\x85 <0x41><0xE2> </> <> [x] https://a.b/?c=d&e=%20 aaaaaaaaaaaaaaaaaaa =====-----",
)


def check_equal(
    backend: Tokenizer,
    encode: Callable[[str], list[int]],
    decode: Callable[[list[int]], str],
    path: Path,
    symbols: Sequence[str] = (),
) -> None:
    """Compare a tokenizer with the reference's `encode` and `decode` on SAMPLES, and on texts made of `symbols`.

    `symbols` are user-defined pieces, which a tokenizer always takes whole. Raises HexportError, which names the file
    `path`, where ids or decoded texts differ.
    """
    for text in (*SAMPLES, *(f"{symbol}{symbol} a{symbol}<0x41>{symbol}\n{symbol}" for symbol in symbols)):
        ids = encode(text)
        same_ids = backend.encode(text, add_special_tokens=False).ids == ids
        if not same_ids or backend.decode(ids, skip_special_tokens=False) != decode(ids):
            what = "decodes to another text" if same_ids else "gets other ids"
            raise HexportError(f"{path}: cannot be converted exactly, {text[:40]!r} {what}; use a tokenizer.json")
