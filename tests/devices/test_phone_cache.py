"""The cache of a phone: a file is pushed once, is what it should be, and the least recently used ones make room."""

import hashlib
import os

import pytest
from loopback_phones import phone_of

from hexport.devices.link.faults import PassingFault, PhoneFault
from hexport.devices.phones.cache import CACHE, ensure_cached
from hexport.progress import Progress

MB = 1_000_000


@pytest.fixture
def program(tmp_path):
    return content_file(tmp_path / "program.pte", 3 * MB)


@pytest.fixture(autouse=True)
def no_cache(request):
    """The phone's cache is empty when a test begins."""
    if "phone" in request.fixturenames:
        request.getfixturevalue("phone").shell(f"rm -rf {CACHE}", 10)


def content_file(path, size):
    path.write_bytes(os.urandom(size))
    return path


def name_of(file) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def listed(phone) -> set[str]:
    return set(phone.shell(f"ls -A {CACHE}", 10).text().split())


def pushed(device) -> int:
    return sum(event["size"] for event in device.events("push"))


def lines(capfd) -> str:
    return capfd.readouterr().err


def test_a_file_is_pushed_once_and_kept_under_its_hash(device, phone, program, tmp_path, capfd):
    paths = ensure_cached(phone, [program], 1.0, Progress())
    assert paths == {program: f"{CACHE}/{name_of(program)}"}
    phone.pull(paths[program], tmp_path / "back", program.stat().st_size, 10)
    assert (tmp_path / "back").read_bytes() == program.read_bytes()
    assert phone.shell(f"stat -c %a {paths[program]}", 10).stdout == b"555\n"  # may be run, not changed
    assert "pushing program.pte, 3.0 MB" in lines(capfd)

    first = pushed(device)
    assert ensure_cached(phone, [program], 1.0, Progress()) == paths
    assert pushed(device) - first < first / 100
    assert "pushing" not in lines(capfd)


def test_two_files_of_one_content_are_one_file(device, phone, program, tmp_path):
    (tmp_path / "copy").write_bytes(program.read_bytes())
    paths = ensure_cached(phone, [program, tmp_path / "copy"], 1.0, Progress())
    assert len(set(paths.values())) == 1 and listed(phone) == {name_of(program)}
    assert pushed(device) == 3 * MB


def test_nothing_to_cache_is_nothing_to_do(device, phone):
    assert ensure_cached(phone, [], 1.0, Progress()) == {}
    assert pushed(device) == 0


def test_a_file_that_rotted_on_the_phone_is_pushed_again(device, phone, program):
    path = ensure_cached(phone, [program], 1.0, Progress())[program]
    phone.shell(f"chmod u+w {path}; printf %s damaged-by-age | dd of={path} bs=1 seek=1000 conv=notrunc", 10)
    ensure_cached(phone, [program], 1.0, Progress())
    assert phone.shell(f"sha256sum <{path}", 10).text().split()[0] == name_of(program)
    assert pushed(device) == 6 * MB


def test_what_is_not_ours_in_the_cache_is_neither_counted_nor_removed(device, phone, program):
    phone.shell(f"mkdir -p {CACHE}/folder && cd {CACHE} && head -c 4000000 /dev/zero > 'of others\n2 lines'", 10)
    ensure_cached(phone, [program], 0.0035, Progress())
    assert listed(phone) >= {name_of(program), "folder"}
    assert phone.shell(f"ls {CACHE} | wc -l", 10).text().split() == ["4"]


@pytest.mark.parametrize("action", ["corrupt", "truncate"])
def test_a_file_damaged_on_its_way_is_not_kept(device, phone, program, action):
    device.fault(op="push", match=CACHE, after=1 * MB, action=action)
    with pytest.raises(PassingFault, match=r"phone s24 \(.*\): program.pte arrived damaged"):
        ensure_cached(phone, [program], 1.0, Progress())
    assert listed(phone) == set()
    ensure_cached(phone, [program], 1.0, Progress())
    assert listed(phone) == {name_of(program)}


@pytest.mark.parametrize(
    ("action", "words"), [("enospc", "No space left on device, [1-9].* MB free"), ("erofs", "Read-only file system")]
)
def test_a_refused_file_is_said_and_leaves_nothing(device, phone, program, action, words):
    device.fault(op="push", match=CACHE, after=1 * MB, action=action)
    with pytest.raises(PhoneFault, match=rf"pushing program.pte, 3.0 MB: the phone refuses: .*{words}") as caught:
        ensure_cached(phone, [program], 1.0, Progress())
    assert not isinstance(caught.value, PassingFault)
    assert listed(phone) == set()


def test_a_lower_limit_counts_even_if_nothing_is_pushed(device, phone, program):
    ensure_cached(phone, [program], 1.0, Progress())
    with pytest.raises(PhoneFault, match=r"take 3 MB, and cache_gb allows 2 MB; raise cache_gb"):
        ensure_cached(phone, [program], 0.002, Progress())


def test_a_part_that_someone_left_goes(phone, program):
    ensure_cached(phone, [program], 1.0, Progress())
    phone.push(b"half", f"{CACHE}/{'0' * 64}.part", 10)
    ensure_cached(phone, [program], 1.0, Progress())
    assert listed(phone) == {name_of(program)}


def test_the_least_recently_used_files_make_room(phone, tmp_path):
    old, middle, new, needed = (content_file(tmp_path / name, MB) for name in ("old", "middle", "new", "needed"))
    for age, file in enumerate((needed, old, middle, new)):
        path = ensure_cached(phone, [file], 1.0, Progress())[file]
        phone.shell(f"touch -d 2020-01-0{age + 1}T00:00:00 {path}", 10)
    ensure_cached(phone, [old], 1.0, Progress())  # used again, now the youngest
    one_more = content_file(tmp_path / "one more", MB)
    ensure_cached(phone, [needed, one_more], 0.004, Progress())
    assert listed(phone) == {name_of(file) for file in (needed, one_more, old, new)}


def test_files_over_the_limit_are_refused_before_a_byte_moves(device, phone, program):
    with pytest.raises(PhoneFault, match=r"take 3 MB, and cache_gb allows 2 MB; raise cache_gb"):
        ensure_cached(phone, [program], 0.002, Progress())
    assert pushed(device) == 0


def test_a_full_storage_is_seen_before_the_push_and_old_files_make_room(new_device, adb_server, tmp_path):
    small = new_device("--disk-size", "24m")
    phone = phone_of(small, adb_server)
    phone.check_online(5)
    old, new, much = (content_file(tmp_path / f"{size} MB", size * MB) for size in (5, 6, 20))
    ensure_cached(phone, [old], 1.0, Progress())
    ensure_cached(phone, [new], 1.0, Progress())
    assert listed(phone) == {name_of(new)}
    with pytest.raises(PhoneFault, match=r"no space: 36 MB needed, \d+ MB free"):
        ensure_cached(phone, [much], 1.0, Progress())
    assert pushed(small) == 11 * MB


def test_a_phone_whose_folder_cannot_be_made_says_so(new_device, adb_server, program):
    phone = phone_of(new_device(), adb_server)
    phone.check_online(5)
    phone.push(b"a file, no folder", "/data/local/tmp/hexport", 10)
    with pytest.raises(PhoneFault, match=r"phone s24 .*hexport.*; see `adb shell ls -l /data/local/tmp/hexport`"):
        ensure_cached(phone, [program], 1.0, Progress())
