"""The micro-benchmark: what one optimizer step costs, against others and against a floor.

    riemopt bench speed --quick
    riemopt bench speed --workload 4096x64 --method riemopt-adam --method floor
    riemopt bench speed --growth

Reading order: `interface.py` (what a workload and a method are), `workloads.py`, `methods/`,
`timing.py` (the clock), `cost.py` (what is counted), `targets.py`, `runner.py` (a whole run). A new
method is one entry in a file of `methods/`.
"""
