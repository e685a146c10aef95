import shutil
from importlib import metadata

import pytest

from hexport import code_digest as digests_of
from hexport.code_digest import code_digest, import_closure, package_versions
from hexport.stat_cache import TextCache


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


def test_digests_take_little_time_in_the_next_process_and_checkout(scripts, tmp_path_factory, monkeypatch):
    """All of them are taken whenever Snakemake starts."""
    before = digests(scripts)
    checkout = tmp_path_factory.mktemp("checkout") / "scripts"
    shutil.copytree(scripts, checkout)
    _forget()
    monkeypatch.setattr(digests_of, "_read_facts", lambda *_: pytest.fail("read again"))
    monkeypatch.setattr(digests_of, "CACHE", TextCache("code"))
    assert digests(scripts) == before
    monkeypatch.setattr(digests_of, "SCRIPTS", checkout)
    assert digests(checkout) == before


@pytest.mark.parametrize("script", ["run_program.py", "evaluate_device.py"])
def test_a_reworded_message_of_adb_leaves_results_of_the_emulator_as_they_are(script):
    def reached(kind):
        return {str(path.relative_to(digests_of.SCRIPTS)) for path in digests_of._counted(script, kind)}

    names = ("link/adb", "phones/pool", "phones/leases", "runners/qnn_llama_runner", "runners/phone_process")
    phones = {f"hexport/devices/{name}.py" for name in names}
    assert phones <= reached("adb")
    assert not phones & reached("emulator")
    assert "hexport/runtime/decode.py" in reached("emulator")
    assert not {file for file in reached("adb") if "emulator_" in file}
    assert "adbutils" not in package_versions(script, "emulator")
    assert code_digest(script, "emulator") != code_digest(script, "adb")


def test_a_run_depends_on_no_code_of_evaluations():
    for kind in ("adb", "emulator"):
        reached = {
            path.relative_to(digests_of.SCRIPTS).parts[1] for path in digests_of._counted("run_program.py", kind)[:-1]
        }
        assert not reached & {"evaluation", "report"}


def test_modules_of_one_kind_of_device_are_there():
    assert all((digests_of.SCRIPTS / file).is_file() for file in digests_of.OF_KIND)


def test_programs_depend_on_no_chat_template_code():
    reached = reached_by("assemble_program.py")
    assert "hexport/tokenizers/backend.py" in reached
    assert not {"hexport/tokenizers/chat.py", "hexport/tokenizers/tokenizer.py", "hexport/progress.py"} & reached
    assert "jinja2" not in package_versions("assemble_program.py")


def test_stages_of_lowering_depend_on_no_code_of_the_others():
    templates, shards, programs = map(reached_by, ("lower_templates.py", "compile_shard.py", "assemble_program.py"))
    assert "hexport/lowering/compiler.py" not in templates
    assert "hexport/lowering/template_lowering.py" not in shards | programs
    assert not any(file.startswith("hexport/tokenizers/") for file in templates | shards)


def reached_by(script: str) -> set[str]:
    return {path.relative_to(digests_of.SCRIPTS).as_posix() for path in digests_of._counted(script, None)}
