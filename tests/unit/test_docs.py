"""The README never drifts: its map is the modules' own first lines.

`python tests/unit/test_docs.py` writes the map anew.
"""

import ast
import re
from pathlib import Path

from pydantic import BaseModel

from llmos.training.recipe import Recipe

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "llmos"
README = ROOT / "README.md"
FENCE = re.compile(r"(?<=## Map of the source\n)(.*?```text\n)(.*?)(?=```\n)", re.DOTALL)
WIDTH = 28


def source_map() -> str:
    """Return one line per module, a package's own line before those of its modules."""
    lines = []
    for folder in [PACKAGE, *sorted(path for path in PACKAGE.rglob("*") if path.is_dir())]:
        modules = sorted(path for path in folder.glob("*.py") if path.name != "__init__.py")
        initial = folder / "__init__.py"
        if not initial.exists() or "versions" in folder.parts:
            continue
        depth = len(folder.relative_to(PACKAGE).parts)
        lines.append(_line(f"{folder.name}/", depth, initial))
        lines += [_line(path.name, depth + 1, path) for path in modules]
    return "".join(line + "\n" for line in lines)


def _line(name: str, depth: int, module: Path) -> str:
    docstring = ast.get_docstring(ast.parse(module.read_text("utf-8"))) or ""
    first = " ".join(docstring.split("\n\n")[0].split())
    return f"{'  ' * depth + name:<{WIDTH}} {first}"


def test_the_map_in_the_readme_has_every_module_in_its_own_words() -> None:
    found = FENCE.search(README.read_text("utf-8"))
    assert found is not None, "README.md has no map"
    assert found.group(2) == source_map(), f"run python {Path(__file__).relative_to(ROOT)}"


def test_every_module_says_what_it_is_for() -> None:
    modules = [path for path in PACKAGE.rglob("*.py") if "versions" not in path.parts]
    silent = [path.name for path in modules if not ast.get_docstring(ast.parse(path.read_text()))]
    assert silent == []


def test_every_key_of_a_recipe_is_documented() -> None:
    page = (ROOT / "docs" / "recipes.md").read_text("utf-8")
    sections = [Recipe, *(f.annotation for f in Recipe.model_fields.values())]
    keys = {
        key
        for section in sections
        if isinstance(section, type) and issubclass(section, BaseModel)
        for key in section.model_fields
    }
    assert sorted(key for key in keys if f"`{key}`" not in page) == []


def test_every_relative_link_in_the_docs_leads_somewhere() -> None:
    pages = [README, ROOT / "CONTRIBUTING.md", *ROOT.glob("docs/**/*.md"), ROOT / "bench/README.md"]
    broken = [
        f"{page.name}: {target}"
        for page in pages
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text("utf-8"))
        if not (page.parent / target).exists()
    ]
    assert broken == []


if __name__ == "__main__":
    README.write_text(FENCE.sub(lambda m: m.group(1) + source_map(), README.read_text("utf-8")))
