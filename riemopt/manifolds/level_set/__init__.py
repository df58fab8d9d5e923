"""Any constraint c(x) = 0: the manifold, and the equations, normal space and Newton under it."""

from riemopt.manifolds.level_set.manifold import LevelSet

__all__ = ["LevelSet"]
