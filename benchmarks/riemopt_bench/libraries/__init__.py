"""One file per library, which both benchmarks use; each defines `METHODS`, a tuple of `Method`.

A file says how its library keeps a weight on a surface, in a function that dispatches on the class
of the surface. A surface of your own is added from outside:

    @riemopt_bench.libraries.riemopt.manifold.register
    def _(surface: MySurface) -> riemopt.Manifold: ...

Files that begin with `_` are shared parts: riemopt's manifolds, which its optimizers and its
solvers have in common, what parametrizations have, and checks.
"""
