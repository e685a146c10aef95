import errno
import json
import os

import pytest

from hexport import provenance
from hexport.provenance import atomic_path, code_digest, import_closure, write_json, write_manifest


@pytest.fixture
def scripts(tmp_path, monkeypatch):
    """A tree of scripts: a.py -> one -> deep (in a function); b.py -> two; both are in the package."""
    files = {
        "a.py": "import click\nfrom hexport.one import f\n",
        "b.py": "from hexport.pkg import two\n",
        "hexport/__init__.py": '"""Doc."""\n\n__version__ = "0.1.0"\n',
        "hexport/one.py": "def f():\n    import hexport.pkg.deep\n    return 1\n",
        "hexport/pkg/__init__.py": "",
        "hexport/pkg/two.py": "from . import three\nfrom ..one import f\nx = 2\n",
        "hexport/pkg/three.py": "y = 3\n",
        "hexport/pkg/deep.py": "from hexport import one\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(provenance, "SCRIPTS", tmp_path)
    _forget()
    yield tmp_path
    _forget()


def _forget():
    for function in (code_digest, provenance._imports, provenance._parse, provenance._code):
        function.cache_clear()


def digests(scripts):
    _forget()
    return code_digest("a.py"), code_digest("b.py")


def edit(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_closure_follows_imports_of_any_form_and_scope(scripts):
    def names(script):
        return {str(path.relative_to(scripts)) for path in import_closure(scripts / script)}

    shared = {"hexport/__init__.py", "hexport/one.py", "hexport/pkg/__init__.py", "hexport/pkg/deep.py"}
    assert names("a.py") == {"a.py"} | shared
    assert names("b.py") == {"b.py", "hexport/pkg/two.py", "hexport/pkg/three.py"} | shared


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("hexport/one.py", "def f():", "# why\ndef f(  ):"),
        ("hexport/one.py", "def f():", 'def f():\n    """Doc."""'),
        ("hexport/__init__.py", "Doc.", "Other."),
        ("hexport/__init__.py", "0.1.0", "0.2.0"),
    ],
)
def test_comments_docstrings_formatting_and_version_do_not_count(scripts, file, old, new):
    before = digests(scripts)
    edit(scripts / file, old, new)
    assert digests(scripts) == before


def test_a_module_counts_for_the_scripts_that_reach_it(scripts):
    a, b = digests(scripts)
    edit(scripts / "hexport/pkg/three.py", "3", "4")
    assert digests(scripts)[0] == a
    assert digests(scripts)[1] != b
    edit(scripts / "hexport/pkg/deep.py", "one", "one as other")
    assert digests(scripts)[0] != a


def test_a_string_that_is_no_docstring_counts(scripts):
    edit(scripts / "hexport/one.py", "return 1", 'return "1"')
    before = digests(scripts)
    edit(scripts / "hexport/one.py", '"1"', '"2"')
    assert digests(scripts) != before


def test_scripts_of_the_product_have_digests_of_their_own():
    scripts = [script.name for script in provenance.SCRIPTS.glob("*.py")]
    assert len({code_digest(script) for script in scripts}) == len(scripts) > 10


def test_a_write_is_whole_or_absent(tmp_path):
    path = tmp_path / "sub" / "a.json"
    write_json(path, {"b": 1, "a": "ü"})
    assert path.read_text() == '{\n "a": "ü",\n "b": 1\n}\n'
    with pytest.raises(OSError, match="No space"), atomic_path(path) as temporary:
        temporary.write_text("half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(temporary))
    assert json.loads(path.read_text())["b"] == 1
    assert os.listdir(path.parent) == ["a.json"]


def test_a_write_removes_what_a_killed_one_left(tmp_path):
    with atomic_path(tmp_path / "a") as temporary:
        temporary.write_text("whole")
    _, pid, _ = temporary.name.rsplit(".", 2)
    dead = tmp_path / temporary.name.replace(pid, "999999999")
    alive = tmp_path / temporary.name.replace(pid, "1")
    elsewhere = tmp_path / ".a.elsewhere.999999999.part"
    for left in (dead, alive, elsewhere):
        left.write_text("half")
    with atomic_path(tmp_path / "a") as temporary:
        temporary.write_text("whole again")
    assert (tmp_path / "a").read_text() == "whole again"
    assert set(tmp_path.iterdir()) == {tmp_path / "a", alive, elsewhere}


def test_json_holds_no_nan(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "a.json", {"scale": float("nan")})
    assert os.listdir(tmp_path) == []


def test_manifest_records_what_made_the_artifact(tmp_path):
    artifact, source = tmp_path / "a.bin", tmp_path / "source"
    artifact.write_bytes(b"artifact")
    source.write_bytes(b"source")
    stages = {"convert": {"seconds": 0.1, "peak_rss_mb": 10}}
    write_manifest(
        artifact, inputs={"source": source}, params={"x": 1}, stages=stages, versions={"torch": "2"}, soc="SM8650"
    )
    manifest = json.loads((tmp_path / "a.bin.manifest.json").read_text())
    assert manifest["sha256"] == "c7c5c1d70c5dec4416ab6158afd0b223ef40c29b1dc1f97ed9428b94d4cadb1c"
    assert manifest["inputs"]["source"] == provenance.sha256(source)
    assert manifest["artifact"] == "a.bin"
    assert manifest["params"] == {"x": 1}
    assert manifest["stages"] == stages
    assert manifest["soc"] == "SM8650"
    assert manifest["versions"].keys() == {"hexport", "snakemake", "torch"}
