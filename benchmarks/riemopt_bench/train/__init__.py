"""The training benchmark: riemopt against `torch.nn.utils.parametrize` and others on real data.

Reading order: `measure.py` (one run), `worker.py` (a run from its description to its row),
`runner.py` (all runs of a suite), `store.py` (where rows are kept), `results.py` (what they say).
"""
