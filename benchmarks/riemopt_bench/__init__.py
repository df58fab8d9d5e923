"""The benchmark: stored weights on the surface, measured against `torch.nn.utils.parametrize`.

    riemopt bench list
    riemopt bench run --suite demo
    riemopt bench report results/demo

Reading order: `interface.py` (what a problem and a method are), `measure.py` (one run),
`runner.py` (all runs), `report.py` (the page). A new problem is one file in `problems/`, a new
method is one file in `methods/`; both are found by being there.

Needs the packages of `pip install 'riemopt[bench]'`; nothing else in riemopt imports this package.
"""
