"""Rules about the source that neither ruff nor import-linter knows."""

import ast
from pathlib import Path

MAX_FILE_LINES = 300
MAX_FUNCTION_LINES = 80
MAX_ROOM_FILES = 16
# What only prepares a module for the compiler may stand beside the code it describes.
JIT_PLACES = ("archive/", "evaluate/compile.py")
JIT_MARKERS = {"annotate", "export", "ignore", "unused", "is_scripting", "Final", "Attribute"}


def _sources(root: Path) -> list[Path]:
    found = sorted((root / "mace_mm").rglob("*.py"))
    assert found
    return found


def test_files_and_functions_stay_short(project_root: Path) -> None:
    long = []
    for path in _sources(project_root):
        text = path.read_text()
        n_lines = text.count("\n")
        if n_lines >= MAX_FILE_LINES:
            long.append(f"{path.relative_to(project_root)}: {n_lines} lines")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = (node.end_lineno or node.lineno) - node.lineno + 1
                if length >= MAX_FUNCTION_LINES:
                    long.append(f"{path.relative_to(project_root)}: {node.name}, {length} lines")
    assert long == []


def test_rooms_stay_small(project_root: Path) -> None:
    crowded = []
    for folder in {path.parent for path in _sources(project_root)}:
        files = [path for path in folder.glob("*.py") if path.name != "__init__.py"]
        if len(files) > MAX_ROOM_FILES:
            crowded.append(f"{folder.relative_to(project_root)}: {len(files)} files")
    assert crowded == []


def test_no_module_is_a_drawer_for_everything(project_root: Path) -> None:
    names = {"utils", "util", "helpers", "helper", "misc", "common"}
    assert [p for p in _sources(project_root) if p.stem in names or p.parent.name in names] == []


def test_torchscript_is_compiled_and_loaded_only_in_its_places(project_root: Path) -> None:
    outside = []
    for path in _sources(project_root):
        if path.relative_to(project_root / "mace_mm").as_posix().startswith(JIT_PLACES):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if (
                isinstance(node, ast.Attribute)
                and ast.unparse(node.value) == "torch.jit"
                and node.attr not in JIT_MARKERS
            ):
                outside.append(f"{path.relative_to(project_root)}:{node.lineno} {node.attr}")
    assert outside == []


def test_loading_a_pickle_is_never_allowed_to_run_code(project_root: Path) -> None:
    unsafe = []
    for path in _sources(project_root):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
                options = {k.arg: ast.unparse(k.value) for k in node.keywords}
                if options.get("weights_only") != "True":
                    unsafe.append(f"{path.relative_to(project_root)}:{node.lineno}")
    assert unsafe == []
