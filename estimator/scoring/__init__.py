"""Scoring on data: readers of the shared sets, running models over them, and the report.

To score a new model beside the others::

    cases = [case.part("tune") for case in read_cases(folder, simulated=False)]
    with ThreadPoolExecutor() as executor:
        report = summarise(run([Book("mine", Parameters(...)), *MODELS], cases, executor))
    report["positions"]["models"]["mine"]["gain"]["freshness"]  # bits, low, high

A model is anything that satisfies `estimator.evaluation.density.DensityModel`.
"""
