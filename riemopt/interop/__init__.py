"""Bridges to what others use for the same end; none is imported by `import riemopt`.

- `riemopt.interop.parametrize`: `torch.nn.utils.parametrize` and geotorch, both ways.
- `riemopt.interop.geoopt`: geoopt's manifolds, parameters and optimizers' signatures.
- `riemopt.interop.distributed`: where `fully_shard` may cut a constrained weight.
"""
