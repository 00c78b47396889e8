"""The router: which of the two models answers a request, and what is learnt from it.

Belongs here: gathering state, asking `control`, asking a backend, recording comparisons.
Does not: policy (`control`), wire formats, backends, the customer's own remote call.

    router      `attempt` before the remote call, `settle` after it
    local       asking the local model
    background  work nobody waits for, bounded
    standing    the champion in force: its facts, the controller's state, cached for a moment
    champion    what a champion record says about a model, read and written
    calibration what may be served, certified anew once the comparisons have doubled
    following   the registry's champion, taken over whoever moved it
    recording   comparisons into spool and controller, counters and alerts into the state
    spending    a call of ours, within the budget

Promise: nothing here ever fails a customer's request. Whatever goes wrong, the remote model
answers, and the failure is counted.
"""

from apprentice_pipeline.routing.attempt import Attempt, Duplicate
from apprentice_pipeline.routing.router import Router

__all__ = ["Attempt", "Duplicate", "Router"]
