"""What the code never does with what others wrote, and what a run leaves open to others: docs/reliability.md."""

import ast
import os
import stat
import tempfile
import threading
import time
from pathlib import Path

import psutil
import pytest

from mer.parallel import Engine, map_clips

BUILT_IN = {"eval", "exec", "compile", "__import__"}  # methods of these names are others
# Called by a name that ends so -> the argument with which it may be called; None: never.
FORBIDDEN = {
    **dict.fromkeys(BUILT_IN), "os.system": None, "os.popen": None,
    "extractall": None, "extract": None, "unpack_archive": None, "pickle.load": None, "pickle.loads": None,
    "cloudpickle.load": None, "cloudpickle.loads": None, "joblib.load": None, "pd.read_pickle": None, "read_hdf": None,
    "mktemp": None, "torch.load": ("weights_only", True), "torch.hub.load": None, "load_state_dict_from_url": None,
}  # fmt: skip
NEVER = {("shell", True), ("allow_pickle", True), ("weights_only", False), ("trust_remote_code", True)}
NO_IMPORT = {"tarfile", "socket", "socketserver", "http.server", "xmlrpc", "shelve", "dill", "marshal", "telnetlib"}
# Functions of our own, which a process hands to its workers: through a folder that only this user may enter, or through
# the scheduler that runtime.scheduler names.
ALLOWED = {("mer/parallel.py", "pickle.load"), ("mer/cluster.py", "pickle.loads")}


def calls(path: Path):
    """(line, dotted name, keyword arguments that are constants) of every call in a file."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            said = {k.arg: k.value.value for k in node.keywords if isinstance(k.value, ast.Constant)}
            yield node.lineno, ast.unparse(node.func), said


def sources(root: Path) -> list[Path]:
    return [path for folder in ("mer", "stages", "tools") for path in sorted((root / folder).rglob("*.py"))]


def faults(path: Path, name: str) -> list[str]:
    found = []
    for line, called, said in calls(path):
        for bad, needed in FORBIDDEN.items():
            is_it = called == bad or (called.endswith(f".{bad}") and bad not in BUILT_IN)
            fine = needed is not None and said.get(needed[0]) == needed[1]
            if is_it and not fine and (name, called) not in ALLOWED:
                found.append(f"{name}:{line}: {called}")
        found += [f"{name}:{line}: {called} with {k}={v}" for k, v in said.items() if (k, v) in NEVER]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        names += [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
        found += [f"{name}:{node.lineno}: import {n}" for n in names if n in NO_IMPORT]
    return found


def test_no_code_is_made_of_data_no_archive_unpacked_and_no_port_opened(root):
    paths = sources(root)
    assert len(paths) > 100
    assert [fault for path in paths for fault in faults(path, path.relative_to(root).as_posix())] == []


@pytest.mark.parametrize(
    "code",
    ["eval(x)", "import os\nos.system(x)", "torch.load(p)", "torch.load(p, weights_only=False)", "pickle.load(f)",
     "subprocess.run(x, shell=True)", "np.load(p, allow_pickle=True)", "parts.extractall(folder)", "import socket",
     "from http.server import HTTPServer", "shutil.unpack_archive(p)"],
)  # fmt: skip
def test_the_scan_finds_what_it_looks_for(tmp_path, code):
    (tmp_path / "a.py").write_text(code)
    assert faults(tmp_path / "a.py", "a.py")


def _slow(item):
    time.sleep(0.05)
    return item


def test_workers_open_no_port_and_their_folder_is_this_users_alone():
    seen, modes, ended = set(), set(), threading.Event()

    def watch():
        me = psutil.Process()
        while not ended.is_set():
            for process in [me, *me.children(recursive=True)]:
                try:
                    seen.update(c.status for c in process.net_connections(kind="inet"))
                except psutil.Error:  # it has ended
                    continue
            for folder in Path(tempfile.gettempdir()).glob(f"mer-{os.getpid()}-*"):
                with_mode = folder.stat()
                modes.add((stat.S_IMODE(with_mode.st_mode), with_mode.st_uid))
            time.sleep(0.01)

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        assert map_clips(_slow, range(12), Engine(workers=2)) == list(range(12))
    finally:
        ended.set()
        watching.join()
    assert psutil.CONN_LISTEN not in seen
    assert modes == {(0o700, os.getuid())}
