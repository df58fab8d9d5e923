"""Numbers as people read them."""

from __future__ import annotations

import math

from riemopt_bench.stats import Ratio

NOTHING = "–"


def milliseconds(seconds: float) -> str:
    """Three significant digits."""
    return f"{significant(seconds * 1e3)} ms"


def significant(value: float, digits: int = 3) -> str:
    """A number with `digits` significant digits and no exponent where that reads well."""
    if not math.isfinite(value):
        return NOTHING if math.isnan(value) else "failed"
    if value != 0 and not 1e-3 <= abs(value) < 1e5:
        return f"{value:.1e}"
    decimals = 0 if value == 0 else max(0, digits - 1 - math.floor(math.log10(abs(value))))
    return f"{value:.{decimals}f}"


def size(count: float) -> str:
    """Bytes in kB or MB."""
    if math.isnan(count):
        return NOTHING
    return f"{count / 1e6:.2f} MB" if count >= 1e6 else f"{count / 1e3:.1f} kB"


def ratio_text(ratio: Ratio | None) -> str:
    """Value and interval."""
    if ratio is None:
        return NOTHING
    if ratio.low is None or ratio.high is None:
        return f"{ratio.value:.2f}"
    return f"{ratio.value:.2f} [{ratio.low:.2f}, {ratio.high:.2f}]"
