"""Objects of other packages and files, named by a text: package.module:Object or FILE.py:Object."""

import importlib
import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from prunebench.core.errors import InvalidInput, unknown_name

IMPORT_PATH = re.compile(r"([A-Za-z_]\w*(\.\w+)*|[^:\n]+\.py):[A-Za-z_]\w*")
"""A text of one of the two forms."""

_loaded: dict[Path, ModuleType] = {}
"""Files that were run in this process: each once, so that a class is the same wherever it is named."""


def is_import_path(value: Any) -> bool:
    """Whether a value is a text like "package.module:Class" or "folder/file.py:Class"."""
    return isinstance(value, str) and IMPORT_PATH.fullmatch(value) is not None


def imported(text: str) -> Any:
    """The object that a text names.

    Raises
    ------
    InvalidInput   no such module, file or object, or importing it raises
    """
    where, _, name = text.rpartition(":")
    try:
        module = (
            _module_of(Path(where).expanduser().resolve()) if where.endswith(".py") else importlib.import_module(where)
        )
    except InvalidInput:
        raise
    except ModuleNotFoundError as error:
        raise InvalidInput(
            f"{text!r} cannot be imported: {error}; install the package, or name a file as FILE.py:{name}"
        ) from error
    except Exception as error:  # code of others may raise anything
        raise InvalidInput(f"{text!r} cannot be imported: {type(error).__name__}: {error}") from error
    if not hasattr(module, name):
        raise unknown_name(f"object of {where}", name, [held for held in vars(module) if not held.startswith("_")])
    return getattr(module, name)


def _module_of(path: Path) -> ModuleType:
    """The module of a file; importable by the name it gets here, so that its objects can be pickled."""
    if path not in _loaded:
        if not path.is_file():
            raise InvalidInput(f"{path} is not there; give the path of a Python file")
        _loaded[path] = run_file(path, f"prunebench_file_{path.stem}")
    return _loaded[path]


def run_file(path: Path, name: str) -> ModuleType:
    """A Python file as the module `name`; its folder is searched first for what it imports. Raises what it raises."""
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    sys.path.insert(0, str(path.parent))
    try:
        spec.loader.exec_module(module)
    except BaseException:
        # half a module must not be found by its name
        del sys.modules[name]
        raise
    finally:
        sys.path.remove(str(path.parent))
    return module
