"""Who imports whom, and that importing does nothing but define names. The rules are CONTRIBUTING's.

The checks read source code (AST), so they see imports inside functions and under `if TYPE_CHECKING` as well. Each check
is also tried on a made-up source that breaks its rule.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("evaluators", "zoo", "rpg")
FORBIDDEN = {"evaluators": {"zoo", "rpg"}, "zoo": {"rpg"}, "rpg": set()}
COMPOSERS = ("zoo.cli", "rpg.cli")
HEAVY = (
    *(
        "timm",
        "mmcv",
        "mmengine",
        "datasets",
        "diffusers",
        "matplotlib",
        "sklearn",
        "torchvision",
        "transformers",
        "accelerate",
    ),
    *("pyarrow", "safetensors", "mmseg", "detectron2", "mamba_ssm", "bitsandbytes", "ray", "peft", "huggingface_hub"),
    "lm_eval",
    *("pycocotools", "fvcore", "starlette", "uvicorn"),
)
PARTS = ("timm.data",)  # of a heavy library, wrapped by a file of their own: they are another concern
# Functions that only build a value; names that start with a capital letter are constructors.
PURE = {
    "compile",
    "dict",
    "frozenset",
    "getLogger",
    "getattr",
    "range",
    "set",
    "sorted",
    "tensor",
    "tuple",
    "with_name",
    "zip",
}


def read_sources() -> dict[str, str]:
    """Source text by path relative to the repository."""
    paths = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
    return {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in paths}


def module_name(path: str) -> str:
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def imported(path: str, source: str) -> Iterator[str]:
    """Absolute names that a file imports. `from a import b` gives `a` and `a.b`, since b may be a module."""
    package = module_name(path).split(".")
    if not path.endswith("/__init__.py"):
        package.pop()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = package[: len(package) - node.level + 1] if node.level else []
            origin = ".".join([*parents, *filter(None, [node.module])])
            yield origin
            yield from (f"{origin}.{alias.name}" for alias in node.names)


def against_direction(sources: Mapping[str, str]) -> list[str]:
    """Imports that go against evaluators <- zoo <- rpg."""
    return [
        f"{path} imports {name}"
        for path, source in sources.items()
        for name in imported(path, source)
        if name.split(".")[0] in FORBIDDEN[path.split("/")[0]]
    ]


def of_composers(sources: Mapping[str, str]) -> list[str]:
    """Imports of the command lines, but for what runs them (`python -m`)."""
    return [
        f"{path} imports {name}"
        for path, source in sources.items()
        for name in imported(path, source)
        if (name.startswith(tuple(f"{composer}." for composer in COMPOSERS)) or name in COMPOSERS)
        and not path.endswith("/__main__.py")
    ]


def importers_of_heavy(sources: Mapping[str, str]) -> dict[str, set[str]]:
    """The files that import each heavy library, or a part of it that is counted apart."""
    importers = defaultdict(set)
    for path, source in sources.items():
        for name in imported(path, source):
            library = next((part for part in PARTS if f"{name}.".startswith(f"{part}.")), name.split(".")[0])
            if name.split(".")[0] in HEAVY:
                importers[library].add(path)
    return importers


def work_on_import(source: str) -> list[str]:
    """Module-level statements that do more than import, define a name or assign a constant."""
    return [
        f"line {node.lineno}: {ast.unparse(node).splitlines()[0]}"
        for node in ast.parse(source).body
        if not _defines(node)
    ]


def _defines(node: ast.stmt) -> bool:
    if isinstance(node, ast.Import | ast.ImportFrom | ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return True
    if isinstance(node, ast.Expr):  # docstrings: the module's, or of the constant above
        return isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
    if isinstance(node, ast.If):
        return ast.unparse(node.test) in ("TYPE_CHECKING", "__name__ == '__main__'") and not node.orelse
    if isinstance(node, ast.Assign):
        names = [name for target in node.targets for name in getattr(target, "elts", [target])]  # `a, b = ...` has two
        return all(isinstance(name, ast.Name) for name in names) and _is_constant(node.value)
    if isinstance(node, ast.AnnAssign):
        return isinstance(node.target, ast.Name) and (node.value is None or _is_constant(node.value))
    return False


def _is_constant(value: ast.expr) -> bool:
    """Whether an expression only builds a value: every call in it is a constructor's or a pure function's."""
    functions = [node.func for node in ast.walk(value) if isinstance(node, ast.Call)]
    names = [ast.unparse(function).rpartition(".")[2] for function in functions]
    return all(name in PURE or name[:1].isupper() for name in names)


def test_imports_go_one_way() -> None:
    assert against_direction(read_sources()) == []


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("evaluators/a.py", "from zoo.store import Zoo"),
        ("evaluators/a.py", "import rpg"),
        ("zoo/tasks/a.py", "def f():\n    from rpg import layout"),
        ("zoo/a.py", "if TYPE_CHECKING:\n    import rpg.tokens.layout as layout"),
    ],
)
def test_an_import_against_the_direction_is_found(path: str, source: str) -> None:
    assert against_direction({path: source})


def test_imports_along_the_direction_are_allowed() -> None:
    sources = {"rpg/a.py": "import zoo, evaluators.metrics", "zoo/a.py": "from evaluators import metrics, rpg_like"}
    assert against_direction(sources) == []


def test_nobody_imports_a_command_line() -> None:
    assert of_composers(read_sources()) == []


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("rpg/cli.py", "from zoo import cli"),
        ("rpg/demo.py", "from rpg.cli import main"),
        ("zoo/tasks/a.py", "from .. import cli"),
        ("zoo/__init__.py", "from .cli import main"),
    ],
)
def test_an_import_of_a_command_line_is_found(path: str, source: str) -> None:
    assert of_composers({path: source})


def test_every_heavy_library_has_one_importer() -> None:
    several = {library: files for library, files in importers_of_heavy(read_sources()).items() if len(files) > 1}
    assert several == {}


def test_safetensors_belongs_to_the_checkpoint_module() -> None:
    assert importers_of_heavy(read_sources())["safetensors"] == {"zoo/checkpoint.py"}


def test_a_second_importer_is_found() -> None:
    sources = {
        "zoo/a.py": "import pyarrow",
        "zoo/b.py": "def f():\n    from pyarrow.parquet import read_table",
        "zoo/c.py": "import rayleigh, zoo.datasets",
    }
    assert importers_of_heavy(sources) == {"pyarrow": {"zoo/a.py", "zoo/b.py"}}
    parts = {"zoo/a.py": "import timm.layers", "zoo/b.py": "from timm.data import create_transform"}
    assert importers_of_heavy(parts) == {"timm": {"zoo/a.py"}, "timm.data": {"zoo/b.py"}}


def test_importing_only_defines_names() -> None:
    found = {path: work_on_import(source) for path, source in read_sources().items()}
    assert {path: lines for path, lines in found.items() if lines} == {}


@pytest.mark.parametrize(
    "source",
    [
        "print('hello')",
        "torch.manual_seed(0)",
        "os.environ['A'] = 'b'",
        "torch.backends.cudnn.benchmark = True",
        "TEXT = Path(__file__).read_text()",
        "NOISE: Tensor = torch.randn(3)",
        "for i in range(3):\n    pass",
        "try:\n    import ray\nexcept ImportError:\n    ray = None",
        "if torch.cuda.is_available():\n    DEVICE = 'cuda'",
    ],
)
def test_work_on_import_is_found(source: str) -> None:
    assert work_on_import(source)


def test_definitions_are_not_work() -> None:
    source = '''
"""Docstring."""
from __future__ import annotations
import re
if TYPE_CHECKING:
    from torch import Tensor
T = TypeVar("T")
LIMIT: int = 2**20
LOW, HIGH = 1, 2
"""What the limit is."""
NAMES = {name: getattr(torch, name) for name in ("float32",)}
WORD = re.compile("a+")
app = typer.Typer()
@app.command()
def f(): ...
class A: ...
if __name__ == "__main__":
    f()
'''
    assert work_on_import(source) == []


IMPORT_ALL = """
import os, random, sys
import numpy, torch

def state():
    _, keys, position, *_ = numpy.random.get_state()
    return os.getcwd(), random.getstate(), keys.tobytes(), position, bytes(torch.get_rng_state().tolist())

before = state()
sys.path.insert(0, sys.argv[1])
for name in sys.argv[2:]:
    __import__(name)
assert state() == before, "importing changed the working directory or a global random state"
"""


def import_all(root: Path, modules: Iterable[str], folder: Path) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a process in `folder` that imports `modules` from `root`."""
    command = [sys.executable, "-c", IMPORT_ALL, str(root), *modules]
    run = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, check=False)
    return run.returncode, run.stdout, run.stderr


def test_importing_every_module_changes_nothing(tmp_path: Path) -> None:
    code, stdout, stderr = import_all(ROOT, map(module_name, read_sources()), tmp_path)
    assert (code, stdout) == (0, ""), stderr
    assert stderr == ""
    assert list(tmp_path.iterdir()) == []


READ_ALL_RECIPES = """
import sys
from zoo.recipe import load_recipe, recipe_names
from zoo.tasks import FAMILIES

assert {load_recipe(name).task.name for name in recipe_names()} == set(FAMILIES)
assert all(module in sys.modules for module in FAMILIES.values())
print(*sorted(set(sys.argv[1:]) & set(sys.modules)))
"""


def test_reading_recipes_imports_no_heavy_library() -> None:
    command = [sys.executable, "-c", READ_ALL_RECIPES, *HEAVY]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=True)
    assert run.stdout.split() == ["safetensors"]  # which is light, and reads every checkpoint


@pytest.mark.parametrize("source", ["print('hello')", "import torch\ntorch.rand(1)", "import os\nos.chdir('..')"])
def test_an_import_that_changes_something_is_found(tmp_path: Path, source: str) -> None:
    (tmp_path / "made_up.py").write_text(source)
    code, stdout, _ = import_all(tmp_path, ["made_up"], tmp_path)
    assert code != 0 or stdout


def speakers_to_cuda(sources: Mapping[str, str]) -> list[str]:
    """Files that say `torch.cuda` in code."""
    return [
        path
        for path, source in sources.items()
        if any(isinstance(n, ast.Attribute) and ast.unparse(n) == "torch.cuda" for n in ast.walk(ast.parse(source)))
    ]


def test_one_file_speaks_to_cuda() -> None:
    benchmarks = {f"benchmarks/{path.name}": path.read_text(encoding="utf-8") for path in ROOT.glob("benchmarks/*.py")}
    assert len(benchmarks) > 5
    assert speakers_to_cuda(read_sources() | benchmarks) == ["zoo/cuda.py"]
    assert speakers_to_cuda({"zoo/a.py": "def f():\n    return torch.cuda.device_count()"}) == ["zoo/a.py"]
