"""Which files a module is made of: found in its source, without running it."""

import subprocess
import sys

import pytest

from mer import imports


def test_a_models_files_are_its_own_and_what_it_imports():
    assert imports.files(["mer.models.linear"]) == ["mer/models/linear.py"]
    assert imports.files(["mer.models.uamrn"]) == [
        "mer/models/uamrn.py", "mer/networks/random_layers.py", "mer/networks/resnet.py", "mer/storage/weights.py"
    ]  # fmt: skip


def test_imports_inside_functions_count():
    assert "mer.loso.networks" in imports.imported("mer.loso.run")
    torch = imports.files(["mer.loso.run"])
    assert "mer/loso/loop.py" in torch
    assert "mer/loso/loop.py" not in imports.files(["mer.loso.run"], ["mer.loso.networks"])


def test_a_name_of_a_package_is_traced_to_its_module_or_to_the_package():
    assert "mer.faces" in imports.imported("stages.synthesize")  # a function that mer/faces/__init__.py hands on
    assert "mer.synthetic.corpus" in imports.imported("stages.synthesize")


def test_a_file_that_holds_a_docstring_alone_changes_no_number():
    assert "mer/loso/__init__.py" not in imports.files(["mer.loso", "mer.loso.folds"])
    assert "mer/loso/__init__.py" not in imports.room("mer/loso")
    assert imports.room("mer/loso") >= {"mer/loso/run.py", "mer/loso/folds.py"}


@pytest.mark.parametrize("module", sorted(imports.CANNOT_CHANGE_NUMBERS))
def test_modules_that_cannot_change_a_number_exist(module):
    assert imports.source(module) is not None


def test_what_is_found_is_what_python_imports():
    """Against the interpreter: every module of ours that an import loads, and that holds code, is found."""
    code = "import sys, mer.models.uamrn; print('\\n'.join(m for m in sys.modules if m.startswith('mer.')))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    found = set(imports.files(["mer.models.uamrn"], without=()))
    for module in loaded:
        path = imports.source(module)
        if path not in ("mer/models/__init__.py",) and path in set(imports.files([module], without=())):
            assert path in found, module
