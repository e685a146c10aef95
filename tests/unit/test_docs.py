"""Pages that are true only as long as the code says what they say."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest
import snakemake.exceptions

REPOSITORY = Path(__file__).parents[2]
DOCS = REPOSITORY / "docs"
PAGES = [*sorted(DOCS.glob("*.md")), REPOSITORY / "README.md", REPOSITORY / "CONTRIBUTING.md"]
FOLDERS = [REPOSITORY / folder for folder in ("scripts/hexport", "scripts", ".")]  # that paths of pages start from


def source() -> str:
    """All text of the code, with the pieces of a message that stand in several lines put together, and {…} in the place
    of what is filled in."""
    files = [*(REPOSITORY / "scripts").rglob("*.py"), *(REPOSITORY / "rules").glob("*.smk"), REPOSITORY / "Snakefile"]
    text = "\n".join(file.read_text() for file in files if "egg-info" not in str(file))
    return re.sub(r"\{[^{}\n]*\}", "{…}", re.sub(r'"\s*\n\s*f?"', "", text))


def test_every_message_of_the_page_on_them_is_said_by_the_code():
    page = (DOCS / "troubleshooting.md").read_text()
    messages = re.findall(r"^\| `([^`]+)` \|", page, re.MULTILINE)
    assert len(messages) > 80
    code = source()
    others = [message for message in messages if message not in code]
    assert [message for message in others if not hasattr(snakemake.exceptions, message)] == []


def test_links_between_pages_lead_somewhere():
    broken = []
    for page in PAGES:
        for link, _, anchor in (link.partition("#") for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text())):
            file = page.parent / link if link else page
            if ":" not in link and not (file.exists() and (not anchor or anchor in anchors(file))):
                broken.append(f"{page.name}: {link}#{anchor}")
    assert broken == []


def anchors(page: Path) -> set[str]:
    """What GitHub makes of the headings of a page."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_glossary_is_in_order():
    words = re.findall(r"^\| ([^|]+) \| ", (DOCS / "glossary.md").read_text(), re.MULTILINE)[1:]
    assert len(words) > 30
    assert [word.lower().strip("`") for word in words] == sorted(word.lower().strip("`") for word in words)


def spans(page: Path) -> list[str]:
    """What stands in backticks in the text of a page, on one line each."""
    fenced = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    text = re.sub(r"^    .*$", "", fenced, flags=re.MULTILINE)
    return [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", text)]


def found(path: str) -> Path | None:
    return next((folder / path for folder in FOLDERS if (folder / path).exists()), None)


@cache
def names_in(file: Path) -> set[str]:
    """Names of functions, classes, methods, fields and values of a module: `stamp`, `Place`, `Place.point`."""
    names = set()
    for node in ast.parse(file.read_text()).body:
        names |= names_of(node)
        if isinstance(node, ast.ClassDef):
            names |= {f"{node.name}.{name}" for inner in node.body for name in names_of(inner)}
    return names


def names_of(node: ast.stmt) -> set[str]:
    match node:
        case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
            return {node.name}
        case ast.Assign(targets=targets):
            return {target.id for target in targets if isinstance(target, ast.Name)}
        case ast.AnnAssign(target=ast.Name(id=name)):
            return {name}
    return set()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_modules_that_a_page_names_are_there(page):
    """A path with a folder, and behind a colon the name of what is in the module: `lowering/stamping.py: stamp`."""
    missing = []
    for span in spans(page):
        if not (match := re.fullmatch(r"((?:\w+/)+\w+\.(?:py|smk)|\w+\.py(?=:))(?:: ([\w.]+))?", span)):
            continue
        file = found(match[1])
        if file is None or (match[2] and match[2] not in names_in(file)):
            missing.append(span)
    assert missing == []


def test_folders_that_the_tour_names_are_those_of_the_package():
    named = {span.rstrip("/") for span in spans(DOCS / "architecture.md") if re.fullmatch(r"\w+/", span)}
    package = REPOSITORY / "scripts" / "hexport"
    assert named == {file.parent.name for file in package.glob("*/**/__init__.py")}


def test_rules_that_the_tour_draws_are_those_of_the_workflow():
    (graph,) = re.findall(r"```mermaid\n(.*?)```", (DOCS / "architecture.md").read_text(), re.DOTALL)
    drawn = set(re.findall(r"\w+", re.sub("flowchart LR|--", "", graph)))
    rules = "\n".join(file.read_text() for file in (REPOSITORY / "rules").glob("*.smk"))
    assert drawn and drawn <= set(re.findall(r"^rule (\w+):", rules, re.MULTILINE))
