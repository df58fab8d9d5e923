"""The benchmark: stored weights on the surface, measured against `torch.nn.utils.parametrize`.

    riemopt bench list
    riemopt bench run --suite demo
    riemopt bench report results/demo
    riemopt bench speed --quick

Reading order: `surfaces.py` and `interface.py` (what a surface, a task and a method are), a file of
`libraries/`, then `train` (real data) or `speed` (one step), and `page` (what people read).

Needs the packages of `pip install 'riemopt[bench]'`. Of riemopt it uses public names only.
"""
