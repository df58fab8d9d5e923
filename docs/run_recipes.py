"""Write what the recipes print into docs/recipes-compared.md.

python docs/run_recipes.py            # all, some minutes on one core
python docs/run_recipes.py arcface    # one
"""

import os
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).parent.parent
PAGE = ROOT / "docs" / "recipes-compared.md"
BLOCK = re.compile(r"(```console\n\$ python examples/(\w+)\.py\n)(.*?)(?=```)", re.DOTALL)


def printed(name: str) -> str:
    """What the recipe prints on one thread."""
    command = [sys.executable, ROOT / "examples" / f"{name}.py"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(
        command, stdout=subprocess.PIPE, text=True, check=True, env=environment
    ).stdout


def main(chosen: list[str]) -> None:
    """Run the chosen recipes, or all, and write the page after each one."""
    names = [name for _, name, _ in BLOCK.findall(PAGE.read_text())]
    for name in chosen or names:
        tables = {name: printed(name)}
        PAGE.write_text(
            BLOCK.sub(lambda m, new=tables: m[1] + new.get(m[2], m[3]), PAGE.read_text())
        )


if __name__ == "__main__":
    main(sys.argv[1:])
