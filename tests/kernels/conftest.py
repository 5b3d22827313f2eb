"""The folders in_interpreter and in_simulator need a process of their own: test_interpreter.py, test_simulator.py."""

collect_ignore = ["in_interpreter", "in_simulator"]
