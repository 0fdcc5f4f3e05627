"""Scoring on data: readers of the shared sets, running models over them, and the report.

::

    cases = read_cases(folder, simulated=False)
    report = summarise(run([model, *BASELINES], cases))
"""
