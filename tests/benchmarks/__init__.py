"""What liqheat costs, against its targets and against simpler ways: ``python -m tests.benchmarks [kernel cache …]``."""
