"""How right an estimate is: models behind one interface, baselines, and metrics. Pure: no I/O, no clock.

`density.DensityModel` is the interface, `positions`, `events`, `totals` and `simulation` the truths a model is held
against. `estimator.scoring` reads the data and runs it all.
"""
