"""Evaluation: the student on the frozen holdout, the K-score, the gate.

Belongs here: generating with a student, scoring, intervals, the decision to let it pass.
Does not: training, packing, promotion, network.
"""
