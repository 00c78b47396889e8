"""The frontier: our own calls to a remote provider, and what they cost.

Belongs here: HTTP with retries and deadlines, prices. Does not: the customer's pass-through
calls (`gateway`), whether a call may be afforded (`control.budget`), wire formats (`wire`).
"""
