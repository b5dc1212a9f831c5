"""Make examples/quickstart.ipynb from examples/quickstart.py.

    python examples/to_notebook.py

A cell begins at each `# %%` in the script's `main`, one of text at each `# %% [markdown]`.
"""

import json
import textwrap
from pathlib import Path
from typing import Any

SCRIPT = Path(__file__).parent / "quickstart.py"


def notebook_of(script: str) -> dict[str, Any]:
    r"""Return the content of a notebook (format 4.5) with the cells of a script.

    Example:
        >>> script = "def main():\n    # %% [markdown]\n    # # A\n    # %%\n    x = 1\n\n\nif x:\n"
        >>> cells = notebook_of(script)["cells"]
        >>> [(cell["cell_type"], cell["source"]) for cell in cells]
        [('markdown', ['# A']), ('code', ['x = 1'])]
    """
    inside = script.partition("    # %%")[2].partition("\n\n\nif ")[0]
    cells = []
    for number, part in enumerate(inside.split("    # %%")):
        first, _, rest = part.partition("\n")
        text = textwrap.dedent(rest).strip("\n")
        is_text = first.strip() == "[markdown]"
        if is_text:
            text = "\n".join(line.removeprefix("#").removeprefix(" ") for line in text.splitlines())
        cell: dict[str, Any] = {"cell_type": "markdown" if is_text else "code", "id": f"cell{number}", "metadata": {}}
        cell |= {} if is_text else {"execution_count": None, "outputs": []}
        cells.append(cell | {"source": text.splitlines(keepends=True)})
    python = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    return {"cells": cells, "metadata": python, "nbformat": 4, "nbformat_minor": 5}


if __name__ == "__main__":
    content = json.dumps(notebook_of(SCRIPT.read_text(encoding="utf-8")), indent=1, ensure_ascii=False)
    SCRIPT.with_suffix(".ipynb").write_text(content + "\n", encoding="utf-8")
