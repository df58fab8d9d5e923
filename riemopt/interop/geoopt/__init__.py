"""geoopt's manifolds, parameters and optimizers, for scripts that were written with them.

    from riemopt.interop.geoopt import RiemannianAdam       # in place of geoopt.optim's
    from_geoopt(geoopt.PoincareBall())                      # a manifold like those of riemopt
    adopt(model)                                            # constraints that survive reloading

`riemopt`'s own optimizers take a `geoopt.ManifoldParameter` as it is. Written against geoopt 0.5.1.
"""

from riemopt.interop.common import Report
from riemopt.interop.geoopt.adapter import GeooptManifold
from riemopt.interop.geoopt.convert import adopt, from_geoopt
from riemopt.interop.geoopt.optimizers import RiemannianAdam, RiemannianSGD

__all__ = [
    "GeooptManifold",
    "Report",
    "RiemannianAdam",
    "RiemannianSGD",
    "adopt",
    "from_geoopt",
]
