"""Constrained weights of modules: the table on the module, `constrain`, `ManifoldParameter`."""
