"""Full-batch solvers without a learning rate: `riemopt.minimize`.

    result = riemopt.minimize(lambda x: x @ A @ x, Sphere().random_point(100), Sphere())

How the files divide the work:

    structure.py     what the user calls a point: tensors, a dict of them, a module
    points.py        all of it as one vector, with the geometry of the product
    problem.py       values, gradients and Hessians at such vectors; counters
    line_search.py   how far to go along a direction: values
    stopping.py      when to stop, and why, in words: values
    method.py        what a method is; one file for each
    krylov.py        Lanczos's method, for those of second order (saddles.py)
    minimize.py      the loop, the options, the result (result.py)

Everything is written for a batch of independent problems; one problem is the batch of shape ().
"""

from riemopt.solvers.arc import ARC
from riemopt.solvers.augmented_lagrangian import ConstrainedResult
from riemopt.solvers.conjugate_gradient import ConjugateGradient
from riemopt.solvers.gradient import BarzilaiBorwein
from riemopt.solvers.lbfgs import LBFGS
from riemopt.solvers.levenberg_marquardt import LevenbergMarquardt
from riemopt.solvers.line_search import Backtracking, Found, LineSearch, StrongWolfe
from riemopt.solvers.method import Method, Move, Stepper
from riemopt.solvers.minimize import METHODS, minimize
from riemopt.solvers.nelder_mead import NelderMead
from riemopt.solvers.particle_swarm import ParticleSwarm
from riemopt.solvers.points import Points
from riemopt.solvers.problem import Evaluation, Problem
from riemopt.solvers.result import Iterate, Result
from riemopt.solvers.stopping import (
    GradientNorm,
    MaxEvaluations,
    MaxIterations,
    MaxTime,
    Progress,
    Rule,
    SmallDecrease,
    ValueBelow,
)
from riemopt.solvers.trust_region import TrustRegion

__all__ = [
    "ARC",
    "LBFGS",
    "METHODS",
    "Backtracking",
    "BarzilaiBorwein",
    "ConjugateGradient",
    "ConstrainedResult",
    "Evaluation",
    "Found",
    "GradientNorm",
    "Iterate",
    "LevenbergMarquardt",
    "LineSearch",
    "MaxEvaluations",
    "MaxIterations",
    "MaxTime",
    "Method",
    "Move",
    "NelderMead",
    "ParticleSwarm",
    "Points",
    "Problem",
    "Progress",
    "Result",
    "Rule",
    "SmallDecrease",
    "Stepper",
    "StrongWolfe",
    "TrustRegion",
    "ValueBelow",
    "minimize",
]
