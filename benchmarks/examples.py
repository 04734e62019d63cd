"""Write the results of the code on pages of the documentation below it.

    python benchmarks/examples.py                # docs/cookbook.md and docs/leakage.md
    python benchmarks/examples.py cookbook       # one of them

What a block prints, and the value of its last line, replace the block of text below it. If an
image follows instead, the ``figure`` of the block is written to its file.
"""

from __future__ import annotations

import ast
import contextlib
import io
import logging
import os
import re
import sys
import warnings
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import pandas as pd

DOCS = Path(__file__).parent.parent / "docs"
PAGES = ("cookbook", "leakage")
BLOCK = re.compile(
    r"```python\n(.*?)```\n(?:\n```text\n.*?```\n)?(?=\n!\[[^]]*\]\((\S+)\)|)", re.DOTALL
)


def result(code: str, names: dict) -> str:
    """What the code prints, and the value of its last line if it has one."""
    body = ast.parse(code).body
    last = ast.Expression(body.pop().value) if isinstance(body[-1], ast.Expr) else None
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(compile(ast.Module(body, []), "<page>", "exec"), names)
        value = eval(compile(last, "<page>", "eval"), names) if last else None
        if value is not None:
            print(value)
    return printed.getvalue()


def write_results(page: Path) -> None:
    """Run the blocks of a page one after the other."""
    names: dict = {}

    def with_result(block: re.Match) -> str:
        code, image = block.groups()
        found = result(code, names)
        if image:
            names["figure"].savefig(page.parent / image, dpi=120, metadata={"Software": None})
        return f"```python\n{code}```\n" + (f"\n```text\n{found}```\n" if found else "")

    draft = page.with_suffix(".draft")
    draft.write_text(BLOCK.sub(with_result, page.read_text()))
    os.replace(draft, page)


def main() -> None:
    logging.disable(logging.INFO)
    warnings.filterwarnings("ignore")
    os.environ["TQDM_DISABLE"] = "1"
    pd.set_option("display.width", 110)
    for name in sys.argv[1:] or PAGES:
        write_results(DOCS / f"{name}.md")


if __name__ == "__main__":
    main()
