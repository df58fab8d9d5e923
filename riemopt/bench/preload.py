"""Imported once by the fork server, so that no run pays for imports. Starts no computation."""

import importlib

from riemopt.bench import registry, worker

__all__ = ["worker"]

IMPORTS = (
    "torch._dynamo",  # the first optimizer that is made imports it: more than a second
    "torch.profiler",
    "sklearn.datasets",
    "mlxtend.data",
    "geoopt",
    "riemopt.manifolds",
    "riemopt.optim",
)

registry.methods()
registry.problems()
for _name in IMPORTS:
    try:
        importlib.import_module(_name)
    except ImportError:
        continue  # the run that needs it fails with the reason in its row
