"""What a method is: its options, and a step that is taken again and again.

A file each. A method is a frozen dataclass, whose fields are its options, with a `start` that
returns a `Stepper`; that has the memory of one run. `minimize` does the rest: it stops, freezes the
problems of a batch that are done, counts, calls back and reports.

    @dataclass(frozen=True)
    class Gradient(Method):
        line_search: LineSearch = StrongWolfe()

        def start(self, problem, here):
            return _Run(self, problem)

A stepper decides nothing about stopping. It says of each problem whether it has moved, and where it
is stuck, no step being left that lowers the cost.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, ClassVar

from riemopt.solvers.points import Mask
from riemopt.solvers.problem import Evaluation, Problem


@dataclass(frozen=True)
class Move:
    """What one iteration has done. Masks are of the shape batch.

    Examples:
        >>> import numpy as np, torch
        >>> from riemopt import minimize
        >>> from riemopt.manifolds import Sphere
        >>> x = Sphere().project(torch.ones(3).double())
        >>> result = minimize(lambda x: x[2], x, Sphere(), method="gradient")
        >>> "step" in result.history[-1]  # from `columns` of the last Move
        True
    """

    there: Evaluation
    """The next iterate, of the problems that have moved."""
    moved: Mask
    stuck: Mask
    """Where no step lowers the cost any more, by the method's own means."""
    columns: dict[str, Any] = field(default_factory=dict)
    """What the method adds to the history."""


class Stepper(ABC):
    """The memory of one run.

    Examples:
        >>> import numpy as np
        >>> from riemopt.solvers import Move, Stepper
        >>> class Run(Stepper):  # steps of one length; `Method` has the class that starts it
        ...     def __init__(self, problem):
        ...         self.problem = problem
        ...     def step(self, here, active):
        ...         x = self.problem.points.retract(here.x, -0.5 * here.grad)
        ...         return Move(self.problem.evaluate(x, active), active, np.zeros_like(active))
    """

    converged: str = ""
    """Of a method that is stuck at minima alone, by its own criterion: that, in words."""

    @abstractmethod
    def step(self, here: Evaluation, active: Mask) -> Move:
        """One iteration of the active problems from `here`, which is the last iterate."""

    def confirms(self, here: Evaluation, small: Mask) -> Mask:
        """Whether points whose gradient is small are minima, as far as the method can tell.

        The loop asks before it stops. Where the answer is no, the next step leaves the point.
        """
        return small


class Method(ABC):
    """The options of a method; a frozen dataclass.

    Examples:
        >>> import numpy as np, torch
        >>> from riemopt import minimize
        >>> from riemopt.manifolds import Sphere
        >>> from riemopt.solvers import Method, Move, Stepper
        >>> class Run(Stepper):
        ...     def __init__(self, problem):
        ...         self.problem = problem
        ...     def step(self, here, active):
        ...         x = self.problem.points.retract(here.x, -0.5 * here.grad)
        ...         return Move(self.problem.evaluate(x, active), active, np.zeros_like(active))
        >>> class Fixed(Method):  # steps of one length
        ...     def start(self, problem, here):
        ...         return Run(problem)
        >>> x = Sphere().project(torch.ones(3).double())
        >>> minimize(lambda x: x[2], x, Sphere(), method=Fixed()).success
        True
    """

    second_order = False
    """Whether its steps need Hessian–vector products."""
    problem: ClassVar[type[Problem]] = Problem
    """What it takes the cost for: residuals, or values alone."""

    @abstractmethod
    def start(self, problem: Problem, here: Evaluation) -> Stepper:
        """Begin a run at `here`.

        Called when the start has been evaluated and checked.
        """
