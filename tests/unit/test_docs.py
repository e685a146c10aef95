"""Pages that are true only as long as the code says what they say."""

import re
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
DOCS = REPOSITORY / "docs"
SNAKEMAKES = {"LockException"}


def source() -> str:
    """All text of the code, with the pieces of a message that stand in several lines put together."""
    files = [*(REPOSITORY / "scripts").rglob("*.py"), *(REPOSITORY / "rules").glob("*.smk"), REPOSITORY / "Snakefile"]
    return re.sub(r'"\s*\n\s*f?"', "", "\n".join(file.read_text() for file in files if "egg-info" not in str(file)))


def test_every_message_of_the_page_on_them_is_said_by_the_code():
    page = (DOCS / "troubleshooting.md").read_text()
    messages = re.findall(r"^\| `([^`]+)` \|", page, re.MULTILINE)
    assert len(messages) > 15
    code = source()
    assert [message for message in messages if message not in code and message not in SNAKEMAKES] == []


def test_links_between_pages_lead_somewhere():
    broken = []
    for page in [*DOCS.glob("*.md"), REPOSITORY / "README.md", REPOSITORY / "CONTRIBUTING.md"]:
        for link in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text()):
            if "://" not in link and not (page.parent / link).exists():
                broken.append(f"{page.name}: {link}")
    assert broken == []


def test_the_glossary_is_in_order():
    words = re.findall(r"^\| ([^|]+) \| ", (DOCS / "glossary.md").read_text(), re.MULTILINE)[1:]
    assert len(words) > 30
    assert [word.lower().strip("`") for word in words] == sorted(word.lower().strip("`") for word in words)
