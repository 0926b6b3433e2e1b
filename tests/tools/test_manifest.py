"""tools/manifest.py on folders made here."""

import itertools
import os
import subprocess
import sys

import pytest

from mer.errors import MerError
from tools import manifest

WHEN = 1_600_000_000_999_999_999  # ns; its fraction would show if seconds were rounded and not cut


@pytest.fixture
def raw(tmp_path):
    """data/raw with a corpus whose names tell the order of paths from the order of folders."""
    for path, text in {
        "casme2/b.jpg": "b", "casme2/a/2.jpg": "22", "casme2/a/10.jpg": "1", "casme2/a-b/x.jpg": "xyz",
        "casme2/a.txt": "", "casme2/Ä, \"quoted\".csv": "q", "casme2/a/.DS_Store": "no", "casme2/.git/config": "no",
        "casme2/a/Thumbs.db": "no", "casme2/thumbs.db": "no", "casme2/a/._2.jpg": "no",
        "casme2/__MACOSX/a/2.jpg": "no", "casme2/a/__MACOSX/2.jpg": "no", "samm/1.jpg": "1",
    }.items():  # fmt: skip
        file = tmp_path / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        os.utime(file, ns=(WHEN, WHEN))
    return tmp_path


def test_the_whole_file(raw):
    path, count, size = manifest.write("casme2", raw)
    assert path == raw / "casme2.manifest.csv"
    assert path.read_text(encoding="utf-8") == (
        "path,size,mtime\n"
        "a-b/x.jpg,3,1600000000\n"
        "a.txt,0,1600000000\n"
        "a/10.jpg,1,1600000000\n"
        "a/2.jpg,2,1600000000\n"
        "b.jpg,1,1600000000\n"
        '"Ä, ""quoted"".csv",1,1600000000\n'
    )
    assert (count, size) == (6, 8)


def test_paths_are_sorted_as_text(raw):
    paths = [file.path for file in manifest.files(raw)]
    assert paths == sorted(paths)
    assert len(paths) == 7


def test_what_changes_it_and_what_does_not(raw):
    path, *_ = manifest.write("casme2", raw)
    before = path.read_bytes()
    (raw / "casme2/.hidden").write_text("1")
    os.utime(raw / "casme2/b.jpg", ns=(WHEN - 900_000_000, WHEN - 900_000_000))  # the same second
    manifest.write("casme2", raw)
    assert path.read_bytes() == before
    os.utime(raw / "casme2/b.jpg", ns=(WHEN + 10**9, WHEN + 10**9))
    manifest.write("casme2", raw)
    assert b"b.jpg,1,1600000001" in path.read_bytes()


def test_the_walk_looks_into_a_folder_only_when_it_gets_there(raw, monkeypatch):
    looked, scandir = [], os.scandir
    monkeypatch.setattr(os, "scandir", lambda folder: looked.append(folder.name) or scandir(folder))
    walk = manifest.files(raw / "casme2")
    assert next(walk).path == "a-b/x.jpg"
    assert looked == ["casme2", "a-b"]
    assert next(walk).path == "a.txt"
    assert looked == ["casme2", "a-b"]


def test_the_command_line(raw):
    run = [sys.executable, "-m", "tools.manifest", "--raw", str(raw)]
    done = subprocess.run([*run, "casme2"], capture_output=True, text=True, check=True)
    assert done.stdout == f"{raw}/casme2.manifest.csv: 6 files, 8 B\n"
    failed = subprocess.run([*run, "casme"], capture_output=True, text=True, check=False)
    assert failed.returncode == 2
    assert failed.stderr == f"manifest: {raw}/casme: there is no such folder; did you mean 'casme2'?\n"


@pytest.mark.parametrize("corpus", ["", "../raw/casme2", "casme2/a", ".."])
def test_a_name_that_is_no_folder_below_raw(raw, corpus):
    with pytest.raises(MerError, match=r"name one folder below .*make manifest C=casme2"):
        manifest.write(corpus, raw)


def test_links(raw, tmp_path_factory):
    outside = tmp_path_factory.mktemp("outside")
    (outside / "1.jpg").write_text("1")
    corpus = raw / "casme2"
    (corpus / "inner").symlink_to("a")
    assert "inner/2.jpg" in [f.path for f in manifest.files(corpus)]
    before = manifest.write("casme2", raw)[0].read_bytes()
    cases = {
        outside: "is a link out of the raw folder",
        outside / "1.jpg": "is a link out of the raw folder",
        corpus: "is a link to a folder it lies in",
        outside / "none": "leads nowhere",
        corpus / "a/link": "leads nowhere",  # to itself
    }
    for target, message in cases.items():
        (corpus / "a/link").symlink_to(target)
        with pytest.raises(MerError, match=f"a/link: .*{message}") as error:
            manifest.write("casme2", raw)
        assert "\n" not in str(error.value)
        (corpus / "a/link").unlink()
    assert (raw / "casme2.manifest.csv").read_bytes() == before, "a refused run leaves the old manifest"
    assert not list(raw.glob("*.tmp"))


@pytest.mark.parametrize(
    ("count", "message"),
    [
        (30, "is one of more than 16 ways by links to .*; remove the links between the corpus's own folders"),
        (60, "cannot be read .Too many levels of symbolic links.; remove the links"),  # the system follows 40
    ],
)
def test_folders_that_link_to_each_other_end(raw, count, message):
    """Each folder has two links to the next: no path is a circle, and there are 2**29 or 2**59 of them."""
    folders = [raw / "smic" / f"s{n:02d}" for n in range(count)]
    for folder in folders:
        folder.mkdir(parents=True)
        (folder / "1.jpg").write_text("1")
    for folder, following in itertools.pairwise(folders):
        for name in ("left", "right"):
            (folder / name).symlink_to(following)
    with pytest.raises(MerError, match=message):
        manifest.write("smic", raw)


def test_a_folder_with_many_links_to_it_is_listed_as_often(raw):
    for n in range(manifest.MOST_LINKS):
        (raw / "casme2" / f"link{n:02d}").symlink_to("a")
    assert manifest.write("casme2", raw)[1] == 6 + 2 * manifest.MOST_LINKS


def test_the_corpus_folder_itself_may_be_a_link(raw, tmp_path_factory):
    disk = tmp_path_factory.mktemp("disk")
    (disk / "1.jpg").write_text("1")
    (raw / "smic").symlink_to(disk)
    assert manifest.write("smic", raw)[1:] == (1, 1)


def test_other_bad_input(raw):
    (raw / "empty/.git").mkdir(parents=True)
    with pytest.raises(MerError, match="empty: holds no file; unpack"):
        manifest.write("empty", raw)
    os.mkfifo(raw / "samm/pipe")
    with pytest.raises(MerError, match="samm/pipe: is neither a file nor a folder"):
        manifest.write("samm", raw)
    with pytest.raises(MerError, match="casme2: there is no such folder; unpack the corpus there"):
        manifest.write("casme2", raw / "nowhere")
    assert not (raw / "empty.manifest.csv").exists()


def test_a_name_that_is_no_utf8_keeps_its_bytes(raw):
    (raw / "samm" / os.fsdecode(b"\xff.jpg")).write_text("1")
    assert b"\xff.jpg,1," in manifest.write("samm", raw)[0].read_bytes()


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (999_949, "999.9 kB"), (999_960, "1.0 MB"), (3 * 10**12, "3.0 TB")],
)
def test_sizes_as_people_read_them(size, text):
    assert manifest.human(size) == text
