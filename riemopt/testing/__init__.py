"""Numerical checks for those who write a manifold or a loss of their own.

    from riemopt.testing import check_gradient, check_hessian, check_manifold

    def test_my_manifold():
        check_manifold(MyManifold(), (5,), (2, 3)).require()

    def test_my_loss():
        check_gradient(loss, Stiefel(), (5, 2), euclidean_gradient=gradient).require()
        check_hessian(loss, Stiefel(), (5, 2), euclidean_hessian=hessian).require()

    print(check_manifold(MyManifold(), (5,)))      # a table, and advice where a law fails
    check_retraction(MyManifold(), (5,), order=2).plot("slopes.svg")

Orders are read as slopes on log–log plots, in float64, at several points (Boumal 2023, §4.8 and
§6.8, as in Manopt's checkgradient, checkhessian and checkretraction). A check takes shapes, of
which random points are drawn, or points; everything follows from `seed`.
"""

from riemopt.testing.checks import (
    check_gradient,
    check_hessian,
    check_manifold,
    check_projection,
    check_retraction,
    check_transport,
)
from riemopt.testing.reports import Report, Row
from riemopt.testing.slopes import Curve

__all__ = [
    "Curve",
    "Report",
    "Row",
    "check_gradient",
    "check_hessian",
    "check_manifold",
    "check_projection",
    "check_retraction",
    "check_transport",
]
