"""Fuzzing what reads bytes of others: `make fuzz`, or `python -m fuzz TARGET SECONDS`.

Belongs here: properties of any bytes (`properties`), seeds (`seeds`), the harness (`__main__`).
Does not: the test suite, which checks the same properties on fewer inputs (`tests/wire`).
"""
