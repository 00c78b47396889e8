"""Verification: is a captured answer fit to learn from, and do two answers agree.

Belongs here: evaluators, structural faults, k-sample self-consistency, all on values handed in.
Does not: storage, provider calls (`ask` is a callable from above), thresholds of control.
"""
