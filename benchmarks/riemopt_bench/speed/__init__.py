"""The step benchmark: what one optimizer step costs, against others and against a floor.

    riemopt bench speed --quick
    riemopt bench speed --workload 4096x64 --method riemopt-adam --method floor
    riemopt bench speed --growth
    riemopt bench speed --device cuda --way graph

Reading order: `workloads.py` (what is stepped), `devices.py` (on a CPU or a GPU, and in which way),
`stepper.py` (a step, over and over), `timing.py` (rounds of steps), `cost.py` (what is counted),
`targets.py`, `runner.py` (a whole run). The methods are those of `libraries/` that have a
`Stepping`.
"""
