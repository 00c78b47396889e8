"""The mathematics of adaptation: who answers, how much is checked, when to stop trusting.

Everything here is pure: no I/O, no clock, no randomness of its own. Time arrives as
microseconds since the epoch (`*_us`), randomness as a number in [0, 1). The live router and the
simulator call the same functions.

    eligibility  may the local model be asked at all
    agreement    correlation and its anytime-valid bounds
    sampling     how large a share of served requests is checked
    risk         the confidence threshold and its certificate
    drift        a change for the worse, with a bounded rate of false alarms
    budget       what may still be spent
    phases       the controller: one place to import it from
                 (state, events: its records; folding: evidence; routing: one request)
    simulate     the controller on a virtual clock

Nothing is re-exported, so that importing one module costs only that module.
"""
