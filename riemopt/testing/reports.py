"""What a check found: rows of a table, with a verdict, a text and a plot."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from riemopt.testing.slopes import Curve

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Verdict = Literal["holds", "fails", "skipped"]


@dataclass(frozen=True)
class Row:
    """One law: what was found over all points and seeds.

    Examples:
        >>> from riemopt.manifolds import Sphere
        >>> from riemopt.testing import check_projection
        >>> [(row.law, row.verdict) for row in check_projection(Sphere(), (5,), repeats=1).rows][:2]
        [('projection is linear', 'holds'), ('projection is idempotent', 'holds')]
    """

    law: str
    formula: str
    verdict: Verdict
    found: str = ""
    """The worst error and what is allowed, the smallest slope, or why the law was skipped."""
    advice: str = ""
    """What is probably wrong, where it fails."""
    curves: tuple[Curve, ...] = ()
    """One for each point and seed, where the law is a slope."""

    @property
    def slope(self) -> float | None:
        """The worst slope: the smallest, or NaN where no line could be put through the errors."""
        return worst(self.curves).slope if self.curves else None


def worst(curves: Sequence[Curve]) -> Curve:
    """The curve that falls short most; one without a slope before all others."""
    return min(curves, key=lambda c: (c.slope == c.slope, c.slope))


@dataclass(frozen=True)
class Report:
    """The result of a check. True if no law fails; `str` is a table with advice.

    report = check_manifold(Sphere(), (5,))
    report.passed                   # or bool(report)
    report["retraction is first order"].slope
    report.require()                # in a test: AssertionError with the text
    report.plot("slopes.svg")       # the slopes, on log–log axes

    Examples:
        >>> from riemopt.manifolds import Sphere
        >>> from riemopt.testing import check_retraction
        >>> report = check_retraction(Sphere(), (5,), order=2, repeats=2)
        >>> bool(report), [row.law for row in report.failed]
        (True, [])
    """

    title: str
    rows: tuple[Row, ...]

    @property
    def passed(self) -> bool:
        """Whether no law fails."""
        return not self.failed

    def __bool__(self) -> bool:
        return self.passed

    @property
    def failed(self) -> tuple[Row, ...]:
        """The rows of laws that fail."""
        return tuple(row for row in self.rows if row.verdict == "fails")

    def __getitem__(self, law: str) -> Row:
        for row in self.rows:
            if row.law == law:
                return row
        raise KeyError(f"no law {law!r}; there are {[row.law for row in self.rows]}")

    def require(self) -> "Report":
        """Return the report, or raise `AssertionError` with its text if a law fails."""
        if not self.passed:
            raise AssertionError(str(self))
        return self

    def plot(self, target: "str | os.PathLike[str] | Axes | None" = None) -> "Figure":
        """Draw the errors of all slopes on log–log axes, one panel for each law.

        Args:
            target: a file to write, a matplotlib `Axes` for the only slope of the report, or None.

        Raises:
            ValueError: there is no slope in the report, or several for one `Axes`.
            ImportError: matplotlib is not installed.
        """
        from riemopt.testing.plots import draw

        return draw(self, target)

    def __str__(self) -> str:
        names = {"holds": "hold", "fails": "fail", "skipped": "do not apply"}
        counts = [(sum(row.verdict == v for row in self.rows), n) for v, n in names.items()]
        lines = [self.title, ", ".join(f"{count} {name}" for count, name in counts if count), ""]
        width = max(len(row.law) for row in self.rows)
        for row in self.rows:
            mark = {"holds": "ok", "fails": "FAILS", "skipped": "-"}[row.verdict]
            lines.append(f"{mark:5}  {row.law:{width}}  {row.found}".rstrip())
        for row in self.failed:
            lines += ["", f"{row.law}: {row.formula}", f"    found: {row.found}"]
            lines += [f"    perhaps: {row.advice}"] if row.advice else []
        return "\n".join(lines)
