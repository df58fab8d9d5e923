"""What `minimize` returns."""

from dataclasses import dataclass, field
from typing import Any

Row = dict[str, Any]
"""What is known of one iteration, by name."""

STATUS = {
    0: "converged",
    1: "a limit was reached",
    2: "no further progress",
    3: "unbounded below",
    4: "stopped by the callback",
}


@dataclass
class Result:
    """The minimum that was found, and how.

    Of a batch (`batch_ndim=1`) the numbers are arrays with an entry for each problem, and `message`
    is a list.

    Attributes:
        x: the best point, in the form of `x0`; of a module its parameters' values by name.
        fun: f(x).
        grad_norm: ‖grad f(x)‖ in the metric at x.
        nit: iterations.
        nfev, njev, nhev: calls of the cost, gradients, and Hessian–vector products.
        time: seconds.
        success: whether a minimum was found, as far as the stopping rule tells.
        status: 0 converged, 1 a limit was reached, 2 no further progress, 3 unbounded below,
            4 stopped by the callback.
        message: why it stopped, in words.
        method: by which.
        history: a row for each iterate, a dict: nit, fun, grad_norm, nfev, njev, nhev, time, and
            what the method adds. `pandas.DataFrame(result.history)` makes a table of it.

    Examples:
        >>> import torch
        >>> from riemopt import minimize
        >>> from riemopt.manifolds import Sphere
        >>> x = torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64)
        >>> result = minimize(lambda x: -3 * x[0] - 4 * x[1], x, Sphere())
        >>> result.success, result.x, round(result.fun, 9)
        (True, tensor([0.6000, 0.8000, 0.0000], dtype=torch.float64), -5.0)
        >>> result.nit == len(result.history) - 1
        True
    """

    x: Any
    fun: Any
    grad_norm: Any
    nit: Any
    nfev: Any
    njev: Any
    nhev: Any
    time: float
    success: Any
    status: Any
    message: Any
    method: str
    history: list[Row] = field(repr=False)

    def __repr__(self) -> str:
        names = [n for n in self.__dataclass_fields__ if n not in ("x", "history")]
        lines = [f"{name:>10}: {getattr(self, name)}" for name in names]
        return "\n".join(
            [*lines, f"{'x':>10}: {self.x}", f"{'history':>10}: {len(self.history)} rows"]
        )


@dataclass
class Iterate:
    """What a callback is given after each iteration: as in `Result`, which has the rest.

    Raise StopIteration in it, or return True, to stop.

    Examples:
        >>> import torch
        >>> from riemopt import minimize
        >>> from riemopt.manifolds import Sphere
        >>> def stop_early(iterate):
        ...     return iterate.fun < -0.9
        >>> x = Sphere().project(torch.ones(3).double())
        >>> minimize(lambda x: x[2], x, Sphere(), callback=stop_early).message
        'Stopped by the callback'
    """

    x: Any
    fun: Any
    grad_norm: Any
    nit: Any
    row: Row
    """That of the history."""
