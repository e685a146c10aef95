import time
from importlib import metadata

import pytest

from hexport import code_digest as digests_of
from hexport.code_digest import code_digest, import_closure, package_versions


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
    monkeypatch.setattr(digests_of, "SCRIPTS", tmp_path)
    _forget()
    yield tmp_path
    _forget()


def _forget():
    for name in ("code_digest", "package_versions", "_version", "_files", "_facts"):
        getattr(digests_of, name).cache_clear()


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
    scripts = list(digests_of.SCRIPTS.glob("*.py"))
    assert len({code_digest(script.name) for script in scripts}) == len(scripts) > 10


def test_what_only_reports_or_saves_time_does_not_count(scripts):
    (scripts / "hexport/progress.py").write_text("import rich\n")
    edit(scripts / "a.py", "import click", "import hexport.progress")
    before = digests(scripts)
    (scripts / "hexport/progress.py").write_text("import click\nTEXT = 'other'\n")
    assert digests(scripts) == before
    assert scripts / "hexport/progress.py" in import_closure(scripts / "a.py")


def test_versions_of_imported_packages_count_for_the_scripts_that_reach_them(scripts, monkeypatch):
    edit(scripts / "hexport/pkg/three.py", "y = 3", "import numpy\nimport torch\nimport yaml")
    versions = {"numpy": "1", "torch": "1", "PyYAML": "1", "click": "1"}
    monkeypatch.setattr(metadata, "version", versions.__getitem__)

    def after(package):
        versions[package] += ".1"
        return digests(scripts)

    a, b = before = digests(scripts)
    assert package_versions("b.py") == {"numpy": "1", "torch": "1", "yaml": "1"}
    assert after("click") == after("torch") == before  # of the toolchain, programs know by their settings
    assert after("numpy")[0] == a
    assert digests(scripts)[1] != b
    b = digests(scripts)[1]
    assert after("PyYAML")[1] != b


def test_every_package_that_the_product_imports_has_a_version():
    known = metadata.packages_distributions()
    for script in digests_of.SCRIPTS.glob("*.py"):
        for package, version in package_versions(script.name).items():
            assert version in {metadata.version(name) for name in known[package]}, f"{script.name}: {package}"


def test_digests_take_little_time_in_the_next_process(scripts, monkeypatch):
    """All of them are taken whenever Snakemake starts."""
    before = digests(scripts)
    time.sleep(0.03)  # until what was just written counts as settled
    assert digests(scripts) == before
    _forget()
    monkeypatch.setattr(digests_of, "_read_facts", lambda *_: pytest.fail("read again"))
    digests_of._cache.cache_clear()
    assert digests(scripts) == before
