"""Run the Python blocks of a page, each in a namespace of its own, with what is installed.

python .ci/readme_blocks.py README.md
"""

import re
import sys
from pathlib import Path

import riemopt

page = Path(sys.argv[1])
blocks = re.findall(r"```python\n(.*?)```", page.read_text(), flags=re.DOTALL)
for number, block in enumerate(blocks, start=1):
    exec(compile(block, f"{page.name}, block {number}", "exec"), {})
print(f"riemopt {riemopt.__version__}: {len(blocks)} blocks of {page.name} ran")
