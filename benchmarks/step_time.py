"""Time of an optimizer step: the same as `riemopt bench speed`, and with its options.

python benchmarks/step_time.py --quick
"""

import sys

from riemopt.cli import app

if __name__ == "__main__":
    app(["bench", "speed", *sys.argv[1:]])
