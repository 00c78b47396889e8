"""Dagster's view of the pipeline: assets, checks, sensors, schedules, jobs.

Belongs here: translation between Dagster and `stages`, and the wiring of callables that the
pure stages need. Does not: logic, SQL, training code. An asset's body stays under 15 lines.
(Files that define assets do not postpone annotations: Dagster reads them at definition.)
"""
